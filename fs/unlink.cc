// Taking names away: unlink and rmdir.

#include <algorithm>

#include "fs/filesystem_state.h"

namespace blobfs::fs {

namespace {

// The entry of this name, or kNotFound.
Result<EntrySlot> find_entry(Suspend& suspend, Filesystem::State& state, InodeNumber parent,
                             std::string_view name) {
    TRY(check_name(name));
    TRY_ASSIGN(const EntrySlot slot, state.directory().find(suspend, parent, name));
    if (!slot.exists) {
        return fail(Errc::kNotFound, "removing a name", value(parent));
    }
    return slot;
}

Result<LockedInode> lock_entry(Suspend& suspend, Filesystem::State& state, const Inode& directory,
                               const EntrySlot& slot) {
    TRY_ASSIGN(InodePin pin, state.child(suspend, directory, slot.inode, slot.type));
    return LockedInode::exclusive(suspend, std::move(pin));
}

// The directory's side of a name that goes. A damaged count stops at zero.
void remove_entry(InodeBlock& directory, std::string_view name, bool names_directory,
                  Timestamp now) {
    directory.entries -= directory.entries != 0 ? 1u : 0u;
    directory.name_bytes -= std::min<std::uint64_t>(directory.name_bytes, name.size());
    if (names_directory && directory.nlink > 2) {
        --directory.nlink;
    }
    set_modified(directory, now);
}

}  // namespace

Result<void> Filesystem::unlink(Suspend& suspend, InodeNumber parent, std::string_view name) {
    TRY_ASSIGN(const LockedInode directory, state_->lock_directory_exclusive(suspend, parent));
    if (name == "." || name == "..") {
        return fail(Errc::kIsDirectory, "removing a name", value(parent));
    }
    TRY_ASSIGN(const EntrySlot slot, find_entry(suspend, *state_, parent, name));
    if (S_ISDIR(slot.type)) {
        return fail(Errc::kIsDirectory, "removing a name", value(parent));
    }
    TRY_ASSIGN(const LockedInode inode, lock_entry(suspend, *state_, *directory, slot));
    const Timestamp time = state_->now();
    InodeChanges changes(*state_->store, state_->table);
    changes.transaction().set_urgent();
    InodeBlock& block = changes.edit(*inode);
    --block.nlink;
    set_ctime(block, time);
    if (block.nlink == 0) {
        changes.transaction().add_orphan(to_blob(slot.inode));
    }
    Directory::erase(changes.transaction(), parent, slot.key);
    remove_entry(changes.edit(*directory), name, false, time);
    TRY(changes.commit(suspend));
    state_->note_unlinked(*inode);
    return {};
}

Result<void> Filesystem::rmdir(Suspend& suspend, InodeNumber parent, std::string_view name) {
    TRY_ASSIGN(const LockedInode directory, state_->lock_directory_exclusive(suspend, parent));
    if (name == ".") {
        return fail(Errc::kInvalidArgument, "removing a directory", value(parent));
    }
    if (name == "..") {
        return fail(Errc::kNotEmpty, "removing a directory", value(parent));
    }
    TRY_ASSIGN(const EntrySlot slot, find_entry(suspend, *state_, parent, name));
    if (!S_ISDIR(slot.type)) {
        return fail(Errc::kNotDirectory, "removing a directory", value(parent));
    }
    TRY_ASSIGN(const LockedInode inode, lock_entry(suspend, *state_, *directory, slot));
    TRY_ASSIGN(const bool empty, state_->directory().is_empty(suspend, slot.inode));
    if (!empty) {
        return fail(Errc::kNotEmpty, "removing a directory", value(slot.inode));
    }
    const Timestamp time = state_->now();
    InodeChanges changes(*state_->store, state_->table);
    changes.transaction().set_urgent();
    InodeBlock& block = changes.edit(*inode);
    block.nlink = 0;
    set_ctime(block, time);
    changes.transaction().add_orphan(to_blob(slot.inode));
    Directory::erase(changes.transaction(), parent, slot.key);
    remove_entry(changes.edit(*directory), name, true, time);
    TRY(changes.commit(suspend));
    state_->note_unlinked(*inode);
    return {};
}

}  // namespace blobfs::fs
