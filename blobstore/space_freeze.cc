#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <utility>

#include "blobstore/space_allocator_state.h"

// The checkpoint's part of the space allocator.

namespace blobfs::blobstore {

namespace {

// DMA buffers for frozen pages that are kept from one checkpoint to the next.
constexpr std::size_t kSpareBuffers = 128;

}  // namespace

// What a freeze now would write: the dirty pages, those that pending frees and the stash's next
// pages make dirty, and, as they all move, the bitmaps that hold their old addresses; with all
// above them; until nothing comes on top.
SpaceAllocator::State::Closure SpaceAllocator::State::closure() const {
    Closure closure;
    if (map.dirty_pages().empty() && pending.empty()) return closure;
    absl::flat_hash_set<const MapPage*> seen;
    absl::flat_hash_set<std::uint64_t> missing;
    std::vector<const MapPage*> work;
    const auto add = [&](const MapPage* page) {
        for (; page != nullptr && seen.insert(page).second; page = page->parent) {
            work.push_back(page);
        }
    };
    const auto add_group = [&](std::uint64_t group) {
        if (const MapPage* page = map.resident_bitmap(group)) {
            add(page);
        } else {
            missing.insert(group);
        }
    };
    for (const MapPage* page : map.dirty_pages()) add(page);
    for (const auto& [group, runs] : pending) add_group(group);
    for (const auto& [block, pages] : stash.runs()) add_group(map.group_of(block));
    while (!work.empty()) {
        const MapPage* page = work.back();
        work.pop_back();
        if (page->pointer.block != 0) add_group(map.group_of(page->pointer.block));
    }
    closure.pages = seen.size();
    closure.missing_groups.assign(missing.begin(), missing.end());
    return closure;
}

Result<void> SpaceAllocator::State::load_for_freeze(Suspend& suspend,
                                                    const std::vector<std::uint64_t>& groups) {
    for (const std::uint64_t group : groups) {
        TRY_ASSIGN(MapPage* const page, map.bitmap(suspend, group));
        map.pin(*page);
        pinned_for_freeze.push_back(page);
    }
    return {};
}

// The tree that names these runs may be damaged: then the map is not made to fit it.
Result<void> SpaceAllocator::State::check_pending() const {
    if (damage) return fail(*damage);
    for (const auto& [group, runs] : pending) {
        if (map.resident_bitmap(group) == nullptr) continue;
        for (const Run& run : runs) {
            if (map.count_used(run) != run.blocks) {
                return fail(Errc::kCorrupt, "freeing blocks that are not in use",
                            run.byte_offset());
            }
        }
    }
    return {};
}

Result<void> SpaceAllocator::prepare_freeze(Suspend& suspend) {
    State& s = *state_;
    CHECK(!s.frozen);
    TRY(s.check_pending());
    const auto closure = s.closure();
    if (!closure.missing_groups.empty()) return s.load_for_freeze(suspend, closure.missing_groups);
    while (s.spare_buffers.size() < closure.pages) {
        TRY_ASSIGN(auto buffer, driver::DmaBuffer::allocate(s.io.geometry().page_bytes));
        s.spare_buffers.push_back(std::move(buffer));
    }
    if (s.stash.pages() < closure.pages) {
        TRY(s.grow_stash(suspend, closure.pages - s.stash.pages()));
    }
    return {};
}

bool SpaceAllocator::ready_to_freeze() const {
    const State& s = *state_;
    if (s.frozen || !s.check_pending()) return false;
    const auto closure = s.closure();
    return closure.missing_groups.empty() && s.stash.pages() >= closure.pages &&
           s.spare_buffers.size() >= closure.pages;
}

// Clears the used bits of the run; its blocks are free after release(). Two extents of a damaged
// tree may have named the same blocks: what is not used any more is left alone.
void SpaceAllocator::State::quarantine_used(const Run& run) {
    if (map.count_used(run) == run.blocks) {
        map.unuse(run);
        quarantine.push_back(run);
        quarantined_blocks += run.blocks;
        return;
    }
    for (std::uint64_t block = run.first(); block < run.end(); ++block) {
        const Run one{BlockIndex{block}, 1};
        if (map.count_used(one) == 1) quarantine_used(one);
    }
}

// Gives each dirty page a new address. That makes other pages dirty, which come behind them.
void SpaceAllocator::State::move_dirty_pages() {
    for (std::size_t i = 0; i < map.dirty_pages().size(); ++i) {
        MapPage* page = map.dirty_pages()[i];
        page->new_block = take_from_stash().first();
        if (page->pointer.block != 0) {
            pinned.superseded(page->pointer.block, Generation{page->pointer.generation});
            quarantine_used(Run{BlockIndex{page->pointer.block}, page_blocks()});
        }
    }
}

SpaceAllocator::Frozen SpaceAllocator::freeze(Generation next) {
    State& s = *state_;
    CHECK(ready_to_freeze() && next > s.current);
    CHECK(s.quarantine.empty() && s.frozen_buffers.empty());
    for (const auto& [group, runs] : s.pending) {
        for (const Run& run : runs) s.quarantine_used(run);
    }
    s.pending.clear();
    s.pending_runs = 0;
    s.pending_blocks = 0;
    s.quarantined_pages = std::exchange(s.pending_pages, 0);
    s.quarantined_data = std::exchange(s.pending_data, 0);
    s.move_dirty_pages();

    std::vector<MapPage*> pages = s.map.dirty_pages();
    std::ranges::sort(pages, {},
                      &MapPage::level);  // children first: the pointers go to the parents
    CHECK(pages.size() <= s.spare_buffers.size());
    Frozen frozen;
    for (MapPage* page : pages) {
        s.frozen_buffers.push_back(std::move(s.spare_buffers.back()));
        s.spare_buffers.pop_back();
        const DmaSpan bytes = s.frozen_buffers.back().span();
        frozen.pages.push_back({.block = BlockIndex{page->new_block}, .bytes = bytes});
        s.map.seal(*page, bytes, s.current);
    }
    s.map.end_seal();
    std::ranges::sort(frozen.pages, {}, &FrozenPage::block);
    frozen.root = s.map.root();
    for (MapPage* page : s.pinned_for_freeze) s.map.unpin(*page);
    s.pinned_for_freeze.clear();
    s.made_now.clear();
    s.current = next;
    s.frozen = true;
    return frozen;
}

void SpaceAllocator::release() {
    State& s = *state_;
    CHECK(s.frozen);
    s.frozen = false;
    for (const Run& run : s.quarantine) {
        s.pinned.release(run, [&](const Run& part) { s.map.unhold(part); });
    }
    if (!s.quarantine.empty()) s.no_place_for_pages = false;
    s.quarantine.clear();
    s.quarantined_blocks = 0;
    s.quarantined_pages = 0;
    s.quarantined_data = 0;
    s.map.sealed_pages_written();
    while (!s.frozen_buffers.empty() && s.spare_buffers.size() < kSpareBuffers) {
        s.spare_buffers.push_back(std::move(s.frozen_buffers.back()));
        s.frozen_buffers.pop_back();
    }
    s.frozen_buffers.clear();
    s.shrink_stash();
    s.stash_wanted = 0;
}

void SpaceAllocator::pin(Generation root) { state_->pinned.pin(root); }

void SpaceAllocator::unpin() {
    State& s = *state_;
    s.pinned.unpin([&](const Run& run) { s.map.unhold(run); });
    s.no_place_for_pages = false;
}

std::uint64_t SpaceAllocator::pinned_blocks() const { return state_->pinned.blocks(); }

}  // namespace blobfs::blobstore
