#pragma once

// What a Blobstore is made of; private to the blobstore. Reactor thread.

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "blobstore/blob_lock.h"
#include "blobstore/blobstore.h"
#include "blobstore/btree.h"
#include "blobstore/extent_map.h"
#include "blobstore/page_cache.h"
#include "blobstore/page_io.h"
#include "blobstore/read_hints.h"
#include "blobstore/replayed_data.h"
#include "blobstore/space_allocator.h"
#include "blobstore/superblock.h"
#include "blobstore/transaction_state.h"
#include "blobstore/write_ahead_log.h"
#include "driver/reactor/dma_pool.h"
#include "driver/reactor/gate.h"
#include "driver/reactor/reactor.h"

namespace blobfs::blobstore {

// One blob's AttributesValue and the block behind it, as stored.
struct StoredAttributes {
    AttributesValue head{};
    std::string block;
};

struct Blobstore::State {
    State(Device& device, const OpenOptions& options, const Superblock& superblock,
          std::unique_ptr<PageCache> page_cache, std::unique_ptr<driver::DmaPool> bounce_pool,
          driver::DmaBuffer zero_cluster);

    Device& device;
    OpenOptions options;
    Superblock superblock;  // the durable one
    StoreInfo info;
    std::unique_ptr<PageCache> cache;
    PageIo io;
    SpaceAllocator space;
    Btree tree;
    WriteAheadLog log;
    Sequence last_carried{};  // what was last when make_durable() last wrote a batch only for data
    BlobLocks locks;
    ReadHints hints;
    // Copies of partial blocks, inline data and edges; each buffer holds two clusters.
    // A fiber holds one of them at a time.
    std::unique_ptr<driver::DmaPool> bounce;
    driver::DmaBuffer zeroes;  // one cluster

    Generation generation{};  // of the changes being made
    std::uint64_t next_blob_id = 1;
    std::uint64_t blob_count = 0;
    // Truncations whose rest could not be freed, by blob; the tree has a kTruncation record of
    // each.
    absl::flat_hash_map<std::uint64_t, std::uint64_t> unfinished_truncations;  // size
    ReplayedData replayed_data;  // of a store that is only read: instead of what the device has
    bool read_only = false;
    std::optional<Error> failure;  // why the store refuses changes
    bool shut_down = false;
    // Blobs whose mapping leads to what the device did not take, and could not be taken back: what
    // lies there may be another's. Not empty only when the store has failed.
    absl::flat_hash_set<std::uint64_t> not_written;
    Statistics counters;

    // Background work (background.cc).
    driver::FiberMutex checkpoint_mutex;
    // A root is to stay whole (pinned_root.cc): from the next freeze on, or already.
    std::shared_ptr<std::atomic<bool>> pin_valid;
    bool root_pinned = false;
    bool checkpoint_wanted = false;
    std::uint64_t checkpoints_begun = 0;
    driver::Gate gate;  // background fibers pass it; close() shuts it
    driver::Reactor* reactor = nullptr;
    std::uint64_t last_checkpoint_us = 0;
    std::optional<driver::Reactor::TimerId> timer;

    [[nodiscard]] std::uint64_t cluster_blocks() const {
        return superblock.cluster_bytes / kBlockBytes;
    }
    [[nodiscard]] std::uint64_t inline_limit() const { return superblock.inline_bytes; }
    [[nodiscard]] ExtentBounds extent_bounds() const {
        return {.first_block = log_end(superblock),
                .end_block = superblock.block_count,
                .cluster_blocks = cluster_blocks()};
    }

    // Attributes (attributes.cc). ---------------------------------------------------------------
    Result<StoredAttributes> load_attributes(Suspend& suspend, BlobId blob);
    // The value that the update makes of the present one. kNotFound, kExists.
    Result<std::string> resolve(const AttributesUpdate& update) const;

    // Space. ------------------------------------------------------------------------------------
    // Like SpaceAllocator::reserve, and makes a checkpoint when only that can free space.
    Result<SpaceAllocator::Reservation> reserve(Suspend& suspend,
                                                const SpaceAllocator::Request& request);
    Result<void> reserve_pages(Suspend& suspend, std::uint32_t pages, bool urgent);
    [[nodiscard]] bool checkpoint_gives_space() const;

    // Transactions (commit.cc). -----------------------------------------------------------------
    Result<Sequence> commit(Suspend& suspend, Transaction::State& transaction, bool urgent);
    // Frees what lies behind the blob's size, in bounded transactions, then the kTruncation record;
    // zeroes, if `tail`, what is mapped behind the end in its last cluster. REQUIRES that `lock`
    // holds the blob from its last cluster on and the mapping.
    Result<void> finish_truncate(Suspend& suspend, const Truncation& truncation, BlobLock& lock);
    // The same, and a failure is remembered: the rest is tried again by finish_earlier_truncate().
    void try_finish_truncate(Suspend& suspend, const Truncation& truncation, BlobLock& lock);
    // An earlier truncation of the blob that could not be finished is finished now, or it is said
    // why not. REQUIRES that the caller has locked no range of it.
    Result<void> finish_earlier_truncate(Suspend& suspend, BlobId blob);
    // The exclusive lock of a range (bytes) of which the data is to change, with no unfinished
    // truncation behind it. REQUIRES as before.
    Result<BlobLock> lock_to_change(Suspend& suspend, BlobId blob, std::uint64_t first,
                                    std::uint64_t end);
    Result<void> delete_blob(Suspend& suspend, BlobId blob);

    // Checkpoints (checkpoint.cc). --------------------------------------------------------------
    static std::uint64_t wall_clock_us();  // microseconds since 1970
    Result<void> checkpoint(Suspend& suspend, SuperblockState mark);
    // REQUIRES the checkpoint_mutex.
    Result<void> write_checkpoint(Suspend& suspend, SuperblockState mark);
    // Gives the pages free that are kept for a pinned root. False when there is none.
    bool unpin_root();
    // Starts one in the background unless one is wanted already.
    void want_checkpoint();
    // Enough has gathered that one should be made; twice as much: changes wait for it.
    [[nodiscard]] bool checkpoint_due() const;
    [[nodiscard]] bool must_wait_for_checkpoint(std::size_t record_bytes) const;
    [[nodiscard]] std::size_t dirty_page_limit() const;
    void fail_store(const Error& error);
    // Makes all that was committed, and all data, durable. An error fails the store. Suspends.
    Result<void> make_durable(Suspend& suspend);

    // Recovery (recovery.cc). -------------------------------------------------------------------
    Result<void> recover(Suspend& suspend);
    Result<void> resume_orphans(Suspend& suspend);

    // Background (background.cc). ---------------------------------------------------------------
    void start_background(driver::Reactor& on);
    void stop_background(Suspend& suspend);
    void tick(Suspend& suspend);
    void arm_timer();
};

}  // namespace blobfs::blobstore
