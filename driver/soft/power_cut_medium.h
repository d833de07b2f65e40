#pragma once

// A disk with a volatile write cache, for crash tests. An acknowledged write sits in the cache
// until a flush that began after it was acknowledged has ended, or was written with FUA; reads see
// the cache. Every write, deallocation and flush is kept in a journal in the order in which they
// ended, so that afterwards, for any point in that order, the images can be made that a power cut
// at that point could leave:
//
//   * acknowledged and durable: there, always;
//   * acknowledged but not durable: any subset of their sectors (512 bytes), in any combination,
//     an older version of a sector never on top of a newer durable one;
//   * under way at that moment (not acknowledged, sent before the host saw the acknowledgement of
//     the last event before the cut): the same.
//
// A write may be made to fail: any subset of its sectors is written then, but none is durable.
//
// Reactor thread only.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "driver/base/result.h"
#include "driver/soft/medium.h"
#include "driver/soft/sparse_image.h"

namespace blobfs::driver {

struct PowerCutOptions {
    std::uint64_t bytes = 0;
    std::uint32_t lba_bytes = 512;
    // Not 0: operations do not end at once but in a random order, in random polls, from this seed.
    std::uint64_t shuffle_seed = 0;
    // With a shuffle_seed: of so many writes one takes up to slow_polls polls longer.
    std::uint64_t slow_one_in = 4;
    std::uint64_t slow_polls = 0;
};

class PowerCutMedium final : public Medium {
  public:
    static constexpr std::size_t kSector = 512;

    struct Event {
        enum class Kind : std::uint8_t { kWrite, kClear, kFlush };
        Kind kind = Kind::kWrite;
        bool durable = false;      // FUA
        std::uint64_t offset = 0;  // bytes
        std::uint64_t bytes = 0;
        std::size_t covers = 0;               // kFlush: makes the events before this one durable
        std::size_t started = 0;              // events that had ended when this one was sent
        std::vector<std::byte> payload = {};  // kWrite
    };

    // The device begins with the contents of the image.
    static std::unique_ptr<PowerCutMedium> create(const PowerCutOptions& options,
                                                  SparseImage image = {});

    [[nodiscard]] const MediumProperties& properties() const override { return properties_; }
    void start(MediumOperation& operation) override;
    void submit() override { visible_ = journal_.size(); }
    bool poll() override;
    bool cancel(MediumOperation& operation) override;
    [[nodiscard]] std::size_t in_flight() const override { return waiting_.size(); }

    // Asked when a write, flush or deallocation ends; what it answers is the error that this ends
    // with. A flush or deallocation has not happened then. Asked in the same order in each run.
    using Fails = std::function<std::optional<MediumStatus>(const MediumOperation&)>;
    void set_fails(Fails fails) { fails_ = std::move(fails); }

    // What happened since the beginning. The points at which power can be cut are 0 (nothing was
    // acknowledged) to journal().size().
    [[nodiscard]] const std::vector<Event>& journal() const { return journal_; }

    // An image that a power cut could leave when the first `cut` events had been acknowledged.
    // Seed 0: nothing survives that need not; seed 1: everything that may; other seeds: a random
    // choice, of whole writes, of 4 KiB pieces or of sectors. The same arguments give the same
    // image. REQUIRES: cut <= journal().size().
    [[nodiscard]] SparseImage image(std::size_t cut, std::uint64_t seed) const;

    // For exhaustive enumeration: the events that may survive such a cut but need not, and the
    // image when of these just those survive, each whole. REQUIRES: survivors ascending.
    [[nodiscard]] std::vector<std::size_t> undecided(std::size_t cut) const;
    [[nodiscard]] SparseImage image_with(std::size_t cut,
                                         std::span<const std::size_t> survivors) const;

    // The device as it reads now, cache included.
    [[nodiscard]] const SparseImage& contents() const { return contents_; }

  private:
    struct Waiting {
        MediumOperation* operation;
        std::size_t started;
        std::uint64_t not_before;  // poll
    };

    PowerCutMedium(const PowerCutOptions& options, SparseImage image);
    void finish(MediumOperation& operation, std::size_t started);
    void spoil(Event& event);
    static void apply(SparseImage& image, const Event& event);
    static void apply_some(SparseImage& image, const Event& event, std::size_t piece,
                           std::mt19937_64& random);
    [[nodiscard]] std::size_t durable_prefix(std::size_t cut) const;
    [[nodiscard]] bool under_way(std::size_t event, std::size_t cut) const;
    [[nodiscard]] const SparseImage& base(std::size_t prefix) const;

    MediumProperties properties_;
    PowerCutOptions options_;
    SparseImage initial_;
    SparseImage contents_;
    std::vector<Event> journal_;
    // Events that the host may know of: operations that came in one batch do not know each other's
    // end.
    std::size_t visible_ = 0;
    std::vector<Waiting> waiting_;
    std::uint64_t polls_ = 0;
    Fails fails_;
    std::mt19937_64 random_;
    // The image after the first base_events_ events: cuts are mostly asked for in ascending order.
    mutable SparseImage base_;
    mutable std::size_t base_events_ = 0;
};

}  // namespace blobfs::driver
