#include "blobstore/page_stash.h"

#include <algorithm>

#include "driver/base/check.h"

namespace blobfs::blobstore {

void PageStash::add(const Run& run) {
    const std::uint64_t block = run.first();
    std::uint64_t pages = run.blocks / page_blocks_;
    pages_ += pages;
    auto next = runs_.lower_bound(block);
    if (next != runs_.end() && next->first == run.end()) {
        pages += next->second;
        next = runs_.erase(next);
    }
    if (next != runs_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second * page_blocks_ == block) {
            before->second += pages;
            return;
        }
    }
    runs_.emplace_hint(next, block, pages);
}

Run PageStash::take_lowest() {
    CHECK(pages_ > 0);
    --pages_;
    const auto first = runs_.begin();
    const auto [block, pages] = *first;
    const auto next = runs_.erase(first);
    if (pages > 1) runs_.emplace_hint(next, block + page_blocks_, pages - 1);
    return Run{BlockIndex{block}, page_blocks_};
}

Run PageStash::take_highest(std::uint64_t pages) {
    CHECK(pages_ > 0);
    const auto last = std::prev(runs_.end());
    const std::uint64_t taken = std::min(last->second, pages);
    last->second -= taken;
    pages_ -= taken;
    const std::uint64_t block = last->first + last->second * page_blocks_;
    if (last->second == 0) runs_.erase(last);
    return Run{BlockIndex{block}, taken * page_blocks_};
}

}  // namespace blobfs::blobstore
