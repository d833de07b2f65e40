#pragma once

// What a SpaceAllocator is made of; private to it. Reactor thread.

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <optional>
#include <vector>

#include "blobstore/free_space_search.h"
#include "blobstore/page_stash.h"
#include "blobstore/pinned_pages.h"
#include "blobstore/space_allocator.h"

namespace blobfs::blobstore {

struct SpaceAllocator::State {
    State(PageIo& io_in, const Options& options_in)
        : io(io_in),
          options(options_in),
          map(io_in, options_in.cached_map_pages),
          search(map, options_in.cluster_blocks),
          stash(io_in.blocks_per_page()) {
        CHECK(options.cluster_blocks >= 1 && std::has_single_bit(options.cluster_blocks));
    }

    [[nodiscard]] std::uint32_t page_blocks() const { return io.blocks_per_page(); }
    void set_cursors();

    // Data.
    [[nodiscard]] bool prefers_fragments(std::uint64_t wanted) const;
    [[nodiscard]] std::uint64_t available_for_data() const;
    // The pieces of a run in the bitmaps that it lies in: visit(group, piece).
    template <class Visit>
    void for_groups(const Run& run, Visit&& visit) const;
    void free(const Run& run);
    void add_pending(const Run& run);

    // Pages.
    [[nodiscard]] std::uint64_t pages_for_freeze() const;
    // Pages of the stash that are not for the asking, by what asks.
    enum class Purpose : std::uint8_t { kUrgent, kMetadata, kData };
    [[nodiscard]] std::uint64_t pages_kept(Purpose purpose) const {
        const std::uint64_t reserve = options.reserve_blocks / page_blocks();
        return pages_for_freeze() + static_cast<std::uint64_t>(purpose) * reserve;
    }
    [[nodiscard]] std::uint64_t pages_kept(bool urgent) const {
        return pages_kept(urgent ? Purpose::kUrgent : Purpose::kMetadata);
    }
    // What the stash lacks of what is kept from data; the pages that the next checkpoint gives back
    // count as if they were there, or every copied page would stop data for a while.
    [[nodiscard]] std::uint64_t pages_lacking() const {
        const std::uint64_t kept = pages_kept(Purpose::kData);
        const std::uint64_t have = stash.pages() + pending_pages + quarantined_pages;
        return kept > have && !no_place_for_pages ? kept - have : 0;
    }
    Result<void> fill_stash(Suspend& suspend);
    Result<void> grow_stash(Suspend& suspend, std::uint64_t pages);
    void shrink_stash();
    // The lowest page of the stash, which is used from now on.
    Run take_from_stash();

    // Freezing (space_freeze.cc).
    struct Closure {
        std::vector<std::uint64_t> missing_groups;
        std::uint64_t pages = 0;  // that the freeze writes at most
    };
    [[nodiscard]] Closure closure() const;
    Result<void> load_for_freeze(Suspend& suspend, const std::vector<std::uint64_t>& groups);
    Result<void> check_pending() const;
    void quarantine_used(const Run& run);
    void move_dirty_pages();

    PageIo& io;
    const Options options;
    AllocationMap map;
    FreeSpaceSearch search;
    Generation current{};
    std::uint64_t data_cursor = 0;  // where the search for data begins that is not near anything
    std::uint64_t page_home = 0;    // where the search for pages begins, always: they stay together

    PageStash stash;
    std::uint64_t stash_wanted = 0;  // the most that was asked for since the last release
    absl::flat_hash_set<std::uint64_t> made_now;  // pages taken for the tree in this generation
    // The last search for a page found no place, and nothing became free since.
    bool no_place_for_pages = false;
    std::uint64_t reserved_blocks = 0;  // by Reservations

    absl::flat_hash_map<std::uint64_t, std::vector<Run>> pending;  // by group
    std::size_t pending_runs = 0;
    std::uint64_t pending_blocks = 0;
    // Pages among the pending and among the quarantined blocks.
    std::uint64_t pending_pages = 0, quarantined_pages = 0;
    // The same for data.
    std::uint64_t pending_data = 0, quarantined_data = 0;
    std::optional<Error> damage;  // what free() was given and cannot be

    std::vector<Run> quarantine;
    std::uint64_t quarantined_blocks = 0;
    PinnedPages pinned{page_blocks()};
    bool frozen = false;  // between freeze() and release()
    std::vector<MapPage*> pinned_for_freeze;
    std::vector<driver::DmaBuffer> spare_buffers, frozen_buffers;
};

}  // namespace blobfs::blobstore
