#pragma once

// The copy of the superblock, when both slots are lost. Reactor thread.

#include <absl/functional/function_ref.h>

#include <cstdint>

#include "blobstore/superblock.h"

namespace blobfs::fsck {

// Where mkfs puts it: at the end of the device. kNotFound. Suspends.
Result<blobstore::Superblock> superblock_copy_at_end(driver::Suspend& suspend,
                                                     driver::Device& device);

// Anywhere: reads the whole device, from its end; of several the one that was written last. What
// cannot be read is passed over. kNotFound, kNoMemory. Suspends.
Result<blobstore::Superblock> search_superblock_copy(
    driver::Suspend& suspend, driver::Device& device,
    absl::FunctionRef<void(std::uint64_t done, std::uint64_t total)> progress);

}  // namespace blobfs::fsck
