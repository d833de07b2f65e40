// Making inodes and giving them names: mknod, mkdir, symlink, create, tmpfile, link.

#include "fs/filesystem_state.h"
#include "fs/posix_acl.h"
#include "fs/symlink.h"

namespace blobfs::fs {

namespace {

struct NewInode {
    std::uint32_t mode = 0;  // with type, not yet masked
    std::uint64_t rdev = 0;
    std::string_view target;  // of a symbolic link
};

// What a new inode takes from its directory: group, setgid, access control lists.
struct Inheritance {
    std::uint32_t mode = 0;
    std::uint32_t gid = 0;
    std::string access_acl;   // empty: none
    std::string default_acl;  // empty: none
};

Result<Inheritance> inherit(Suspend& suspend, Filesystem::State& state, const Caller& caller,
                            const Inode& directory, std::uint32_t mode) {
    Inheritance result{.mode = mode, .gid = caller.gid, .access_acl = {}, .default_acl = {}};
    if ((directory.block.mode & S_ISGID) != 0) {
        result.gid = directory.block.gid;
        if (S_ISDIR(mode)) {
            result.mode |= S_ISGID;
        } else if (caller.uid != 0 && caller.gid != result.gid &&
                   caller.supplementary_gid != result.gid && (mode & S_IXGRP) != 0) {
            // Nobody makes a program that runs with the rights of a group that is not theirs.
            result.mode &= ~std::uint32_t{S_ISGID};
        }
    }
    if (S_ISLNK(mode)) {
        return result;
    }
    Result<std::string> stored = std::string();
    if ((directory.block.flags & kInodeHasXattrs) != 0) {
        stored = state.store->xattr(suspend, to_blob(directory.number), kDefaultAclName);
        if (!stored && stored.error().code == Errc::kNoAttribute) {
            stored = std::string();
        }
        TRY(stored);
    }
    auto acl = parse_acl(*stored);
    if (!acl) {
        return fail(Errc::kCorrupt, "reading the default access control list of a directory",
                    value(directory.number));
    }
    if (acl->empty()) {
        result.mode &= ~(caller.umask & 0777u);
        return result;
    }
    if (S_ISDIR(mode)) {
        result.default_acl = *stored;
    }
    inherit_acl(*acl, result.mode);
    if (!is_minimal(*acl)) {
        result.access_acl = encode_acl(*acl);
    }
    return result;
}

// Fills the block of a new inode and puts all but its name into the transaction. Suspends.
Result<InodeBlock> put_inode(Suspend& suspend, Filesystem::State& state, const Caller& caller,
                             const Inode& directory, InodeNumber number, const NewInode& wanted,
                             std::uint32_t nlink, std::uint32_t flags,
                             blobstore::Transaction& transaction) {
    TRY_ASSIGN(const Inheritance inherited,
               inherit(suspend, state, caller, directory, wanted.mode));
    InodeBlock block = make_inode_block(inherited.mode, state.now());
    block.uid = caller.uid;
    block.gid = inherited.gid;
    block.nlink = nlink;
    block.rdev = wanted.rdev;
    block.flags = flags;
    block.target_bytes = static_cast<std::uint16_t>(wanted.target.size());
    if (is_directory(block)) {
        block.parent = value(directory.number);
    }
    const auto put_acl = [&](std::string_view name, const std::string& acl) -> Result<void> {
        if (acl.empty()) {
            return {};
        }
        block.flags |= kInodeHasXattrs;
        return state.store->set_xattr(suspend, to_blob(number), name, acl, transaction);
    };
    TRY(put_acl(kAccessAclName, inherited.access_acl));
    TRY(put_acl(kDefaultAclName, inherited.default_acl));
    const bool inline_target = target_is_inline(wanted.target.size());
    transaction.create_blob(to_blob(number),
                            encode_inode(block, inline_target ? wanted.target : ""));
    if (!inline_target) {
        put_target(transaction, number, wanted.target);
    }
    return block;
}

InodePin show_inode(Filesystem::State& state, InodeNumber number, const InodeBlock& block,
                    std::string_view target) {
    return state.table.insert(number, block,
                              std::string(target_is_inline(target.size()) ? target : ""));
}

// The directory's side of a new name.
void add_entry(InodeBlock& directory, std::string_view name, bool names_directory, Timestamp now) {
    ++directory.entries;
    directory.name_bytes += name.size();
    if (names_directory) {
        ++directory.nlink;
    }
    set_modified(directory, now);
}

// An inode with a name, in one transaction. When the name exists: kExists, or with `existing` what
// it names.
Result<Attributes> make_named(Suspend& suspend, Filesystem::State& state, const Caller& caller,
                              InodeNumber parent, std::string_view name, const NewInode& wanted,
                              bool existing = false) {
    TRY_ASSIGN(const LockedInode directory, state.lock_directory_exclusive(suspend, parent));
    TRY(check_name(name));
    TRY_ASSIGN(const EntrySlot slot, state.directory().find(suspend, parent, name));
    if (slot.exists) {
        if (!existing) {
            return fail(Errc::kExists, "making a name that exists", value(parent));
        }
        TRY_ASSIGN(InodePin pin, state.child(suspend, *directory, slot.inode, slot.type));
        TRY_ASSIGN(const LockedInode found, LockedInode::shared(suspend, std::move(pin)));
        return state.referenced_attributes(suspend, *found);
    }
    if (slot.full) {
        return fail(Errc::kNoSpace, "making a name: too many names of the same hash",
                    value(parent));
    }
    const bool is_directory = S_ISDIR(wanted.mode);
    if (is_directory && directory->block.nlink >= kMaxLinks) {
        return fail(Errc::kTooManyLinks, "making a directory", value(parent));
    }
    const InodeNumber number = to_inode(state.store->allocate_id());
    InodeChanges changes(*state.store, state.table);
    TRY_ASSIGN(const InodeBlock block, put_inode(suspend, state, caller, *directory, number, wanted,
                                                 is_directory ? 2 : 1, 0, changes.transaction()));
    Directory::put(changes.transaction(), parent, slot.key, name, number, block.mode);
    add_entry(changes.edit(*directory), name, is_directory, ctime_of(block));
    TRY(changes.commit(suspend));
    const InodePin pin = show_inode(state, number, block, wanted.target);
    return state.referenced_attributes(suspend, *pin);
}

}  // namespace

Result<Attributes> Filesystem::mknod(Suspend& suspend, const Caller& caller, InodeNumber parent,
                                     std::string_view name, std::uint32_t mode,
                                     std::uint64_t rdev) {
    if ((mode & S_IFMT) == 0) {
        mode |= S_IFREG;
    }
    if (!valid_mode(mode) || S_ISDIR(mode) || S_ISLNK(mode)) {
        return fail(Errc::kInvalidArgument, "making a special file of this type", value(parent));
    }
    const bool device = S_ISCHR(mode) || S_ISBLK(mode);
    return state_->with_space(suspend, [&] {
        return make_named(suspend, *state_, caller, parent, name,
                          {.mode = mode, .rdev = device ? rdev : 0, .target = {}});
    });
}

Result<Attributes> Filesystem::mkdir(Suspend& suspend, const Caller& caller, InodeNumber parent,
                                     std::string_view name, std::uint32_t mode) {
    return state_->with_space(suspend, [&] {
        return make_named(suspend, *state_, caller, parent, name,
                          {.mode = S_IFDIR | (mode & 07777u), .rdev = 0, .target = {}});
    });
}

Result<Attributes> Filesystem::symlink(Suspend& suspend, const Caller& caller, InodeNumber parent,
                                       std::string_view name, std::string_view target) {
    if (target.empty()) {
        return fail(Errc::kNotFound, "making a symbolic link to nothing", value(parent));
    }
    if (target.size() > kMaxSymlinkBytes) {
        return fail(Errc::kTooLong, "making a symbolic link", value(parent));
    }
    if (target.find('\0') != std::string_view::npos) {
        return fail(Errc::kInvalidArgument, "making a symbolic link", value(parent));
    }
    return state_->with_space(suspend, [&] {
        return make_named(suspend, *state_, caller, parent, name,
                          {.mode = S_IFLNK | 0777u, .rdev = 0, .target = target});
    });
}

Result<Attributes> Filesystem::create(Suspend& suspend, const Caller& caller, InodeNumber parent,
                                      std::string_view name, std::uint32_t mode, bool exclusive) {
    return state_->with_space(suspend, [&] {
        return make_named(suspend, *state_, caller, parent, name,
                          {.mode = S_IFREG | (mode & 07777u), .rdev = 0, .target = {}}, !exclusive);
    });
}

Result<Attributes> Filesystem::tmpfile(Suspend& suspend, const Caller& caller, InodeNumber parent,
                                       std::uint32_t mode) {
    return state_->with_space(suspend, [&]() -> Result<Attributes> {
        TRY(state_->require_writable());
        TRY_ASSIGN(const LockedInode directory, state_->lock_directory_shared(suspend, parent));
        if (directory->block.nlink == 0) {
            return fail(Errc::kNotFound, "making a file in a directory that was removed",
                        value(parent));
        }
        const InodeNumber number = to_inode(state_->store->allocate_id());
        blobstore::Transaction transaction;
        TRY_ASSIGN(const InodeBlock block,
                   put_inode(suspend, *state_, caller, *directory, number,
                             {.mode = S_IFREG | (mode & 07777u), .rdev = 0, .target = {}}, 0,
                             kInodeTemporary, transaction));
        transaction.add_orphan(to_blob(number));
        TRY(state_->store->commit(suspend, transaction));
        const InodePin pin = show_inode(*state_, number, block, {});
        TRY_ASSIGN(const Attributes answer, state_->referenced_attributes(suspend, *pin));
        state_->reaper.add(number);
        return answer;
    });
}

Result<Attributes> Filesystem::link(Suspend& suspend, InodeNumber number, InodeNumber parent,
                                    std::string_view name) {
    return state_->with_space(suspend, [&]() -> Result<Attributes> {
        TRY_ASSIGN(const LockedInode directory, state_->lock_directory_exclusive(suspend, parent));
        TRY(check_name(name));
        // A directory must not be locked here: it could be above this one.
        TRY_ASSIGN(InodePin pin, state_->table.get(suspend, number));
        if (is_directory(pin->block)) {
            return fail(Errc::kPermission, "linking a directory", value(number));
        }
        TRY_ASSIGN(const EntrySlot slot, state_->directory().find(suspend, parent, name));
        if (slot.exists) {
            return fail(Errc::kExists, "making a name that exists", value(parent));
        }
        if (slot.full) {
            return fail(Errc::kNoSpace, "making a name: too many names of the same hash",
                        value(parent));
        }
        TRY_ASSIGN(const LockedInode inode, LockedInode::exclusive(suspend, std::move(pin)));
        const bool temporary = (inode->block.flags & kInodeTemporary) != 0;
        if (inode->block.nlink == 0 && !temporary) {
            return fail(Errc::kNotFound, "linking a file that was removed", value(number));
        }
        if (inode->block.nlink >= kMaxLinks) {
            return fail(Errc::kTooManyLinks, "linking a file", value(number));
        }
        const Timestamp time = state_->now();
        InodeChanges changes(*state_->store, state_->table);
        InodeBlock& block = changes.edit(*inode);
        ++block.nlink;
        block.flags &= ~std::uint32_t{kInodeTemporary};
        set_ctime(block, time);
        if (temporary) {
            changes.transaction().remove_orphan(to_blob(number));
        }
        Directory::put(changes.transaction(), parent, slot.key, name, number, block.mode);
        add_entry(changes.edit(*directory), name, false, time);
        TRY(changes.commit(suspend));
        state_->reaper.remove(number);
        return state_->referenced_attributes(suspend, *inode);
    });
}

}  // namespace blobfs::fs
