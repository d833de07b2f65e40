#pragma once

// The blobstore: blobs on a device, and transactions over them. See README.md for how it works.
// One reactor thread; every call with Suspend& runs on a fiber of it and may suspend; any number
// of fibers at once.
//
// Isolation: each call is atomic in itself. Data calls lock the range they touch inside the
// blobstore. A caller that reads, decides and then commits (a directory entry and its inode) keeps
// others from changing the same blob's attributes, xattrs and records meanwhile by its own lock.
//
// Durability: a committed transaction is visible at once and becomes durable with sync(), with the
// next checkpoint, or with the next background commit (commit_interval_ms). After a crash the store
// is the state after a prefix of the committed transactions that holds everything synced.
//
// Errors: kNoSpace, kIo, kCorrupt (this page or blob only), kReadOnly (opened so, or after the log
// or a checkpoint could not be written: the store then refuses changes, reads go on).

#include <absl/functional/function_ref.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "blobstore/format.h"
#include "blobstore/transaction.h"
#include "blobstore/units.h"
#include "driver/device.h"

namespace blobfs::blobstore {

using driver::ConstDmaSpan;
using driver::Device;
using driver::DmaSpan;
using driver::Suspend;

inline constexpr std::uint64_t kMaxBlobBytes = ~std::uint64_t{0} >> 1;  // 2^63 - 1
inline constexpr std::size_t kMaxAttributeBlockBytes = 512;
inline constexpr std::size_t kMaxRecordKeyBytes = 64;
inline constexpr std::size_t kMaxRecordValueBytes = 512;
inline constexpr std::size_t kMaxXattrNameBytes = 255;
inline constexpr std::size_t kMaxXattrValueBytes = 64 * 1024;

struct FormatOptions {
    std::array<std::uint8_t, 16> uuid{};                 // all zero: a random one
    std::string label{};                                 // at most 64 bytes
    std::uint32_t cluster_bytes = kDefaultClusterBytes;  // power of two, 4 KiB to 4 MiB
    std::uint32_t page_bytes = 0;                        // 4, 8 or 16 KiB; 0: by the device
    std::uint32_t inline_bytes = 0;                      // 0: the default for the page size
    std::uint64_t log_bytes = 0;                         // 0: by the size of the device
    std::uint64_t device_bytes = 0;                      // 0: all of the device
};

// What is known without opening: the valid superblock.
struct StoreInfo {
    std::array<std::uint8_t, 16> uuid{};
    std::string label;
    std::uint32_t cluster_bytes = 0, page_bytes = 0, inline_bytes = 0;
    std::uint64_t bytes = 0, log_bytes = 0;
    std::uint64_t generation = 0, mounts = 0, created_us = 0, written_us = 0;
    bool clean = false;
};

// The rules of the order of writes, in the order of the design's section 5; and what the data in
// the log asks for (README.md).
enum class OrderRule : std::uint8_t {
    kDataBeforeLog,       // data is durable before the log record that maps it
    kLogBeforeAnswer,     // the record is durable before anyone is told so
    kDurableBeforeReuse,  // what a transaction frees waits until that is durable
    kNeverInPlace,        // what the durable root reaches is not overwritten
    kDeleteWhenFull,      // a reserve is kept for deleting
    kSettleBeforeAnswer,  // what is synced is not undone by older data in the log
    kDataUnderWay,        // a record that was appended before its data was there waits for it
    kEndBeforeFlush,      // a flush makes durable only what was written before it
};

struct OpenOptions {
    bool read_only = false;                        // the log is replayed in memory, nothing written
    std::size_t cache_bytes = 64u << 20;           // metadata pages in memory
    std::uint32_t commit_interval_ms = 1000;       // background commit of what nobody synced
    std::uint32_t checkpoint_interval_ms = 30000;  // at most so long between checkpoints when dirty
    bool keep_orphans = false;  // fsck: what is to be deleted or cut stays so, for a later open
    // Tests only: a rule that is not kept, so that the crash tests can be seen to notice.
    std::optional<OrderRule> broken_rule{};
};

struct SpaceInfo {
    std::uint64_t total_bytes = 0;      // the device less superblocks and log
    std::uint64_t free_bytes = 0;       // free or free after the next checkpoint
    std::uint64_t available_bytes = 0;  // free_bytes less what is kept for metadata
    std::uint64_t blobs = 0;
};

struct PinnedRoot;  // pinned_root.h

struct BlobAttributes {
    std::uint64_t size = 0;
    std::uint64_t allocated_bytes = 0;  // clusters mapped; an inline blob has none
    std::string block;                  // the owner's attribute block
};

// Told when a write is committed and its data under way: what can still fail is the device. Whether
// the mapping changed. Must not suspend.
using UnderWay = absl::FunctionRef<void(bool remapped)>;

class Blobstore {
  public:
    // Makes an empty store. Old content of the device is not read. Writes a few MiB at most.
    static Result<StoreInfo> format(Suspend& suspend, Device& device, const FormatOptions& options);
    // Reads the newest valid superblock: kWrongFormat (not a blobfs device), kCorrupt (both slots).
    static Result<StoreInfo> inspect(Suspend& suspend, Device& device);
    // Opens, replays the log, starts the background fibers. The device outlives the store.
    static Result<std::unique_ptr<Blobstore>> open(Suspend& suspend, Device& device,
                                                   const OpenOptions& options);
    ~Blobstore();
    // Stops the background fibers, makes everything durable, marks the store clean. REQUIRES that
    // no other call is under way. Once, before destruction. After an error the device is what a
    // crash would have left.
    Result<void> close(Suspend& suspend);
    // Stops the background fibers and leaves the device as it is: what a crash leaves. For tests
    // and for a device that is gone. REQUIRES and once, like close().
    void abandon(Suspend& suspend);

    // Stops at once: nothing more goes to the device (Device::fence()), every change and every sync
    // fails with kIo, reads too unless memory has them. The next open recovers. Suspends until
    // what was on its way to the device has ended. abandon() is still to be called.
    void shut_down(Suspend& suspend);
    [[nodiscard]] bool is_shut_down() const;

    [[nodiscard]] const StoreInfo& info() const;
    [[nodiscard]] SpaceInfo space() const;
    [[nodiscard]] bool read_only() const;

    // Blobs. -----------------------------------------------------------------------------------
    // A fresh id; ids that were handed out are never used again, crash or not. The first id of a
    // new store is 1.
    BlobId allocate_id();
    Result<BlobAttributes> attributes(Suspend& suspend, BlobId blob);  // kNotFound
    // Many blobs are going to be asked for their attributes: reads what memory lacks, side by side,
    // without waiting. Errors are for who asks then.
    void read_attributes_ahead(Suspend& suspend, std::span<const BlobId> blobs);

    Result<bool> record(Suspend& suspend, BlobId blob, std::string_view key, std::string& value);
    // Records with from <= key in order of their bytes, until visit returns false. visit does not
    // suspend and changes nothing; its arguments are valid during the call only.
    Result<void> scan_records(
        Suspend& suspend, BlobId blob, std::string_view from,
        absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit);

    Result<std::string> xattr(Suspend& suspend, BlobId blob,
                              std::string_view name);  // kNoAttribute
    Result<std::vector<std::string>> xattr_names(Suspend& suspend, BlobId blob);
    Result<void> set_xattr(Suspend& suspend, BlobId blob, std::string_view name,
                           std::string_view value, Transaction& transaction);
    Result<void> remove_xattr(Suspend& suspend, BlobId blob, std::string_view name,
                              Transaction& transaction);  // kNoAttribute

    // Data. Offsets and lengths in bytes, any alignment; memory is DMA memory; aligned to
    // kBlockBytes in file and memory is fastest (no copy). -----------------------------------
    // Fewer bytes than asked only at the end of the blob. Holes read as zeroes.
    Result<std::size_t> read(Suspend& suspend, BlobId blob, std::uint64_t offset, DmaSpan into);
    // Puts the data on the device (not yet durable) and the mapping and size changes, if any, into
    // the transaction, which holds the range locked until it is committed or dropped. What lies in
    // clusters of the blob's own is overwritten in place: visible whether or not it is committed.
    // under_way: called at most once, and not for data that is kept in the tree. The changes are
    // committed then, and the transaction, which REQUIRES to have been empty, is empty again
    // (README.md, "Before its data"). Not called, and as without it, when another fiber changes
    // the blob's mapping just then.
    Result<void> write(Suspend& suspend, BlobId blob, std::uint64_t offset, ConstDmaSpan from,
                       Transaction& transaction, std::optional<UnderWay> under_way = std::nullopt);
    // write() where nothing but data changes and its place is known from reading or writing
    // nearby: overwrites it in place, without a transaction. False, and nothing has happened, when
    // that is not so.
    Result<bool> overwrite(Suspend& suspend, BlobId blob, std::uint64_t offset, ConstDmaSpan from);
    // Sets the size; what is cut off is freed, what is added reads as zeroes. Atomic whatever the
    // number of extents (the rest is freed by the orphan machinery).
    Result<void> truncate(Suspend& suspend, BlobId blob, std::uint64_t size,
                          Transaction& transaction);
    // The range reads as zeroes; whole clusters in it are freed. The size stays. Commits inside
    // for each of a bounded number of extents; the last ones are in the transaction.
    Result<void> deallocate(Suspend& suspend, BlobId blob, std::uint64_t offset,
                            std::uint64_t bytes, Transaction& transaction);
    // Allocates what is not mapped in the range (unwritten: reads as zeroes). The size stays: the
    // caller extends it with truncate() if wanted.
    Result<void> preallocate(Suspend& suspend, BlobId blob, std::uint64_t offset,
                             std::uint64_t bytes, Transaction& transaction);
    // The first byte at or after offset that is in a mapped, written extent (or not); the size when
    // there is none. For SEEK_DATA and SEEK_HOLE.
    Result<std::uint64_t> next_data(Suspend& suspend, BlobId blob, std::uint64_t offset);
    Result<std::uint64_t> next_hole(Suspend& suspend, BlobId blob, std::uint64_t offset);

    // Transactions. ---------------------------------------------------------------------------
    // All changes of the transaction become visible in one step. An error leaves nothing changed.
    // The transaction is empty afterwards in either case and its locks are released.
    Result<Sequence> commit(Suspend& suspend, Transaction& transaction);
    // Everything written and committed before the call is durable when it returns.
    Result<void> sync(Suspend& suspend);
    // Writes a checkpoint now: everything durable, pending blocks free, the log empty.
    Result<void> checkpoint(Suspend& suspend);

    // Makes a checkpoint and keeps its root whole until unpin_root(), or until the pages that were
    // superseded meanwhile are needed by somebody: at most as much space as the root's own pages
    // take. kBusy when there is one. Of a store that is only read: what the device holds.
    Result<std::unique_ptr<PinnedRoot>> pin_root(Suspend& suspend);
    void unpin_root();  // does nothing when there is none

    // Frees all of a blob: data, xattrs, records, attributes, orphan record; in several bounded
    // transactions when it is large. REQUIRES add_orphan() committed before (so that a crash in
    // between only postpones it), and that nobody uses the blob.
    Result<void> delete_blob(Suspend& suspend, BlobId blob);

    // Checking. -------------------------------------------------------------------------------
    // Holds everything against everything: pages, key order, extents against the allocation map,
    // counts. Describes each violation; empty: sound. Reads all metadata. Freezes changes by a
    // checkpoint first; REQUIRES that nobody changes the store meanwhile.
    Result<std::vector<std::string>> check(Suspend& suspend);

    struct Statistics {
        std::uint64_t transactions = 0, log_batches = 0, checkpoints = 0;
        std::uint64_t cache_hits = 0, cache_misses = 0, pages_read_ahead = 0;
        std::size_t cache_frames = 0, dirty_pages = 0;
    };
    [[nodiscard]] Statistics statistics() const;

    struct State;
    [[nodiscard]] State& state() { return *state_; }

  private:
    explicit Blobstore(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::blobstore
