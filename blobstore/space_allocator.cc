#include "blobstore/space_allocator.h"

#include <algorithm>
#include <utility>

#include "blobstore/space_allocator_state.h"

namespace blobfs::blobstore {

namespace {

// Pages are taken out of the map for the stash by so many at a time where there is space.
constexpr std::uint64_t kStashChunkPages = 64;
// Searches for pages that others disturb are begun anew so often.
constexpr int kReservationRounds = 8;
// When less than that part of the device is free, small data goes where no page fits first.
constexpr std::uint64_t kTightFraction = 4;

}  // namespace

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
            if (const Run run = s.search.take_at(near, blocks); run.blocks != 0) return answer(run);
        }
    }
    if (const std::uint64_t small = wanted(); small != 0 && s.prefers_fragments(small)) {
        TRY_ASSIGN(const Run run, s.search.find_fragment(suspend, small));
        if (run.blocks != 0) return answer(run);
    }
    const std::uint64_t blocks = wanted();
    if (blocks == 0) return fail(Errc::kNoSpace, "reserving space for data");
    const FreeSpaceSearch::Wanted place{
        .from = has_near ? near : s.data_cursor, .blocks = blocks, .alignment = cluster};
    TRY_ASSIGN(const Run run, s.search.find(suspend, place));
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

Run SpaceAllocator::State::take_from_stash() {
    const Run page = stash.take_lowest();
    map.use(page);
    return page;
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
        FreeSpaceSearch::Wanted place{.from = page_home, .blocks = wanted * bp, .alignment = bp};
        Run run{};
        if (options.cluster_blocks > bp && free / 8 > options.cluster_blocks) {
            // Whole clusters, so that what is left over elsewhere remains good for data.
            const FreeSpaceSearch::Wanted clusters{
                .from = page_home,
                .blocks = round_up(place.blocks, options.cluster_blocks),
                .alignment = options.cluster_blocks};
            if (clusters.blocks <= available * bp) {
                TRY_ASSIGN(run, search.find(suspend, clusters));
            }
            if (run.blocks != 0) place = clusters;
        }
        if (run.blocks == 0) {
            TRY_ASSIGN(run, search.find(suspend, place));
        }
        if (run.blocks == 0) {
            no_place_for_pages = true;
            return fail(Errc::kNoSpace, "reserving space for metadata");
        }
        const auto take = [&](const Run& found) {
            stash.add(found);
            added += found.blocks / bp;
        };
        take(run);
        // In an old filesystem there are many short runs: several are taken at a time.
        if (run.blocks < place.blocks) {
            search.find_more(run, place.blocks - run.blocks, place.alignment, take);
        }
    }
    return {};
}

// Gives back what nobody asked for lately, the highest addresses first.
void SpaceAllocator::State::shrink_stash() {
    const std::uint64_t keep = stash_wanted + pages_kept(Purpose::kData);
    while (stash.pages() > keep) {
        no_place_for_pages = false;
        map.unhold(stash.take_highest(stash.pages() - keep));
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
    for (int i = 0; i < kReservationRounds && reserved_pages(urgent) < pages; ++i) {
        TRY(s.grow_stash(suspend, s.pages_kept(urgent) + pages - s.stash.pages()));
    }
    return {};
}

std::uint32_t SpaceAllocator::reserved_pages(bool urgent) const {
    const std::uint64_t kept = state_->pages_kept(urgent);
    const std::uint64_t have = state_->stash.pages();
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>(have > kept ? have - kept : 0, ~std::uint32_t{0}));
}

BlockIndex SpaceAllocator::take_page() {
    const Run page = state_->take_from_stash();
    state_->made_now.insert(page.first());
    return page.start;
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
        s.stash.add(run);
    } else {
        s.pinned.superseded(value(block), made);
        s.free(run);
        ++s.pending_pages;
    }
}

std::uint64_t SpaceAllocator::free_blocks() const { return state_->map.free_blocks(); }
std::uint64_t SpaceAllocator::stash_blocks() const { return state_->stash.blocks(); }
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
    for (const auto& [block, pages] : s.stash.runs()) stash += pages;
    std::uint64_t pending = 0;
    for (const auto& [group, runs] : s.pending) {
        for (const Run& run : runs) pending += run.blocks;
    }
    if (stash != s.stash.pages() || pending != s.pending_blocks ||
        s.map.held_blocks() !=
            s.reserved_blocks + s.stash.blocks() + s.quarantined_blocks + s.pinned.blocks()) {
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
