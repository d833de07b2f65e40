#include "tools/fsck/superblock_search.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "driver/memory/dma_buffer.h"

namespace blobfs::fsck {

using blobstore::kBlockBytes;
using blobstore::Superblock;
using driver::Device;
using driver::Suspend;

namespace {

constexpr std::uint64_t kStepBlocks = 256;
constexpr const char* kLooking = "looking for a copy of the superblock";

}  // namespace

Result<Superblock> superblock_copy_at_end(Suspend& suspend, Device& device) {
    const std::uint64_t blocks = device.properties().bytes / kBlockBytes;
    if (blocks == 0) return fail(Errc::kNotFound, kLooking);
    auto copy = blobstore::read_superblock_copy(suspend, device, blocks - 1);
    if (!copy) return fail(Errc::kNotFound, kLooking);
    return copy;
}

Result<Superblock> search_superblock_copy(
    Suspend& suspend, Device& device,
    absl::FunctionRef<void(std::uint64_t done, std::uint64_t total)> progress) {
    TRY_ASSIGN(const driver::DmaBuffer buffer,
               driver::DmaBuffer::allocate(kStepBlocks * kBlockBytes));
    std::optional<Superblock> newest;
    const auto look_at = [&](std::uint64_t block, driver::ConstDmaSpan bytes) {
        std::uint64_t magic = 0;
        std::memcpy(&magic, bytes.data(), sizeof(magic));
        if (magic != blobstore::kSuperblockMagic) return;
        const auto copy = blobstore::decode_superblock_copy(bytes, block);
        if (copy && (!newest || copy->written_us > newest->written_us)) newest = *copy;
    };
    const std::uint64_t blocks = device.properties().bytes / kBlockBytes;
    for (std::uint64_t end = blocks; end > 0;) {
        const std::uint64_t first = end - std::min(end, kStepBlocks);
        const auto bytes = buffer.span().first((end - first) * kBlockBytes);
        const bool all = device.read(suspend, first * kBlockBytes, bytes).has_value();
        for (std::uint64_t block = first; block < end; ++block) {
            const auto one = bytes.subspan((block - first) * kBlockBytes, kBlockBytes);
            if (all || device.read(suspend, block * kBlockBytes, one)) look_at(block, one);
        }
        progress(blocks - first, blocks);
        end = first;
    }
    if (!newest) return fail(Errc::kNotFound, kLooking);
    return *newest;
}

}  // namespace blobfs::fsck
