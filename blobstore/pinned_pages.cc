#include "blobstore/pinned_pages.h"

#include <algorithm>

#include "driver/base/check.h"

namespace blobfs::blobstore {

void PinnedPages::pin(Generation root) {
    CHECK(!root_ && kept_.empty());
    root_ = root;
}

void PinnedPages::release(const Run& run, absl::FunctionRef<void(const Run&)> visit) {
    std::uint64_t at = run.first();
    auto next = superseded_.lower_bound(at);
    while (next != superseded_.end() && *next < run.end()) {
        const std::uint64_t end = std::min<std::uint64_t>(*next + page_blocks_, run.end());
        if (*next > at) visit(Run{BlockIndex{at}, *next - at});
        kept_.push_back(Run{BlockIndex{*next}, end - *next});
        kept_blocks_ += end - *next;
        at = end;
        next = superseded_.erase(next);
    }
    if (at < run.end()) visit(Run{BlockIndex{at}, run.end() - at});
}

void PinnedPages::unpin(absl::FunctionRef<void(const Run&)> visit) {
    for (const Run& run : kept_) visit(run);
    kept_.clear();
    kept_blocks_ = 0;
    superseded_.clear();
    root_.reset();
}

}  // namespace blobfs::blobstore
