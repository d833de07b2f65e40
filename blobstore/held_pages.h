#pragma once

// Keeps tree pages in memory while a transaction changes one leaf after the other: a change may
// need a frame, and must not get that of a page which the next one needs. Nobody suspends
// meanwhile. Reactor thread.

#include <absl/container/inlined_vector.h>

#include "blobstore/page_cache.h"

namespace blobfs::blobstore {

class HeldPages {
  public:
    explicit HeldPages(PageCache& cache) : cache_(cache) {}
    ~HeldPages() { release(); }
    HeldPages(const HeldPages&) = delete;
    HeldPages& operator=(const HeldPages&) = delete;

    void hold(PageCache::Frame& frame) {
        cache_.pin(frame);
        frames_.push_back(&frame);
    }
    void release() {
        for (PageCache::Frame* frame : frames_) cache_.unpin(*frame);
        frames_.clear();
    }

  private:
    PageCache& cache_;
    absl::InlinedVector<PageCache::Frame*, 32> frames_;
};

}  // namespace blobfs::blobstore
