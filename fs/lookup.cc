// Finding inodes by name, and letting go of them.

#include "fs/filesystem_state.h"

namespace blobfs::fs {

namespace {

// ".." is above, so it is locked only after the directory was let go of.
Result<Attributes> lookup_parent(Suspend& suspend, Filesystem::State& state, InodeNumber child) {
    InodeNumber parent{};
    {
        TRY_ASSIGN(const LockedInode directory, state.lock_directory_shared(suspend, child));
        parent = static_cast<InodeNumber>(directory->block.parent);
    }
    TRY_ASSIGN(const LockedInode directory, state.lock_directory_shared(suspend, parent));
    return state.referenced_attributes(suspend, *directory);
}

}  // namespace

Result<Attributes> Filesystem::lookup(Suspend& suspend, InodeNumber parent, std::string_view name) {
    if (name == "..") {
        return lookup_parent(suspend, *state_, parent);
    }
    if (name == ".") {
        TRY_ASSIGN(const LockedInode inode, state_->table.lock_shared(suspend, parent));
        // A file handle of what is being deleted: whoever has it open does not ask like this.
        if (inode->block.nlink == 0) {
            return fail(Errc::kNotFound, "looking up an inode without names", value(parent));
        }
        return state_->referenced_attributes(suspend, *inode);
    }
    TRY_ASSIGN(const LockedInode directory, state_->lock_directory_shared(suspend, parent));
    TRY(check_name(name));
    TRY_ASSIGN(const EntrySlot slot, state_->directory().find(suspend, parent, name));
    if (!slot.exists) {
        return fail(Errc::kNotFound, "looking up a name", value(parent));
    }
    // The directory stays locked, so the name cannot go before the reference is counted.
    TRY_ASSIGN(InodePin pin, state_->child(suspend, *directory, slot.inode, slot.type));
    TRY_ASSIGN(const LockedInode child, LockedInode::shared(suspend, std::move(pin)));
    return state_->referenced_attributes(suspend, *child);
}

void Filesystem::forget(InodeNumber inode, std::uint64_t references) {
    if (references != 0 && state_->table.drop_references(inode, references)) {
        state_->reaper.unreferenced(inode);
    }
}

Result<Attributes> Filesystem::getattr(Suspend& suspend, InodeNumber number) {
    TRY_ASSIGN(const LockedInode inode, state_->table.lock_shared(suspend, number));
    return state_->attributes(suspend, *inode);
}

}  // namespace blobfs::fs
