#pragma once

// Inodes whose attributes the kernel may have wrong, and would keep so for ever: it is told to ask
// anew, a moment after the last change that may have misled it. There are two races in the kernel
// between the answers to two processes, which differ in order from what was done here:
//
// * It counts the names of a file by itself: it takes one away when UNLINK (or a RENAME over the
//   name) is answered. The answer to a LOOKUP or GETATTR of the same file that came here after the
//   UNLINK, but reached its process before, counts that name no more already.
// * It only marks the attributes of a directory as old when a name was made or removed. The answer
//   to a GETATTR or LOOKUP that came here before, but reached its process later, makes them good
//   again.
//
// Both need a process that sleeps between an answer and its return from the kernel: for longer than
// kPeriod it does not. Other changes (SETATTR, LINK) let the kernel see by itself which answer is
// older. Reactor thread.

#include <absl/container/flat_hash_set.h>

#include <chrono>
#include <cstdint>
#include <optional>

#include "driver/reactor/reactor.h"
#include "fs/fuse/cache_write_back.h"

namespace blobfs::fs::fuse {

class AttributeRefresh {
  public:
    static constexpr std::chrono::microseconds kPeriod = std::chrono::milliseconds(200);

    AttributeRefresh(driver::Reactor& reactor, CacheWriteBack& cache)
        : reactor_(reactor), cache_(cache) {}
    ~AttributeRefresh();  // REQUIRES stopped
    AttributeRefresh(const AttributeRefresh&) = delete;
    AttributeRefresh& operator=(const AttributeRefresh&) = delete;

    // The kernel is told between one and two periods from now. Never suspends.
    void note(InodeNumber inode);
    // What is noted from now on is not told, and what is under way is waited for. Requests are to
    // be served meanwhile.
    void stop(driver::Suspend& suspend);

  private:
    using Inodes = absl::flat_hash_set<std::uint64_t>;
    void arm();
    void tell(driver::Suspend& suspend);

    driver::Reactor& reactor_;
    CacheWriteBack& cache_;
    Inodes young_;  // noted in this period
    Inodes old_;    // in the one before
    std::optional<driver::Reactor::TimerId> timer_;
    driver::WaitGroup running_;
    bool stopped_ = false;
};

}  // namespace blobfs::fs::fuse
