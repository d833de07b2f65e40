// Reading and writing files, fsync, fallocate, holes, copying ranges.
//
// Reads and writes of one file run at the same time under its shared lock (the store locks the
// ranges that they touch); truncation, allocation and everything that writes attributes wait for
// them under the exclusive one. So an attribute block is never written by two at a time. A write
// that was told to be under way has no attributes to write any more, and waits for the device
// without the lock (README.md, "Locks").

#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>

#include "driver/base/check.h"
#include "fs/filesystem_state.h"
#include "fs/privileges.h"

namespace blobfs::fs {

namespace {

Result<void> check_regular(const Inode& inode) {
    if (is_directory(inode.block)) {
        return fail(Errc::kIsDirectory, "using the data of a directory", value(inode.number));
    }
    if (!is_regular(inode.block)) {
        return fail(Errc::kInvalidArgument, "using the data of a special file",
                    value(inode.number));
    }
    return {};
}

using blobstore::UnderWay;

// Whether the mapping or the size changed.
Result<bool> write_once(Suspend& suspend, Filesystem::State& state, Inode& inode,
                        std::uint64_t offset, ConstDmaSpan from,
                        std::optional<UnderWay> under_way) {
    blobstore::Transaction transaction;
    bool remapped = false;
    const auto tell = [&](bool changes_mapping) {
        remapped = changes_mapping;
        inode.invalidate_space();
        (*under_way)(remapped && inode.block.nlink != 0);
    };
    TRY(state.store->write(suspend, to_blob(inode.number), offset, from, transaction,
                           under_way ? std::optional<UnderWay>(tell) : std::nullopt));
    const bool changed = remapped || !transaction.empty();
    const auto committed = state.store->commit(suspend, transaction);
    inode.invalidate_space();
    TRY(committed);
    return changed;
}

// As much as there is space for: all of it, or a part that is halved until it fits.
Result<Written> write_fitting(Suspend& suspend, Filesystem::State& state, Inode& inode,
                              std::uint64_t offset, ConstDmaSpan from,
                              std::optional<UnderWay> under_way) {
    Written done;
    std::size_t step = from.size();
    while (done.bytes < from.size()) {
        step = std::min(step, from.size() - done.bytes);
        const auto written =
            write_once(suspend, state, inode, offset + done.bytes, from.subspan(done.bytes, step),
                       step == from.size() ? under_way : std::nullopt);
        if (written) {
            done.bytes += step;
            done.allocated = done.allocated || (*written && inode.block.nlink != 0);
            continue;
        }
        const bool full = written.error().code == Errc::kNoSpace;
        if (full && step > blobstore::kBlockBytes && !state.reaper.busy()) {
            step = static_cast<std::size_t>(blobstore::round_up(step / 2, blobstore::kBlockBytes));
            continue;
        }
        if (full && done.bytes != 0) {
            break;
        }
        return fail(written.error());
    }
    return done;
}

Result<void> drop_privileges(Suspend& suspend, Filesystem::State& state, InodeNumber number) {
    TRY_ASSIGN(const LockedInode inode, state.table.lock_exclusive(suspend, number));
    TRY_ASSIGN(const bool any, has_privileges(suspend, *state.store, *inode));
    if (!any) {
        return {};
    }
    InodeChanges changes(*state.store, state.table);
    InodeBlock& block = changes.edit(*inode);
    TRY(kill_privileges(suspend, *state.store, *inode, block, changes.transaction()));
    set_ctime(block, state.now());
    return changes.commit(suspend);
}

Result<Written> write_file(Suspend& suspend, Filesystem::State& state, InodeNumber number,
                           std::uint64_t offset, ConstDmaSpan from, const WriteOptions& options) {
    TRY(state.require_writable());
    if (options.kill_privileges && !from.empty()) {
        // Before the data: at no time, crash or not, do new content and old privileges meet.
        TRY(drop_privileges(suspend, state, number));
    }
    TRY_ASSIGN(LockedInode lock, state.table.lock_shared(suspend, number));
    const InodePin inode = state.table.pin(number);
    TRY(check_regular(*inode));
    if (offset > kMaxFileBytes || from.size() > kMaxFileBytes - offset) {
        return fail(Errc::kTooLarge, "writing beyond the largest file", value(number));
    }
    if (from.empty()) {
        return Written{};
    }
    Written done{.bytes = from.size()};
    // Who wants to be told early mostly changes more than data.
    bool overwritten = false;
    if (!options.under_way) {
        TRY_ASSIGN(overwritten, state.store->overwrite(suspend, to_blob(number), offset, from));
    }
    const auto tell = [&](bool allocates) {
        (*options.under_way)(allocates);
        if (options.keep_times) lock.unlock();
    };
    if (!overwritten) {
        TRY_ASSIGN(done,
                   write_fitting(suspend, state, *inode, offset, from,
                                 options.under_way ? std::optional<UnderWay>(tell) : std::nullopt));
    }
    // The kernel takes a short count from its cache for all of it: what does not fit would be lost,
    // and the next fsync would not tell.
    if (options.whole && done.bytes < from.size()) {
        return fail(Errc::kNoSpace, "writing a file", value(number));
    }
    if (!options.keep_times) {
        state.note_modification(*inode);
    }
    return done;
}

}  // namespace

Result<std::size_t> Filesystem::read(Suspend& suspend, InodeNumber number, std::uint64_t offset,
                                     DmaSpan into, bool quietly) {
    TRY_ASSIGN(const LockedInode inode, state_->table.lock_shared(suspend, number));
    TRY(check_regular(*inode));
    if (into.empty() || offset > kMaxFileBytes) {
        return 0;
    }
    TRY_ASSIGN(const std::size_t bytes,
               state_->store->read(suspend, to_blob(number), offset, into));
    if (!quietly) {
        state_->note_access(*inode);
    }
    return bytes;
}

Result<Written> Filesystem::write(Suspend& suspend, InodeNumber inode, std::uint64_t offset,
                                  ConstDmaSpan from, const WriteOptions& options) {
    TRY_ASSIGN(const Written done, state_->with_space(suspend, [&] {
        return write_file(suspend, *state_, inode, offset, from, options);
    }));
    if (options.durable) {
        TRY(fsync(suspend, inode, false));
    }
    return done;
}

Result<void> Filesystem::fsync(Suspend& suspend, InodeNumber inode, bool datasync) {
    if (state_->options.store.read_only) {
        return {};
    }
    if (!datasync) {
        TRY(state_->lazy_times.write(suspend, inode));
    }
    return state_->store->sync(suspend);
}

Result<void> Filesystem::fallocate(Suspend& suspend, InodeNumber number, std::uint32_t mode,
                                   std::uint64_t offset, std::uint64_t bytes, bool keep_times) {
    const bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
    const std::uint32_t action = mode & ~std::uint32_t{FALLOC_FL_KEEP_SIZE};
    const bool punch = action == FALLOC_FL_PUNCH_HOLE;
    const bool zero = action == FALLOC_FL_ZERO_RANGE;
    if ((action != 0 && !punch && !zero) || (punch && !keep_size)) {
        return fail(Errc::kNotSupported, "allocating in this mode", value(number));
    }
    if (bytes == 0) {
        return fail(Errc::kInvalidArgument, "allocating no bytes", value(number));
    }
    if (offset > kMaxFileBytes || bytes > kMaxFileBytes - offset) {
        return fail(Errc::kTooLarge, "allocating beyond the largest file", value(number));
    }
    return state_->with_space(suspend, [&]() -> Result<void> {
        TRY(state_->require_writable());
        TRY_ASSIGN(const LockedInode inode, state_->table.lock_exclusive(suspend, number));
        TRY(check_regular(*inode));
        blobstore::Blobstore& store = *state_->store;
        const auto blob = to_blob(number);
        inode->invalidate_space();
        if (punch || zero) {
            InodeChanges changes(store, state_->table);
            TRY(store.deallocate(suspend, blob, offset, bytes, changes.transaction()));
            if (!keep_times) {
                set_modified(changes.edit(*inode), state_->now());
            }
            if (punch) {
                changes.transaction().set_urgent();
            }
            const auto committed = changes.commit(suspend);
            inode->invalidate_space();
            TRY(committed);
        }
        if (punch) {
            return {};
        }
        {
            // A transaction of its own: it holds the lock of the range, which truncate() wants.
            blobstore::Transaction transaction;
            TRY(store.preallocate(suspend, blob, offset, bytes, transaction));
            TRY(store.commit(suspend, transaction));
        }
        inode->invalidate_space();
        TRY(state_->table.load_space(suspend, *inode));
        InodeChanges changes(store, state_->table);
        if (!keep_size && offset + bytes > inode->size) {
            TRY(store.truncate(suspend, blob, offset + bytes, changes.transaction()));
        }
        if (!keep_times) {
            set_modified(changes.edit(*inode), state_->now());
        }
        const auto committed = changes.commit(suspend);
        inode->invalidate_space();
        return committed;
    });
}

Result<std::uint64_t> Filesystem::seek(Suspend& suspend, InodeNumber number, std::uint64_t offset,
                                       SeekFor what) {
    TRY_ASSIGN(const LockedInode inode, state_->table.lock_shared(suspend, number));
    TRY(check_regular(*inode));
    TRY(state_->table.load_space(suspend, *inode));
    const std::uint64_t size = inode->size;
    const auto beyond = [&] {
        return tl::unexpected<Error>(Error{.code = Errc::kSystem,
                                           .sys_errno = ENXIO,
                                           .address = value(number),
                                           .what = "seeking beyond the last data"});
    };
    if (offset >= size) {
        return beyond();
    }
    if (what == SeekFor::kHole) {
        TRY_ASSIGN(const std::uint64_t hole,
                   state_->store->next_hole(suspend, to_blob(number), offset));
        return std::min(hole, size);
    }
    TRY_ASSIGN(const std::uint64_t data,
               state_->store->next_data(suspend, to_blob(number), offset));
    if (data >= size) {
        return beyond();
    }
    return data;
}

Result<std::size_t> Filesystem::copy_file_range(Suspend& suspend, InodeNumber from,
                                                std::uint64_t from_offset, InodeNumber to,
                                                std::uint64_t to_offset, std::uint64_t bytes,
                                                DmaSpan through, const CopyOptions& options) {
    CHECK(!through.empty());
    bytes = std::min(bytes, kMaxCopyBytes);
    if (from_offset > kMaxFileBytes || to_offset > kMaxFileBytes ||
        bytes > kMaxFileBytes - to_offset) {
        return fail(Errc::kTooLarge, "copying beyond the largest file", value(to));
    }
    const bool overlap =
        from == to && from_offset < to_offset + bytes && to_offset < from_offset + bytes;
    if (overlap) {
        return fail(Errc::kInvalidArgument, "copying a range onto itself", value(to));
    }
    std::size_t done = 0;
    bool last = false;
    while (done < bytes && !last) {
        const std::size_t step = std::min<std::uint64_t>(through.size(), bytes - done);
        const auto got = read(suspend, from, from_offset + done, through.first(step));
        if (!got && done == 0) {
            return fail(got.error());
        }
        if (!got || *got == 0) {
            break;
        }
        last = *got < step || done + *got == bytes;
        WriteOptions writing{.keep_times = options.keep_times, .kill_privileges = true};
        bool told = false;
        const auto under_way = [&](bool allocates) {
            told = true;
            (*options.under_way)(done + *got, allocates);
        };
        if (last && options.under_way) {
            writing.under_way.emplace(under_way);
        }
        const auto written = write(suspend, to, to_offset + done, through.first(*got), writing);
        if (!written && (done == 0 || told)) {
            return fail(written.error());
        }
        if (!written) {
            break;
        }
        done += written->bytes;
        if (written->bytes < *got) {
            break;
        }
    }
    return done;
}

}  // namespace blobfs::fs
