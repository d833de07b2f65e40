#pragma once

// Times that reads and writes change are kept in memory for a moment and written together: by the
// next change of the inode, by fsync, or by a background fiber write_back_ms after the first of
// them changed. Nothing runs while nothing is dirty. Reactor thread.

#include <cstdint>
#include <optional>

#include "blobstore/blobstore.h"
#include "driver/reactor/reactor.h"
#include "fs/inode_table.h"

namespace blobfs::fs {

class LazyTimes {
  public:
    LazyTimes(driver::Reactor& reactor, blobstore::Blobstore& store, InodeTable& table,
              std::uint32_t write_back_ms);
    // CHECKs that no write-back is under way: stop() or wait() came before.
    ~LazyTimes();

    // The times in the inode's block are newer than the store's. REQUIRES a lock of the inode.
    void mark(Inode& inode);
    // Puts the times of one inode into the store, if they are dirty. Suspends. REQUIRES that the
    // caller holds no lock of it.
    Result<void> write(Suspend& suspend, InodeNumber number);
    // Those of all inodes that are dirty when it is called. The first error; all are tried.
    Result<void> write_all(Suspend& suspend);
    // No background fiber starts after this, and none runs.
    void stop(Suspend& suspend);
    // Suspends until the background fiber that runs, if any, has ended.
    void wait(Suspend& suspend) { running_.wait(suspend); }

  private:
    void arm();

    driver::Reactor& reactor_;
    blobstore::Blobstore& store_;
    InodeTable& table_;
    std::uint64_t write_back_us_;
    bool stopped_ = false;
    std::optional<driver::Reactor::TimerId> timer_;
    driver::WaitGroup running_;
};

}  // namespace blobfs::fs
