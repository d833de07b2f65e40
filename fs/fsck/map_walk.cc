#include "fs/fsck/map_walk.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace blobfs::fsck {

using blobstore::BlockIndex;
using blobstore::kBlockBytes;
using blobstore::MapEntry;
using blobstore::PageHeader;
using blobstore::PageKind;
using blobstore::PagePointer;
using blobstore::Run;
using driver::Suspend;

namespace {

// One page to be read, and what is said of it above.
struct Wanted {
    PagePointer pointer;
    std::uint64_t index = 0;
    std::uint64_t free_blocks = 0;
    std::uint64_t newest = 0;  // the generation above: none below is later
};

class MapWalk {
  public:
    MapWalk(Suspend& suspend, PageReader& reader, const blobstore::Superblock& superblock,
         const MapVisitor& visitor)
        : suspend_(suspend),
          reader_(reader),
          visitor_(visitor),
          block_count_(superblock.block_count),
          content_bytes_(superblock.page_bytes - sizeof(PageHeader)),
          fanout_(content_bytes_ / sizeof(MapEntry)) {}

    Result<void> visit(std::uint32_t level, std::span<const Wanted> wanted);

  private:
    // Blocks that a page of a level covers when it is whole, and the first one that it covers.
    [[nodiscard]] std::uint64_t span_of(std::uint32_t level) const {
        std::uint64_t blocks = content_bytes_ * 8;
        for (; level > 0; --level) blocks *= fanout_;
        return blocks;
    }
    [[nodiscard]] Run covered(std::uint32_t level, std::uint64_t index) const {
        const std::uint64_t first = span_of(level) * index;
        return Run{BlockIndex{first}, std::min(span_of(level), block_count_ - first)};
    }
    [[nodiscard]] const char* header_fault(driver::ConstDmaSpan bytes, std::uint32_t level,
                                           const Wanted& wanted) const;
    void visit_bitmap(driver::ConstDmaSpan bytes, const Wanted& wanted);
    Result<void> visit_children(std::uint32_t level, const std::vector<std::byte>& bytes,
                                const Wanted& wanted);

    Suspend& suspend_;
    PageReader& reader_;
    const MapVisitor& visitor_;
    const std::uint64_t block_count_, content_bytes_, fanout_;
};

const char* MapWalk::header_fault(driver::ConstDmaSpan bytes, std::uint32_t level,
                               const Wanted& wanted) const {
    PageHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    if (header.kind != (level == 0 ? PageKind::kBitmap : PageKind::kMapIndex) ||
        header.level != level || header.map_index != wanted.index) {
        return "allocation map: a page of another place";
    }
    if (header.slot_count != 0 || header.content_start != 0 || header.garbage_bytes != 0 ||
        header.prefix_bytes != 0 || header.reserved != 0) {
        return "allocation map: reserved fields";
    }
    if (header.generation > wanted.newest) return "allocation map: generation of a child";
    return nullptr;
}

void MapWalk::visit_bitmap(driver::ConstDmaSpan bytes, const Wanted& wanted) {
    const Run run = covered(0, wanted.index);
    std::vector<std::uint64_t> words(content_bytes_ / 8);
    std::memcpy(words.data(), bytes.data() + sizeof(PageHeader), content_bytes_);
    std::uint64_t used = 0;
    std::uint64_t beyond = 0;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::uint64_t left = run.blocks - std::min<std::uint64_t>(run.blocks, i * 64);
        const std::uint64_t mask = left >= 64 ? ~0ull : (1ull << left) - 1;
        beyond |= words[i] & ~mask;
        words[i] &= mask;
        used += static_cast<std::uint64_t>(std::popcount(words[i]));
    }
    if (beyond != 0) {
        visitor_.damaged(wanted.pointer,
                         Error{.code = Errc::kCorrupt,
                               .address = wanted.pointer.block * kBlockBytes,
                               .what = "allocation map: blocks beyond the end are used"});
    }
    if (run.blocks - used != wanted.free_blocks) {
        visitor_.miscounted(wanted.pointer, wanted.free_blocks, run.blocks - used);
    }
    visitor_.bitmap(run.first() / 64, words);
}

Result<void> MapWalk::visit_children(std::uint32_t level, const std::vector<std::byte>& bytes,
                                  const Wanted& wanted) {
    const Run run = covered(level, wanted.index);
    const std::uint64_t below = span_of(level - 1);
    const std::uint64_t children = (run.blocks + below - 1) / below;
    const std::byte* content = bytes.data() + sizeof(PageHeader);
    std::uint64_t counted = 0;
    std::vector<Wanted> batch;
    PageHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    for (std::uint64_t i = 0; i < children; ++i) {
        MapEntry entry;
        std::memcpy(&entry, content + i * sizeof(entry), sizeof(entry));
        const std::uint64_t index = wanted.index * fanout_ + i;
        const Run part = covered(level - 1, index);
        const bool sane = entry.free_blocks <= part.blocks &&
                          (entry.child.block != 0 ||
                           (entry.child == PagePointer{} && entry.free_blocks == part.blocks));
        if (!sane) {
            visitor_.damaged(wanted.pointer,
                             Error{.code = Errc::kCorrupt,
                                   .address = wanted.pointer.block * kBlockBytes,
                                   .what = "allocation map: an entry that cannot be"});
        }
        counted += std::min(entry.free_blocks, part.blocks);
        if (entry.child.block == 0) {
            visitor_.unused(part);
        } else if (visitor_.enter(entry.child)) {
            batch.push_back({.pointer = entry.child,
                             .index = index,
                             .free_blocks = entry.free_blocks,
                             .newest = header.generation});
        }
        const std::size_t most = level == 1 ? PageReader::kMostPages : 1;
        if (batch.size() == most || (i + 1 == children && !batch.empty())) {
            TRY(visit(level - 1, batch));
            batch.clear();
        }
    }
    const auto rest = std::span(bytes).subspan(sizeof(PageHeader) + children * sizeof(MapEntry));
    if (std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; })) {
        visitor_.damaged(wanted.pointer,
                         Error{.code = Errc::kCorrupt,
                               .address = wanted.pointer.block * kBlockBytes,
                               .what = "allocation map: entries beyond the device"});
    }
    if (counted != wanted.free_blocks) {
        visitor_.miscounted(wanted.pointer, wanted.free_blocks, counted);
    }
    return {};
}

Result<void> MapWalk::visit(std::uint32_t level, std::span<const Wanted> wanted) {
    std::vector<PagePointer> pointers;
    for (const Wanted& page : wanted) pointers.push_back(page.pointer);
    TRY(reader_.read(suspend_, pointers));
    std::vector<std::vector<std::byte>> interior(level == 0 ? 0 : wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        Result<void> status = reader_.status(i);
        if (status) {
            if (const char* fault = header_fault(reader_.bytes(i), level, wanted[i])) {
                status = fail(Errc::kCorrupt, fault, pointers[i].block * kBlockBytes);
            }
        }
        if (!status) {
            visitor_.damaged(pointers[i], status.error());
        } else if (level == 0) {
            visit_bitmap(reader_.bytes(i), wanted[i]);
        } else {
            const auto bytes = reader_.bytes(i);
            interior[i].assign(bytes.begin(), bytes.end());
        }
    }
    for (std::size_t i = 0; i < interior.size(); ++i) {
        if (!interior[i].empty()) TRY(visit_children(level, interior[i], wanted[i]));
    }
    return {};
}

}  // namespace

Result<void> walk_map(Suspend& suspend, PageReader& reader, const blobstore::Superblock& superblock,
                      const MapVisitor& visitor) {
    if (!visitor.enter(superblock.map_root)) return {};
    const Wanted root{.pointer = superblock.map_root,
                      .index = 0,
                      .free_blocks = superblock.free_blocks,
                      .newest = superblock.generation};
    return MapWalk(suspend, reader, superblock, visitor)
        .visit(superblock.map_height - 1, std::span(&root, 1));
}

}  // namespace blobfs::fsck
