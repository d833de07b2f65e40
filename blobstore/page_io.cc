#include "blobstore/page_io.h"

#define XXH_INLINE_ALL
#include <spdlog/spdlog.h>
#include <xxhash.h>

#include <cstddef>
#include <cstring>

#include "driver/base/check.h"

namespace blobfs::blobstore {

namespace {

// XXH3-64 of the page as if its checksum field were zero.
std::uint64_t checksum_of(driver::ConstDmaSpan page) {
    PageHeader header;
    std::memcpy(&header, page.data(), sizeof(header));
    header.checksum = 0;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, &header, sizeof(header));
    XXH3_64bits_update(&state, page.data() + sizeof(header), page.size() - sizeof(header));
    return XXH3_64bits_digest(&state);
}

}  // namespace

Result<void> PageIo::read(Suspend& suspend, const PagePointer& pointer, DmaSpan into) {
    CHECK(into.size() == geometry_.page_bytes);
    const std::uint64_t block_count = geometry_.block_count;
    const std::uint64_t offset = pointer.block * kBlockBytes;
    if (pointer.block < kLogStartBlock || pointer.block >= block_count ||
        block_count - pointer.block < blocks_per_page()) {
        return fail(Errc::kCorrupt, "metadata page: address out of bounds", offset);
    }
    TRY(device_.read(suspend, offset, into));
    return verify(pointer, into);
}

void PageIo::report(const Error& error) {
    constexpr std::size_t kMostReports = 1000;
    if (error.code != Errc::kCorrupt || reported_.size() >= kMostReports) return;
    if (!reported_.insert(error.address).second) return;
    spdlog::error("{}: {}: what needs it fails; unmount and run fsck.blobfs",
                  device_.properties().name, error.message());
}

Result<void> PageIo::verify(const PagePointer& pointer, ConstDmaSpan page) const {
    TRY_ASSIGN(const PagePointer found, identify(BlockIndex{pointer.block}, page));
    if (found != pointer) {
        return fail(Errc::kCorrupt, "metadata page: not the version that is wanted",
                    pointer.block * kBlockBytes);
    }
    return {};
}

Result<PagePointer> PageIo::identify(BlockIndex block, ConstDmaSpan page) const {
    CHECK(page.size() == geometry_.page_bytes);
    const std::uint64_t offset = value(block) * kBlockBytes;
    PageHeader header;
    std::memcpy(&header, page.data(), sizeof(header));
    if (header.magic != kPageMagic) return fail(Errc::kCorrupt, "metadata page: magic", offset);
    if (header.uuid != geometry_.uuid) {
        return fail(Errc::kCorrupt, "metadata page: of another filesystem", offset);
    }
    if (header.checksum != checksum_of(page)) {
        return fail(Errc::kCorrupt, "metadata page: checksum", offset);
    }
    if (header.block != value(block)) {
        return fail(Errc::kCorrupt, "metadata page: written for another place", offset);
    }
    return PagePointer{
        .block = header.block, .generation = header.generation, .checksum = header.checksum};
}

PagePointer PageIo::seal(DmaSpan page, BlockIndex block, Generation generation) const {
    CHECK(page.size() == geometry_.page_bytes);
    PageHeader header;
    std::memcpy(&header, page.data(), sizeof(header));
    header.magic = kPageMagic;
    header.block = value(block);
    header.generation = value(generation);
    header.uuid = geometry_.uuid;
    std::memcpy(page.data(), &header, sizeof(header));
    header.checksum = checksum_of(page);
    std::memcpy(page.data() + offsetof(PageHeader, checksum), &header.checksum,
                sizeof(header.checksum));
    return {.block = value(block), .generation = value(generation), .checksum = header.checksum};
}

}  // namespace blobfs::blobstore
