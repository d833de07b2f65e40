#include "blobstore/free_space_search.h"

#include <algorithm>
#include <optional>

namespace blobfs::blobstore {

namespace {

// Once something was found that is shorter than wanted, so many more bitmaps are looked at.
constexpr int kMoreBitmaps = 32;
// Searches that others disturb are begun anew so often.
constexpr int kSearches = 8;
// That many bitmaps are looked at for a place that no page fits into.
constexpr int kFragmentBitmaps = 32;

}  // namespace

// The best run of a bitmap; remembers how long it is when it is the longest.
Run FreeSpaceSearch::look(MapPage& page, std::uint64_t from, const Wanted& wanted) const {
    const Run run = map_.find_free(page, from, wanted.blocks, wanted.alignment);
    if (run.blocks < wanted.blocks) {
        const auto blocks = static_cast<std::uint32_t>(run.blocks);
        if (wanted.alignment == cluster_blocks_) page.longest = blocks;
        if (wanted.alignment == map_.page_blocks()) page.longest_of_pages = blocks;
    }
    return run;
}

// No run of the bitmap is longer. Without this each search for pages went through all bitmaps at
// the front of the device, where much is free in small pieces: with 1,500,000 files 120 us of every
// file created.
std::uint32_t FreeSpaceSearch::longest(const MapPage& page, const Wanted& wanted) const {
    std::uint32_t longest = ~0u;
    if (wanted.alignment >= cluster_blocks_) longest = std::min(longest, page.longest);
    if (wanted.alignment >= map_.page_blocks()) longest = std::min(longest, page.longest_of_pages);
    return longest;
}

Run FreeSpaceSearch::take_at(std::uint64_t block, std::uint64_t wanted) {
    const MapPage* page = map_.resident_bitmap(map_.group_of(block));
    CHECK(page != nullptr);
    const std::uint64_t base = page->index * map_.bits_per_page();
    const std::uint64_t end =
        base + next_bit<true>(page->busy, block - base,
                              std::min<std::uint64_t>(page->bits, block - base + wanted));
    const Run run{BlockIndex{block}, round_down(end - block, cluster_blocks_)};
    if (run.blocks != 0) map_.hold(run);
    return run;
}

// One pass over the bitmaps with space, from that of `from` on and around.
Result<FreeSpaceSearch::Found> FreeSpaceSearch::pass(Suspend& suspend, const Wanted& wanted) {
    const std::uint64_t first_group = map_.group_of(wanted.from);
    std::uint64_t best_group = 0;
    std::uint64_t best_blocks = 0;
    std::optional<Error> error;
    int more = kMoreBitmaps;
    bool around = false;
    for (std::uint64_t group = first_group;; ++group) {
        TRY_ASSIGN(group, map_.next_group_with_space(suspend, group));
        if (group >= map_.group_count() && !around) {
            around = true;
            TRY_ASSIGN(group, map_.next_group_with_space(suspend, 0));
        }
        if (group >= map_.group_count() || (around && group >= first_group)) break;
        const auto loaded = map_.bitmap(suspend, group);
        if (!loaded) {
            error = loaded.error();
            continue;
        }
        MapPage& page = **loaded;
        if (page.free_blocks() < wanted.alignment) continue;
        std::uint64_t blocks = longest(page, wanted);
        if (blocks <= best_blocks) continue;
        if (blocks >= wanted.blocks) {
            const std::uint64_t base = group * map_.bits_per_page();
            const Run run = look(page, group == first_group ? wanted.from : base, wanted);
            if (run.blocks >= wanted.blocks) {
                map_.hold(run);
                return Found{.run = run};
            }
            blocks = run.blocks;
        }
        if (blocks > best_blocks) {
            best_blocks = blocks;
            best_group = group;
        }
        if (best_blocks > 0 && --more <= 0) break;
    }
    if (best_blocks == 0) {
        if (error) return fail(*error);
        return Found{};
    }
    TRY_ASSIGN(MapPage* const page, map_.bitmap(suspend, best_group));
    const bool known = longest(*page, wanted) == best_blocks;
    const Run run = look(*page, best_group * map_.bits_per_page(), wanted);
    // Now it is known better, and another bitmap may be the best.
    if (known && run.blocks < best_blocks) return Found{.shorter = true};
    if (run.blocks != 0) map_.hold(run);
    return Found{.run = run, .disturbed = run.blocks == 0};
}

Result<Run> FreeSpaceSearch::find(Suspend& suspend, const Wanted& wanted) {
    for (int i = 0; i < kSearches;) {
        TRY_ASSIGN(const Found found, pass(suspend, wanted));
        if (found.shorter) continue;
        if (!found.disturbed) return found.run;
        ++i;
    }
    return Run{};
}

void FreeSpaceSearch::find_more(const Run& found, std::uint64_t blocks, std::uint64_t alignment,
                                absl::FunctionRef<void(const Run&)> take) {
    MapPage* page = map_.resident_bitmap(map_.group_of(found.first()));
    CHECK(page != nullptr);
    map_.hold_all(*page, std::max(found.blocks / 2, alignment), blocks, alignment, take);
}

Result<Run> FreeSpaceSearch::find_fragment(Suspend& suspend, std::uint64_t wanted) {
    const std::uint64_t from = fragment_cursor_;
    std::uint64_t group = map_.group_of(from);
    bool around = false;
    for (int i = 0; i < kFragmentBitmaps; ++i, ++group) {
        TRY_ASSIGN(group, map_.next_group_with_space(suspend, group));
        if (group >= map_.group_count()) {
            if (around) break;
            around = true;
            TRY_ASSIGN(group, map_.next_group_with_space(suspend, 0));
            if (group >= map_.group_count()) break;
        }
        const auto loaded = map_.bitmap(suspend, group);
        if (!loaded) continue;
        const std::uint64_t base = group * map_.bits_per_page();
        const std::uint64_t begin = group == map_.group_of(from) && !around ? from : base;
        const Run run = map_.find_fragment(**loaded, begin, wanted, cluster_blocks_);
        if (run.blocks == 0) continue;
        map_.hold(run);
        fragment_cursor_ = run.first();
        return run;
    }
    // The next search begins where this one gave up.
    fragment_cursor_ = group < map_.group_count() ? group * map_.bits_per_page() : 0;
    return Run{};
}

}  // namespace blobfs::blobstore
