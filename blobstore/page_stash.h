#pragma once

// Places for metadata pages that are set aside (held in the allocation map): runs of whole pages,
// page-aligned, by address. The lowest is handed out first, so that pages lie together at the front
// of the device; the highest is given back first. Reactor thread.

#include <absl/container/btree_map.h>

#include <cstdint>

#include "blobstore/units.h"

namespace blobfs::blobstore {

class PageStash {
  public:
    explicit PageStash(std::uint32_t page_blocks) : page_blocks_(page_blocks) {}

    // REQUIRES whole pages, none of which is in it.
    void add(const Run& run);
    // One page. REQUIRES pages() > 0.
    Run take_lowest();
    // A run of at most that many pages. REQUIRES pages() > 0.
    Run take_highest(std::uint64_t pages);

    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    [[nodiscard]] std::uint64_t blocks() const { return pages_ * page_blocks_; }
    // First block -> pages, of each run; ascending.
    [[nodiscard]] const absl::btree_map<std::uint64_t, std::uint64_t>& runs() const {
        return runs_;
    }

  private:
    const std::uint64_t page_blocks_;
    absl::btree_map<std::uint64_t, std::uint64_t> runs_;
    std::uint64_t pages_ = 0;
};

}  // namespace blobfs::blobstore
