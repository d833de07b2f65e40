#include "tools/fsck/tree_builder.h"

#include "driver/base/check.h"

namespace blobfs::fsck {

using blobstore::BlockIndex;
using blobstore::kBlockBytes;
using blobstore::KeyView;
using blobstore::Page;
using blobstore::PagePointer;
using blobstore::ValueView;
using driver::DmaBuffer;
using driver::Suspend;

namespace {

// Pages are not filled to the brim, so that the first changes do not split each of them.
constexpr std::size_t kFilledPercent = 90;

}  // namespace

Result<PagePointer> TreeBuilder::write(Suspend& suspend, Level& level) {
    const std::uint64_t blocks = io_.blocks_per_page();
    TRY_ASSIGN(const BlockIndex block, source_.take(blocks, blocks));
    const auto bytes = level.memory.span().first(io_.geometry().page_bytes);
    const PagePointer pointer = io_.seal(bytes, block, generation_);
    TRY(io_.device().write(suspend, value(block) * kBlockBytes, bytes));
    ++level.written;
    ++pages_;
    level.entries = 0;
    return pointer;
}

Result<void> TreeBuilder::add_at(Suspend& suspend, std::size_t number, KeyView key,
                                 ValueView value) {
    if (number == blobstore::kMaxTreeHeight) return fail(Errc::kTooLarge, "building the tree");
    if (number == levels_.size()) {
        levels_.emplace_back();
        TRY_ASSIGN(levels_[number].memory, DmaBuffer::allocate(io_.geometry().page_bytes));
    }
    const auto put = [&](bool brim) {
        Level& level = levels_[number];
        Page page = page_of(level);
        if (level.entries == 0) page.format(static_cast<std::uint32_t>(number));
        // The first key of an interior page is known from above.
        const KeyView stored = number > 0 && level.entries == 0 ? KeyView() : key;
        const std::size_t bytes = stored.size() + value.size() + blobstore::kEntryOverheadBytes;
        const std::size_t most = page.page_bytes() * (brim ? 100 : kFilledPercent) / 100;
        if (level.entries != 0 && page.used_bytes() + bytes > most) return false;
        if (!page.insert(page.size(), stored, value)) return false;
        if (level.entries == 0) level.first_key = std::string(key);
        ++level.entries;
        return true;
    };
    if (put(false)) return {};
    if (levels_[number].entries == 0) return fail(Errc::kTooLarge, "building the tree");
    const std::string first_key = levels_[number].first_key;
    TRY_ASSIGN(const PagePointer pointer, write(suspend, levels_[number]));
    TRY(add_at(suspend, number + 1, first_key, blobstore::bytes_of(pointer)));
    return put(true) ? Result<void>() : fail(Errc::kTooLarge, "building the tree");
}

Result<TreeRoot> TreeBuilder::finish(Suspend& suspend) {
    for (std::size_t number = 0; number < levels_.size(); ++number) {
        const bool top = number + 1 == levels_.size();
        if (levels_[number].entries == 0) continue;
        const bool only = top && levels_[number].written == 0;
        const std::string first_key = levels_[number].first_key;
        TRY_ASSIGN(const PagePointer pointer, write(suspend, levels_[number]));
        if (only)
            return TreeRoot{.page = pointer, .height = static_cast<std::uint32_t>(number + 1)};
        TRY(add_at(suspend, number + 1, first_key, blobstore::bytes_of(pointer)));
    }
    CHECK(levels_.empty());
    return TreeRoot{};
}

}  // namespace blobfs::fsck
