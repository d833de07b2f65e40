#pragma once

// The allocation map in memory: the pages of the radix tree that are needed now, loaded and checked
// when they are, the clean ones dropped again when there are too many (FORMAT.md, "Allocation map
// pages"). Knows bits, counts and pages; what they mean for data, frees and checkpoints is the
// space allocator's. Reactor thread.
//
// Each block of a bitmap in memory is in one of three states:
//     free (not used, not busy) --hold--> held (busy only) --use--> used (used and busy)
//     used --unuse--> held --unhold--> free
// The used bits are what the device gets; a page with held blocks stays in memory, as nothing else
// remembers them. MapEntry::free_blocks counts used bits only and is kept right on every change, so
// the index pages above a page in memory are in memory, and dirty when it is.

#include <absl/container/flat_hash_map.h>
#include <absl/functional/function_ref.h>

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "blobstore/bit_words.h"
#include "blobstore/page_io.h"

namespace blobfs::blobstore {

struct MapRoot {
    PagePointer page;
    std::uint32_t height = 0;
    std::uint64_t free_blocks = 0;
};

// One page of the map in memory.
struct MapPage {
    std::uint32_t level = 0;  // 0: bitmap
    std::uint64_t index = 0;  // within its level; of a bitmap: the group
    PagePointer pointer;      // the version on the device; block 0: there is none
    MapPage* parent = nullptr;
    std::list<MapPage*>::iterator recency;
    std::uint32_t children = 0;      // in memory
    std::uint32_t hot_children = 0;  // of those
    std::uint32_t pins = 0;
    bool dirty = false;
    bool hot = false;             // dirty, or with held blocks, or above such a page
    std::uint64_t new_block = 0;  // its next address, during a freeze

    // Bitmaps.
    std::vector<std::uint64_t> used, busy;  // busy is set for bits beyond the device, used is not
    std::uint32_t bits = 0;                 // blocks that it covers
    std::uint32_t used_blocks = 0, held_blocks = 0;
    // No free run is longer whose start and length are multiples of a cluster, or of a page.
    std::uint32_t longest = ~0u, longest_of_pages = ~0u;
    bool no_fragments = false;  // find_fragment() finds none

    // Index pages.
    std::vector<MapEntry> entries;

    [[nodiscard]] std::uint32_t free_blocks() const { return bits - used_blocks - held_blocks; }
};

class AllocationMap {
  public:
    AllocationMap(PageIo& io, std::size_t cached_pages);
    ~AllocationMap();

    // A map in which all is free. Does not suspend.
    void create();
    // The root's bounds were checked with the superblock. Suspends.
    Result<void> open(Suspend& suspend, const MapRoot& root);

    [[nodiscard]] std::uint64_t block_count() const { return block_count_; }
    [[nodiscard]] std::uint64_t bits_per_page() const { return bits_per_page_; }
    [[nodiscard]] std::uint32_t page_blocks() const { return io_.blocks_per_page(); }
    [[nodiscard]] std::uint64_t group_of(std::uint64_t block) const {
        return block / bits_per_page_;
    }
    [[nodiscard]] std::uint64_t used_blocks() const { return used_blocks_; }
    [[nodiscard]] std::uint64_t held_blocks() const { return held_blocks_; }
    [[nodiscard]] std::uint64_t free_blocks() const {
        return block_count_ - used_blocks_ - held_blocks_;
    }
    [[nodiscard]] std::uint32_t height() const { return height_; }

    // The bitmap of a group; loads it and the pages above when they are not in memory. The pointer
    // is good until the caller next suspends, longer when the page is dirty, pinned or has held
    // blocks. kCorrupt with the byte offset of a damaged page. Suspends then only.
    Result<MapPage*> bitmap(Suspend& suspend, std::uint64_t group);
    // The same when it is in memory, null when not.
    [[nodiscard]] MapPage* resident_bitmap(std::uint64_t group) const;
    // The first group at or after that one with blocks that are not used (they may be held); the
    // number of groups when there is none. Suspends.
    Result<std::uint64_t> next_group_with_space(Suspend& suspend, std::uint64_t group);
    [[nodiscard]] std::uint64_t group_count() const { return group_count_; }

    // A page stays in memory while it is pinned.
    void pin(MapPage& page);
    void unpin(MapPage& page);

    // Changes of a run within the group of a bitmap in memory. REQUIRES that all its blocks are in
    // the state that the change begins with.
    void hold(const Run& run);
    void unhold(const Run& run);
    void use(const Run& run);
    void unuse(const Run& run);
    [[nodiscard]] bool all_free(const Run& run) const;
    [[nodiscard]] std::uint64_t count_used(const Run& run) const;

    // The first free run of at least `wanted` blocks from a block of the page on, and from the
    // page's beginning when there is none behind it; else the longest one. Starts and lengths are
    // multiples of `alignment` (a power of two); not longer than wanted. Empty when there is none.
    [[nodiscard]] Run find_free(const MapPage& page, std::uint64_t from, std::uint64_t wanted,
                                std::uint64_t alignment) const;

    // Holds the free runs of at least `least` blocks from the beginning of the page on, and tells
    // take(run) of each, until they are `wanted` blocks together. Starts and lengths as above.
    void hold_all(MapPage& page, std::uint64_t least, std::uint64_t wanted, std::uint64_t alignment,
                  absl::FunctionRef<void(const Run&)> take);

    // A free run of at most `wanted` blocks out of a page's aligned place that is partly taken,
    // from a block of the bitmap on and around: what no metadata page fits into. Starts and lengths
    // are multiples of `alignment`, a power of two below the blocks of a page. Empty when there is
    // none.
    [[nodiscard]] Run find_fragment(MapPage& page, std::uint64_t from, std::uint64_t wanted,
                                    std::uint64_t alignment) const;

    // Pages that differ from the device, parents included; in the order in which they became so.
    [[nodiscard]] const std::vector<MapPage*>& dirty_pages() const { return dirty_; }
    // Pages that are dirty, or will be when the blocks held below them are used.
    [[nodiscard]] std::size_t hot_pages() const { return hot_pages_; }
    [[nodiscard]] std::size_t resident_pages() const { return pages_.size(); }
    // Fills a buffer with what the page is now and seals it for its new_block; the page is clean
    // and its parent has the pointer. REQUIRES children before parents.
    void seal(MapPage& page, DmaSpan into, Generation generation);
    // All dirty pages were sealed. They stay in memory until they are on the device, too: until
    // sealed_pages_written().
    void end_seal();
    void sealed_pages_written();
    [[nodiscard]] MapRoot root() const;

    // Visits every page that has an address, as a run, and every used run within a bitmap,
    // ascending; what was never used has neither. The visitors must not suspend. REQUIRES that
    // nothing changes the map meanwhile. Memory: as for any loading. Suspends.
    Result<void> walk(Suspend& suspend, absl::FunctionRef<void(const Run&)> on_page,
                      absl::FunctionRef<void(const Run&)> on_used);
    // Holds counts against bits and parents against children, in memory and on the device; kCorrupt
    // with what is wrong. For tests and the check of a store. Suspends.
    Result<void> verify(Suspend& suspend);

  private:
    using PageKey = std::uint64_t;  // level above the low 56 bits of the index
    static PageKey key(std::uint32_t level, std::uint64_t index) {
        return std::uint64_t{level} << 56 | index;
    }
    struct Sums {
        std::uint64_t used = 0, held = 0;
    };

    [[nodiscard]] std::uint64_t pages_at(std::uint32_t level) const { return pages_at_[level]; }
    // Blocks that a page covers.
    [[nodiscard]] std::uint64_t coverage(std::uint32_t level, std::uint64_t index) const;
    [[nodiscard]] MapPage* find(std::uint32_t level, std::uint64_t index) const;
    Result<MapPage*> ensure(Suspend& suspend, std::uint32_t level, std::uint64_t index);
    Result<void> walk_below(Suspend& suspend, std::uint32_t level, std::uint64_t index,
                            absl::FunctionRef<void(const Run&)> on_page,
                            absl::FunctionRef<void(const Run&)> on_used);
    std::unique_ptr<MapPage> blank(std::uint32_t level, std::uint64_t index) const;
    Result<std::unique_ptr<MapPage>> read(Suspend& suspend, std::uint32_t level,
                                          std::uint64_t index, const PagePointer& pointer,
                                          std::uint64_t free_blocks);
    Result<void> decode(MapPage& page, std::uint64_t free_blocks) const;
    MapPage& insert(std::unique_ptr<MapPage> page, MapPage* parent);
    void evict();
    [[nodiscard]] bool evictable(const MapPage& page) const;
    void touch(MapPage& page);
    MapEntry& entry_of(const MapPage& page) const;
    void set_dirty(MapPage& page);
    void update_hot(MapPage& page);
    void add_free(MapPage& page, std::uint64_t blocks, bool more);
    [[nodiscard]] std::uint32_t free_around(const MapPage& page, const Run& run) const;
    MapPage& page_for(const Run& run) const;
    Result<std::uint64_t> verify_below(Suspend& suspend, std::uint32_t level, std::uint64_t index,
                                       Sums& sums);
    Result<std::uint64_t> verify_bitmap(const MapPage& page, Sums& sums) const;

    PageIo& io_;
    const std::size_t cached_pages_;
    const std::uint64_t block_count_;
    const std::uint64_t bits_per_page_;
    const std::uint64_t fanout_;
    std::uint64_t group_count_ = 0;
    std::uint32_t height_ = 1;
    std::vector<std::uint64_t> pages_at_;    // how many pages each level has
    std::vector<std::uint64_t> covered_by_;  // blocks that a full page of each level covers

    absl::flat_hash_map<PageKey, std::unique_ptr<MapPage>> pages_;
    std::list<MapPage*> recency_;  // the longest unused one last
    std::vector<MapPage*> dirty_;
    std::vector<MapPage*> sealed_;  // pinned until they are on the device
    std::size_t hot_pages_ = 0;
    std::uint64_t used_blocks_ = 0, held_blocks_ = 0;
    driver::FiberMutex loading_;  // one page is loaded at a time, and pages are dropped only then
    driver::DmaBuffer load_buffer_;
};

}  // namespace blobfs::blobstore
