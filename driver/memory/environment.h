#pragma once

// The DPDK environment (EAL): started once per process, after the process has gone to the
// background and before any DmaBuffer is allocated, from one thread. Uses hugepages when the system
// has enough free ones, plain memory otherwise; leaves the calling thread's CPU affinity and signal
// mask as they were; sends DPDK's log into ours (its warnings and worse as warnings, the rest at
// debug level); leaves no file and shares none with any other process. Root or not.

#include <cstddef>
#include <cstdint>

#include "driver/base/result.h"

namespace blobfs::driver {

struct EnvironmentOptions {
    // DMA memory that the process may need in all, in bytes. With plain memory it is reserved (not
    // touched) at the start and is the limit; hugepages are taken as they are needed.
    std::size_t memory_bytes = std::size_t{256} << 20;
    bool hugepages = true;  // use them when there are enough
    bool physical = false;  // the device needs hugepages (PCIe): fail when there are none
    // physical: how long to wait for hugepages that a process is about to give back, such as the
    // daemon of a filesystem that was unmounted a moment ago.
    std::uint32_t hugepage_wait_ms = 3000;
};

// Idempotent: once it has succeeded, another call does nothing and succeeds. It cannot be tried
// again after it has failed, unless with kNoMemory (no hugepages for a device that needs them).
Result<void> start_environment(const EnvironmentOptions& options);

// Started, and with hugepages.
[[nodiscard]] bool environment_has_hugepages();

}  // namespace blobfs::driver
