#include "fs/inode_changes.h"

#include "driver/base/check.h"

namespace blobfs::fs {

InodeBlock& InodeChanges::edit(Inode& inode) {
    for (Change& change : changes_) {
        if (change.inode == &inode) {
            return change.block;
        }
    }
    // References into the vector stay valid as it never grows beyond its inline capacity.
    CHECK(changes_.size() < kMaxInodes && inode.loaded);
    return changes_.emplace_back(Change{.inode = &inode, .block = inode.block}).block;
}

Result<void> InodeChanges::commit(Suspend& suspend) {
    for (const Change& change : changes_) {
        transaction_.set_attribute_block(to_blob(change.inode->number),
                                         encode_inode(change.block, change.inode->inline_target));
    }
    TRY(store_.commit(suspend, transaction_));
    for (const Change& change : changes_) {
        change.inode->block = change.block;
        table_.set_clean(*change.inode);
    }
    return {};
}

}  // namespace blobfs::fs
