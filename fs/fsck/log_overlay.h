#pragma once

// What the log changes about the roots of a superblock, without changing anything on the device.
// Memory: a few times the log's content. Reactor thread.

#include <cstdint>

#include "blobstore/replayed_data.h"
#include "blobstore/superblock.h"
#include "fs/fsck/block_bits.h"
#include "fs/fsck/finding.h"
#include "fs/fsck/key_overlay.h"

namespace blobfs::fsck {

struct LogOverlay {
    KeyOverlay keys;
    // Blocks that the log makes used, and free. Recovery does all of the former first.
    BlockBits used, freed;
    BlockBits used_twice;  // blocks that it makes used more than once
    std::uint64_t batches = 0;
    std::uint64_t next_blob_id = 0;  // the highest that it tells
    blobstore::ReplayedData data;    // that recovery would put in its place
};

// Reads the log as recovery would; damage becomes a finding and ends it there. Errors: those of the
// device, kNoMemory. Suspends.
Result<LogOverlay> read_log(driver::Suspend& suspend, driver::Device& device,
                            const blobstore::Superblock& superblock, Findings& findings);

}  // namespace blobfs::fsck
