#pragma once

// For power cuts: an image as it is when both superblocks are lost later, and fsck.blobfs has
// written them from the copy at the end of the device.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "blobstore/superblock.h"
#include "driver/soft/sparse_image.h"

namespace blobfs::blobstore {

// False, and the image as it was, when the cut has torn the copy or it was never written: the slots
// are what there is then.
inline bool restore_superblocks_from_copy(driver::SparseImage& image, std::uint64_t device_bytes) {
    const std::uint64_t block = device_bytes / kBlockBytes - 1;
    std::vector<std::byte> bytes(sizeof(Superblock));
    image.read(block * kBlockBytes, bytes);
    // Not on the stack of a fiber.
    const std::unique_ptr<Result<Superblock>> copy(
        new Result<Superblock>(decode_superblock_copy(bytes, block)));
    if (!*copy) return false;
    Superblock& fresh = **copy;
    for (int i = 0; i < 2; ++i) {
        ++fresh.generation;
        seal(fresh);
        image.write(kSuperblockBlocks[superblock_slot(fresh.generation)] * kBlockBytes,
                    std::as_bytes(std::span(&fresh, 1)));
    }
    return true;
}

}  // namespace blobfs::blobstore
