#pragma once

// One transaction over attributes of several inodes (and whatever else is put into it): new
// attribute blocks are prepared aside, committed in one step, and only then shown in the inodes.
// Belongs to one operation. Reactor thread.

#include <absl/container/inlined_vector.h>

#include "blobstore/blobstore.h"
#include "fs/inode_table.h"

namespace blobfs::fs {

class InodeChanges {
  public:
    InodeChanges(blobstore::Blobstore& store, InodeTable& table) : store_(store), table_(table) {}

    // For records, data, xattrs and orphans of the same transaction.
    [[nodiscard]] blobstore::Transaction& transaction() { return transaction_; }
    // The block to change; the same one when asked again. REQUIRES that the inode is locked
    // exclusively until commit() returned. At most four inodes.
    InodeBlock& edit(Inode& inode);
    // All or nothing. Suspends.
    Result<void> commit(Suspend& suspend);

  private:
    struct Change {
        Inode* inode;
        InodeBlock block;
    };
    static constexpr std::size_t kMaxInodes = 4;
    blobstore::Blobstore& store_;
    InodeTable& table_;
    blobstore::Transaction transaction_;
    absl::InlinedVector<Change, kMaxInodes> changes_;
};

}  // namespace blobfs::fs
