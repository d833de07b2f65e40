#include "blobstore/allocation_map.h"

#include <algorithm>
#include <cstring>

namespace blobfs::blobstore {

using driver::DmaBuffer;
using driver::FiberMutex;

namespace {

tl::unexpected<Error> damaged(const char* what, std::uint64_t block) {
    return fail(Errc::kCorrupt, what, block * kBlockBytes);
}

// How far the search for a page to drop goes; pages that must stay are met again later.
constexpr int kEvictionSteps = 32;

}  // namespace

AllocationMap::AllocationMap(PageIo& io, std::size_t cached_pages)
    : io_(io),
      cached_pages_(std::max<std::size_t>(cached_pages, 16)),
      block_count_(io.geometry().block_count),
      bits_per_page_((io.geometry().page_bytes - sizeof(PageHeader)) * 8),
      fanout_((io.geometry().page_bytes - sizeof(PageHeader)) / sizeof(MapEntry)) {
    CHECK(block_count_ > 0 && block_count_ <= kMaxDeviceBytes / kBlockBytes);
    group_count_ = (block_count_ + bits_per_page_ - 1) / bits_per_page_;
    pages_at_.push_back(group_count_);
    covered_by_.push_back(bits_per_page_);
    while (pages_at_.back() > 1) {
        pages_at_.push_back((pages_at_.back() + fanout_ - 1) / fanout_);
        covered_by_.push_back(covered_by_.back() * fanout_);
    }
    height_ = static_cast<std::uint32_t>(pages_at_.size());
}

AllocationMap::~AllocationMap() = default;

std::uint64_t AllocationMap::coverage(std::uint32_t level, std::uint64_t index) const {
    const std::uint64_t first = index * covered_by_[level];
    return std::min(covered_by_[level], block_count_ - first);
}

MapPage* AllocationMap::find(std::uint32_t level, std::uint64_t index) const {
    const auto found = pages_.find(key(level, index));
    return found == pages_.end() ? nullptr : found->second.get();
}

MapPage* AllocationMap::resident_bitmap(std::uint64_t group) const { return find(0, group); }

// Pages in memory. -------------------------------------------------------------------------------

std::unique_ptr<MapPage> AllocationMap::blank(std::uint32_t level, std::uint64_t index) const {
    auto page = std::make_unique<MapPage>();
    page->level = level;
    page->index = index;
    if (level == 0) {
        page->bits = static_cast<std::uint32_t>(coverage(0, index));
        page->used.resize(bits_per_page_ / 64);
        page->busy.resize(bits_per_page_ / 64);
        for_words(page->bits, bits_per_page_ - page->bits,
                  [&](std::uint64_t i, std::uint64_t mask) { page->busy[i] |= mask; });
    } else {
        const std::uint64_t first = index * fanout_;
        page->entries.resize(std::min(fanout_, pages_at(level - 1) - first));
        for (std::size_t i = 0; i < page->entries.size(); ++i) {
            page->entries[i] = MapEntry{.child = {}, .free_blocks = coverage(level - 1, first + i)};
        }
    }
    return page;
}

void AllocationMap::create() {
    CHECK(pages_.empty());
    // The root is written even if nothing is used: a superblock names it.
    set_dirty(insert(blank(height_ - 1, 0), nullptr));
}

Result<void> AllocationMap::open(Suspend& suspend, const MapRoot& root) {
    CHECK(pages_.empty());
    if (root.height != height_ || root.free_blocks > block_count_ || root.page.block == 0) {
        return damaged("opening the allocation map: its root does not fit the device",
                       root.page.block);
    }
    used_blocks_ = block_count_ - root.free_blocks;
    const FiberMutex::Guard guard(suspend, loading_);
    TRY_ASSIGN(auto page, read(suspend, height_ - 1, 0, root.page, root.free_blocks));
    insert(std::move(page), nullptr);
    return {};
}

Result<std::unique_ptr<MapPage>> AllocationMap::read(Suspend& suspend, std::uint32_t level,
                                                     std::uint64_t index,
                                                     const PagePointer& pointer,
                                                     std::uint64_t free_blocks) {
    if (pointer.block % io_.blocks_per_page() != 0) {
        return damaged("reading the allocation map: a page at an odd address", pointer.block);
    }
    if (!load_buffer_) {
        TRY_ASSIGN(load_buffer_, DmaBuffer::allocate(io_.geometry().page_bytes));
    }
    auto page = blank(level, index);
    page->pointer = pointer;
    Result<void> loaded = io_.read(suspend, pointer, load_buffer_.span());
    if (loaded) loaded = decode(*page, free_blocks);
    if (!loaded) {
        io_.report(loaded.error());
        return fail(loaded.error());
    }
    return page;
}

// Takes over the load buffer's content.
Result<void> AllocationMap::decode(MapPage& page, std::uint64_t free_blocks) const {
    const std::byte* bytes = load_buffer_.data();
    PageHeader header;
    std::memcpy(&header, bytes, sizeof(header));
    const PageKind kind = page.level == 0 ? PageKind::kBitmap : PageKind::kMapIndex;
    if (header.kind != kind || header.level != page.level || header.map_index != page.index) {
        return damaged("reading the allocation map: another page than the one wanted",
                       page.pointer.block);
    }
    if (header.slot_count != 0 || header.content_start != 0 || header.garbage_bytes != 0 ||
        header.prefix_bytes != 0 || header.reserved != 0) {
        return damaged("reading the allocation map: header fields of a tree page are set",
                       page.pointer.block);
    }
    const std::byte* content = bytes + sizeof(header);
    std::uint64_t counted = 0;
    if (page.level == 0) {
        std::memcpy(page.used.data(), content, page.used.size() * sizeof(std::uint64_t));
        if (count_ones(page.used, page.bits, bits_per_page_ - page.bits) != 0) {
            return damaged("reading the allocation map: blocks beyond the device are used",
                           page.pointer.block);
        }
        for (std::size_t i = 0; i < page.used.size(); ++i) page.busy[i] |= page.used[i];
        page.used_blocks = static_cast<std::uint32_t>(count_ones(page.used, 0, page.bits));
        counted = page.bits - page.used_blocks;
    } else {
        const std::size_t size = page.entries.size() * sizeof(MapEntry);
        std::vector<MapEntry> entries(page.entries.size());
        std::memcpy(entries.data(), content, size);
        for (std::size_t i = 0; i < entries.size(); ++i) {
            const std::uint64_t covered = page.entries[i].free_blocks;
            const bool written = entries[i].child.block != 0;
            if (entries[i].child.generation > page.pointer.generation) {
                return damaged("reading the allocation map: a page newer than the one above it",
                               page.pointer.block);
            }
            if (written ? entries[i].free_blocks > covered
                        : entries[i].free_blocks != covered || entries[i].child != PagePointer{}) {
                return damaged("reading the allocation map: a wrong count of free blocks",
                               page.pointer.block);
            }
            counted += entries[i].free_blocks;
        }
        const std::byte* rest = content + size;
        if (std::any_of(rest, bytes + io_.geometry().page_bytes,
                        [](std::byte b) { return b != std::byte{0}; })) {
            return damaged("reading the allocation map: entries beyond the device",
                           page.pointer.block);
        }
        page.entries = std::move(entries);
    }
    if (counted != free_blocks) {
        return damaged("reading the allocation map: another count of free blocks than above",
                       page.pointer.block);
    }
    return {};
}

MapPage& AllocationMap::insert(std::unique_ptr<MapPage> page, MapPage* parent) {
    MapPage& inserted = *page;
    inserted.parent = parent;
    if (parent != nullptr) ++parent->children;
    recency_.push_front(&inserted);
    inserted.recency = recency_.begin();
    pages_[key(inserted.level, inserted.index)] = std::move(page);
    return inserted;
}

bool AllocationMap::evictable(const MapPage& page) const {
    return !page.dirty && page.pins == 0 && page.children == 0 && page.held_blocks == 0 &&
           page.parent != nullptr;
}

void AllocationMap::evict() {
    for (int step = 0; step < kEvictionSteps && pages_.size() > cached_pages_; ++step) {
        MapPage& page = *recency_.back();
        if (!evictable(page)) {
            touch(page);
            continue;
        }
        CHECK(!page.hot);
        --page.parent->children;
        recency_.erase(page.recency);
        pages_.erase(key(page.level, page.index));
    }
}

void AllocationMap::touch(MapPage& page) {
    recency_.splice(recency_.begin(), recency_, page.recency);
}

void AllocationMap::pin(MapPage& page) { ++page.pins; }

void AllocationMap::unpin(MapPage& page) {
    CHECK(page.pins > 0);
    --page.pins;
}

Result<MapPage*> AllocationMap::ensure(Suspend& suspend, std::uint32_t level, std::uint64_t index) {
    if (MapPage* page = find(level, index)) {
        touch(*page);
        return page;
    }
    const FiberMutex::Guard guard(suspend, loading_);
    // From the root down; only this fiber drops pages now, and not before the path is complete.
    MapPage* page = find(height_ - 1, 0);
    if (page == nullptr) return damaged("reading the allocation map: it has no root", 0);
    while (page->level > level) {
        const std::uint32_t next_level = page->level - 1;
        std::uint64_t next_index = index;
        for (std::uint32_t l = level; l < next_level; ++l) next_index /= fanout_;
        MapPage* next = find(next_level, next_index);
        if (next == nullptr) {
            const MapEntry entry = page->entries[next_index % fanout_];
            std::unique_ptr<MapPage> loaded;
            if (entry.child.block == 0) {
                loaded = blank(next_level, next_index);
            } else {
                TRY_ASSIGN(loaded,
                           read(suspend, next_level, next_index, entry.child, entry.free_blocks));
            }
            next = &insert(std::move(loaded), page);
        }
        page = next;
    }
    pin(*page);
    evict();
    unpin(*page);
    return page;
}

Result<MapPage*> AllocationMap::bitmap(Suspend& suspend, std::uint64_t group) {
    CHECK(group < group_count_);
    return ensure(suspend, 0, group);
}

Result<std::uint64_t> AllocationMap::next_group_with_space(Suspend& suspend, std::uint64_t group) {
    // Each turn goes down from the root towards the group and either arrives at one with space, or
    // moves on to the first group behind a part of the map that has none.
    while (group < group_count_) {
        std::uint32_t level = height_ - 1;
        TRY_ASSIGN(MapPage * page, ensure(suspend, level, 0));
        if (level == 0) return page->used_blocks < page->bits ? group : group_count_;
        std::uint64_t span = 1;  // groups below one entry of the page
        for (std::uint32_t l = 1; l < level; ++l) span *= fanout_;
        for (;;) {
            const std::uint64_t slot = group / span % fanout_;
            std::uint64_t next = slot;
            while (next < page->entries.size() && page->entries[next].free_blocks == 0) ++next;
            if (next != slot) group = group / span * span + (next - slot) * span;
            if (next == page->entries.size()) break;
            if (level == 1 || page->entries[next].child.block == 0) {
                // Below an entry without a page there may be pages in memory that are full.
                const MapPage* bitmap = find(0, group);
                if (level == 1 || bitmap == nullptr || bitmap->used_blocks < bitmap->bits) {
                    return group;
                }
            }
            --level;
            TRY_ASSIGN(page, ensure(suspend, level, group / span));
            span /= fanout_;
        }
    }
    return group_count_;
}

// Bits and counts. -------------------------------------------------------------------------------

MapPage& AllocationMap::page_for(const Run& run) const {
    MapPage* page = resident_bitmap(group_of(run.first()));
    CHECK(page != nullptr && run.blocks > 0);
    CHECK(run.first() % bits_per_page_ + run.blocks <= page->bits);
    return *page;
}

MapEntry& AllocationMap::entry_of(const MapPage& page) const {
    return page.parent->entries[page.index % fanout_];
}

void AllocationMap::set_dirty(MapPage& page) {
    for (MapPage* p = &page; p != nullptr && !p->dirty; p = p->parent) {
        p->dirty = true;
        dirty_.push_back(p);
        update_hot(*p);
    }
}

void AllocationMap::update_hot(MapPage& page) {
    for (MapPage* p = &page; p != nullptr; p = p->parent) {
        const bool hot = p->dirty || p->held_blocks > 0 || p->hot_children > 0;
        if (hot == p->hot) return;
        p->hot = hot;
        hot_pages_ += hot ? 1 : static_cast<std::size_t>(-1);
        if (p->parent != nullptr)
            p->parent->hot_children += hot ? 1 : static_cast<std::uint32_t>(-1);
    }
}

void AllocationMap::add_free(MapPage& page, std::uint64_t blocks, bool more) {
    for (MapPage* p = &page; p->parent != nullptr; p = p->parent) {
        MapEntry& entry = entry_of(*p);
        CHECK(more || entry.free_blocks >= blocks);
        entry.free_blocks = more ? entry.free_blocks + blocks : entry.free_blocks - blocks;
    }
    used_blocks_ = more ? used_blocks_ - blocks : used_blocks_ + blocks;
    set_dirty(page);
}

void AllocationMap::hold(const Run& run) {
    MapPage& page = page_for(run);
    for_words(run.first() % bits_per_page_, run.blocks, [&](std::uint64_t i, std::uint64_t mask) {
        CHECK((page.busy[i] & mask) == 0);
        page.busy[i] |= mask;
    });
    page.held_blocks += static_cast<std::uint32_t>(run.blocks);
    held_blocks_ += run.blocks;
    page.no_fragments = false;
    update_hot(page);
}

void AllocationMap::unhold(const Run& run) {
    MapPage& page = page_for(run);
    for_words(run.first() % bits_per_page_, run.blocks, [&](std::uint64_t i, std::uint64_t mask) {
        CHECK((page.busy[i] & mask) == mask && (page.used[i] & mask) == 0);
        page.busy[i] &= ~mask;
    });
    page.held_blocks -= static_cast<std::uint32_t>(run.blocks);
    held_blocks_ -= run.blocks;
    const std::uint32_t around = free_around(page, run);
    page.longest = std::max(page.longest, around);
    page.longest_of_pages = std::max(page.longest_of_pages, around);
    page.no_fragments = false;
    update_hot(page);
}

// How long the free run is that a run lies in; ~0 when it is long.
std::uint32_t AllocationMap::free_around(const MapPage& page, const Run& run) const {
    constexpr std::uint64_t kFar = 4096;
    const std::uint64_t first = run.first() % bits_per_page_;
    const std::uint64_t end = first + run.blocks;
    const std::uint64_t end_of_free =
        next_bit<true>(page.busy, end, std::min<std::uint64_t>(page.bits, end + kFar));
    const std::uint64_t begin_of_free =
        previous_end<true>(page.busy, first, first > kFar ? first - kFar : 0);
    const std::uint64_t blocks = end_of_free - begin_of_free;
    return blocks < kFar ? static_cast<std::uint32_t>(blocks) : ~0u;
}

void AllocationMap::use(const Run& run) {
    MapPage& page = page_for(run);
    for_words(run.first() % bits_per_page_, run.blocks, [&](std::uint64_t i, std::uint64_t mask) {
        CHECK((page.busy[i] & mask) == mask && (page.used[i] & mask) == 0);
        page.used[i] |= mask;
    });
    page.held_blocks -= static_cast<std::uint32_t>(run.blocks);
    held_blocks_ -= run.blocks;
    page.used_blocks += static_cast<std::uint32_t>(run.blocks);
    add_free(page, run.blocks, false);
}

void AllocationMap::unuse(const Run& run) {
    MapPage& page = page_for(run);
    for_words(run.first() % bits_per_page_, run.blocks, [&](std::uint64_t i, std::uint64_t mask) {
        CHECK((page.used[i] & mask) == mask);
        page.used[i] &= ~mask;
    });
    page.used_blocks -= static_cast<std::uint32_t>(run.blocks);
    page.held_blocks += static_cast<std::uint32_t>(run.blocks);
    held_blocks_ += run.blocks;
    add_free(page, run.blocks, true);
}

bool AllocationMap::all_free(const Run& run) const {
    const MapPage& page = page_for(run);
    return count_ones(page.busy, run.first() % bits_per_page_, run.blocks) == 0;
}

std::uint64_t AllocationMap::count_used(const Run& run) const {
    const MapPage& page = page_for(run);
    return count_ones(page.used, run.first() % bits_per_page_, run.blocks);
}

Run AllocationMap::find_free(const MapPage& page, std::uint64_t from, std::uint64_t wanted,
                             std::uint64_t alignment) const {
    const std::uint64_t base = page.index * bits_per_page_;
    const std::uint64_t end = base + page.bits;
    CHECK(from >= base && from < end && wanted > 0);
    Run best{};
    const auto scan = [&](std::uint64_t begin, std::uint64_t stop) {
        for (std::uint64_t at = begin; at < stop;) {
            at = base + next_bit<false>(page.busy, at - base, page.bits);
            if (at >= stop) return false;
            const std::uint64_t run_end = base + next_bit<true>(page.busy, at - base, page.bits);
            const std::uint64_t start = round_up(at, alignment);
            if (start < run_end) {
                const std::uint64_t blocks = round_down(run_end - start, alignment);
                if (blocks > best.blocks) best = Run{BlockIndex{start}, blocks};
                if (best.blocks >= wanted) return true;
            }
            at = run_end;
        }
        return false;
    };
    // A run that `from` stands in is seen whole by the second scan.
    if (!scan(from, end)) scan(base, from);
    best.blocks = std::min(best.blocks, wanted);
    return best;
}

void AllocationMap::hold_all(MapPage& page, std::uint64_t least, std::uint64_t wanted,
                             std::uint64_t alignment, absl::FunctionRef<void(const Run&)> take) {
    CHECK(least > 0);
    const std::uint64_t base = page.index * bits_per_page_;
    for (std::uint64_t at = 0; at < page.bits && wanted >= alignment;) {
        at = next_bit<false>(page.busy, at, page.bits);
        const std::uint64_t run_end = next_bit<true>(page.busy, at, page.bits);
        const std::uint64_t start = round_up(base + at, alignment);
        const std::uint64_t end = round_down(base + run_end, alignment);
        if (start < end && end - start >= least) {
            const Run run{BlockIndex{start}, std::min(end - start, round_down(wanted, alignment))};
            hold(run);
            wanted -= run.blocks;
            take(run);
        }
        at = run_end;
    }
}

Run AllocationMap::find_fragment(MapPage& page, std::uint64_t from, std::uint64_t wanted,
                                 std::uint64_t alignment) const {
    const std::uint64_t unit = io_.blocks_per_page();
    CHECK(alignment < unit && wanted > 0);
    if (page.no_fragments) return {};
    const std::uint64_t base = page.index * bits_per_page_;
    const std::uint64_t words = page.busy.size();
    const std::uint64_t first = (from - base) / 64;
    for (std::uint64_t i = 0; i < words; ++i) {
        const std::uint64_t word = (first + i) % words;
        const std::uint64_t free = ~page.busy[word];
        const std::uint64_t fragments = whole_groups(free, alignment) & ~whole_groups(free, unit);
        if (fragments == 0) continue;
        const auto bit = static_cast<std::uint64_t>(std::countr_zero(fragments));
        const auto run = static_cast<std::uint64_t>(std::countr_one(fragments >> bit));
        const std::uint64_t in_unit = round_down(bit, unit) + unit - bit;
        return {BlockIndex{base + word * 64 + bit}, std::min({run, in_unit, wanted})};
    }
    page.no_fragments = true;
    return {};
}

// Writing. ---------------------------------------------------------------------------------------

void AllocationMap::seal(MapPage& page, DmaSpan into, Generation generation) {
    CHECK(page.dirty && page.new_block != 0 && into.size() == io_.geometry().page_bytes);
    PageHeader header{};
    header.kind = page.level == 0 ? PageKind::kBitmap : PageKind::kMapIndex;
    header.level = static_cast<std::uint8_t>(page.level);
    header.map_index = page.index;
    std::memset(into.data(), 0, into.size());
    std::memcpy(into.data(), &header, sizeof(header));
    std::byte* content = into.data() + sizeof(header);
    if (page.level == 0) {
        std::memcpy(content, page.used.data(), page.used.size() * sizeof(std::uint64_t));
    } else {
        std::memcpy(content, page.entries.data(), page.entries.size() * sizeof(MapEntry));
    }
    page.pointer = io_.seal(into, BlockIndex{page.new_block}, generation);
    page.new_block = 0;
    if (page.parent != nullptr) entry_of(page).child = page.pointer;
}

void AllocationMap::end_seal() {
    CHECK(sealed_.empty());
    sealed_.swap(dirty_);
    for (MapPage* page : sealed_) {
        CHECK(page->new_block == 0);
        page->dirty = false;
        pin(*page);
    }
    for (MapPage* page : sealed_) update_hot(*page);
}

void AllocationMap::sealed_pages_written() {
    for (MapPage* page : sealed_) unpin(*page);
    sealed_.clear();
}

MapRoot AllocationMap::root() const {
    const MapPage* page = find(height_ - 1, 0);
    CHECK(page != nullptr);
    return {.page = page->pointer, .height = height_, .free_blocks = block_count_ - used_blocks_};
}

Result<void> AllocationMap::verify(Suspend& suspend) {
    Sums sums;
    TRY_ASSIGN(const std::uint64_t free, verify_below(suspend, height_ - 1, 0, sums));
    if (sums.used != used_blocks_ || sums.held != held_blocks_ ||
        free != block_count_ - used_blocks_) {
        return fail(Errc::kCorrupt, "checking the allocation map: the sums are wrong");
    }
    return {};
}

// Answers the blocks that are not used below a page, which is loaded, and adds to the sums.
Result<std::uint64_t> AllocationMap::verify_below(Suspend& suspend, std::uint32_t level,
                                                  std::uint64_t index, Sums& sums) {
    TRY_ASSIGN(MapPage* const page, ensure(suspend, level, index));
    if (level == 0) return verify_bitmap(*page, sums);
    pin(*page);
    std::uint64_t free = 0;
    Result<void> result;
    for (std::size_t slot = 0; slot < page->entries.size() && result; ++slot) {
        const std::uint64_t child = index * fanout_ + slot;
        std::uint64_t below = coverage(level - 1, child);
        // What has no page on the device and none in memory is all free, with all below it.
        if (page->entries[slot].child.block != 0 || find(level - 1, child) != nullptr) {
            const auto counted = verify_below(suspend, level - 1, child, sums);
            if (!counted) result = fail(counted.error());
            if (counted) below = *counted;
        }
        if (result && below != page->entries[slot].free_blocks) {
            result = fail(Errc::kCorrupt, "checking the allocation map: parent and child disagree",
                          page->pointer.block * kBlockBytes);
        }
        free += below;
    }
    unpin(*page);
    TRY(result);
    return free;
}

Result<std::uint64_t> AllocationMap::verify_bitmap(const MapPage& page, Sums& sums) const {
    const std::uint64_t used = count_ones(page.used, 0, page.bits);
    const std::uint64_t held = count_ones(page.busy, 0, page.bits) - used;
    bool sound = used == page.used_blocks && held == page.held_blocks;
    for (std::size_t i = 0; i < page.used.size(); ++i) {
        sound = sound && (page.used[i] & ~page.busy[i]) == 0;
    }
    // `longest` is kept by the same rules, for an alignment that is not known here.
    const Run longest =
        find_free(page, page.index * bits_per_page_, page.bits, io_.blocks_per_page());
    sound = sound && longest.blocks <= page.longest_of_pages;
    if (!sound) {
        return fail(Errc::kCorrupt, "checking the allocation map: the counts of a page are wrong",
                    page.pointer.block * kBlockBytes);
    }
    sums.used += used;
    sums.held += held;
    return page.bits - used;
}

}  // namespace blobfs::blobstore
