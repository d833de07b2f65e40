#pragma once

// Targets of symbolic links: in the attribute block when short, in records of the blob otherwise.
// FORMAT.md, "Symbolic links". The caller holds the inode's lock. Reactor thread.

#include <string>
#include <string_view>

#include "blobstore/blobstore.h"
#include "fs/inode_table.h"

namespace blobfs::fs {

// True when the target goes into the attribute block.
inline bool target_is_inline(std::size_t bytes) { return bytes <= kMaxInlineTargetBytes; }

// Adds the records of a target that is not inline to the transaction that creates the blob.
void put_target(blobstore::Transaction& transaction, InodeNumber inode, std::string_view target);

// kCorrupt when records are missing or do not make up the length. May suspend.
Result<std::string> read_target(driver::Suspend& suspend, blobstore::Blobstore& store,
                                const Inode& inode);

}  // namespace blobfs::fs
