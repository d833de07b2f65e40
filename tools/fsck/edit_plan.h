#pragma once

// From findings that are to be repaired to the keys of the store as they shall be: changes of the
// same inode come together, what has no name gets one in lost+found. Changes nothing. Reactor
// thread.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fs/fsck/image_check.h"

namespace blobfs::fsck {

struct EditPlan {
    KeyOverlay keys;
    std::vector<std::string> copies;     // keys of extents that get blocks of their own
    std::vector<blobstore::Run> leaked;  // runs to be freed
    std::uint64_t new_blob = 0;          // lost+found, when it is made; 0: it is not
};

// kNoSpace when lost+found takes no more names of one hash; errors of the device. Suspends.
Result<EditPlan> plan_edits(driver::Suspend& suspend, ImageCheck& check,
                            std::span<const Finding* const> accepted);

}  // namespace blobfs::fsck
