#pragma once

// A command in the hardware queue: private to the queue pair's .cc files.

#include <cstdint>

#include "driver/nvme/queue_pair.h"

namespace blobfs::driver::nvme {

// Timeouts are looked for that often.
inline constexpr std::uint64_t kScanIntervalUs = 50'000;

struct QueuePair::Tracker {
    Request* request = nullptr;     // null: free
    std::uint64_t deadline_us = 0;  // 0: the next scan sets it
    std::uint64_t* list = nullptr;  // its DMA page
    std::uint64_t list_address = 0;
    std::uint64_t order = 0;       // of issue, for resubmission
    std::uint16_t generation = 0;  // upper bits of the command id: tells a late duplicate apart
    bool aborting = false;
};

}  // namespace blobfs::driver::nvme
