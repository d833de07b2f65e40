// Leaves that are read before anybody asks for them. README.md, "Leaves that are read ahead".

#include <algorithm>
#include <utility>

#include "blobstore/btree_state.h"
#include "driver/reactor/reactor.h"

namespace blobfs::blobstore {

namespace {

// What is not used at once must not push out what is.
constexpr std::size_t kPartOfCache = 8;
constexpr std::size_t kMostAtATime = 64;

// Of a small tree all leaves are likely to be wanted, in whatever order.
constexpr std::size_t kSmallTreeLeaves = 4096;
constexpr std::size_t kSmallPartOfCache = 4;
constexpr std::uint8_t kMissesBelow = 8;
constexpr std::size_t kNeighbours = 32;

}  // namespace

void Btree::read_ahead_inside(driver::Gate* gate) { state_->ahead_gate = gate; }

// The leaf that somebody waits for now is the next of a run.
void Btree::State::leaf_missed(Suspend& suspend, KeyView key, const Descent& descent) {
    if (ahead_gate == nullptr || descent.depth == 0 || descent.depth + 1 != height ||
        cache.holds(descent.next.block) || key.size() < 9) {
        return;
    }
    const KeyKind kind = key_kind(key);
    const std::uint32_t window =
        runs.missed(kind, descent.lower(descent.depth), descent.upper(descent.depth));
    // The leaf that is waited for is read first.
    if (window != 0) {
        read_on(suspend, kind, descent, window, window, Begin::kLater);
    } else {
        read_neighbours(suspend, descent);
    }
}

// As many leaves as there would be, were all pages as full as those on the way.
bool Btree::State::small(const Descent& descent) const {
    const std::size_t most = std::min(kSmallTreeLeaves, cache.capacity() / kSmallPartOfCache);
    std::size_t leaves = 1;
    for (std::uint32_t i = 0; i < descent.depth && leaves <= most; ++i) {
        leaves *= view(*descent.frames[i]).size();
    }
    return leaves <= most;
}

// Somebody waits for a leaf, in no order. After some such misses below one page of a small tree,
// those that follow it below that page, and then its first ones, are read, too.
void Btree::State::read_neighbours(Suspend& suspend, const Descent& descent) {
    Frame& frame = *descent.frames[descent.depth - 1];
    if (frame.missed_below < kMissesBelow) {
        ++frame.missed_below;
        return;
    }
    if (!small(descent)) return;
    const PageView parent = view(frame);
    const std::size_t count = std::min<std::size_t>(kNeighbours, parent.size() - 1u);
    for (std::size_t i = 1; i <= count; ++i) {
        const std::size_t slot = (descent.slots[descent.depth - 1] + i) % parent.size();
        if (cache.holds(parent.child(slot).block)) continue;
        const KeyView key = slot == 0 ? descent.lower(descent.depth - 1) : parent.key(slot);
        if (!read_leaf_ahead(suspend, key, 0, Begin::kLater)) return;
    }
}

// The first leaf of those that were read ahead last is used: the next ones are read.
void Btree::State::read_further(Suspend& suspend, KeyView key, const Descent& descent) {
    const std::uint32_t window = std::exchange(descent.leaf().read_ahead, std::uint8_t{0});
    if (ahead_gate == nullptr || height < 2 || key.size() < 9) return;
    const std::uint32_t next = LeafRuns::doubled(window);
    read_on(suspend, key_kind(key), descent, window - 1 + next, next, Begin::kNow);
}

// Reads what is not in memory of the `leaves` that follow, as far as their parent goes; the first
// of these calls for more when it is used.
void Btree::State::read_on(Suspend& suspend, KeyKind kind, const Descent& descent,
                           std::uint32_t leaves, std::uint32_t window, Begin begin) {
    const PinnedPath pinned(cache, descent);
    const std::uint32_t parent_depth = height - 2;
    const PageView parent = view(*descent.frames[parent_depth]);
    const std::size_t first = descent.slots[parent_depth] + 1u;
    const std::size_t end = std::min<std::size_t>(first + leaves, parent.size());
    std::uint32_t mark = window;
    for (std::size_t i = first; i < end; ++i) {
        if (cache.holds(parent.child(i).block)) continue;
        if (!read_leaf_ahead(suspend, parent.key(i), mark, begin)) return;
        mark = 0;
    }
    if (end == parent.size()) runs.reached(kind, descent.upper(parent_depth), window);
}

// False when enough is being read. A fiber does it, which looks for the key anew: until it runs the
// page may have moved. Begun now it may take the frame of any page that is not pinned.
bool Btree::State::read_leaf_ahead(Suspend& suspend, KeyView key, std::uint32_t mark, Begin begin) {
    const std::size_t most = std::min(kMostAtATime, cache.capacity() / kPartOfCache);
    if (ahead_gate == nullptr || reading_ahead >= most || !ahead_gate->enter()) return false;
    ++reading_ahead;
    driver::Reactor::FiberFunction read = [this, wanted = Key(key), mark](Suspend& fiber) {
        for (;;) {
            Descent descent;
            descend(wanted, Side::kAt, descent);
            if (descent.end != Descent::End::kMissing) break;
            const bool leaf = descent.depth + 1 == height;
            if (!load_ahead(fiber, descent, leaf ? mark : 0) || leaf) break;
        }
        --reading_ahead;
        ahead_gate->leave();
    };
    if (begin == Begin::kNow) {
        suspend.reactor().spawn_now(std::move(read));
    } else {
        suspend.reactor().spawn(std::move(read));
    }
    return true;
}

// An error is for who needs the page.
bool Btree::State::load_ahead(Suspend& suspend, const Descent& descent, std::uint32_t mark) {
    const Wanted page = wanted(descent);
    const PinnedPath pinned(cache, descent);
    return cache
        .load_ahead(suspend, io, descent.next, mark,
                    [&](ConstDmaSpan bytes) { return page.check(bytes); })
        .has_value();
}

bool Btree::read_ahead(Suspend& suspend, KeyView key) {
    State& state = *state_;
    State::Descent descent;
    state.descend(key, State::Side::kAt, descent);
    if (descent.end != State::Descent::End::kMissing) return true;
    const bool leaf = descent.depth + 1 == state.height;
    if (leaf && state.cache.holds(descent.next.block)) return true;
    return state.read_leaf_ahead(suspend, key, 0, State::Begin::kNow);
}

}  // namespace blobfs::blobstore
