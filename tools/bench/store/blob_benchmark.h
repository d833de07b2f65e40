#pragma once

// Random reads or overwrites of one large blob, straight on the blobstore: what it costs above the
// driver, whose own figure blobfs-perf(8) gives.

#include <cstdint>
#include <string>

#include "driver/base/result.h"

namespace blobfs::bench {

struct BlobWorkload {
    std::string device;  // such as mem:512M; all that is on it is lost
    bool writes = false;
    std::uint32_t depth = 32;  // fibers, each with one I/O under way
    std::uint64_t block_bytes = 4096;
    std::uint64_t blob_bytes = 0;  // 0: half of the device
    double seconds = 3;
};

struct BlobResult {
    std::uint64_t ios = 0;
    double seconds = 0;
};

// Opens the device, formats it, writes the blob, measures. For a program with nothing else to do:
// starts the environment and a reactor of its own.
Result<BlobResult> run_blob_benchmark(const BlobWorkload& workload);

}  // namespace blobfs::bench
