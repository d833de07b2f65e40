#include "fs/symlink.h"

#include "fs/directory.h"
#include "fs/filesystem_state.h"

namespace blobfs::fs {

void put_target(blobstore::Transaction& transaction, InodeNumber inode, std::string_view target) {
    for (std::size_t at = 0; at < target.size(); at += kTargetRecordBytes) {
        transaction.put_record(to_blob(inode), big_endian_key(at),
                               target.substr(at, kTargetRecordBytes));
    }
}

Result<std::string> read_target(driver::Suspend& suspend, blobstore::Blobstore& store,
                                const Inode& inode) {
    const std::size_t bytes = inode.block.target_bytes;
    if (target_is_inline(bytes)) {
        return inode.inline_target;
    }
    std::string target;
    bool sound = true;
    TRY(store.scan_records(suspend, to_blob(inode.number), {},
                           [&](std::string_view key, std::string_view part) {
                               sound = key == big_endian_key(target.size()) && !part.empty() &&
                                       part.size() <= bytes - target.size();
                               if (!sound) {
                                   return false;
                               }
                               target += part;
                               return true;
                           }));
    if (!sound || target.size() != bytes || target.find('\0') != std::string::npos) {
        return fail(Errc::kCorrupt, "reading a symbolic link: its target is damaged",
                    value(inode.number));
    }
    return target;
}

Result<std::string> Filesystem::readlink(Suspend& suspend, InodeNumber number) {
    TRY_ASSIGN(const LockedInode inode, state_->table.lock_shared(suspend, number));
    if (!is_symlink(inode->block)) {
        return fail(Errc::kInvalidArgument, "reading a link that is not one", value(number));
    }
    TRY_ASSIGN(std::string target, read_target(suspend, *state_->store, *inode));
    state_->note_access(*inode);
    return target;
}

}  // namespace blobfs::fs
