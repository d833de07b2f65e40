#pragma once

// Wraps a medium and makes it misbehave as told: tests of every layer. Without faults it passes
// operations straight through. Reactor thread only.

#include <chrono>
#include <cstdint>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "driver/soft/medium.h"

namespace blobfs::driver {

// What happens to which operations. An operation matches when its kind is the one named (any when
// none is) and its range touches first_byte .. first_byte + bytes - 1 (a flush has no range and
// matches whatever the range is). The first fault that matches and is not used up applies.
struct Fault {
    enum class Effect : std::uint8_t {
        kFail,            // ends with `status`, the medium is not touched
        kDelay,           // starts delay_us later, and delay_polls polls later
        kNeverAnswer,     // does not end unless it is aborted or the controller is reset
        kLoseWrite,       // a write, deallocation or flush succeeds without having happened
        kMisdirectWrite,  // a write goes to first byte `misdirect_to` instead, and succeeds
        kFlipBit,         // one bit (`bit`, counted from the start) of what is read, or written
    };
    Effect effect = Effect::kFail;
    std::optional<MediumOperation::Kind> kind = {};
    std::uint64_t first_byte = 0;
    std::uint64_t bytes = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t skip = 0;  // lets that many matching operations through first
    std::uint64_t count = std::numeric_limits<std::uint64_t>::max();  // then happens so many times
    MediumStatus status = MediumStatus(nvme::Status::kInternalError);
    std::uint64_t delay_us = 0;
    std::uint64_t delay_polls = 0;  // the same on a fast and on a slow machine
    std::uint64_t misdirect_to = 0;
    std::uint64_t bit = 0;
};

class FaultyMedium final : public Medium {
  public:
    explicit FaultyMedium(std::unique_ptr<Medium> inner);
    ~FaultyMedium() override;

    // Faults are tried in the order in which they were added. The device runs on meanwhile.
    void add(const Fault& fault);
    // Later operations go through again; those that are held are not let go.
    void clear_faults();
    // The device is pulled out: nothing is answered any more.
    void vanish() { gone_ = true; }
    // How many operations a fault has hit so far.
    [[nodiscard]] std::uint64_t hits() const { return hits_; }
    [[nodiscard]] Medium& inner() { return *inner_; }

    [[nodiscard]] const MediumProperties& properties() const override {
        return inner_->properties();
    }
    void start(MediumOperation& operation) override;
    void submit() override { inner_->submit(); }
    bool poll() override;
    bool cancel(MediumOperation& operation) override;
    [[nodiscard]] std::size_t in_flight() const override;
    // What is held back or late ends without a word.
    [[nodiscard]] int wake_descriptor() const override { return -1; }
    [[nodiscard]] bool gone() const override { return gone_ || inner_->gone(); }

  private:
    using Clock = std::chrono::steady_clock;
    // An operation held back: until a time and for some polls, or for ever.
    struct Held {
        MediumOperation* operation;
        std::optional<Clock::time_point> until;
        std::uint64_t polls = 0;
    };
    // An operation of our own that stands in for another.
    struct StandIn : MediumOperation {
        FaultyMedium* medium = nullptr;
        MediumOperation* original = nullptr;
        std::vector<iovec> pieces;       // the original's memory, before it is consumed
        std::vector<std::byte> payload;  // ours, for a write that differs
        iovec payload_piece{};
        std::optional<std::uint64_t> flip_after_read;
        std::list<StandIn>::iterator self;
    };

    Fault* match(const MediumOperation& operation);
    StandIn& stand_in(MediumOperation& operation);
    static void stand_in_done(MediumOperation& operation, MediumStatus status);

    std::unique_ptr<Medium> inner_;
    std::vector<Fault> faults_;
    std::vector<Held> held_;
    std::list<StandIn> stand_ins_;
    std::uint64_t hits_ = 0;
    bool gone_ = false;
};

}  // namespace blobfs::driver
