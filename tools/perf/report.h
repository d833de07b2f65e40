#pragma once

// What a benchmark found, for people and for programs. Any thread.

#include <string>

#include "tools/perf/benchmark.h"

namespace blobfs::tools {

// Lines of text with a newline each. histogram: with a bar for each power of two of the latency.
[[nodiscard]] std::string describe(const BenchmarkResult& result, bool histogram);

// One JSON object, indented; times in nanoseconds, sizes in bytes.
[[nodiscard]] std::string to_json(const BenchmarkResult& result);

}  // namespace blobfs::tools
