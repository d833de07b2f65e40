#pragma once

// A root that stays whole on the device while the store goes on: what a check reads that runs
// beside everything else. The store's thread makes it; another thread may read by it.

#include <atomic>
#include <memory>

#include "blobstore/superblock.h"

namespace blobfs::blobstore {

struct PinnedRoot {
    SuperblockSlots slots;    // as they were read just after the root was written
    Superblock superblock{};  // of the root
    // The state of the filesystem is what the root says (a checkpoint made just then), and the
    // log is not to be looked at; or, of a store that is only read, the root and the log.
    bool without_log = false;
    // False as soon as the store needs the space of superseded pages, or is closed: what is read
    // of the device after that proves nothing.
    std::shared_ptr<const std::atomic<bool>> valid;
};

}  // namespace blobfs::blobstore
