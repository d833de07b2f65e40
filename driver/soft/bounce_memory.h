#pragma once

// An aligned copy of an operation's memory, for media whose direct I/O does not take memory that is
// aligned to a dword only, as NVMe allows it. Mixing direct and buffered I/O on one file is no way
// out: the page cache goes stale, and the kernel then fails the next fdatasync. Allocated for each
// operation that needs it; the layers above align what they can. Reactor thread.

#include <sys/uio.h>

#include <cstddef>
#include <cstdlib>
#include <memory>

#include "driver/soft/medium.h"

namespace blobfs::driver {

class BounceMemory {
  public:
    static constexpr std::size_t kAlignment = 4096;

    // Takes the place of the operation's memory; what a write has in it is copied. Null when there
    // is no memory.
    static std::unique_ptr<BounceMemory> replace(MediumOperation& operation);
    // The operation has ended: copies what a read has brought to where it belongs.
    void copy_back();

    BounceMemory(const BounceMemory&) = delete;
    BounceMemory& operator=(const BounceMemory&) = delete;

  private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    BounceMemory() = default;

    std::unique_ptr<std::byte, Free> memory_;
    iovec piece_{};  // what the operation points at
    iovec* original_ = nullptr;
    unsigned original_count_ = 0;
};

}  // namespace blobfs::driver
