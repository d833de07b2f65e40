#pragma once

// Searches a device for leaves of the tree that nothing points to any more, or whose way from the
// root is lost. Reactor thread.

#include "fs/fsck/image_check.h"

namespace blobfs::fsck {

// The entries of the lost parts of the tree that are found in pages on the device: of each key what
// the newest page says whose keys lie around it. Older pages may name what was removed since.
// Reads all of the device but what is known to be data. Memory: of what is found. Errors:
// kNoMemory; what cannot be read is passed over. Suspends.
Result<KeyOverlay> search_leaves(driver::Suspend& suspend, driver::Device& device,
                                 const ImageCheck& check, Progress progress);

}  // namespace blobfs::fsck
