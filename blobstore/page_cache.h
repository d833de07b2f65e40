#pragma once

// Frames of DMA memory that hold tree pages, found by the page's address. The number of frames is
// fixed; clean unpinned ones are evicted (CLOCK), dirty and frozen ones stay. Only a burst of dirty
// or pinned pages makes more frames than that, which go away again after a thaw. Reactor thread.
//
// A frame's states:
//     free --load--> clean --evict/drop--> free
//     free --make--> dirty --freeze--> frozen --thaw--> clean
//     clean --readdress--> dirty (the page is changed: copy on write without a copy)
//     dirty --drop--> free        frozen --drop--> frozen, obsolete --thaw--> free
// A dropped frame that is pinned becomes free when it is unpinned.

#include <absl/container/flat_hash_map.h>
#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "blobstore/page_io.h"
#include "driver/base/result.h"
#include "driver/memory/dma_buffer.h"

namespace blobfs::blobstore {

class PageCache {
  public:
    // Whether a page was looked up since the clock's hand last passed. The first time after a load
    // does not count, it is the loader's own: what is read once and never again goes first.
    enum class Use : std::uint8_t { kIdle, kUsed, kLoaded };

    // One page in memory. Belongs to the cache; the pointer stays good while the page is pinned,
    // dirty or frozen, or as long as no fiber suspends.
    struct Frame {
        std::byte* data = nullptr;
        std::uint64_t block = 0;  // the page's address; 0: none
        std::uint32_t pins = 0;
        bool dirty = false;
        bool frozen = false;    // dirty, and being written by a checkpoint: must not change
        bool obsolete = false;  // frozen, and no longer part of the tree
        Use use = Use::kIdle;
        bool loading = false;
        // The first of so many leaves that were read ahead and not used yet; 0: it is not.
        std::uint8_t read_ahead = 0;
        std::uint8_t missed_below = 0;  // for the tree: pages below it that somebody waited for
        // For the tree: where the last insertion was, and how many in a row went upwards.
        std::uint16_t last_insert = 0;
        std::uint16_t ascending = 0;
        driver::DmaBuffer own;  // set when the frame is beyond the pool
    };

    // At least kMinFrames frames are made whatever cache_bytes says. Memory is taken as it is
    // needed, except for the first frames. kNoMemory.
    static constexpr std::size_t kMinFrames = 256;
    static Result<std::unique_ptr<PageCache>> create(std::size_t cache_bytes,
                                                     std::uint32_t page_bytes);
    ~PageCache();
    PageCache(const PageCache&) = delete;
    PageCache& operator=(const PageCache&) = delete;

    // misses: pages that somebody had to read, or waited for while they were read ahead.
    // read_ahead: pages read before anybody asked.
    struct Statistics {
        std::uint64_t hits = 0, misses = 0, evictions = 0, read_ahead = 0;
        std::size_t frames = 0;  // now; more than the pool for as long as a burst lasts
        std::size_t used = 0, dirty = 0, frozen = 0;
        std::size_t extra = 0;  // frames beyond the pool
    };
    [[nodiscard]] Statistics statistics() const;
    // Frames that there may be for good.
    [[nodiscard]] std::size_t capacity() const { return pool_frames_; }

    // The page if it is in memory.
    [[nodiscard]] Frame* find(std::uint64_t block) {
        const auto at = by_block_.find(block);
        if (at == by_block_.end()) return nullptr;
        Frame* frame = at->second;
        if (frame->use != Use::kUsed) {
            frame->use = frame->use == Use::kLoaded ? Use::kIdle : Use::kUsed;
        }
        return frame;
    }
    void count_hits(std::uint64_t hits) { hits_ += hits; }
    // In memory, or being read. Is no use of it.
    [[nodiscard]] bool holds(std::uint64_t block) const {
        return by_block_.contains(block) || loading_.contains(block);
    }

    // Reads the page into a frame, or waits for the fiber that is reading it already. `check` says
    // what is wrong with the page (a literal), nullptr when it is good; a bad page is not kept and
    // the error is kCorrupt with its byte offset. Suspends; afterwards look the page up again.
    Result<void> load(Suspend& suspend, PageIo& io, const PagePointer& pointer,
                      absl::FunctionRef<const char*(ConstDmaSpan)> check);
    // The same for nobody in particular: an error is not reported, and whoever waits for the page
    // reads it itself then. Takes no frame beyond the pool. `mark`: for Frame::read_ahead.
    Result<void> load_ahead(Suspend& suspend, PageIo& io, const PagePointer& pointer,
                            std::uint32_t mark, absl::FunctionRef<const char*(ConstDmaSpan)> check);

    // A dirty frame for a new page, contents undefined. Does not suspend and cannot fail but for
    // want of DMA memory, which ends the process: the owner of the tree bounds the dirty pages.
    Frame& make(std::uint64_t block);
    // The clean page changes: it is dirty now and has a new address.
    void readdress(Frame& frame, std::uint64_t block);
    // The page is no longer part of the tree.
    void drop(Frame& frame);

    void pin(Frame& frame) { ++frame.pins; }
    void unpin(Frame& frame);

    // A checkpoint writes the dirty page from now on / has written all of them.
    void freeze(Frame& frame);
    void thaw();
    // Drops everything. REQUIRES that nothing is pinned, loading or frozen.
    void clear();

    [[nodiscard]] std::size_t dirty_pages() const { return dirty_; }
    [[nodiscard]] std::size_t frozen_pages() const { return frozen_.size(); }
    [[nodiscard]] bool any_frozen() const { return !frozen_.empty(); }
    [[nodiscard]] std::uint32_t page_bytes() const { return page_bytes_; }
    [[nodiscard]] DmaSpan bytes(const Frame& frame) const { return {frame.data, page_bytes_}; }

  private:
    struct Load;

    PageCache(std::size_t pool_frames, std::uint32_t page_bytes);
    Result<void> add_slab();
    Frame* take_frame();       // free, or evicted, or new; nullptr without memory
    Frame* take_pool_frame();  // free, or evicted
    void read(Suspend& suspend, PageIo& io, const PagePointer& pointer, Frame& frame, Load& load,
              absl::FunctionRef<const char*(ConstDmaSpan)> check);
    Frame* evict();  // nullptr when none can go
    Frame* grow();
    void claim(std::uint64_t block, Frame& frame);
    void release(Frame& frame);
    void shrink();

    std::size_t pool_frames_;  // how many there shall be
    std::uint32_t page_bytes_;
    std::vector<driver::DmaBuffer> slabs_;
    std::deque<Frame> frames_;  // stable addresses; those without memory are spare
    std::vector<Frame*> free_;
    std::vector<Frame*> spare_;  // extra frames that gave their memory back
    std::vector<Frame*> frozen_;
    absl::flat_hash_map<std::uint64_t, Frame*> by_block_;
    absl::flat_hash_map<std::uint64_t, std::shared_ptr<Load>> loading_;
    std::size_t slab_frames_made_ = 0;
    std::size_t extra_ = 0;
    std::size_t dirty_ = 0;
    std::size_t hand_ = 0;
    bool out_of_memory_ = false;  // the pool could not be made as large as wanted
    std::uint64_t hits_ = 0, misses_ = 0, evictions_ = 0, read_ahead_ = 0;
};

}  // namespace blobfs::blobstore
