#include "fs/filesystem.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>

#include "driver/base/check.h"
#include "fs/filesystem_state.h"

namespace blobfs::fs {

namespace {

// The clock that the kernel stamps cached writes with: with a finer one, a file written after
// another could seem older.
Timestamp coarse_clock() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return {.seconds = now.tv_sec, .nanoseconds = static_cast<std::uint32_t>(now.tv_nsec)};
}

constexpr std::uint64_t kBytesPerInode = 1024;  // attributes and name in the tree, roughly

}  // namespace

Filesystem::State::State(driver::Reactor& reactor_to_use,
                         std::unique_ptr<blobstore::Blobstore> store_to_own,
                         OpenOptions options_to_use)
    : reactor(reactor_to_use),
      store(std::move(store_to_own)),
      options(std::move(options_to_use)),
      table(*store, options.max_cached_inodes),
      lazy_times(reactor, *store, table, options.write_back_ms),
      reaper(reactor, *store, table) {
    if (!options.clock) {
        options.clock = coarse_clock;
    }
}

Result<void> Filesystem::format(Suspend& suspend, Device& device, const MakeOptions& options) {
    TRY(blobstore::Blobstore::format(suspend, device, options.store));
    TRY_ASSIGN(auto store, blobstore::Blobstore::open(suspend, device, {}));
    const blobstore::BlobId root = store->allocate_id();
    if (to_inode(root) != kRootInode) {
        return fail(Errc::kCorrupt, "making the root directory: the store is not empty",
                    blobstore::value(root));
    }
    InodeBlock block = make_inode_block(S_IFDIR | (options.root_mode & 07777), coarse_clock());
    block.uid = options.root_uid;
    block.gid = options.root_gid;
    block.nlink = 2;
    block.parent = value(kRootInode);
    blobstore::Transaction transaction;
    transaction.create_blob(root, encode_inode(block, {}));
    TRY(store->commit(suspend, transaction));
    return store->close(suspend);
}

Result<std::unique_ptr<Filesystem>> Filesystem::open(Suspend& suspend, Device& device,
                                                     OpenOptions options) {
    TRY_ASSIGN(auto store, blobstore::Blobstore::open(suspend, device, options.store));
    auto state = std::make_unique<State>(suspend.reactor(), std::move(store), std::move(options));
    Result<void> usable;
    {
        const auto root = state->table.get(suspend, kRootInode);
        if (!root) {
            const bool missing = root.error().code == Errc::kNotFound;
            usable = missing ? fail(Errc::kWrongFormat, "opening: the store has no root directory")
                             : fail(root.error());
        } else if (!is_directory((*root)->block)) {
            usable = fail(Errc::kCorrupt, "opening: inode 1 is not a directory", value(kRootInode));
        }
    }
    if (!usable) {
        const auto closed = state->store->close(suspend);
        if (!closed) {
            spdlog::error("closing the store: {}", closed.error().message());
        }
        return fail(usable.error());
    }
    return std::unique_ptr<Filesystem>(new Filesystem(std::move(state)));
}

Filesystem::Filesystem(std::unique_ptr<State> state) : state_(std::move(state)) {}
Filesystem::~Filesystem() = default;

Result<void> Filesystem::close(Suspend& suspend) {
    state_->lazy_times.stop(suspend);
    state_->table.drop_all_references();
    state_->reaper.release_all();
    state_->reaper.wait(suspend);
    Result<void> written;
    if (!read_only()) {
        written = state_->lazy_times.write_all(suspend);
    }
    TRY(state_->store->close(suspend));
    return written;
}

void Filesystem::abandon(Suspend& suspend) {
    state_->lazy_times.stop(suspend);
    state_->reaper.wait(suspend);
    state_->store->abandon(suspend);
}

Result<void> Filesystem::shut_down(Suspend& suspend) {
    const Result<void> flushed = sync(suspend);
    state_->store->shut_down(suspend);
    return flushed;
}

bool Filesystem::is_shut_down() const { return state_->store->is_shut_down(); }

FilesystemStatus Filesystem::statfs() const {
    const blobstore::SpaceInfo space = state_->store->space();
    FilesystemStatus status;
    status.blocks = space.total_bytes / status.block_bytes;
    status.blocks_free = std::min(space.free_bytes, space.total_bytes) / status.block_bytes;
    status.blocks_available =
        std::min(space.available_bytes, space.free_bytes) / status.block_bytes;
    status.files_free = space.available_bytes / kBytesPerInode;
    status.files = space.blobs + status.files_free;
    return status;
}

Result<void> Filesystem::sync(Suspend& suspend) {
    if (state_->options.store.read_only) {
        return {};
    }
    TRY(state_->lazy_times.write_all(suspend));
    return state_->store->sync(suspend);
}

void Filesystem::on_fewer_names(absl::AnyInvocable<void(InodeNumber)> call) {
    state_->on_fewer_names = std::move(call);
}

bool Filesystem::read_only() const { return state_->store->read_only(); }
std::vector<InodeNumber> Filesystem::referenced() const { return state_->table.referenced(); }
blobstore::Blobstore& Filesystem::store() { return *state_->store; }

Filesystem::Statistics Filesystem::statistics() const {
    return {.cached_inodes = state_->table.cached(),
            .referenced_inodes = state_->table.referenced_count(),
            .dirty_inodes = state_->table.dirty_count()};
}

Result<LockedInode> Filesystem::State::lock_directory_shared(Suspend& suspend, InodeNumber number) {
    TRY_ASSIGN(LockedInode locked, table.lock_shared(suspend, number));
    if (!is_directory(locked->block)) {
        return fail(Errc::kNotDirectory, "using a directory", value(number));
    }
    return locked;
}

Result<LockedInode> Filesystem::State::lock_directory_exclusive(Suspend& suspend,
                                                                InodeNumber number) {
    TRY(require_writable());
    TRY_ASSIGN(LockedInode locked, table.lock_exclusive(suspend, number));
    if (!is_directory(locked->block)) {
        return fail(Errc::kNotDirectory, "changing a directory", value(number));
    }
    if (locked->block.nlink == 0) {
        return fail(Errc::kNotFound, "changing a directory that was removed", value(number));
    }
    return locked;
}

Result<InodePin> Filesystem::State::child(Suspend& suspend, const Inode& directory,
                                          InodeNumber number, std::uint32_t type) {
    if (number == directory.number || number == kRootInode) {
        return fail(Errc::kCorrupt, "following a name: a directory is in itself", value(number));
    }
    auto pin = table.get(suspend, number);
    if (!pin) {
        if (pin.error().code == Errc::kNotFound) {
            return fail(Errc::kCorrupt, "following a name: its inode does not exist",
                        value(number));
        }
        return fail(pin.error());
    }
    const InodeBlock& block = (*pin)->block;
    const bool misplaced = is_directory(block) && block.parent != value(directory.number);
    if ((block.mode & S_IFMT) != type || misplaced || block.nlink == 0) {
        return fail(Errc::kCorrupt, "following a name: its inode does not fit it", value(number));
    }
    return pin;
}

Result<void> Filesystem::State::require_writable() const {
    if (store->is_shut_down()) {
        return fail(Errc::kIo, "changing a filesystem that was shut down");
    }
    if (store->read_only()) {
        return fail(Errc::kReadOnly, "changing the filesystem");
    }
    return {};
}

Result<Attributes> Filesystem::State::attributes(Suspend& suspend, Inode& inode) {
    TRY(table.load_space(suspend, inode));
    const InodeBlock& block = inode.block;
    Attributes attributes{.inode = inode.number,
                          .generation = block.generation,
                          .mode = block.mode,
                          .nlink = block.nlink,
                          .uid = block.uid,
                          .gid = block.gid,
                          .rdev = block.rdev,
                          .size = inode.size,
                          .allocated_bytes = inode.allocated_bytes,
                          .atime = atime_of(block),
                          .mtime = mtime_of(block),
                          .ctime = ctime_of(block),
                          .btime = btime_of(block)};
    // Small data lies in the store's tree. Whoever is told of no space at all takes the file for a
    // hole (tar -S).
    if (inode.allocated_bytes == 0 && inode.size <= store->info().inline_bytes) {
        attributes.allocated_bytes = blobstore::round_up(inode.size, 512);
    }
    if (is_directory(block)) {
        attributes.size = block.name_bytes;
    } else if (is_symlink(block)) {
        attributes.size = block.target_bytes;
    }
    return attributes;
}

Result<Attributes> Filesystem::State::referenced_attributes(Suspend& suspend, Inode& inode) {
    TRY_ASSIGN(const Attributes answer, attributes(suspend, inode));
    table.add_reference(inode.number);
    return answer;
}

void Filesystem::State::note_access(Inode& inode) {
    constexpr std::int64_t kDaySeconds = 24 * 60 * 60;
    if (options.atime == AtimePolicy::kNever || store->read_only()) {
        return;
    }
    const Timestamp time = now();
    const Timestamp atime = atime_of(inode.block);
    if (options.atime == AtimePolicy::kRelative && atime > mtime_of(inode.block) &&
        atime > ctime_of(inode.block) && time.seconds - atime.seconds < kDaySeconds) {
        return;
    }
    if (time == atime) {
        return;
    }
    set_atime(inode.block, time);
    lazy_times.mark(inode);
}

void Filesystem::State::note_modification(Inode& inode) {
    set_modified(inode.block, now());
    lazy_times.mark(inode);
}

void Filesystem::State::note_unlinked(const Inode& inode) {
    if (inode.block.nlink == 0) {
        reaper.add(inode.number);
    } else if (on_fewer_names) {
        on_fewer_names(inode.number);
    }
}

}  // namespace blobfs::fs
