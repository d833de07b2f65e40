#pragma once

// How long a loop goes on polling after its last work before it sleeps: waking up costs more than
// most waits for the next request take. The window grows when sleeps turn out to be short, as work
// came soon, and shrinks when they are long, so that an idle loop costs nothing and a loop whose
// callers are slow not a core either (the way of kvm's halt polling). One thread.

#include <algorithm>
#include <cstdint>

namespace blobfs::driver {

class SpinWindow {
  public:
    // least <= most.
    SpinWindow(std::uint64_t least_ns, std::uint64_t most_ns)
        : least_ns_(least_ns), most_ns_(most_ns), window_ns_(least_ns) {}

    [[nodiscard]] std::uint64_t ns() const { return window_ns_; }
    [[nodiscard]] std::uint64_t most_ns() const { return most_ns_; }
    // The loop slept that long.
    void slept(std::uint64_t ns) {
        window_ns_ = ns < most_ns_ ? std::min(std::max(window_ns_, kStepNs) * 2, most_ns_)
                                   : std::max(window_ns_ / 2, least_ns_);
    }

  private:
    static constexpr std::uint64_t kStepNs = 1000;
    const std::uint64_t least_ns_, most_ns_;
    std::uint64_t window_ns_;
};

}  // namespace blobfs::driver
