#pragma once

// A raw benchmark of a DEVICE on the host driver, as one call: opens the device, refuses what would
// destroy data, preconditions, warms up, measures, closes. Starts the DPDK environment and threads
// of its own: call it from a thread without a reactor, once at a time.

#include <atomic>
#include <functional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "driver/device.h"
#include "tools/perf/latency_histogram.h"
#include "tools/perf/workload.h"

namespace blobfs::tools {

struct QueueResult {
    int core = -1;  // that its thread was bound to, -1: to none
    std::uint64_t ios = 0;
    double busy = 0;       // share of the measured time in turns of the loop that did something
    double processor = 0;  // share of the measured time that the thread had a processor
};

struct BenchmarkResult {
    driver::DeviceProperties device;
    Workload workload;   // with the region as it was
    double seconds = 0;  // measured
    LatencyHistogram reads, writes;
    // The processor's reference cycles for one I/O, turns of the loop that found nothing left out;
    // with a software controller its own cycles and the kernel's are in it.
    double cycles_per_io = 0;
    double cycles_per_ns = 0;
    std::vector<QueueResult> queues;
    std::vector<std::string> warnings;  // whole sentences
    bool interrupted = false;           // stopped before its time
};

struct BenchmarkHooks {
    // What is being done and how much of it is done, now and then; may be empty.
    std::function<void(const char* what, unsigned percent)> progress;
    // Set by a signal handler: what has been measured so far is the result. May be null.
    const std::atomic<bool>* interrupted = nullptr;
};

// The error is for people: what was wrong, on what, and what to do. Nothing was written when the
// workload is refused.
tl::expected<BenchmarkResult, std::string> run_benchmark(const std::string& device,
                                                         const Workload& workload,
                                                         const BenchmarkHooks& hooks);

}  // namespace blobfs::tools
