#pragma once

// Runs a load in several processes that begin together, and times each operation.

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench/load/operation.h"

namespace blobfs::bench {

struct LoadResult {
    std::string error;   // empty when all went well; else what failed first
    double seconds = 0;  // from the common start to the end of the last process
    std::uint64_t operations = 0;
    double mean_us = 0, p50_us = 0, p99_us = 0, max_us = 0;  // of one operation
};

// Makes the subdirectories that the load names, before the clock starts. Forks: call it from a
// program with one thread.
LoadResult run_load(const Load& load);

}  // namespace blobfs::bench
