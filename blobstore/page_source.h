#pragma once

// Where the tree gets addresses for new pages and returns those of old ones. The seam between the
// tree and the space allocator. Reactor thread; nothing here suspends.

#include "blobstore/units.h"

namespace blobfs::blobstore {

class PageSource {
  public:
    virtual ~PageSource() = default;
    // A free page-aligned run of one page. REQUIRES that enough pages were set aside before
    // (SpaceAllocator::reserve_pages), so it cannot fail.
    virtual BlockIndex take_page() = 0;
    // The tree no longer uses the page. `written` says in which generation it was made: one of the
    // current generation was never reachable from a durable root and may be used again at once, an
    // older one only after the next checkpoint is durable.
    virtual void return_page(BlockIndex block, Generation made) = 0;
};

}  // namespace blobfs::blobstore
