#include "fs/privileges.h"

namespace blobfs::fs {

Result<bool> has_privileges(driver::Suspend& suspend, blobstore::Blobstore& store,
                            const Inode& inode) {
    if (without_set_id(inode.block.mode) != inode.block.mode) {
        return true;
    }
    if ((inode.block.flags & kInodeHasXattrs) == 0) {
        return false;
    }
    const auto capability = store.xattr(suspend, to_blob(inode.number), kCapabilityName);
    if (!capability && capability.error().code != Errc::kNoAttribute) {
        return fail(capability.error());
    }
    return capability.has_value();
}

Result<void> kill_privileges(driver::Suspend& suspend, blobstore::Blobstore& store,
                             const Inode& inode, InodeBlock& block,
                             blobstore::Transaction& transaction) {
    block.mode = without_set_id(block.mode);
    if ((block.flags & kInodeHasXattrs) == 0) {
        return {};
    }
    const auto removed =
        store.remove_xattr(suspend, to_blob(inode.number), kCapabilityName, transaction);
    if (!removed && removed.error().code != Errc::kNoAttribute) {
        return fail(removed.error());
    }
    return {};
}

}  // namespace blobfs::fs
