#include "tools/perf/latency_histogram.h"

#include <algorithm>
#include <cmath>

namespace blobfs::tools {

std::uint64_t LatencyHistogram::bucket_end(std::size_t bucket) {
    if (bucket < kLinear) return bucket + 1;
    const std::size_t shift = (bucket >> kBits) - 1;
    return ((bucket & ((std::size_t{1} << kBits) - 1)) + (std::size_t{1} << kBits) + 1) << shift;
}

void LatencyHistogram::merge(const LatencyHistogram& other) {
    for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
    count_ += other.count_;
    sum_ns_ += other.sum_ns_;
    min_ns_ = std::min(min_ns_, other.min_ns_);
    max_ns_ = std::max(max_ns_, other.max_ns_);
}

double LatencyHistogram::mean_ns() const {
    return count_ == 0 ? 0 : static_cast<double>(sum_ns_) / static_cast<double>(count_);
}

std::uint64_t LatencyHistogram::percentile_ns(double percent) const {
    if (count_ == 0) return 0;
    const double share = std::clamp(percent, 0.0, 100.0) / 100;
    const auto wanted = std::max<std::uint64_t>(
        1, static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_))));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
        seen += counts_[i];
        if (seen >= wanted) return std::clamp(bucket_end(i) - 1, min_ns_, max_ns_);
    }
    return max_ns_;
}

std::vector<LatencyHistogram::Bar> LatencyHistogram::bars() const {
    std::vector<Bar> bars;
    for (std::size_t i = 0; i < kBuckets; ++i) {
        if (counts_[i] == 0) continue;
        const std::uint64_t last = bucket_end(i) - 1;
        const std::uint64_t from = last == 0 ? 0 : std::bit_floor(last);
        if (bars.empty() || bars.back().from_ns != from) {
            bars.push_back({.from_ns = from, .to_ns = from == 0 ? 1 : from * 2, .count = 0});
        }
        bars.back().count += counts_[i];
    }
    return bars;
}

}  // namespace blobfs::tools
