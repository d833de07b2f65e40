#include "fs/fsck/tree_walk.h"

#include <algorithm>
#include <array>
#include <vector>

namespace blobfs::fsck {

using blobstore::kBlockBytes;
using blobstore::KeyView;
using blobstore::PagePointer;
using blobstore::PageView;
using driver::Suspend;

namespace {

class TreeWalk {
  public:
    TreeWalk(Suspend& suspend, PageReader& reader, const TreeVisitor& visitor)
        : suspend_(suspend), reader_(reader), visitor_(visitor) {}

    // Visits these pages of one level, and all below them. At most PageReader::kMostPages.
    Result<void> visit(std::uint32_t level, std::span<const PagePointer> pointers,
                       std::span<const KeyRange> ranges);

  private:
    Result<void> visit_children(std::uint32_t level, const std::vector<std::byte>& bytes,
                                const KeyRange& range);
    [[nodiscard]] const char* fault_of(driver::ConstDmaSpan bytes, std::uint32_t level,
                                       const KeyRange& range) const;

    Suspend& suspend_;
    PageReader& reader_;
    const TreeVisitor& visitor_;
};

const char* TreeWalk::fault_of(driver::ConstDmaSpan bytes, std::uint32_t level,
                           const KeyRange& range) const {
    const char* fault = blobstore::validate_page(
        bytes, {.level = level, .block_count = reader_.io().geometry().block_count});
    if (fault != nullptr) return fault;
    const PageView page(bytes.data());
    const std::size_t first = level == 0 ? 0 : 1;
    if (first < page.size() &&
        (!range.contains(page.key(first)) || !range.contains(page.key(page.size() - 1)))) {
        return "tree page: keys outside of what the page above says";
    }
    return nullptr;
}

Result<void> TreeWalk::visit(std::uint32_t level, std::span<const PagePointer> pointers,
                         std::span<const KeyRange> ranges) {
    // The copies of interior pages: reading their children overwrites the reader's memory.
    std::vector<std::vector<std::byte>> interior(level == 0 ? 0 : pointers.size());
    TRY(reader_.read(suspend_, pointers));
    for (std::size_t i = 0; i < pointers.size(); ++i) {
        Result<void> status = reader_.status(i);
        if (status) {
            if (const char* fault = fault_of(reader_.bytes(i), level, ranges[i])) {
                status = fail(Errc::kCorrupt, fault, pointers[i].block * kBlockBytes);
            }
        }
        if (!status) {
            visitor_.damaged(pointers[i], level, ranges[i], status.error());
        } else if (level == 0) {
            TRY(visitor_.leaf(PageView(reader_.bytes(i).data())));
        } else {
            const auto bytes = reader_.bytes(i);
            interior[i].assign(bytes.begin(), bytes.end());
        }
    }
    for (std::size_t i = 0; i < interior.size(); ++i) {
        if (!interior[i].empty()) TRY(visit_children(level, interior[i], ranges[i]));
    }
    return {};
}

Result<void> TreeWalk::visit_children(std::uint32_t level, const std::vector<std::byte>& bytes,
                                  const KeyRange& range) {
    const PageView page(bytes.data());
    // Leaves many at a time; what is above them one by one, so that few copies are held.
    const std::size_t most = level == 1 ? PageReader::kMostPages : 1;
    std::vector<PagePointer> pointers;
    std::vector<KeyRange> ranges;
    for (std::size_t child = 0; child < page.size();) {
        pointers.clear();
        ranges.clear();
        for (; child < page.size() && pointers.size() < most; ++child) {
            KeyRange below{
                .lower = child == 0 ? range.lower : std::string(page.key(child)),
                .upper = child + 1 == page.size() ? range.upper : std::string(page.key(child + 1))};
            if (!visitor_.enter(page.child(child), level - 1, below)) continue;
            pointers.push_back(page.child(child));
            ranges.push_back(std::move(below));
        }
        TRY(visit(level - 1, pointers, ranges));
    }
    return {};
}

}  // namespace

Result<void> walk_tree(Suspend& suspend, PageReader& reader, const TreeRoot& root,
                       const TreeVisitor& visitor) {
    if (root.height == 0) return {};
    const KeyRange all;
    if (!visitor.enter(root.page, root.height - 1, all)) return {};
    return TreeWalk(suspend, reader, visitor)
        .visit(root.height - 1, std::span(&root.page, 1), std::span(&all, 1));
}

}  // namespace blobfs::fsck
