// Changing attributes: chmod, chown, truncate, utimensat, each alone or together, one transaction.

#include "fs/filesystem_state.h"
#include "fs/posix_acl.h"
#include "fs/privileges.h"

namespace blobfs::fs {

namespace {

Result<void> check_changes(const Inode& inode, const SetAttributes& changes) {
    const auto bad_time = [](const std::optional<Timestamp>& time) {
        return time && time->nanoseconds >= kNanosecondsPerSecond;
    };
    if (bad_time(changes.atime) || bad_time(changes.mtime) || bad_time(changes.ctime)) {
        return fail(Errc::kInvalidArgument, "setting a time", value(inode.number));
    }
    if (changes.size) {
        if (is_directory(inode.block)) {
            return fail(Errc::kIsDirectory, "setting the size of a directory", value(inode.number));
        }
        if (!is_regular(inode.block)) {
            return fail(Errc::kInvalidArgument, "setting the size of a special file",
                        value(inode.number));
        }
        if (*changes.size > kMaxFileBytes) {
            return fail(Errc::kTooLarge, "setting the size of a file", value(inode.number));
        }
    }
    return {};
}

// chmod: the access ACL, if any, takes the new bits.
Result<void> change_acl(Suspend& suspend, Filesystem::State& state, const Inode& inode,
                        std::uint32_t mode, blobstore::Transaction& transaction) {
    if ((inode.block.flags & kInodeHasXattrs) == 0) {
        return {};
    }
    const auto stored = state.store->xattr(suspend, to_blob(inode.number), kAccessAclName);
    if (!stored) {
        return stored.error().code == Errc::kNoAttribute ? Result<void>() : fail(stored.error());
    }
    auto acl = parse_acl(*stored);
    if (!acl || acl->empty()) {
        return fail(Errc::kCorrupt, "reading an access control list", value(inode.number));
    }
    chmod_acl(*acl, mode);
    return state.store->set_xattr(suspend, to_blob(inode.number), kAccessAclName, encode_acl(*acl),
                                  transaction);
}

bool only_times(const SetAttributes& wanted) {
    return !wanted.mode && !wanted.uid && !wanted.gid && !wanted.size;
}

void keep_times(Filesystem::State& state, Inode& inode, const SetAttributes& wanted) {
    if (wanted.atime) set_atime(inode.block, *wanted.atime);
    if (wanted.mtime) set_mtime(inode.block, *wanted.mtime);
    if (wanted.ctime) set_ctime(inode.block, *wanted.ctime);
    if (inode.block.nlink != 0) state.lazy_times.mark(inode);  // else nobody will look them up
}

Result<Attributes> set_attributes(Suspend& suspend, Filesystem::State& state, InodeNumber number,
                                  const SetAttributes& wanted) {
    TRY(state.require_writable());
    TRY_ASSIGN(const LockedInode inode, state.table.lock_exclusive(suspend, number));
    TRY(check_changes(*inode, wanted));
    if (wanted.lazily && only_times(wanted)) {
        keep_times(state, *inode, wanted);
        return state.attributes(suspend, *inode);
    }
    const Timestamp time = state.now();
    InodeChanges changes(*state.store, state.table);
    InodeBlock& block = changes.edit(*inode);
    bool changed = wanted.ctime.has_value();  // so that ctime moves

    if (wanted.mode) {
        block.mode = (block.mode & S_IFMT) | (*wanted.mode & 07777u);
        TRY(change_acl(suspend, state, *inode, block.mode, changes.transaction()));
        changed = true;
    }
    if (wanted.uid || wanted.gid) {
        block.uid = wanted.uid.value_or(block.uid);
        block.gid = wanted.gid.value_or(block.gid);
        if (!is_directory(block)) {
            TRY(kill_privileges(suspend, *state.store, *inode, block, changes.transaction()));
        }
        changed = true;
    }
    if (wanted.size) {
        TRY(state.table.load_space(suspend, *inode));
        TRY(state.store->truncate(suspend, to_blob(number), *wanted.size, changes.transaction()));
        if (*wanted.size <= inode->size) {
            changes.transaction().set_urgent();  // gives space back on a full device
        }
        if (wanted.kill_privileges) {
            TRY_ASSIGN(const bool privileged, has_privileges(suspend, *state.store, *inode));
            if (privileged) {
                TRY(kill_privileges(suspend, *state.store, *inode, block, changes.transaction()));
                changed = true;
            }
        }
        // truncate(2) to the size that it has moves no times, ftruncate(2) brings them along.
        if (*wanted.size != inode->size) {
            set_mtime(block, time);
            changed = true;
        }
    }
    if (wanted.atime || wanted.atime_now) {
        set_atime(block, wanted.atime_now ? time : *wanted.atime);
        changed = true;
    }
    if (wanted.mtime || wanted.mtime_now) {
        set_mtime(block, wanted.mtime_now ? time : *wanted.mtime);
        changed = true;
    }
    if (changed) {
        set_ctime(block, wanted.ctime.value_or(time));
    } else if (!wanted.size) {
        return state.attributes(suspend, *inode);
    }
    const auto committed = changes.commit(suspend);
    if (wanted.size) {
        inode->invalidate_space();
    }
    TRY(committed);
    if (wanted.size && inode->block.nlink == 0) {
        // The store's list has one place for each blob, and cutting off many extents took it.
        blobstore::Transaction transaction;
        transaction.add_orphan(to_blob(number));
        transaction.set_urgent();
        TRY(state.store->commit(suspend, transaction));
    }
    return state.attributes(suspend, *inode);
}

}  // namespace

Result<Attributes> Filesystem::setattr(Suspend& suspend, const Caller&, InodeNumber inode,
                                       const SetAttributes& changes) {
    return state_->with_space(suspend,
                              [&] { return set_attributes(suspend, *state_, inode, changes); });
}

}  // namespace blobfs::fs
