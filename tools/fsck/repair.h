#pragma once

// Makes the repairs that were decided on: superblocks by themselves; changes of keys and blocks
// that are to be freed as transactions of an opened store, as a mount would make them; what hurts
// the tree or the map itself by writing both anew (store_rewrite.h). A crash at any time leaves the
// device as before, or partly or wholly repaired. Reactor thread.

#include <span>
#include <string>

#include "fs/fsck/image_check.h"

namespace blobfs::fsck {

// Answers what was done beside the repairs asked for, in words for people; may be empty. kNoSpace
// when there is not enough free space, errors of the device. Suspends.
Result<std::string> repair(driver::Suspend& suspend, driver::Device& device, ImageCheck& check,
                           std::span<const Finding* const> accepted, Progress progress);

// Replays the log and marks the filesystem clean, as mounting and unmounting would; files that are
// to be deleted are left to the next mount. Suspends.
Result<void> replay_log(driver::Suspend& suspend, driver::Device& device);

}  // namespace blobfs::fsck
