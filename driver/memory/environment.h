#pragma once

// The DPDK environment (EAL): started once per process, after the process has gone to the
// background and before any DmaBuffer is allocated. Uses hugepages when the system has enough free
// ones, plain memory otherwise; leaves the calling thread's CPU affinity and signal mask as they
// were; sends DPDK's log into ours; shares no file with any other process.

#include <cstddef>

#include "driver/base/result.h"

namespace blobfs::driver {

struct EnvironmentOptions {
    // DMA memory that the process may need in all, in bytes; with plain memory it is reserved (not
    // touched) at the start.
    std::size_t memory_bytes = std::size_t{256} << 20;
    bool hugepages = true;      // use them when there are enough
    bool physical = false;      // the device needs hugepages (PCIe): fail when there are none
};

// Idempotent: a second call in the same process does nothing and succeeds.
Result<void> start_environment(const EnvironmentOptions& options);

}  // namespace blobfs::driver
