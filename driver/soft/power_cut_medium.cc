#include "driver/soft/power_cut_medium.h"

#include <algorithm>

#include "driver/base/check.h"

namespace blobfs::driver {

std::unique_ptr<PowerCutMedium> PowerCutMedium::create(const PowerCutOptions& options,
                                                       SparseImage image) {
    return std::unique_ptr<PowerCutMedium>(new PowerCutMedium(options, std::move(image)));
}

PowerCutMedium::PowerCutMedium(const PowerCutOptions& options, SparseImage image)
    : options_(options),
      initial_(std::move(image)),
      contents_(initial_),
      random_(options.shuffle_seed),
      base_(initial_) {
    properties_.name = "power-cut";
    properties_.bytes = options.bytes - options.bytes % options.lba_bytes;
    properties_.lba_bytes = options.lba_bytes;
    properties_.volatile_write_cache = true;
}

void PowerCutMedium::start(MediumOperation& operation) {
    if (options_.shuffle_seed == 0) {
        finish(operation, visible_);
        return;
    }
    std::uint64_t not_before = polls_ + 1;
    if (options_.slow_polls != 0 && operation.kind == MediumOperation::Kind::kWrite &&
        random_() % options_.slow_one_in == 0) {
        not_before += random_() % options_.slow_polls;
    }
    waiting_.push_back({&operation, visible_, not_before});
}

bool PowerCutMedium::poll() {
    // About half of what may end, in any order. Those started by a callback wait for the next poll.
    ++polls_;
    const auto slow =
        std::stable_partition(waiting_.begin(), waiting_.end(),
                              [&](const Waiting& one) { return one.not_before <= polls_; });
    auto old = static_cast<std::size_t>(slow - waiting_.begin());
    std::size_t some = old == 0 ? 0 : 1 + random_() % old;
    const bool any = some != 0;
    for (; some != 0; --some) {
        const auto at = static_cast<std::ptrdiff_t>(random_() % old--);
        const Waiting chosen = waiting_[static_cast<std::size_t>(at)];
        waiting_.erase(waiting_.begin() + at);
        finish(*chosen.operation, chosen.started);
    }
    if (any) visible_ = journal_.size();
    return any;
}

bool PowerCutMedium::cancel(MediumOperation& operation) {
    const auto found = std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& waiting) {
        return waiting.operation == &operation;
    });
    if (found == waiting_.end()) return false;
    waiting_.erase(found);
    operation.done(operation, MediumStatus(nvme::Status::kAbortRequested, false));
    return true;
}

void PowerCutMedium::finish(MediumOperation& operation, std::size_t started) {
    Event event{.durable = operation.force_unit_access,
                .offset = operation.offset,
                .bytes = operation.bytes,
                .started = started};
    std::optional<MediumStatus> error;
    if (fails_ && operation.kind != MediumOperation::Kind::kRead) error = fails_(operation);
    if (error && operation.kind != MediumOperation::Kind::kWrite) {
        operation.done(operation, *error);
        return;
    }
    switch (operation.kind) {
        case MediumOperation::Kind::kRead: {
            std::uint64_t at = operation.offset;
            for (unsigned i = 0; i < operation.memory_count; ++i) {
                const iovec& piece = operation.memory[i];
                contents_.read(at, {static_cast<std::byte*>(piece.iov_base), piece.iov_len});
                at += piece.iov_len;
            }
            operation.done(operation, MediumStatus{});
            return;
        }
        case MediumOperation::Kind::kWrite:
            event.kind = Event::Kind::kWrite;
            event.payload.reserve(operation.bytes);
            for (unsigned i = 0; i < operation.memory_count; ++i) {
                const auto* from = static_cast<const std::byte*>(operation.memory[i].iov_base);
                event.payload.insert(event.payload.end(), from, from + operation.memory[i].iov_len);
            }
            break;
        case MediumOperation::Kind::kDeallocate:
        case MediumOperation::Kind::kWriteZeroes:
            event.kind = Event::Kind::kClear;
            break;
        case MediumOperation::Kind::kFlush:
            // What ended while the flush was under way is not covered by it.
            event.kind = Event::Kind::kFlush;
            event.covers = started;
            break;
    }
    if (error) spoil(event);
    apply(contents_, event);
    journal_.push_back(std::move(event));
    operation.done(operation, error.value_or(MediumStatus{}));
}

// Of a write that fails some sectors keep what they had.
void PowerCutMedium::spoil(Event& event) {
    event.durable = false;
    for (std::uint64_t at = 0; at < event.bytes; at += kSector) {
        if (random_() % 2 == 0) continue;
        contents_.read(event.offset + at, std::span(event.payload).subspan(at, kSector));
    }
}

void PowerCutMedium::apply(SparseImage& image, const Event& event) {
    if (event.kind == Event::Kind::kWrite) image.write(event.offset, event.payload);
    if (event.kind == Event::Kind::kClear) image.clear(event.offset, event.bytes);
}

// A random choice of the event's pieces of that size.
void PowerCutMedium::apply_some(SparseImage& image, const Event& event, std::size_t piece,
                                std::mt19937_64& random) {
    if (event.kind == Event::Kind::kFlush) return;
    // A large deallocation is torn at a few places only.
    const std::uint64_t pieces = (event.bytes + piece - 1) / piece;
    const std::uint64_t step =
        event.kind == Event::Kind::kClear && pieces > 1024 ? (pieces + 1023) / 1024 * piece : piece;
    for (std::uint64_t at = 0; at < event.bytes; at += step) {
        if (random() % 2 == 0) continue;
        const std::uint64_t bytes = std::min<std::uint64_t>(step, event.bytes - at);
        if (event.kind == Event::Kind::kClear) {
            image.clear(event.offset + at, bytes);
        } else {
            image.write(event.offset + at, std::span(event.payload).subspan(at, bytes));
        }
    }
}

// How many events from the first one on are durable at that cut without a gap.
std::size_t PowerCutMedium::durable_prefix(std::size_t cut) const {
    std::size_t prefix = 0;
    for (std::size_t i = 0; i < cut; ++i) {
        if (journal_[i].kind == Event::Kind::kFlush) prefix = std::max(prefix, journal_[i].covers);
    }
    return prefix;
}

// Whether it had not ended at the cut, but was sent when no later event had ended than the host
// knew of. Others, that were sent later, may end before it.
bool PowerCutMedium::under_way(std::size_t event, std::size_t cut) const {
    return event >= cut && journal_[event].started <= cut;
}

const SparseImage& PowerCutMedium::base(std::size_t prefix) const {
    if (base_events_ > prefix) {
        base_ = initial_;
        base_events_ = 0;
    }
    for (; base_events_ < prefix; ++base_events_) apply(base_, journal_[base_events_]);
    return base_;
}

SparseImage PowerCutMedium::image(std::size_t cut, std::uint64_t seed) const {
    CHECK(cut <= journal_.size());
    const std::size_t prefix = durable_prefix(cut);
    SparseImage result = base(prefix);
    std::mt19937_64 random(seed * 0x9e3779b97f4a7c15ULL + cut);
    enum class Tear : std::uint8_t { kWhole, kPages, kSectors };
    const auto tear = static_cast<Tear>(random() % 3);
    for (std::size_t i = prefix; i < journal_.size(); ++i) {
        if (i >= cut && !under_way(i, cut)) continue;
        const Event& event = journal_[i];
        const bool durable = i < cut && event.durable;
        if (durable || seed == 1) {
            apply(result, event);
        } else if (seed == 0) {
            continue;
        } else if (tear == Tear::kWhole) {
            if (random() % 2 != 0) apply(result, event);
        } else {
            apply_some(result, event, tear == Tear::kPages ? SparseImage::kPage : kSector, random);
        }
    }
    return result;
}

std::vector<std::size_t> PowerCutMedium::undecided(std::size_t cut) const {
    CHECK(cut <= journal_.size());
    std::vector<std::size_t> result;
    for (std::size_t i = durable_prefix(cut); i < journal_.size(); ++i) {
        if (i >= cut && !under_way(i, cut)) continue;
        const Event& event = journal_[i];
        if (event.kind == Event::Kind::kFlush || (i < cut && event.durable)) continue;
        result.push_back(i);
    }
    return result;
}

SparseImage PowerCutMedium::image_with(std::size_t cut,
                                       std::span<const std::size_t> survivors) const {
    CHECK(cut <= journal_.size());
    const std::size_t prefix = durable_prefix(cut);
    SparseImage result = base(prefix);
    for (std::size_t i = prefix; i < journal_.size(); ++i) {
        const bool durable = i < cut && journal_[i].durable;
        if (durable || std::binary_search(survivors.begin(), survivors.end(), i)) {
            apply(result, journal_[i]);
        }
    }
    return result;
}

}  // namespace blobfs::driver
