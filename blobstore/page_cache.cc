#include "blobstore/page_cache.h"

#include <algorithm>

#include "driver/base/check.h"
#include "driver/reactor/fiber.h"

namespace blobfs::blobstore {

namespace {
constexpr std::size_t kSlabFrames = 64;
}

// A page that one fiber is reading; others wait for it and share the outcome.
struct PageCache::Load {
    driver::WaitQueue waiters;
    Result<void> outcome;
    bool ahead = false;     // nobody needed it
    std::uint8_t mark = 0;  // then: for the frame
};

PageCache::PageCache(std::size_t pool_frames, std::uint32_t page_bytes)
    : pool_frames_(pool_frames), page_bytes_(page_bytes) {}

PageCache::~PageCache() = default;

Result<std::unique_ptr<PageCache>> PageCache::create(std::size_t cache_bytes,
                                                     std::uint32_t page_bytes) {
    const std::size_t frames =
        round_up(std::max<std::size_t>(cache_bytes / page_bytes, kMinFrames), kSlabFrames);
    std::unique_ptr<PageCache> cache(new PageCache(frames, page_bytes));
    while (cache->slab_frames_made_ < kMinFrames) TRY(cache->add_slab());
    return cache;
}

Result<void> PageCache::add_slab() {
    TRY_ASSIGN(driver::DmaBuffer slab, driver::DmaBuffer::allocate(kSlabFrames * page_bytes_));
    for (std::size_t i = 0; i < kSlabFrames; ++i) {
        Frame& frame = frames_.emplace_back();
        frame.data = slab.data() + i * page_bytes_;
        free_.push_back(&frame);
    }
    slab_frames_made_ += kSlabFrames;
    slabs_.push_back(std::move(slab));
    return {};
}

PageCache::Statistics PageCache::statistics() const {
    return {.hits = hits_,
            .misses = misses_,
            .evictions = evictions_,
            .read_ahead = read_ahead_,
            .frames = slab_frames_made_ + extra_,
            .used = slab_frames_made_ + extra_ - free_.size(),
            .dirty = dirty_,
            .frozen = frozen_.size(),
            .extra = extra_};
}

PageCache::Frame* PageCache::take_pool_frame() {
    if (free_.empty() && slab_frames_made_ < pool_frames_ && !out_of_memory_) {
        if (!add_slab()) out_of_memory_ = true;
    }
    if (!free_.empty()) {
        Frame* frame = free_.back();
        free_.pop_back();
        return frame;
    }
    return evict();
}

PageCache::Frame* PageCache::take_frame() {
    if (Frame* frame = take_pool_frame()) return frame;
    return grow();
}

PageCache::Frame* PageCache::evict() {
    if (by_block_.size() == dirty_ + frozen_.size()) return nullptr;
    // Two rounds: the first may only take away the second chances.
    for (std::size_t steps = 2 * frames_.size(); steps > 0; --steps) {
        Frame& frame = frames_[hand_];
        hand_ = hand_ + 1 == frames_.size() ? 0 : hand_ + 1;
        if (frame.block == 0 || frame.dirty || frame.frozen || frame.loading || frame.pins != 0) {
            continue;
        }
        if (frame.use != Use::kIdle) {
            frame.use = Use::kIdle;
            continue;
        }
        by_block_.erase(frame.block);
        frame.block = 0;
        ++evictions_;
        return &frame;
    }
    return nullptr;
}

PageCache::Frame* PageCache::grow() {
    auto memory = driver::DmaBuffer::allocate(page_bytes_);
    if (!memory) return nullptr;
    Frame* frame;
    if (spare_.empty()) {
        frame = &frames_.emplace_back();
    } else {
        frame = spare_.back();
        spare_.pop_back();
    }
    frame->own = std::move(*memory);
    frame->data = frame->own.data();
    ++extra_;
    return frame;
}

void PageCache::release(Frame& frame) {
    CHECK(frame.pins == 0);
    frame.block = 0;
    frame.dirty = frame.frozen = frame.obsolete = frame.loading = false;
    free_.push_back(&frame);
}

Result<void> PageCache::load(Suspend& suspend, PageIo& io, const PagePointer& pointer,
                             absl::FunctionRef<const char*(ConstDmaSpan)> check) {
    if (const auto at = loading_.find(pointer.block); at != loading_.end()) {
        const std::shared_ptr<Load> load = at->second;
        if (load->ahead) ++misses_;
        load->waiters.wait(suspend);
        // What went wrong when nobody needed it is not believed: the caller looks again, and reads.
        if (load->ahead) return {};
        return load->outcome;
    }
    Frame* frame = take_frame();
    if (frame == nullptr) {
        return fail(Errc::kNoMemory, "reading a metadata page", pointer.block * kBlockBytes);
    }
    ++misses_;
    const auto load = std::make_shared<Load>();
    loading_.emplace(pointer.block, load);
    read(suspend, io, pointer, *frame, *load, check);
    if (!load->outcome) io.report(load->outcome.error());
    return load->outcome;
}

Result<void> PageCache::load_ahead(Suspend& suspend, PageIo& io, const PagePointer& pointer,
                                   std::uint32_t mark,
                                   absl::FunctionRef<const char*(ConstDmaSpan)> check) {
    if (const auto at = loading_.find(pointer.block); at != loading_.end()) {
        const std::shared_ptr<Load> load = at->second;
        load->waiters.wait(suspend);
        return load->outcome;
    }
    Frame* frame = take_pool_frame();
    if (frame == nullptr) {
        return fail(Errc::kNoMemory, "reading a metadata page ahead", pointer.block * kBlockBytes);
    }
    ++read_ahead_;
    const auto load = std::make_shared<Load>();
    load->ahead = true;
    load->mark = static_cast<std::uint8_t>(mark);
    loading_.emplace(pointer.block, load);
    read(suspend, io, pointer, *frame, *load, check);
    return load->outcome;
}

void PageCache::read(Suspend& suspend, PageIo& io, const PagePointer& pointer, Frame& frame,
                     Load& load, absl::FunctionRef<const char*(ConstDmaSpan)> check) {
    CHECK(!by_block_.contains(pointer.block));
    frame.loading = true;
    load.outcome = io.read(suspend, pointer, bytes(frame));
    if (load.outcome) {
        if (const char* damage = check(bytes(frame))) {
            load.outcome = fail(Errc::kCorrupt, damage, pointer.block * kBlockBytes);
        }
    }
    frame.loading = false;
    if (load.outcome && by_block_.contains(pointer.block)) {
        // A damaged allocation map gave the address away meanwhile: the new page stands.
        release(frame);
    } else if (load.outcome) {
        frame.block = pointer.block;
        frame.use = Use::kLoaded;
        frame.read_ahead = load.mark;
        frame.missed_below = 0;
        frame.ascending = 0;
        by_block_.emplace(pointer.block, &frame);
    } else {
        release(frame);
    }
    loading_.erase(pointer.block);
    load.waiters.wake_all();
}

// An address that the source gives out is free. A damaged allocation map may show blocks free that
// the tree uses; then the page that was there is lost, and its parent finds out.
void PageCache::claim(std::uint64_t block, Frame& frame) {
    const auto [at, added] = by_block_.emplace(block, &frame);
    if (added) return;
    Frame& lost = *at->second;
    CHECK(!lost.dirty && !lost.frozen);
    lost.block = 0;
    if (lost.pins == 0) release(lost);
    at->second = &frame;
}

PageCache::Frame& PageCache::make(std::uint64_t block) {
    Frame* frame = take_frame();
    CHECK(frame != nullptr && "DMA memory for changed tree pages");
    frame->block = block;
    frame->dirty = true;
    frame->use = Use::kUsed;
    frame->read_ahead = 0;
    frame->missed_below = 0;
    frame->ascending = 0;
    ++dirty_;
    claim(block, *frame);
    return *frame;
}

void PageCache::readdress(Frame& frame, std::uint64_t block) {
    CHECK(!frame.dirty && !frame.frozen && frame.block != 0);
    by_block_.erase(frame.block);
    frame.block = block;
    frame.dirty = true;
    ++dirty_;
    claim(block, frame);
}

void PageCache::drop(Frame& frame) {
    CHECK(frame.block != 0 && !frame.obsolete);
    if (frame.frozen) {
        // The checkpoint still writes it.
        frame.obsolete = true;
        return;
    }
    by_block_.erase(frame.block);
    if (frame.dirty) --dirty_;
    frame.dirty = false;
    frame.block = 0;
    if (frame.pins == 0) release(frame);
}

void PageCache::unpin(Frame& frame) {
    CHECK(frame.pins > 0);
    if (--frame.pins == 0 && frame.block == 0) release(frame);
}

void PageCache::freeze(Frame& frame) {
    CHECK(frame.dirty);
    frame.dirty = false;
    frame.frozen = true;
    --dirty_;
    frozen_.push_back(&frame);
}

void PageCache::thaw() {
    for (Frame* frame : frozen_) {
        frame->frozen = false;
        if (frame->obsolete) {
            frame->obsolete = false;
            drop(*frame);
        }
    }
    frozen_.clear();
    shrink();
}

// Gives back the memory of frames beyond the pool that are free now or can be made free.
void PageCache::shrink() {
    if (extra_ == 0) return;
    for (Frame& frame : frames_) {
        if (!frame.own) continue;
        const bool idle = !frame.dirty && !frame.frozen && !frame.loading && frame.pins == 0;
        if (!idle) continue;
        if (frame.block != 0) {
            by_block_.erase(frame.block);
            release(frame);
        }
        frame.own = {};
        frame.data = nullptr;
        --extra_;
        spare_.push_back(&frame);
    }
    std::erase_if(free_, [](const Frame* frame) { return frame->data == nullptr; });
}

void PageCache::clear() {
    CHECK(loading_.empty() && frozen_.empty());
    for (Frame& frame : frames_) {
        if (frame.block != 0) drop(frame);
    }
    CHECK(by_block_.empty());
    shrink();
}

}  // namespace blobfs::blobstore
