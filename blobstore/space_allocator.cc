#include "blobstore/space_allocator.h"

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace blobfs::blobstore {

using driver::DmaBuffer;

namespace {

// Once something was found that is shorter than wanted, so many more bitmaps are looked at.
constexpr int kMoreBitmaps = 32;
// Pages are taken out of the map for the stash by so many at a time where there is space.
constexpr std::uint64_t kStashChunkPages = 64;
// DMA buffers for frozen pages that are kept from one checkpoint to the next.
constexpr std::size_t kSpareBuffers = 128;
// Searches that others disturb are begun anew so often.
constexpr int kSearches = 8;
// When less than that part of the device is free, small data goes where no page fits first.
constexpr std::uint64_t kTightFraction = 4;
// That many bitmaps are looked at for such a place.
constexpr int kFragmentBitmaps = 32;

}  // namespace

struct SpaceAllocator::State {
    State(PageIo& io_in, const Options& options_in)
        : io(io_in), options(options_in), map(io_in, options_in.cached_map_pages) {
        CHECK(options.cluster_blocks >= 1 && std::has_single_bit(options.cluster_blocks));
    }

    // Searching.
    struct Search {
        std::uint64_t from = 0;  // block
        std::uint64_t wanted = 0;
        std::uint64_t alignment = 1;
    };
    struct Found {
        Run run{};               // held; empty: there is none
        bool disturbed = false;  // or others took it meanwhile
    };
    Result<Found> find_and_hold(Suspend& suspend, const Search& search);
    Result<Run> find_anywhere(Suspend& suspend, const Search& search);
    Result<Run> find_fragment(Suspend& suspend, std::uint64_t from, std::uint64_t wanted);
    [[nodiscard]] bool prefers_fragments(std::uint64_t wanted) const;
    [[nodiscard]] std::uint64_t available_for_data() const;
    Run look(MapPage& page, std::uint64_t from, const Search& search) const;
    Run hold_at(std::uint64_t block, std::uint64_t wanted);
    template <class Visit>
    void for_groups(const Run& run, Visit&& visit) const;

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
        const std::uint64_t have = stash_pages + pending_pages + quarantined_pages;
        return kept > have && !no_place_for_pages ? kept - have : 0;
    }
    Result<void> fill_stash(Suspend& suspend);
    void free(const Run& run);
    void add_to_stash(std::uint64_t block, std::uint64_t pages);
    std::uint64_t take_from_stash();
    Result<void> grow_stash(Suspend& suspend, std::uint64_t pages);
    void shrink_stash();
    void set_cursors();

    // Freezing.
    struct Closure {
        std::vector<std::uint64_t> missing_groups;
        std::uint64_t pages = 0;  // that the freeze writes at most
    };
    [[nodiscard]] Closure closure() const;
    Result<void> load_for_freeze(Suspend& suspend, const std::vector<std::uint64_t>& groups);
    Result<void> check_pending() const;
    void add_pending(const Run& run);
    void quarantine_used(const Run& run);
    void move_dirty_pages();

    [[nodiscard]] std::uint32_t page_blocks() const { return io.blocks_per_page(); }

    PageIo& io;
    const Options options;
    AllocationMap map;
    Generation current{};
    std::uint64_t data_cursor = 0;  // where the search for data begins that is not near anything
    std::uint64_t page_home = 0;    // where the search for pages begins, always: they stay together
    std::uint64_t fragment_cursor = 0;  // where the search for places that no page fits into begins

    absl::btree_map<std::uint64_t, std::uint64_t> stash;  // block -> pages; held, page-aligned
    std::uint64_t stash_pages = 0;
    absl::flat_hash_set<std::uint64_t> made_now;  // pages taken for the tree in this generation
    std::uint64_t stash_wanted = 0;  // the most that was asked for since the last release
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
    bool frozen = false;  // between freeze() and release()
    std::vector<MapPage*> pinned_for_freeze;
    std::vector<DmaBuffer> spare_buffers, frozen_buffers;
};

SpaceAllocator::SpaceAllocator(PageIo& io, const Options& options)
    : state_(std::make_unique<State>(io, options)) {}

SpaceAllocator::~SpaceAllocator() = default;

Result<void> SpaceAllocator::create(Suspend& suspend, const std::vector<Run>& used,
                                    Generation current) {
    State& s = *state_;
    s.current = current;
    s.map.create();
    for (const Run& run : used) TRY(replay_allocate(suspend, run));
    s.set_cursors();
    return {};
}

Result<void> SpaceAllocator::open(Suspend& suspend, const MapRoot& root, Generation current) {
    State& s = *state_;
    s.current = current;
    TRY(s.map.open(suspend, root));
    s.set_cursors();
    return {};
}

// Pages begin at the front of the device; data leaves them a stretch to grow in, and uses it, too,
// when the rest is full.
void SpaceAllocator::State::set_cursors() {
    const std::uint64_t stretch = std::min(map.block_count() / 32, map.bits_per_page() / 2);
    page_home = std::min(kLogStartBlock, map.block_count() - 1);
    data_cursor = round_down(page_home + stretch, options.cluster_blocks);
}

template <class Visit>
void SpaceAllocator::State::for_groups(const Run& run, Visit&& visit) const {
    std::uint64_t at = run.first();
    while (at < run.end()) {
        const std::uint64_t group = map.group_of(at);
        const std::uint64_t end = std::min(run.end(), (group + 1) * map.bits_per_page());
        visit(group, Run{BlockIndex{at}, end - at});
        at = end;
    }
}

// Searching. -------------------------------------------------------------------------------------

// The best run of a bitmap; remembers how long it is when it is the longest.
Run SpaceAllocator::State::look(MapPage& page, std::uint64_t from, const Search& search) const {
    const Run run = map.find_free(page, from, search.wanted, search.alignment);
    if (search.alignment == options.cluster_blocks && run.blocks < search.wanted) {
        page.longest = static_cast<std::uint32_t>(run.blocks);
    }
    return run;
}

// The run of free blocks at that one, as long as wanted at most; empty when it is not free.
Run SpaceAllocator::State::hold_at(std::uint64_t block, std::uint64_t wanted) {
    const MapPage* page = map.resident_bitmap(map.group_of(block));
    CHECK(page != nullptr);
    const std::uint64_t base = page->index * map.bits_per_page();
    const std::uint64_t end =
        base + next_bit<true>(page->busy, block - base,
                              std::min<std::uint64_t>(page->bits, block - base + wanted));
    const Run run{BlockIndex{block}, round_down(end - block, options.cluster_blocks)};
    if (run.blocks != 0) map.hold(run);
    return run;
}

// One pass over the bitmaps with space, from that of `from` on and around. A damaged one is passed
// over as long as there is space elsewhere.
Result<SpaceAllocator::State::Found> SpaceAllocator::State::find_and_hold(Suspend& suspend,
                                                                          const Search& search) {
    const std::uint64_t first_group = map.group_of(search.from);
    std::uint64_t best_group = 0;
    std::uint64_t best_blocks = 0;
    std::optional<Error> error;
    int more = kMoreBitmaps;
    bool around = false;
    for (std::uint64_t group = first_group;; ++group) {
        TRY_ASSIGN(group, map.next_group_with_space(suspend, group));
        if (group >= map.group_count() && !around) {
            around = true;
            TRY_ASSIGN(group, map.next_group_with_space(suspend, 0));
        }
        if (group >= map.group_count() || (around && group >= first_group)) break;
        const auto loaded = map.bitmap(suspend, group);
        if (!loaded) {
            error = loaded.error();
            continue;
        }
        MapPage& page = **loaded;
        if (page.free_blocks() < search.alignment) continue;
        if (search.alignment >= options.cluster_blocks && page.longest <= best_blocks) continue;
        const std::uint64_t base = group * map.bits_per_page();
        const Run run = look(page, group == first_group ? search.from : base, search);
        if (run.blocks >= search.wanted) {
            map.hold(run);
            return Found{.run = run};
        }
        if (run.blocks > best_blocks) {
            best_blocks = run.blocks;
            best_group = group;
        }
        if (best_blocks > 0 && --more <= 0) break;
    }
    if (best_blocks == 0) {
        if (error) return fail(*error);
        return Found{};
    }
    TRY_ASSIGN(MapPage* const page, map.bitmap(suspend, best_group));
    const Run run = look(*page, best_group * map.bits_per_page(), search);
    if (run.blocks != 0) map.hold(run);
    return Found{.run = run, .disturbed = run.blocks == 0};
}

Result<Run> SpaceAllocator::State::find_anywhere(Suspend& suspend, const Search& search) {
    for (int i = 0; i < kSearches; ++i) {
        TRY_ASSIGN(const Found found, find_and_hold(suspend, search));
        if (!found.disturbed) return found.run;
    }
    return Run{};
}

// A place where no page fits, from `from` on. Empty when none is near.
Result<Run> SpaceAllocator::State::find_fragment(Suspend& suspend, std::uint64_t from,
                                                 std::uint64_t wanted) {
    std::uint64_t group = map.group_of(from);
    bool around = false;
    for (int i = 0; i < kFragmentBitmaps; ++i, ++group) {
        TRY_ASSIGN(group, map.next_group_with_space(suspend, group));
        if (group >= map.group_count()) {
            if (around) break;
            around = true;
            TRY_ASSIGN(group, map.next_group_with_space(suspend, 0));
            if (group >= map.group_count()) break;
        }
        const auto loaded = map.bitmap(suspend, group);
        if (!loaded) continue;
        const std::uint64_t base = group * map.bits_per_page();
        const std::uint64_t begin = group == map.group_of(from) && !around ? from : base;
        const Run run = map.find_fragment(**loaded, begin, wanted, options.cluster_blocks);
        if (run.blocks == 0) continue;
        map.hold(run);
        fragment_cursor = run.first();
        return run;
    }
    // The next search begins where this one gave up.
    fragment_cursor = group < map.group_count() ? group * map.bits_per_page() : 0;
    return Run{};
}

bool SpaceAllocator::State::prefers_fragments(std::uint64_t wanted) const {
    return options.cluster_blocks < page_blocks() && wanted < page_blocks() &&
           map.free_blocks() < map.block_count() / kTightFraction;
}

// What data may take of the free blocks: all but what the stash lacks, if that can be had at all.
std::uint64_t SpaceAllocator::State::available_for_data() const {
    const std::uint64_t lacking = pages_lacking() * page_blocks();
    const std::uint64_t free = map.free_blocks();
    return round_down(free > lacking ? free - lacking : 0, options.cluster_blocks);
}

// Data. ------------------------------------------------------------------------------------------

Result<SpaceAllocator::Reservation> SpaceAllocator::reserve(Suspend& suspend,
                                                            const Request& request) {
    State& s = *state_;
    const std::uint64_t cluster = s.options.cluster_blocks;
    CHECK(request.blocks > 0);
    const auto wanted = [&] {
        return std::min({round_up(std::min(request.blocks, s.map.block_count()), cluster),
                         s.available_for_data(), round_down(s.map.bits_per_page(), cluster)});
    };
    const auto answer = [&](const Run& run) {
        Reservation reservation;
        reservation.owner_ = this;
        reservation.run_ = run;
        s.reserved_blocks += run.blocks;
        return reservation;
    };
    // First the stash: data must not break up the places that it needs.
    TRY(s.fill_stash(suspend));
    if (wanted() == 0) s.shrink_stash();
    if (wanted() == 0) return fail(Errc::kNoSpace, "reserving space for data");

    const std::uint64_t near = value(request.near);
    const bool has_near = near != 0 && near < s.map.block_count();
    if (has_near && near % cluster == 0 && s.map.bitmap(suspend, s.map.group_of(near))) {
        const std::uint64_t blocks = wanted();
        if (blocks != 0) {
            if (const Run run = s.hold_at(near, blocks); run.blocks != 0) return answer(run);
        }
    }
    if (const std::uint64_t small = wanted(); small != 0 && s.prefers_fragments(small)) {
        TRY_ASSIGN(const Run run, s.find_fragment(suspend, s.fragment_cursor, small));
        if (run.blocks != 0) return answer(run);
    }
    const std::uint64_t blocks = wanted();
    if (blocks == 0) return fail(Errc::kNoSpace, "reserving space for data");
    const State::Search search{
        .from = has_near ? near : s.data_cursor, .wanted = blocks, .alignment = cluster};
    TRY_ASSIGN(const Run run, s.find_anywhere(suspend, search));
    if (run.blocks == 0) return fail(Errc::kNoSpace, "reserving space for data");
    if (!has_near) s.data_cursor = run.end() < s.map.block_count() ? run.end() : s.page_home;
    return answer(run);
}

void SpaceAllocator::commit(Reservation reservation) {
    CHECK(reservation.owner_ == this && reservation);
    state_->map.use(reservation.run_);
    state_->reserved_blocks -= reservation.run_.blocks;
    reservation.owner_ = nullptr;
    reservation.run_ = {};
}

SpaceAllocator::Reservation::Reservation(Reservation&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)), run_(std::exchange(other.run_, Run{})) {}

SpaceAllocator::Reservation& SpaceAllocator::Reservation::operator=(Reservation&& other) noexcept {
    std::swap(owner_, other.owner_);
    std::swap(run_, other.run_);
    return *this;
}

SpaceAllocator::Reservation::~Reservation() {
    if (owner_ == nullptr) return;
    owner_->state_->map.unhold(run_);
    owner_->state_->no_place_for_pages = false;
    owner_->state_->reserved_blocks -= run_.blocks;
}

void SpaceAllocator::State::add_pending(const Run& run) {
    for_groups(run, [&](std::uint64_t group, const Run& piece) {
        std::vector<Run>& runs = pending[group];
        if (!runs.empty() && runs.back().end() == piece.first()) {
            runs.back().blocks += piece.blocks;
        } else {
            runs.push_back(piece);
            ++pending_runs;
        }
    });
    pending_blocks += run.blocks;
}

void SpaceAllocator::free(const Run& run) {
    State& s = *state_;
    if (s.options.reuse_data_at_once && run.blocks != 0 &&
        s.map.group_of(run.first()) == s.map.group_of(run.end() - 1) &&
        s.map.resident_bitmap(s.map.group_of(run.first())) != nullptr &&
        s.map.count_used(run) == run.blocks) {
        s.map.unuse(run);
        s.map.unhold(run);
        return;
    }
    s.free(run);
    s.pending_data += run.blocks;
}

void SpaceAllocator::State::free(const Run& run) {
    if (run.blocks == 0) return;
    if (run.first() >= map.block_count() || run.blocks > map.block_count() - run.first()) {
        if (!damage) {
            damage = Error{.code = Errc::kCorrupt,
                           .address = run.first() * kBlockBytes,
                           .what = "freeing blocks beyond the device"};
        }
        return;
    }
    add_pending(run);
}

Result<void> SpaceAllocator::replay_allocate(Suspend& suspend, const Run& run) {
    State& s = *state_;
    const std::uint64_t count = s.map.block_count();
    if (run.blocks == 0 || run.first() >= count || run.blocks > count - run.first()) {
        return fail(Errc::kCorrupt, "replaying the log: it allocates blocks beyond the device",
                    run.byte_offset());
    }
    std::vector<Run> pieces;
    s.for_groups(run, [&](std::uint64_t, const Run& piece) { pieces.push_back(piece); });
    for (const Run& piece : pieces) {
        TRY(s.map.bitmap(suspend, s.map.group_of(piece.first())));
        if (!s.map.all_free(piece)) {
            return fail(Errc::kCorrupt, "replaying the log: it allocates blocks in use",
                        piece.byte_offset());
        }
        s.map.hold(piece);
        s.map.use(piece);
    }
    return {};
}

Result<void> SpaceAllocator::replay_free(Suspend& suspend, const Run& run) {
    State& s = *state_;
    const std::uint64_t count = s.map.block_count();
    if (run.blocks == 0 || run.first() >= count || run.blocks > count - run.first()) {
        return fail(Errc::kCorrupt, "replaying the log: it frees blocks beyond the device",
                    run.byte_offset());
    }
    std::vector<Run> pieces;
    s.for_groups(run, [&](std::uint64_t, const Run& piece) { pieces.push_back(piece); });
    for (const Run& piece : pieces) {
        TRY(s.map.bitmap(suspend, s.map.group_of(piece.first())));
        if (s.map.count_used(piece) != piece.blocks) {
            return fail(Errc::kCorrupt, "replaying the log: it frees blocks that are not in use",
                        piece.byte_offset());
        }
    }
    s.add_pending(run);
    return {};
}

// Pages. -----------------------------------------------------------------------------------------

// An estimate of the pages that a freeze now would take: the hot ones, the bitmaps of their old
// addresses, those of pending frees, and what is above them.
std::uint64_t SpaceAllocator::State::pages_for_freeze() const {
    return 2 * map.hot_pages() + pending.size() + map.height() + 1;
}

void SpaceAllocator::State::add_to_stash(std::uint64_t block, std::uint64_t pages) {
    stash_pages += pages;
    auto next = stash.lower_bound(block);
    const std::uint64_t end = block + pages * page_blocks();
    if (next != stash.end() && next->first == end) {
        pages += next->second;
        next = stash.erase(next);
    }
    if (next != stash.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second * page_blocks() == block) {
            before->second += pages;
            return;
        }
    }
    stash.emplace_hint(next, block, pages);
}

// The lowest address, so that pages lie together at the front.
std::uint64_t SpaceAllocator::State::take_from_stash() {
    CHECK(stash_pages > 0);
    --stash_pages;
    const auto first = stash.begin();
    const auto [block, pages] = *first;
    const auto next = stash.erase(first);
    if (pages > 1) stash.emplace_hint(next, block + page_blocks(), pages - 1);
    map.use(Run{BlockIndex{block}, page_blocks()});
    return block;
}

// What data leaves over while others search at the same time is theirs: the stash owns its pages.
Result<void> SpaceAllocator::State::grow_stash(Suspend& suspend, std::uint64_t pages) {
    const std::uint64_t bp = page_blocks();
    for (std::uint64_t added = 0; added < pages;) {
        const std::uint64_t free = map.free_blocks();
        const std::uint64_t available = free / bp;
        if (available == 0 || no_place_for_pages) {
            return fail(Errc::kNoSpace, "reserving space for metadata");
        }
        const std::uint64_t chunk = std::clamp<std::uint64_t>(available / 64, 1, kStashChunkPages);
        const std::uint64_t wanted = std::min(
            {std::max(pages - added, chunk), available, round_down(map.bits_per_page(), bp) / bp});
        Search search{.from = page_home, .wanted = wanted * bp, .alignment = bp};
        Run run{};
        if (options.cluster_blocks > bp && free / 8 > options.cluster_blocks) {
            // Whole clusters, so that what is left over elsewhere remains good for data.
            search.alignment = options.cluster_blocks;
            search.wanted = round_up(search.wanted, options.cluster_blocks);
            if (search.wanted <= available * bp) {
                TRY_ASSIGN(run, find_anywhere(suspend, search));
            }
            search.alignment = bp;
            search.wanted = wanted * bp;
        }
        if (run.blocks == 0) {
            TRY_ASSIGN(run, find_anywhere(suspend, search));
        }
        if (run.blocks == 0) {
            no_place_for_pages = true;
            return fail(Errc::kNoSpace, "reserving space for metadata");
        }
        add_to_stash(run.first(), run.blocks / bp);
        added += run.blocks / bp;
    }
    return {};
}

// Gives back what nobody asked for lately, the highest addresses first.
void SpaceAllocator::State::shrink_stash() {
    const std::uint64_t keep = stash_wanted + pages_kept(Purpose::kData);
    while (stash_pages > keep) {
        no_place_for_pages = false;
        const auto last = std::prev(stash.end());
        const std::uint64_t pages = std::min(last->second, stash_pages - keep);
        last->second -= pages;
        stash_pages -= pages;
        const std::uint64_t block = last->first + last->second * page_blocks();
        if (last->second == 0) stash.erase(last);
        map.unhold(Run{BlockIndex{block}, pages * page_blocks()});
    }
}

// The stash has what is kept from data, or all that there are places for.
Result<void> SpaceAllocator::State::fill_stash(Suspend& suspend) {
    const std::uint64_t lacking = pages_lacking();
    if (lacking == 0) return {};
    const Result<void> grown = grow_stash(suspend, lacking);
    if (!grown && grown.error().code != Errc::kNoSpace) return grown;
    return {};
}

Result<void> SpaceAllocator::fill_reserve(Suspend& suspend) { return state_->fill_stash(suspend); }

Result<void> SpaceAllocator::reserve_pages(Suspend& suspend, std::uint32_t pages, bool urgent) {
    State& s = *state_;
    s.stash_wanted = std::max<std::uint64_t>(s.stash_wanted, pages);
    // Once more when the pages come from a bitmap not touched so far: the map then needs more
    // itself.
    for (int i = 0; i < kSearches && reserved_pages(urgent) < pages; ++i) {
        TRY(s.grow_stash(suspend, s.pages_kept(urgent) + pages - s.stash_pages));
    }
    return {};
}

std::uint32_t SpaceAllocator::reserved_pages(bool urgent) const {
    const std::uint64_t kept = state_->pages_kept(urgent);
    const std::uint64_t have = state_->stash_pages;
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>(have > kept ? have - kept : 0, ~std::uint32_t{0}));
}

BlockIndex SpaceAllocator::take_page() {
    const std::uint64_t block = state_->take_from_stash();
    state_->made_now.insert(block);
    return BlockIndex{block};
}

void SpaceAllocator::return_page(BlockIndex block, Generation made) {
    State& s = *state_;
    const Run run{block, s.page_blocks()};
    // What a damaged page says about its own generation is not believed.
    const bool young = made == s.current && s.made_now.erase(value(block)) == 1;
    const bool at_once = s.options.reuse_pages_at_once &&
                         s.map.resident_bitmap(s.map.group_of(value(block))) != nullptr &&
                         s.map.count_used(run) == run.blocks;
    if (young || at_once) {
        s.map.unuse(run);  // to held: it is the stash's again
        s.add_to_stash(value(block), 1);
    } else {
        s.free(run);
        ++s.pending_pages;
    }
}

// Checkpoint. ------------------------------------------------------------------------------------

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
    for (const auto& [block, pages] : stash) add_group(map.group_of(block));
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
        TRY_ASSIGN(auto buffer, DmaBuffer::allocate(s.io.geometry().page_bytes));
        s.spare_buffers.push_back(std::move(buffer));
    }
    if (s.stash_pages < closure.pages) {
        TRY(s.grow_stash(suspend, closure.pages - s.stash_pages));
    }
    return {};
}

bool SpaceAllocator::ready_to_freeze() const {
    const State& s = *state_;
    if (s.frozen || !s.check_pending()) return false;
    const auto closure = s.closure();
    return closure.missing_groups.empty() && s.stash_pages >= closure.pages &&
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
        page->new_block = take_from_stash();
        if (page->pointer.block != 0) {
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
    for (const Run& run : s.quarantine) s.map.unhold(run);
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

std::uint64_t SpaceAllocator::free_blocks() const { return state_->map.free_blocks(); }
std::uint64_t SpaceAllocator::stash_blocks() const {
    return state_->stash_pages * state_->page_blocks();
}
std::uint64_t SpaceAllocator::pending_blocks() const {
    return state_->pending_blocks + state_->quarantined_blocks;
}
std::uint64_t SpaceAllocator::pending_data_blocks() const {
    return state_->pending_data + state_->quarantined_data;
}
std::uint64_t SpaceAllocator::pending_pages() const {
    return state_->pending_pages + state_->quarantined_pages;
}
std::uint64_t SpaceAllocator::blocks_kept_from_data() const {
    return state_->pages_kept(State::Purpose::kData) * state_->page_blocks();
}
std::size_t SpaceAllocator::pending_runs() const { return state_->pending_runs; }
std::size_t SpaceAllocator::dirty_map_pages() const { return state_->map.dirty_pages().size(); }

Result<bool> SpaceAllocator::is_used(Suspend& suspend, BlockIndex block) {
    State& s = *state_;
    CHECK(value(block) < s.map.block_count());
    TRY(s.map.bitmap(suspend, s.map.group_of(value(block))));
    return s.map.count_used(Run{block, 1}) == 1;
}

Result<void> SpaceAllocator::verify(Suspend& suspend) {
    State& s = *state_;
    TRY(s.map.verify(suspend));
    std::uint64_t stash = 0;
    for (const auto& [block, pages] : s.stash) stash += pages;
    std::uint64_t pending = 0;
    for (const auto& [group, runs] : s.pending) {
        for (const Run& run : runs) pending += run.blocks;
    }
    if (stash != s.stash_pages || pending != s.pending_blocks ||
        s.map.held_blocks() !=
            s.reserved_blocks + s.stash_pages * s.page_blocks() + s.quarantined_blocks) {
        return fail(Errc::kCorrupt, "checking the space allocator: held blocks without an owner");
    }
    return {};
}

Result<void> SpaceAllocator::walk(Suspend& suspend, const Visitor& visit) {
    for (const auto& [group, runs] : state_->pending) {
        for (const Run& run : runs) visit.pending(run);
    }
    return state_->map.walk(suspend, visit.map_page, visit.used);
}

}  // namespace blobfs::blobstore
