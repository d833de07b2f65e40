#pragma once

// Visits the allocation map of a device, whatever bytes are there (blobstore/FORMAT.md, "Allocation
// map pages"). Reactor thread.

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <span>

#include "blobstore/superblock.h"
#include "fs/fsck/page_reader.h"

namespace blobfs::fsck {

struct MapVisitor {
    // A pointer before its page is read; false: the page is left out, without further word.
    absl::FunctionRef<bool(const blobstore::PagePointer& pointer)> enter;
    // The used bits of the blocks from 64 * first_word on.
    absl::FunctionRef<void(std::uint64_t first_word, std::span<const std::uint64_t> words)> bitmap;
    // Nothing of these blocks is used: there is no page for them.
    absl::FunctionRef<void(const blobstore::Run& run)> unused;
    // A page that cannot be read or is not what it must be; its blocks are not known.
    absl::FunctionRef<void(const blobstore::PagePointer& pointer, const Error& error)> damaged;
    // A page whose count of free blocks is not the one above it.
    absl::FunctionRef<void(const blobstore::PagePointer& pointer, std::uint64_t above,
                           std::uint64_t counted)>
        miscounted;
};

// Errors are those of the reader's pace. Suspends.
Result<void> walk_map(driver::Suspend& suspend, PageReader& reader,
                      const blobstore::Superblock& superblock, const MapVisitor& visitor);

}  // namespace blobfs::fsck
