#pragma once

// What running a file would give to whoever runs it: the set-id bits and security.capability. They
// go when the file's content or owner changes. Reactor thread.

#include "blobstore/blobstore.h"
#include "fs/inode_table.h"

namespace blobfs::fs {

inline constexpr std::string_view kCapabilityName = "security.capability";

// Whether it has any. May suspend, if it has extended attributes.
Result<bool> has_privileges(driver::Suspend& suspend, blobstore::Blobstore& store,
                            const Inode& inode);

// Takes them away in the block to be committed and the transaction. REQUIRES the exclusive lock.
Result<void> kill_privileges(driver::Suspend& suspend, blobstore::Blobstore& store,
                             const Inode& inode, InodeBlock& block,
                             blobstore::Transaction& transaction);

}  // namespace blobfs::fs
