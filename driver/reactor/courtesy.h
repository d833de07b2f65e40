#pragma once

// Whether a loop that has nothing to do yields its processor while it spins. What the device's
// answer goes through (a kernel thread that completes a write, the thread that flushes) often waits
// for this very processor and needs it for a few microseconds. But somebody who computes keeps it
// for a time slice, and each time that the loop yields: then it does not yield for a while. One
// thread.

#include <cstdint>

namespace blobfs::driver {

class Courtesy {
  public:
    [[nodiscard]] bool yields(std::uint64_t now_ns) const { return now_ns >= not_before_ns_; }
    // To yield took so long, from begin_ns on.
    void yielded(std::uint64_t begin_ns, std::uint64_t took_ns) {
        if (took_ns > kShortNs) not_before_ns_ = begin_ns + took_ns + kPauseNs;
    }

  private:
    static constexpr std::uint64_t kShortNs = 200'000;
    static constexpr std::uint64_t kPauseNs = 200'000'000;
    std::uint64_t not_before_ns_ = 0;
};

}  // namespace blobfs::driver
