// Extended attributes: namespaces, limits, and the two that are access control lists.

#include <algorithm>
#include <array>
#include <cerrno>

#include "fs/filesystem_state.h"
#include "fs/posix_acl.h"

namespace blobfs::fs {

namespace {

constexpr std::array<std::string_view, 3> kPrefixes = {"user.", "trusted.", "security."};

bool is_acl(std::string_view name) { return name == kAccessAclName || name == kDefaultAclName; }

Result<void> check_xattr_name(std::string_view name) {
    if (name.empty() || name.size() > blobstore::kMaxXattrNameBytes ||
        name.find('\0') != std::string_view::npos) {
        return fail(Errc::kRange, "naming an extended attribute");
    }
    if (is_acl(name)) {
        return {};
    }
    for (const std::string_view prefix : kPrefixes) {
        if (name.starts_with(prefix)) {
            return name.size() > prefix.size()
                       ? Result<void>()
                       : fail(Errc::kInvalidArgument, "naming an extended attribute");
        }
    }
    return fail(Errc::kNotSupported, "naming an extended attribute: unknown namespace");
}

Result<void> check_acl_owner(const Inode& inode, std::string_view name, bool removing) {
    if (is_symlink(inode.block)) {
        return fail(Errc::kNotSupported, "giving a symbolic link an access control list",
                    value(inode.number));
    }
    if (name == kDefaultAclName && !is_directory(inode.block) && !removing) {
        return fail(Errc::kAccess, "giving a file a default access control list",
                    value(inode.number));
    }
    return {};
}

Result<bool> exists(Suspend& suspend, blobstore::Blobstore& store, const Inode& inode,
                    std::string_view name) {
    if ((inode.block.flags & kInodeHasXattrs) == 0) {
        return false;
    }
    const auto present = store.xattr(suspend, to_blob(inode.number), name);
    if (!present && present.error().code != Errc::kNoAttribute) {
        return fail(present.error());
    }
    return present.has_value();
}

// Removes it in the transaction, and the flag when no other is left.
Result<void> remove_one(Suspend& suspend, blobstore::Blobstore& store, const Inode& inode,
                        std::string_view name, InodeBlock& block,
                        blobstore::Transaction& transaction) {
    TRY_ASSIGN(const auto names, store.xattr_names(suspend, to_blob(inode.number)));
    TRY(store.remove_xattr(suspend, to_blob(inode.number), name, transaction));
    if (std::all_of(names.begin(), names.end(),
                    [&](const std::string& other) { return other == name; })) {
        block.flags &= ~std::uint32_t{kInodeHasXattrs};
    }
    return {};
}

struct NewXattr {
    std::string_view name;
    std::string_view bytes;
    XattrMode mode;
    bool clear_setgid;
};

Result<void> set_one(Suspend& suspend, Filesystem::State& state, InodeNumber number,
                     const NewXattr& wanted) {
    TRY(state.require_writable());
    TRY_ASSIGN(const LockedInode inode, state.table.lock_exclusive(suspend, number));
    TRY_ASSIGN(const bool present, exists(suspend, *state.store, *inode, wanted.name));
    if (present && wanted.mode == XattrMode::kCreate) {
        return fail(Errc::kExists, "making an extended attribute", value(number));
    }
    if (!present && wanted.mode == XattrMode::kReplace) {
        return fail(Errc::kNoAttribute, "replacing an extended attribute", value(number));
    }
    InodeChanges changes(*state.store, state.table);
    InodeBlock& block = changes.edit(*inode);
    bool keep = true;
    std::string bytes(wanted.bytes);
    if (is_acl(wanted.name)) {
        TRY(check_acl_owner(*inode, wanted.name, false));
        TRY_ASSIGN(const PosixAcl acl, parse_acl(wanted.bytes));
        keep = !acl.empty();
        if (wanted.name == kAccessAclName && keep) {
            // The mode shows the list, and a list that says no more than the mode is not kept.
            block.mode = mode_by_acl(acl, block.mode);
            if (wanted.clear_setgid) {
                block.mode &= ~std::uint32_t{S_ISGID};
            }
            keep = !is_minimal(acl);
        }
        bytes = encode_acl(acl);
    }
    if (keep) {
        block.flags |= kInodeHasXattrs;
        TRY(state.store->set_xattr(suspend, to_blob(number), wanted.name, bytes,
                                   changes.transaction()));
    } else if (present) {
        TRY(remove_one(suspend, *state.store, *inode, wanted.name, block, changes.transaction()));
    }
    set_ctime(block, state.now());
    return changes.commit(suspend);
}

}  // namespace

Result<std::string> Filesystem::getxattr(Suspend& suspend, InodeNumber number,
                                         std::string_view name) {
    TRY(check_xattr_name(name));
    TRY_ASSIGN(const LockedInode inode, state_->table.lock_shared(suspend, number));
    if (is_acl(name)) {
        TRY(check_acl_owner(*inode, name, true));
    }
    if ((inode->block.flags & kInodeHasXattrs) == 0) {
        return fail(Errc::kNoAttribute, "reading an extended attribute", value(number));
    }
    return state_->store->xattr(suspend, to_blob(number), name);
}

Result<void> Filesystem::setxattr(Suspend& suspend, InodeNumber inode, std::string_view name,
                                  std::string_view bytes, XattrMode mode, bool clear_setgid) {
    TRY(check_xattr_name(name));
    if (bytes.size() > blobstore::kMaxXattrValueBytes) {
        return tl::unexpected<Error>(Error{.code = Errc::kSystem,
                                           .sys_errno = E2BIG,
                                           .address = value(inode),
                                           .what = "writing an extended attribute"});
    }
    return state_->with_space(suspend, [&] {
        return set_one(suspend, *state_, inode,
                       {.name = name, .bytes = bytes, .mode = mode, .clear_setgid = clear_setgid});
    });
}

Result<std::vector<std::string>> Filesystem::listxattr(Suspend& suspend, InodeNumber number) {
    TRY_ASSIGN(const LockedInode inode, state_->table.lock_shared(suspend, number));
    if ((inode->block.flags & kInodeHasXattrs) == 0) {
        return std::vector<std::string>();
    }
    return state_->store->xattr_names(suspend, to_blob(number));
}

Result<void> Filesystem::removexattr(Suspend& suspend, InodeNumber number, std::string_view name) {
    TRY(state_->require_writable());
    TRY(check_xattr_name(name));
    TRY_ASSIGN(const LockedInode inode, state_->table.lock_exclusive(suspend, number));
    if (is_acl(name)) {
        TRY(check_acl_owner(*inode, name, true));
    }
    TRY_ASSIGN(const bool present, exists(suspend, *state_->store, *inode, name));
    if (!present) {
        return fail(Errc::kNoAttribute, "removing an extended attribute", value(number));
    }
    InodeChanges changes(*state_->store, state_->table);
    changes.transaction().set_urgent();
    InodeBlock& block = changes.edit(*inode);
    TRY(remove_one(suspend, *state_->store, *inode, name, block, changes.transaction()));
    set_ctime(block, state_->now());
    return changes.commit(suspend);
}

}  // namespace blobfs::fs
