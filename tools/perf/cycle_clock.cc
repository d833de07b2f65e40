#include "tools/perf/cycle_clock.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <chrono>

namespace blobfs::tools {

namespace {

using Clock = std::chrono::steady_clock;

double measure() {
    const auto begin = Clock::now();
    const std::uint64_t first = read_cycles();
    while (Clock::now() - begin < std::chrono::milliseconds(10)) {
    }
    const std::uint64_t last = read_cycles();
    const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
    return static_cast<double>(last - first) / took.count();
}

}  // namespace

bool cycles_are_steady() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d >> 8 & 1) != 0;
}

double cycles_per_ns() {
    // The middle of several: losing the processor in between makes one of them wrong.
    static const double value = [] {
        std::array<double, 5> all{};
        for (double& one : all) one = measure();
        std::sort(all.begin(), all.end());
        return all[2];
    }();
    return value;
}

}  // namespace blobfs::tools
