#pragma once

// Writes the tree and the allocation map of a device anew, from what a check has found to be left
// of them, with edits: into blocks that nobody uses, then one superblock, then the other. Until the
// first of the two is durable the device is as it was; after it, it is repaired. Reactor thread.

#include <cstdint>

#include "fs/fsck/image_check.h"
#include "tools/fsck/edit_plan.h"

namespace blobfs::fsck {

struct RewriteReport {
    std::uint64_t pages = 0;          // written
    std::uint64_t found_entries = 0;  // that were in lost pages and were found again
    std::uint64_t copied_blocks = 0;
    // What the new map shows used so that the old roots stayed whole until the end, and what was
    // used by nobody: to be freed.
    std::vector<blobstore::Run> left_over;
};

// A device that is larger than the filesystem is used whole when there is not enough free space for a
// second tree. kNoSpace when that does not help; then, and after any other error, nothing has
// changed. Suspends.
Result<RewriteReport> rewrite_store(driver::Suspend& suspend, driver::Device& device,
                                    ImageCheck& check, const EditPlan& plan, Progress progress);

}  // namespace blobfs::fsck
