#pragma once

// Makes the kernel write out, and drop, what its page cache holds of a file. SEEK_DATA and
// SEEK_HOLE need it: the kernel passes them on without doing so itself, and cp(1) would take what
// was written a moment ago for a hole. So does a shutdown: what is cached would go on being read.
// And makes it forget attributes (attribute_refresh.h).
//
// Telling the kernel blocks until it has written, or has dropped the inode if it is about to, and
// for both it writes to us: so a thread of its own does it, started by the first call. Everything
// else is the reactor's thread.

#include <cstdint>
#include <optional>
#include <span>
#include <thread>

#include "driver/reactor/reactor.h"
#include "fs/fuse/connection.h"

namespace blobfs::fs::fuse {

class CacheWriteBack {
  public:
    CacheWriteBack(driver::Reactor& reactor, int descriptor)
        : reactor_(reactor), connection_(descriptor) {}
    // REQUIRES that no call is under way.
    ~CacheWriteBack();
    CacheWriteBack(const CacheWriteBack&) = delete;
    CacheWriteBack& operator=(const CacheWriteBack&) = delete;

    // Suspends until the kernel has no unwritten byte of the file from the offset on, written
    // before the call. Requests are to be served meanwhile. REQUIRES no lock of the inode. When
    // there can be no thread, it does nothing: what is seen then is what was written out.
    void write_out(driver::Suspend& suspend, InodeNumber inode, std::uint64_t offset);
    // The same of many files, from their beginning on, and their attributes.
    void write_out(driver::Suspend& suspend, std::span<const InodeNumber> inodes) {
        work_on(suspend, inodes, 0);
    }
    // Suspends until the kernel knows that it must ask for the attributes of these inodes anew.
    void forget_attributes(driver::Suspend& suspend, std::span<const InodeNumber> inodes) {
        work_on(suspend, inodes, std::nullopt);
    }

  private:
    struct Job {
        std::span<const InodeNumber> inodes{};
        std::optional<std::uint64_t> offset{};  // without one: attributes only
        driver::WaitGroup done{};
    };
    void work_on(driver::Suspend& suspend, std::span<const InodeNumber> inodes,
                 std::optional<std::uint64_t> offset);
    bool start();
    void work(int jobs) const;

    driver::Reactor& reactor_;
    const Connection connection_;
    std::thread thread_;
    int jobs_ = -1;  // where pointers to jobs are written to; the thread reads them
};

}  // namespace blobfs::fs::fuse
