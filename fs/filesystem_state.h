#pragma once

// What a Filesystem is made of, and what its operations have in common. Private to fs/.

#include <sys/stat.h>

#include <memory>
#include <string_view>

#include "driver/memory/dma_buffer.h"
#include "driver/reactor/reactor.h"
#include "fs/directory.h"
#include "fs/filesystem.h"
#include "fs/inode_changes.h"
#include "fs/inode_table.h"
#include "fs/lazy_times.h"
#include "fs/orphan_reaper.h"

namespace blobfs::fs {

struct Filesystem::State {
    State(driver::Reactor& reactor, std::unique_ptr<blobstore::Blobstore> store_to_own,
          OpenOptions options_to_use);

    [[nodiscard]] Timestamp now() { return options.clock(); }
    [[nodiscard]] Directory directory() const { return Directory(*store, name_hash_mask); }

    // The inode, locked, and held to be a directory that still has a name: kNotDirectory,
    // kNotFound.
    Result<LockedInode> lock_directory_shared(Suspend& suspend, InodeNumber number);
    Result<LockedInode> lock_directory_exclusive(Suspend& suspend, InodeNumber number);
    // The inode that an entry of a locked directory names, not locked. kCorrupt when it does not
    // exist, is of another type, or is a directory that belongs elsewhere: so no damaged directory
    // is its own ancestor for anyone who comes from the root, and locking downwards never
    // deadlocks.
    Result<InodePin> child(Suspend& suspend, const Inode& directory, InodeNumber number,
                           std::uint32_t type);
    // kReadOnly when changes are refused.
    [[nodiscard]] Result<void> require_writable() const;
    // REQUIRES a lock of the inode. Suspends when its size is not in memory.
    Result<Attributes> attributes(Suspend& suspend, Inode& inode);
    // The same, counting a lookup reference when it succeeds.
    Result<Attributes> referenced_attributes(Suspend& suspend, Inode& inode);
    // Content was read: the access time, by policy. REQUIRES a lock of the inode.
    void note_access(Inode& inode);
    // Content was changed: mtime and ctime, lazily. REQUIRES a lock of the inode.
    void note_modification(Inode& inode);
    // After a commit that took a name of an inode: when that was the last one, the reaper gets it.
    void note_unlinked(const Inode& inode);

    // Runs the operation; when the device is full and deleted files are about to give space back,
    // waits for them and runs it once more. REQUIRES that the caller holds no locks.
    template <class Operation>
    auto with_space(Suspend& suspend, Operation&& operation) {
        auto result = operation();
        if (!result && result.error().code == Errc::kNoSpace && reaper.busy()) {
            reaper.wait(suspend);
            result = operation();
        }
        return result;
    }

    driver::Reactor& reactor;
    std::unique_ptr<blobstore::Blobstore> store;
    OpenOptions options;
    InodeTable table;
    LazyTimes lazy_times;
    OrphanReaper reaper;
    absl::AnyInvocable<void(InodeNumber)> on_fewer_names;
    driver::FiberMutex rename_mutex;                   // held by renames between directories
    std::uint64_t name_hash_mask = ~std::uint64_t{0};  // tests make collisions with fewer bits
};

}  // namespace blobfs::fs
