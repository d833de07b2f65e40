#pragma once

// Pages of a root that somebody still reads, though later roots do without them: while the root is
// pinned they are not given free. Part of the SpaceAllocator. Reactor thread.

#include <absl/container/btree_set.h>
#include <absl/functional/function_ref.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "blobstore/units.h"

namespace blobfs::blobstore {

class PinnedPages {
  public:
    explicit PinnedPages(std::uint32_t page_blocks) : page_blocks_(page_blocks) {}

    // The root is that of this generation. REQUIRES that none is pinned.
    void pin(Generation root);
    [[nodiscard]] bool active() const { return root_.has_value(); }
    // A page that was made in that generation is superseded: it will be freed.
    void superseded(std::uint64_t block, Generation made) {
        if (root_ && made <= *root_) superseded_.insert(block);
    }
    // Visits the parts of a run that may be free now; the rest is kept until unpin().
    void release(const Run& run, absl::FunctionRef<void(const Run&)> visit);
    // Visits all that was kept.
    void unpin(absl::FunctionRef<void(const Run&)> visit);
    [[nodiscard]] std::uint64_t blocks() const { return kept_blocks_; }

  private:
    const std::uint32_t page_blocks_;
    std::optional<Generation> root_;
    absl::btree_set<std::uint64_t> superseded_;  // and not yet released
    std::vector<Run> kept_;
    std::uint64_t kept_blocks_ = 0;
};

}  // namespace blobfs::blobstore
