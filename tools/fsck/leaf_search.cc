#include "tools/fsck/leaf_search.h"

#include <absl/container/btree_map.h>

#include <algorithm>
#include <cstring>

#include "driver/memory/dma_buffer.h"

namespace blobfs::fsck {

using blobstore::BlockIndex;
using blobstore::kBlockBytes;
using blobstore::PageIo;
using blobstore::PagePointer;
using blobstore::PageView;
using blobstore::Run;
using blobstore::Superblock;
using driver::Device;
using driver::DmaBuffer;
using driver::Suspend;

namespace {

constexpr std::uint64_t kStepBytes = std::uint64_t{1} << 20;

class Search {
  public:
    Search(Suspend& suspend, Device& device, const ImageCheck& check)
        : suspend_(suspend),
          device_(device),
          check_(check),
          superblock_(check.superblock()),
          io_(device, {.uuid = superblock_.uuid,
                       .page_bytes = superblock_.page_bytes,
                       .block_count = superblock_.block_count}) {}

    Result<KeyOverlay> run(Progress progress);

  private:
    struct Leaf {
        PagePointer pointer;
        std::string first, last;
    };
    void read_step(std::uint64_t first, std::uint64_t blocks);
    void look_at(std::uint64_t block, driver::ConstDmaSpan bytes);
    [[nodiscard]] const char* fault_of(driver::ConstDmaSpan bytes) const {
        return blobstore::validate_page(bytes,
                                        {.level = 0, .block_count = superblock_.block_count});
    }
    [[nodiscard]] bool is_lost(blobstore::KeyView key) const;
    [[nodiscard]] bool touches_lost(const std::string& first, const std::string& last) const;
    void take(const Leaf& leaf, const PageView& page, KeyOverlay& found);

    Suspend& suspend_;
    Device& device_;
    const ImageCheck& check_;
    const Superblock& superblock_;
    PageIo io_;
    DmaBuffer memory_;
    std::vector<Leaf> leaves_;
    absl::btree_map<std::string, std::string> covered_;  // first key -> last key, disjoint
};

bool Search::is_lost(blobstore::KeyView key) const {
    const auto& lost = check_.lost();  // ascending, and no two overlap
    const auto behind = std::partition_point(
        lost.begin(), lost.end(), [&](const KeyRange& range) { return range.lower <= key; });
    return behind != lost.begin() && std::prev(behind)->contains(key);
}

bool Search::touches_lost(const std::string& first, const std::string& last) const {
    const auto& lost = check_.lost();
    const auto at = std::partition_point(lost.begin(), lost.end(), [&](const KeyRange& range) {
        return !range.upper.empty() && range.upper <= first;
    });
    return at != lost.end() && at->lower <= last;
}

void Search::look_at(std::uint64_t block, driver::ConstDmaSpan bytes) {
    blobstore::PageHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    // Pages of a checkpoint that never became durable are later than the superblock.
    if (header.magic != blobstore::kPageMagic || header.kind != blobstore::PageKind::kLeaf ||
        header.generation > superblock_.generation) {
        return;
    }
    const auto pointer = io_.identify(BlockIndex{block}, bytes);
    if (!pointer || fault_of(bytes) != nullptr) return;
    const PageView page(bytes.data());
    Leaf leaf{.pointer = *pointer,
              .first = std::string(page.key(0)),
              .last = std::string(page.key(page.size() - 1))};
    if (touches_lost(leaf.first, leaf.last)) leaves_.push_back(std::move(leaf));
}

void Search::read_step(std::uint64_t first, std::uint64_t blocks) {
    const std::uint64_t page_blocks = io_.blocks_per_page();
    const auto span = memory_.span().first(blocks * kBlockBytes);
    const bool all = device_.read(suspend_, first * kBlockBytes, span).has_value();
    for (std::uint64_t at = 0; at + page_blocks <= blocks; at += page_blocks) {
        const auto bytes = span.subspan(at * kBlockBytes, superblock_.page_bytes);
        if (check_.data().intersects(Run{BlockIndex{first + at}, page_blocks})) continue;
        if (!all && !device_.read(suspend_, (first + at) * kBlockBytes, bytes)) continue;
        look_at(first + at, bytes);
    }
}

void Search::take(const Leaf& leaf, const PageView& page, KeyOverlay& found) {
    for (std::size_t i = 0; i < page.size(); ++i) {
        const std::string key(page.key(i));
        if (!is_lost(key)) continue;
        auto around = covered_.upper_bound(key);
        if (around != covered_.begin() && std::prev(around)->second >= key) continue;
        found.put(key, page.value(i));
    }
    // What a newer page has nothing of between its first key and its last was not there any more.
    std::string first = leaf.first;
    std::string last = leaf.last;
    auto at = covered_.upper_bound(first);
    if (at != covered_.begin() && std::prev(at)->second >= first) --at;
    while (at != covered_.end() && at->first <= last) {
        first = std::min(first, at->first);
        last = std::max(last, at->second);
        at = covered_.erase(at);
    }
    covered_.emplace(std::move(first), std::move(last));
}

Result<KeyOverlay> Search::run(Progress progress) {
    KeyOverlay found;
    if (check_.whole()) return found;
    TRY_ASSIGN(memory_, DmaBuffer::allocate(kStepBytes));
    const std::uint64_t page_blocks = io_.blocks_per_page();
    const std::uint64_t begin = blobstore::round_up(log_end(superblock_), page_blocks);
    const std::uint64_t step_blocks = kStepBytes / kBlockBytes;
    for (std::uint64_t at = begin; at < superblock_.block_count; at += step_blocks) {
        progress(Phase::kSearch, at, superblock_.block_count);
        read_step(at, std::min(step_blocks, superblock_.block_count - at));
    }
    std::sort(leaves_.begin(), leaves_.end(), [](const Leaf& a, const Leaf& b) {
        return a.pointer.generation > b.pointer.generation;
    });
    for (const Leaf& leaf : leaves_) {
        const auto bytes = memory_.span().first(superblock_.page_bytes);
        if (!io_.read(suspend_, leaf.pointer, bytes) || fault_of(bytes) != nullptr) continue;
        take(leaf, PageView(bytes.data()), found);
    }
    return found;
}

}  // namespace

Result<KeyOverlay> search_leaves(Suspend& suspend, Device& device, const ImageCheck& check,
                                 Progress progress) {
    return Search(suspend, device, check).run(progress);
}

}  // namespace blobfs::fsck
