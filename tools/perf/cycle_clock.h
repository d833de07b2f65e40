#pragma once

// The processor's time-stamp counter: 10 ns to read, and the same on all cores where it is
// invariant. It counts reference cycles, which are the processor's own at its nominal frequency.
// Any thread.

#include <x86intrin.h>

#include <cstdint>

namespace blobfs::tools {

inline std::uint64_t read_cycles() { return __rdtsc(); }

// The counter does not change its pace with the processor's frequency or sleep.
[[nodiscard]] bool cycles_are_steady();

// Cycles of the counter in a nanosecond, measured for some milliseconds on the first call.
[[nodiscard]] double cycles_per_ns();

}  // namespace blobfs::tools
