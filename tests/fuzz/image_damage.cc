#include "tests/fuzz/image_damage.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "blobstore/key.h"
#include "blobstore/log_record.h"
#include "blobstore/page.h"
#include "tests/fuzz/sound_images.h"

namespace blobfs::fuzz {

using blobstore::BlobId;
using blobstore::Key;
using blobstore::KeyKind;
using blobstore::LogBatchHeader;
using blobstore::PageHeader;
using blobstore::PagePointer;
using blobstore::PageView;
using blobstore::Superblock;

namespace {

constexpr std::uint64_t kBlock = blobstore::kBlockBytes;
constexpr std::size_t kMostBatchBytes = 60'000;

template <class Struct>
Struct at(const std::string& image, std::uint64_t offset) {
    return blobstore::load<Struct>(std::string_view(image).substr(offset, sizeof(Struct)));
}

Superblock superblock_of(const std::string& image) {
    Superblock newest{};
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
        const auto superblock = at<Superblock>(image, block * kBlock);
        if (superblock.generation > newest.generation) newest = superblock;
    }
    return newest;
}

// A superblock, page or batch: each has its checksum at byte 8, summed with that being zero.
std::uint64_t seal(std::string& image, std::uint64_t offset, std::size_t bytes) {
    const std::uint64_t zero = 0;
    std::memcpy(image.data() + offset + 8, &zero, sizeof(zero));
    const std::uint64_t checksum = XXH3_64bits(image.data() + offset, bytes);
    std::memcpy(image.data() + offset + 8, &checksum, sizeof(checksum));
    return checksum;
}

void seal_slots(std::string& image) {
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
        seal(image, block * kBlock, kBlock);
    }
}

bool has_page(const std::string& image, const PagePointer& pointer) {
    return pointer.block < (image.size() - kImagePageBytes) / kBlock + 1;
}

struct PlacedPage {
    PagePointer pointer;
    std::vector<std::uint64_t> above;  // offsets of the pages above, the root last
};

// All pages below a root, by what the pointers in them look like.
void collect(const std::string& image, const PagePointer& pointer, std::vector<std::uint64_t> above,
             std::vector<PlacedPage>& pages) {
    pages.push_back({pointer, above});
    const std::uint64_t offset = pointer.block * kBlock;
    if (at<PageHeader>(image, offset).level == 0) return;
    above.insert(above.begin(), offset);
    for (std::size_t i = sizeof(PageHeader); i + sizeof(PagePointer) <= kImagePageBytes; ++i) {
        const auto child =
            blobstore::load<PagePointer>({image.data() + offset + i, sizeof(PagePointer)});
        if (child.block < 512 || !has_page(image, child)) continue;
        const auto below = at<PageHeader>(image, child.block * kBlock);
        // An image that was damaged before may have a ring.
        const bool ring =
            std::find(above.begin(), above.end(), child.block * kBlock) != above.end();
        if (!ring && below.checksum == child.checksum && below.block == child.block &&
            below.generation == child.generation) {
            collect(image, child, above, pages);
        }
    }
}

// Those of an image whose superblock may be damaged already.
std::vector<PlacedPage> pages_below(const std::string& image, const PagePointer& root) {
    std::vector<PlacedPage> pages;
    if (root.block != 0 && has_page(image, root)) collect(image, root, {}, pages);
    return pages;
}

void replace(std::string& image, std::uint64_t offset, std::size_t bytes, const PagePointer& old,
             const PagePointer& fresh) {
    const std::string_view from = blobstore::bytes_of(old);
    const std::size_t found = std::string_view(image).substr(offset, bytes).find(from);
    if (found != std::string_view::npos) {
        std::memcpy(image.data() + offset + found, &fresh, sizeof(fresh));
    }
}

// The page was changed: its checksum, the pointer to it, and so on up to both superblocks.
void seal_up(std::string& image, const PlacedPage& page) {
    PagePointer old = page.pointer;
    PagePointer fresh = old;
    fresh.checksum = seal(image, old.block * kBlock, kImagePageBytes);
    for (const std::uint64_t offset : page.above) {
        replace(image, offset, kImagePageBytes, old, fresh);
        const auto header = at<PageHeader>(image, offset);
        old = fresh = {
            .block = header.block, .generation = header.generation, .checksum = header.checksum};
        fresh.checksum = seal(image, offset, kImagePageBytes);
    }
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
        replace(image, block * kBlock, kBlock, old, fresh);
    }
    seal_slots(image);
}

void damage_part(std::string& image, std::uint64_t offset, std::size_t bytes, Mutation& mutation) {
    std::string part = image.substr(offset, bytes);
    mutation.damage(part, true);
    image.replace(offset, part.size(), part);
}

void damage_page(std::string& image, const PagePointer& root, Mutation& mutation) {
    const std::vector<PlacedPage> pages = pages_below(image, root);
    if (pages.empty()) return;
    const PlacedPage& page = pages[mutation.below(pages.size())];
    // Most of what steers the program is in the header and the slots.
    const std::size_t bytes = mutation.below(2) == 0 ? 128 : kImagePageBytes;
    damage_part(image, page.pointer.block * kBlock, bytes, mutation);
    seal_up(image, page);
}

// A page of the tree that can be looked into, or null.
const PlacedPage* choose_page(const std::string& image, const std::vector<PlacedPage>& pages,
                              bool leaf, Mutation& mutation) {
    std::vector<const PlacedPage*> fitting;
    for (const PlacedPage& page : pages) {
        const auto bytes =
            std::as_bytes(std::span(image.data() + page.pointer.block * kBlock, kImagePageBytes));
        const std::uint32_t level = at<PageHeader>(image, page.pointer.block * kBlock).level;
        if ((level == 0) != leaf) continue;
        if (blobstore::validate_page(
                bytes, {.level = level, .block_count = kImageBytes / kBlock}) != nullptr) {
            continue;
        }
        if (PageView(bytes.data()).size() != 0) fitting.push_back(&page);
    }
    return fitting.empty() ? nullptr : fitting[mutation.below(fitting.size())];
}

PageView view_of(const std::string& image, const PlacedPage& page) {
    return PageView(reinterpret_cast<const std::byte*>(image.data()) + page.pointer.block * kBlock);
}

// The batches that replay would find.
std::vector<std::uint64_t> batches_of(const std::string& image, const Superblock& superblock) {
    std::vector<std::uint64_t> batches;
    const std::uint64_t blocks = std::min(superblock.log_blocks, kImageBytes / kBlock);
    for (std::uint64_t block = 0; block < blocks; ++block) {
        const std::uint64_t offset = (superblock.log_start + block) * kBlock;
        if (superblock.log_start > kImageBytes || offset > image.size() - kBlock) break;
        const auto header = at<LogBatchHeader>(image, offset);
        if (header.magic == blobstore::kLogMagic && header.epoch == superblock.epoch) {
            batches.push_back(offset);
        }
    }
    return batches;
}

// A key of the tree, damaged or not, or one made of its parts.
std::string choose_key(const std::string& image, Mutation& mutation) {
    std::string key;
    const auto pages = pages_below(image, superblock_of(image).tree_root);
    const PlacedPage* page = choose_page(image, pages, true, mutation);
    if (page != nullptr) {
        const PageView view = view_of(image, *page);
        key = view.key(mutation.below(view.size()));
    }
    if (mutation.below(3) == 0) mutation.damage(key, false);
    if (key.size() < 9 || mutation.below(8) == 0) {
        key = Key(BlobId{mutation.below(kImageInodes)}, static_cast<KeyKind>(mutation.below(20)),
                  mutation.below(300))
                  .view();
    }
    key.resize(std::clamp<std::size_t>(key.size(), 9, blobstore::kMaxKeyBytes));
    return key;
}

// A value of the tree, damaged or not.
std::string choose_value(const std::string& image, Mutation& mutation) {
    std::string value;
    const auto pages = pages_below(image, superblock_of(image).tree_root);
    const PlacedPage* page = choose_page(image, pages, true, mutation);
    if (page != nullptr) {
        const PageView view = view_of(image, *page);
        value = view.value(mutation.below(view.size()));
    }
    if (mutation.below(2) == 0) mutation.damage(value, false);
    value.resize(std::min<std::size_t>(value.size(), kImagePageBytes));
    return value;
}

void append_operation(const std::string& image, blobstore::LogRecord& record, Mutation& mutation) {
    const blobstore::Run run{blobstore::BlockIndex{mutation.below(kImageBytes / kBlock + 8)},
                             1 + mutation.below(64)};
    switch (mutation.below(7)) {
        case 0:
        case 1:
            return record.put(choose_key(image, mutation), choose_value(image, mutation));
        case 2:
            return record.erase(choose_key(image, mutation));
        case 3:
            return record.allocate(run);
        case 4:
            return record.free(run);
        case 5:
            return record.data(run.byte_offset() + mutation.below(8) * blobstore::kLogDataUnit,
                               std::string((1 + mutation.below(20)) * blobstore::kLogDataUnit, 'd'));
        default:
            return record.next_blob_id(BlobId{mutation.below(~std::uint64_t{0})});
    }
}

}  // namespace

void damage_superblock(std::string& image, Mutation& mutation) {
    // The same damage in both, where it is not of one slot alone.
    std::string part =
        image.substr(blobstore::kSuperblockBlocks[0] * kBlock, offsetof(Superblock, reserved) + 8);
    const std::string before = part;
    mutation.damage(part, true);
    const bool both = mutation.below(2) == 0;
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
        for (std::size_t i = 0; i < part.size(); ++i) {
            if (part[i] != before[i]) image[block * kBlock + i] = part[i];
        }
        if (!both) break;
    }
    seal_slots(image);
}

void damage_tree_page(std::string& image, Mutation& mutation) {
    damage_page(image, superblock_of(image).tree_root, mutation);
}

void damage_map_page(std::string& image, Mutation& mutation) {
    damage_page(image, superblock_of(image).map_root, mutation);
}

void damage_value(std::string& image, Mutation& mutation) {
    const auto pages = pages_below(image, superblock_of(image).tree_root);
    const PlacedPage* page = choose_page(image, pages, true, mutation);
    if (page == nullptr) return;
    const PageView view = view_of(image, *page);
    const std::size_t entry = mutation.below(view.size());
    const std::string_view bytes = mutation.below(4) == 0 ? view.key(entry) : view.value(entry);
    if (bytes.empty()) return;
    damage_part(image, static_cast<std::uint64_t>(bytes.data() - image.data()), bytes.size(),
                mutation);
    seal_up(image, *page);
}

void damage_pointer(std::string& image, Mutation& mutation) {
    const Superblock superblock = superblock_of(image);
    const auto pages = pages_below(image, superblock.tree_root);
    const PlacedPage* page = choose_page(image, pages, false, mutation);
    if (page == nullptr) return;
    const auto map_pages = pages_below(image, superblock.map_root);
    const auto& others = mutation.below(8) == 0 && !map_pages.empty() ? map_pages : pages;
    const PageView view = view_of(image, *page);
    const auto child = view.value(mutation.below(view.size()));
    const PagePointer& other = others[mutation.below(others.size())].pointer;
    std::memcpy(image.data() + (child.data() - image.data()), &other, sizeof(other));
    seal_up(image, *page);
}

void damage_log(std::string& image, Mutation& mutation) {
    const std::vector<std::uint64_t> batches = batches_of(image, superblock_of(image));
    if (batches.empty()) return;
    const std::uint64_t offset = batches[mutation.below(batches.size())];
    const auto bytes_at = [&] {
        const std::size_t payload = at<LogBatchHeader>(image, offset).payload_bytes;
        return std::min<std::size_t>(std::min(payload, kMostBatchBytes),
                                     image.size() - offset - sizeof(LogBatchHeader));
    };
    if (mutation.below(4) == 0) {
        damage_part(image, offset, sizeof(LogBatchHeader), mutation);
    } else {
        damage_part(image, offset + sizeof(LogBatchHeader), bytes_at(), mutation);
    }
    seal(image, offset, sizeof(LogBatchHeader) + bytes_at());
}

void append_log_batch(std::string& image, Mutation& mutation) {
    const Superblock superblock = superblock_of(image);
    LogBatchHeader header{.magic = blobstore::kLogMagic,
                          .blocks = 0,
                          .data_batches = static_cast<std::uint16_t>(mutation.below(4)),
                          .checksum = 0,
                          .uuid = superblock.uuid,
                          .epoch = superblock.epoch,
                          .batch = superblock.log_batch,
                          .first_transaction = superblock.transaction + 1,
                          .transactions = 0,
                          .payload_bytes = 0};
    std::uint64_t block = superblock.log_position;
    for (const std::uint64_t offset : batches_of(image, superblock)) {
        const auto last = at<LogBatchHeader>(image, offset);
        if (last.batch < header.batch) continue;
        header.batch = last.batch + 1;
        header.first_transaction = last.first_transaction + last.transactions;
        block = offset / kBlock - superblock.log_start + last.blocks;
    }
    std::string payload;
    do {
        blobstore::LogRecord record;
        do {
            append_operation(image, record, mutation);
        } while (mutation.below(4) != 0 && payload.size() + record.bytes() < kMostBatchBytes / 2);
        payload += record.finish();
        ++header.transactions;
    } while (mutation.below(3) == 1 && payload.size() < kMostBatchBytes / 2);
    header.payload_bytes = static_cast<std::uint32_t>(payload.size());
    header.blocks = static_cast<std::uint16_t>(
        blobstore::round_up(sizeof(header) + payload.size(), kBlock) / kBlock);
    if (block >= superblock.log_blocks || superblock.log_blocks - block < header.blocks) return;
    const std::uint64_t offset = (superblock.log_start + block) * kBlock;
    if (superblock.log_start > kImageBytes || offset > image.size() - header.blocks * kBlock)
        return;
    std::memcpy(image.data() + offset, &header, sizeof(header));
    std::memcpy(image.data() + offset + sizeof(header), payload.data(), payload.size());
    seal(image, offset, sizeof(header) + payload.size());
}

}  // namespace blobfs::fuzz
