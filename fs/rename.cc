// Renaming: within a directory, between directories, replacing, exchanging; one transaction.
//
// Locks: a rename between two directories holds the rename mutex, so that no directory moves while
// it decides who is above whom. Then the two directories, the upper one first, then what is moved
// and what is replaced: directories before others, each by number. Neither of these two is above
// one of the two directories (that is refused before), so everything is locked from the root
// downwards.

#include <algorithm>
#include <optional>
#include <vector>

#include "fs/filesystem_state.h"

namespace blobfs::fs {

namespace {

// A damaged count never falls below that of an empty directory.
void drop_subdirectory(InodeBlock& directory) { directory.nlink -= directory.nlink > 2 ? 1u : 0u; }

struct Place {
    InodeNumber directory{};
    std::string_view name;
};

// One rename under way: what is locked and what was found.
class Rename {
  public:
    Rename(Filesystem::State& state, const Place& from, const Place& to, RenameMode mode,
           const std::optional<Caller>& whiteout_by)
        : state_(state),
          from_(from),
          to_(to),
          mode_(mode),
          whiteout_by_(whiteout_by),
          guard_(state.rename_mutex) {}

    Result<void> run(Suspend& suspend);

  private:
    // Releases the rename mutex when it was taken.
    class OptionalGuard {
      public:
        explicit OptionalGuard(driver::FiberMutex& mutex) : mutex_(mutex) {}
        ~OptionalGuard() {
            if (locked_) {
                mutex_.unlock();
            }
        }
        OptionalGuard(const OptionalGuard&) = delete;
        OptionalGuard& operator=(const OptionalGuard&) = delete;
        void lock(Suspend& suspend) {
            mutex_.lock(suspend);
            locked_ = true;
        }

      private:
        driver::FiberMutex& mutex_;
        bool locked_ = false;
    };

    [[nodiscard]] bool same_directory() const { return from_.directory == to_.directory; }
    Inode& old_directory() { return *first_; }
    Inode& new_directory() { return same_directory() ? *first_ : *second_; }

    Result<std::vector<InodeNumber>> ancestors(Suspend& suspend, InodeNumber directory);
    Result<void> lock_directories(Suspend& suspend);
    Result<void> find_entries(Suspend& suspend);
    Result<void> check_loops() const;
    Result<void> lock_children(Suspend& suspend);
    Result<void> check_types() const;
    void leave(InodeBlock& old_directory_block, Timestamp time,
               blobstore::Transaction& transaction);
    Result<void> replace(Suspend& suspend);
    Result<void> exchange(Suspend& suspend);

    Filesystem::State& state_;
    Place from_, to_;
    RenameMode mode_;
    const std::optional<Caller>& whiteout_by_;
    OptionalGuard guard_;
    std::vector<InodeNumber> above_old_, above_new_;  // each directory and all above it
    LockedInode first_, second_;                      // old and new directory
    EntrySlot source_slot_, target_slot_;
    LockedInode source_, target_;  // target_ is empty when there is none
};

// The directory and those above it, up to the root. REQUIRES the rename mutex.
Result<std::vector<InodeNumber>> Rename::ancestors(Suspend& suspend, InodeNumber directory) {
    std::vector<InodeNumber> path{directory};
    // A damaged tree may have a loop: remember one directory and go on for ever longer rounds.
    InodeNumber remembered = directory;
    std::uint64_t round = 1;
    for (std::uint64_t steps = 0; path.back() != kRootInode;) {
        TRY_ASSIGN(const InodePin pin, state_.table.get(suspend, path.back()));
        if (!is_directory(pin->block)) {
            return fail(Errc::kNotDirectory, "renaming into something that is not a directory",
                        value(path.back()));
        }
        const auto parent = static_cast<InodeNumber>(pin->block.parent);
        if (parent == remembered) {
            return fail(Errc::kCorrupt, "renaming: a directory is its own ancestor",
                        value(directory));
        }
        path.push_back(parent);
        if (++steps == round) {
            remembered = parent;
            steps = 0;
            round *= 2;
        }
    }
    return path;
}

Result<void> Rename::lock_directories(Suspend& suspend) {
    if (same_directory()) {
        TRY_ASSIGN(first_, state_.lock_directory_exclusive(suspend, from_.directory));
        return {};
    }
    guard_.lock(suspend);
    TRY_ASSIGN(above_old_, ancestors(suspend, from_.directory));
    TRY_ASSIGN(above_new_, ancestors(suspend, to_.directory));
    const bool new_is_above =
        std::find(above_old_.begin(), above_old_.end(), to_.directory) != above_old_.end();
    const bool old_is_above =
        std::find(above_new_.begin(), above_new_.end(), from_.directory) != above_new_.end();
    const bool old_first =
        old_is_above || (!new_is_above && value(from_.directory) < value(to_.directory));
    if (old_first) {
        TRY_ASSIGN(first_, state_.lock_directory_exclusive(suspend, from_.directory));
        TRY_ASSIGN(second_, state_.lock_directory_exclusive(suspend, to_.directory));
    } else {
        TRY_ASSIGN(second_, state_.lock_directory_exclusive(suspend, to_.directory));
        TRY_ASSIGN(first_, state_.lock_directory_exclusive(suspend, from_.directory));
    }
    return {};
}

Result<void> Rename::find_entries(Suspend& suspend) {
    TRY_ASSIGN(source_slot_, state_.directory().find(suspend, from_.directory, from_.name));
    if (!source_slot_.exists) {
        return fail(Errc::kNotFound, "renaming what is not there", value(from_.directory));
    }
    TRY_ASSIGN(target_slot_, state_.directory().find(suspend, to_.directory, to_.name));
    if (target_slot_.exists && mode_ == RenameMode::kNoReplace) {
        return fail(Errc::kExists, "renaming to a name that exists", value(to_.directory));
    }
    if (!target_slot_.exists && mode_ == RenameMode::kExchange) {
        return fail(Errc::kNotFound, "exchanging with what is not there", value(to_.directory));
    }
    if (target_slot_.full) {
        return fail(Errc::kNoSpace, "making a name: too many names of the same hash",
                    value(to_.directory));
    }
    return {};
}

Result<void> Rename::check_loops() const {
    const auto contains = [](const std::vector<InodeNumber>& path, InodeNumber inode) {
        return std::find(path.begin(), path.end(), inode) != path.end();
    };
    if (S_ISDIR(source_slot_.type) && contains(above_new_, source_slot_.inode)) {
        return fail(Errc::kLoop, "moving a directory into itself", value(source_slot_.inode));
    }
    if (target_slot_.exists && S_ISDIR(target_slot_.type) &&
        contains(above_old_, target_slot_.inode)) {
        return fail(mode_ == RenameMode::kExchange ? Errc::kLoop : Errc::kNotEmpty,
                    "renaming over a directory that holds the source", value(target_slot_.inode));
    }
    return {};
}

Result<void> Rename::lock_children(Suspend& suspend) {
    TRY_ASSIGN(InodePin source,
               state_.child(suspend, old_directory(), source_slot_.inode, source_slot_.type));
    InodePin target;
    if (target_slot_.exists) {
        TRY_ASSIGN(target,
                   state_.child(suspend, new_directory(), target_slot_.inode, target_slot_.type));
    }
    const auto before = [](const Inode& a, const Inode& b) {
        if (is_directory(a.block) != is_directory(b.block)) {
            return is_directory(a.block);
        }
        return value(a.number) < value(b.number);
    };
    if (!target) {
        TRY_ASSIGN(source_, LockedInode::exclusive(suspend, std::move(source)));
    } else if (before(*source, *target)) {
        TRY_ASSIGN(source_, LockedInode::exclusive(suspend, std::move(source)));
        TRY_ASSIGN(target_, LockedInode::exclusive(suspend, std::move(target)));
    } else {
        TRY_ASSIGN(target_, LockedInode::exclusive(suspend, std::move(target)));
        TRY_ASSIGN(source_, LockedInode::exclusive(suspend, std::move(source)));
    }
    return {};
}

Result<void> Rename::check_types() const {
    const bool source_directory = is_directory(source_->block);
    if (target_ && mode_ == RenameMode::kReplace) {
        if (source_directory && !is_directory(target_->block)) {
            return fail(Errc::kNotDirectory, "renaming a directory over something else",
                        value(target_->number));
        }
        if (!source_directory && is_directory(target_->block)) {
            return fail(Errc::kIsDirectory, "renaming over a directory", value(target_->number));
        }
    }
    return {};
}

// The old name goes, or a whiteout takes it: how overlayfs marks what it hides.
void Rename::leave(InodeBlock& old_directory_block, Timestamp time,
                   blobstore::Transaction& transaction) {
    if (!whiteout_by_) {
        Directory::erase(transaction, from_.directory, source_slot_.key);
        old_directory_block.entries -= old_directory_block.entries != 0 ? 1u : 0u;
        old_directory_block.name_bytes -=
            std::min<std::uint64_t>(old_directory_block.name_bytes, from_.name.size());
        return;
    }
    const InodeNumber number = to_inode(state_.store->allocate_id());
    InodeBlock block = make_inode_block(S_IFCHR, time);
    const bool inherits_group = (old_directory_block.mode & S_ISGID) != 0;
    block.uid = whiteout_by_->uid;
    block.gid = inherits_group ? old_directory_block.gid : whiteout_by_->gid;
    block.nlink = 1;
    transaction.create_blob(to_blob(number), encode_inode(block, ""));
    Directory::put(transaction, from_.directory, source_slot_.key, from_.name, number, block.mode);
}

Result<void> Rename::replace(Suspend& suspend) {
    const bool moves_directory = is_directory(source_->block);
    if (target_ && moves_directory) {
        TRY_ASSIGN(const bool empty, state_.directory().is_empty(suspend, target_->number));
        if (!empty) {
            return fail(Errc::kNotEmpty, "renaming over a directory", value(target_->number));
        }
    }
    if (moves_directory && !same_directory() && !target_ &&
        new_directory().block.nlink >= kMaxLinks) {
        return fail(Errc::kTooManyLinks, "moving a directory", value(to_.directory));
    }
    const Timestamp time = state_.now();
    InodeChanges changes(*state_.store, state_.table);
    blobstore::Transaction& transaction = changes.transaction();
    Directory::put(transaction, to_.directory, target_slot_.key, to_.name, source_->number,
                   source_->block.mode);

    InodeBlock& source = changes.edit(*source_);
    set_ctime(source, time);
    if (moves_directory) {
        source.parent = value(to_.directory);
    }
    InodeBlock& old_directory_block = changes.edit(old_directory());
    leave(old_directory_block, time, transaction);
    set_modified(old_directory_block, time);
    InodeBlock& new_directory_block = changes.edit(new_directory());
    set_modified(new_directory_block, time);
    if (!target_) {
        ++new_directory_block.entries;
        new_directory_block.name_bytes += to_.name.size();
    }
    if (moves_directory) {
        drop_subdirectory(old_directory_block);
        new_directory_block.nlink += target_ ? 0u : 1u;
    }
    if (target_) {
        InodeBlock& target = changes.edit(*target_);
        target.nlink = moves_directory ? 0 : target.nlink - 1;
        set_ctime(target, time);
        if (target.nlink == 0) {
            transaction.add_orphan(to_blob(target_->number));
        }
    }
    TRY(changes.commit(suspend));
    if (target_) {
        state_.note_unlinked(*target_);
    }
    return {};
}

Result<void> Rename::exchange(Suspend& suspend) {
    const Timestamp time = state_.now();
    InodeChanges changes(*state_.store, state_.table);
    blobstore::Transaction& transaction = changes.transaction();
    Directory::put(transaction, from_.directory, source_slot_.key, from_.name, target_->number,
                   target_->block.mode);
    Directory::put(transaction, to_.directory, target_slot_.key, to_.name, source_->number,
                   source_->block.mode);
    InodeBlock& old_directory_block = changes.edit(old_directory());
    InodeBlock& new_directory_block = changes.edit(new_directory());
    set_modified(old_directory_block, time);
    set_modified(new_directory_block, time);
    const auto move = [&](Inode& inode, InodeBlock& left, InodeBlock& entered,
                          InodeNumber new_parent) {
        InodeBlock& block = changes.edit(inode);
        set_ctime(block, time);
        if (is_directory(block)) {
            block.parent = value(new_parent);
            drop_subdirectory(left);
            ++entered.nlink;
        }
    };
    move(*source_, old_directory_block, new_directory_block, to_.directory);
    move(*target_, new_directory_block, old_directory_block, from_.directory);
    return changes.commit(suspend);
}

Result<void> Rename::run(Suspend& suspend) {
    TRY(lock_directories(suspend));
    TRY(find_entries(suspend));
    if (target_slot_.exists && source_slot_.inode == target_slot_.inode) {
        return {};  // two names of one file, or the same name: nothing to do, says rename(2)
    }
    TRY(check_loops());
    TRY(lock_children(suspend));
    TRY(check_types());
    return mode_ == RenameMode::kExchange ? exchange(suspend) : replace(suspend);
}

}  // namespace

Result<void> Filesystem::rename(Suspend& suspend, InodeNumber old_parent, std::string_view old_name,
                                InodeNumber new_parent, std::string_view new_name, RenameMode mode,
                                std::optional<Caller> whiteout_by) {
    if (whiteout_by && mode == RenameMode::kExchange) {
        return fail(Errc::kInvalidArgument, "exchanging names and leaving a whiteout",
                    value(old_parent));
    }
    for (const std::string_view name : {old_name, new_name}) {
        if (name == "." || name == "..") {
            return fail(Errc::kBusy, "renaming . or ..", value(old_parent));
        }
        TRY(check_name(name));
    }
    return state_->with_space(suspend, [&] {
        Rename rename(*state_, {.directory = old_parent, .name = old_name},
                      {.directory = new_parent, .name = new_name}, mode, whiteout_by);
        return rename.run(suspend);
    });
}

}  // namespace blobfs::fs
