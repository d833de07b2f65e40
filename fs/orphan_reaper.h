#pragma once

// Inodes without names: those that still have lookup references are remembered, those that have
// none are deleted by background fibers. The store keeps them on its own list of orphans, so a
// crash loses none: the next open deletes them. Reactor thread.

#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <deque>

#include "blobstore/blobstore.h"
#include "driver/reactor/reactor.h"
#include "fs/inode_table.h"

namespace blobfs::fs {

class OrphanReaper {
  public:
    OrphanReaper(driver::Reactor& reactor, blobstore::Blobstore& store, InodeTable& table);
    ~OrphanReaper();  // CHECKs that nothing is being deleted: wait() came before

    // The inode has lost its last name (and is on the store's list): it is deleted when its
    // references are gone, which may be at once.
    void add(InodeNumber inode);
    // It has a name again, or for the first time.
    void remove(InodeNumber inode) { waiting_.erase(value(inode)); }
    // The last reference went.
    void unreferenced(InodeNumber inode);
    // Deletes all that are waiting, whoever holds references: the filesystem is being closed.
    void release_all();

    // True while something is being deleted: its space will come back.
    [[nodiscard]] bool busy() const { return deleting_.count() != 0; }
    // Suspends until nothing is.
    void wait(Suspend& suspend) { deleting_.wait(suspend); }
    [[nodiscard]] bool contains(InodeNumber inode) const { return waiting_.contains(value(inode)); }
    [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }

  private:
    void enqueue(InodeNumber inode);
    void run(Suspend& suspend);
    void reap(Suspend& suspend, InodeNumber inode);

    driver::Reactor& reactor_;
    blobstore::Blobstore& store_;
    InodeTable& table_;
    absl::flat_hash_set<std::uint64_t> waiting_;  // referenced
    std::deque<InodeNumber> queue_;               // to be deleted
    driver::WaitGroup deleting_;                  // queued or being deleted, and the fibers
    std::size_t fibers_ = 0;
};

}  // namespace blobfs::fs
