#pragma once

// How long I/Os took: counts in buckets whose width grows with the time, 64 to each power of two,
// so that every answer is right within 1.6 %. Recording allocates nothing. One
// thread; those of several threads are merged when they are done.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace blobfs::tools {

class LatencyHistogram {
  public:
    // Longer times count as this long, which is 36 minutes.
    static constexpr std::uint64_t kLongestNs = (std::uint64_t{1} << 41) - 1;

    void record(std::uint64_t nanoseconds) {
        if (nanoseconds > kLongestNs) nanoseconds = kLongestNs;
        ++counts_[bucket_of(nanoseconds)];
        ++count_;
        sum_ns_ += nanoseconds;
        if (nanoseconds < min_ns_) min_ns_ = nanoseconds;
        if (nanoseconds > max_ns_) max_ns_ = nanoseconds;
    }
    void merge(const LatencyHistogram& other);

    [[nodiscard]] std::uint64_t count() const { return count_; }
    // Nanoseconds; 0 when nothing was recorded.
    [[nodiscard]] std::uint64_t min_ns() const { return count_ == 0 ? 0 : min_ns_; }
    [[nodiscard]] std::uint64_t max_ns() const { return max_ns_; }
    [[nodiscard]] double mean_ns() const;
    // The time within which that share of the I/Os ended; percent from 0 to 100.
    [[nodiscard]] std::uint64_t percentile_ns(double percent) const;

    // Neighbouring buckets joined up to powers of two: those with anything in them.
    struct Bar {
        std::uint64_t from_ns = 0, to_ns = 0;  // from <= time < to
        std::uint64_t count = 0;
    };
    [[nodiscard]] std::vector<Bar> bars() const;

  private:
    static constexpr unsigned kBits = 6;
    static constexpr std::size_t kLinear = std::size_t{2} << kBits;  // a bucket for each nanosecond
    static constexpr std::size_t kBuckets = kLinear + (std::size_t{41 - kBits - 1} << kBits);

    // Above the linear part a bucket is named by the highest 7 bits of the time and by how many
    // bits are below them.
    static std::size_t bucket_of(std::uint64_t nanoseconds) {
        if (nanoseconds < kLinear) return static_cast<std::size_t>(nanoseconds);
        const auto shift = static_cast<unsigned>(std::bit_width(nanoseconds)) - kBits - 1;
        return (std::size_t{shift} << kBits) + static_cast<std::size_t>(nanoseconds >> shift);
    }
    // The first time that no longer belongs to the bucket.
    static std::uint64_t bucket_end(std::size_t bucket);

    // Not within the object, which may be on a fiber's small stack.
    std::vector<std::uint64_t> counts_ = std::vector<std::uint64_t>(kBuckets);
    std::uint64_t count_ = 0;
    std::uint64_t sum_ns_ = 0;
    std::uint64_t min_ns_ = ~std::uint64_t{0};
    std::uint64_t max_ns_ = 0;
};

}  // namespace blobfs::tools
