// Truncating, deallocating and preallocating blob data.

#include <algorithm>
#include <cstring>

#include "blobstore/blob_data.h"
#include "blobstore/extent_map.h"

namespace blobfs::blobstore {

namespace {

// Extents that one transaction removes at most, so that its log record and page needs are bounded.
constexpr std::size_t kExtentsPerTransaction = 32;

// Removes whole extents and parts in the range from the mapping, at most kExtentsPerTransaction of
// them. Answers the block up to which (from the end down is not needed: ascending) it is done.
// REQUIRES the mapping lock.
Result<std::uint64_t> unmap_some(Suspend& suspend, Blobstore::State& store, BlobId blob,
                                 const BlockRange& range, Transaction::State& transaction) {
    std::vector<Extent> extents;
    TRY(load_extents(suspend, store.tree, blob, range, store.superblock.block_count, extents,
                     kExtentsPerTransaction));
    if (extents.empty()) return range.end;
    const std::uint64_t done = extents.size() < kExtentsPerTransaction
                                   ? range.end
                                   : std::min(range.end, extents.back().end());
    remap(transaction, blob, BlockRange{.first = range.first, .end = done}, extents, {});
    return done;
}

constexpr std::uint64_t kEndBlock = std::uint64_t{1} << 51;

// The cluster in which the blob is to end keeps its first bytes, the rest must be zero. It gets a
// new place, so that a crash before the transaction is durable shows the old bytes.
Result<void> cut_cluster(Suspend& suspend, Blobstore::State& store, BlobId blob, std::uint64_t size,
                         Transaction::State& transaction, std::vector<Extent>& replacement) {
    const std::uint64_t cluster_blocks = store.cluster_blocks();
    const std::uint64_t first = round_down(size / kBlockBytes, cluster_blocks);
    std::vector<Extent> old;
    TRY(load_extents(suspend, store.tree, blob, {.first = first, .end = first + cluster_blocks},
                     store.superblock.block_count, old));
    if (old.empty()) return {};
    if (!old.front().written()) {
        replacement.push_back(old.front().clip(first, first + cluster_blocks));
        return {};
    }
    TRY_ASSIGN(SpaceAllocator::Reservation reservation,
               store.reserve(suspend, {.blocks = cluster_blocks, .near = {}}));
    const Extent source = old.front().clip(first, first + cluster_blocks);
    const Extent target{
        .first = first, .blocks = cluster_blocks, .device = reservation.run().first(), .flags = 0};
    const auto buffer = store.bounce->acquire(suspend);
    const DmaSpan bytes = buffer.span().first(cluster_blocks * kBlockBytes);
    TRY(store.device.read(suspend, source.device * kBlockBytes, bytes));
    const std::size_t keep = size - first * kBlockBytes;
    std::memset(bytes.data() + keep, 0, bytes.size() - keep);
    TRY(store.device.write(suspend, target.device * kBlockBytes, bytes));
    store.log.note_data_written();
    replacement.push_back(target);
    transaction.reservations.push_back(std::move(reservation));
    return {};
}

}  // namespace

Result<void> Blobstore::truncate(Suspend& suspend, BlobId blob, std::uint64_t size,
                                 Transaction& handle) {
    State& store = *state_;
    Transaction::State& transaction = handle.state();
    if (store.read_only) return fail(Errc::kReadOnly, "truncating blob", value(blob));
    if (size > kMaxBlobBytes) return fail(Errc::kTooLarge, "truncating blob", value(blob));
    const std::uint64_t cluster = store.superblock.cluster_bytes;
    BlobLock lock = store.locks.lock(suspend, blob, round_down(size, cluster), BlobLocks::kEnd,
                                     BlobLocks::Mode::kExclusive);
    TRY_ASSIGN(StoredAttributes attributes, store.load_attributes(suspend, blob));
    std::uint64_t locked_from = round_down(size, cluster);
    if ((attributes.head.flags & kBlobInline) != 0) {
        locked_from = 0;
        lock.release();
        lock = store.locks.lock(suspend, blob, 0, BlobLocks::kEnd, BlobLocks::Mode::kExclusive);
        TRY_ASSIGN(attributes, store.load_attributes(suspend, blob));
    }
    if ((attributes.head.flags & kBlobInline) != 0) {
        const Key key(blob, KeyKind::kInlineData);
        std::string bytes;
        TRY_ASSIGN(const bool found, store.tree.get(suspend, key, bytes));
        if (found && size == 0) {
            transaction.erase(key);
            transaction.attributes_of(blob).is_inline = false;
        } else if (found && size < bytes.size()) {
            bytes.resize(size);
            transaction.put(key, bytes);
        }
    } else if (size < attributes.head.size) {
        lock.lock_mapping(suspend);
        std::uint64_t first = size / kBlockBytes;
        std::vector<Extent> kept;
        if (size % cluster != 0) {
            TRY(cut_cluster(suspend, store, blob, size, transaction, kept));
            first = round_down(first, store.cluster_blocks());
        }
        std::vector<Extent> extents;
        const std::uint64_t before = first == 0 ? 0 : first - 1;
        TRY(load_extents(suspend, store.tree, blob, {.first = before, .end = kEndBlock},
                         store.superblock.block_count, extents, kExtentsPerTransaction));
        std::uint64_t end = kEndBlock;
        if (extents.size() == kExtentsPerTransaction) {
            end = extents.back().end();
            transaction.remainder = Transaction::State::Remainder{.blob = blob, .size = size};
            const TruncationValue rest{.size = size};
            transaction.put(Key(BlobId{0}, KeyKind::kTruncation, value(blob)), bytes_of(rest));
        }
        remap(transaction, blob, {.first = first, .end = end}, extents, kept);
    } else if (size > attributes.head.size) {
        if (round_down(attributes.head.size, cluster) < locked_from) {
            lock.release();
            lock = store.locks.lock(suspend, blob, 0, BlobLocks::kEnd, BlobLocks::Mode::kExclusive);
            TRY_ASSIGN(attributes, store.load_attributes(suspend, blob));
            // Made inline or cut meanwhile: as from the beginning.
            if (attributes.head.size >= size || (attributes.head.flags & kBlobInline) != 0) {
                lock.release();
                return truncate(suspend, blob, size, handle);
            }
        }
        TRY(zero_behind_end(
            suspend, store,
            BlobWrite{.blob = blob, .offset = 0, .from = {}, .blob_size = attributes.head.size},
            size, lock));
    }
    if (size != attributes.head.size) transaction.attributes_of(blob).set_size = size;
    transaction.locks.push_back(std::move(lock));
    return {};
}

Result<void> Blobstore::State::finish_truncate(Suspend& suspend, BlobId blob, std::uint64_t size) {
    std::uint64_t at = round_up(size, superblock.cluster_bytes) / kBlockBytes;
    while (at < kEndBlock) {
        Transaction::State transaction;
        TRY_ASSIGN(at,
                   unmap_some(suspend, *this, blob, {.first = at, .end = kEndBlock}, transaction));
        if (at >= kEndBlock) transaction.erase(Key(BlobId{0}, KeyKind::kTruncation, value(blob)));
        TRY(commit(suspend, transaction, true));
    }
    return {};
}

Result<void> Blobstore::deallocate(Suspend& suspend, BlobId blob, std::uint64_t offset,
                                   std::uint64_t bytes, Transaction& handle) {
    State& store = *state_;
    Transaction::State& transaction = handle.state();
    if (store.read_only) return fail(Errc::kReadOnly, "deallocating in blob", value(blob));
    const std::uint64_t cluster = store.superblock.cluster_bytes;
    if (offset >= kMaxBlobBytes || bytes == 0) return {};
    std::uint64_t end = offset + std::min(bytes, kMaxBlobBytes - offset);
    BlobLock lock =
        store.locks.lock(suspend, blob, 0, BlobLocks::kEnd, BlobLocks::Mode::kExclusive);
    TRY_ASSIGN(const StoredAttributes attributes, store.load_attributes(suspend, blob));
    if ((attributes.head.flags & kBlobInline) != 0) {
        const Key key(blob, KeyKind::kInlineData);
        std::string data;
        TRY_ASSIGN(const bool found, store.tree.get(suspend, key, data));
        if (found && offset < data.size()) {
            end = std::min<std::uint64_t>(end, data.size());
            std::memset(data.data() + offset, 0, end - offset);
            transaction.put(key, data);
        }
        transaction.locks.push_back(std::move(lock));
        return {};
    }
    // The partial clusters at the edges are written over with zeroes where they are mapped.
    const std::uint64_t inner_first = round_up(offset, cluster);
    const std::uint64_t inner_end =
        end >= attributes.head.size ? round_up(end, cluster) : round_down(end, cluster);
    const auto zero_edge = [&](std::uint64_t from, std::uint64_t to) -> Result<void> {
        to = std::min(to, attributes.head.size);
        if (from >= to) return {};
        std::vector<Extent> mapped;
        TRY(load_extents(
            suspend, store.tree, blob,
            {.first = from / kBlockBytes, .end = round_up(to, kBlockBytes) / kBlockBytes},
            store.superblock.block_count, mapped, 1));
        if (mapped.empty() || !mapped.front().written()) return {};
        Transaction edge;
        TRY(write_extents(suspend, store,
                          BlobWrite{.blob = blob,
                                    .offset = from,
                                    .from = store.zeroes.span().first(to - from),
                                    .blob_size = attributes.head.size},
                          lock, edge.state()));
        if (!edge.empty()) {
            TRY(store.commit(suspend, edge.state(), false));
        }
        return {};
    };
    if (inner_first >= inner_end) {
        // Within one cluster, or two parts of neighbours.
        TRY(zero_edge(offset, std::min(end, inner_first)));
        TRY(zero_edge(std::min(end, inner_first), end));
        transaction.locks.push_back(std::move(lock));
        return {};
    }
    TRY(zero_edge(offset, inner_first));
    TRY(zero_edge(inner_end, end));
    if (!lock.holds_mapping()) lock.lock_mapping(suspend);
    std::uint64_t at = inner_first / kBlockBytes;
    const std::uint64_t stop = inner_end / kBlockBytes;
    while (at < stop) {
        Transaction::State part;
        TRY_ASSIGN(at, unmap_some(suspend, store, blob, {.first = at, .end = stop}, part));
        if (!part.empty()) {
            TRY(store.commit(suspend, part, true));
        }
    }
    transaction.locks.push_back(std::move(lock));
    return {};
}

Result<void> Blobstore::preallocate(Suspend& suspend, BlobId blob, std::uint64_t offset,
                                    std::uint64_t bytes, Transaction& handle) {
    State& store = *state_;
    if (store.read_only) return fail(Errc::kReadOnly, "allocating for blob", value(blob));
    if (bytes == 0) return {};
    if (offset > kMaxBlobBytes || bytes > kMaxBlobBytes - offset) {
        return fail(Errc::kTooLarge, "allocating for blob", value(blob));
    }
    BlobLock lock =
        store.locks.lock(suspend, blob, 0, BlobLocks::kEnd, BlobLocks::Mode::kExclusive);
    TRY_ASSIGN(const StoredAttributes attributes, store.load_attributes(suspend, blob));
    if ((attributes.head.flags & kBlobInline) != 0) {
        if (offset + bytes <= store.inline_limit()) {
            handle.state().locks.push_back(std::move(lock));
            return {};
        }
        TRY(inline_to_extents(suspend, store, blob, lock));
    }
    const std::uint64_t cluster = store.superblock.cluster_bytes;
    if (!lock.holds_mapping()) lock.lock_mapping(suspend);
    std::uint64_t at = round_down(offset, cluster) / kBlockBytes;
    const std::uint64_t stop = round_up(offset + bytes, cluster) / kBlockBytes;
    const SpaceInfo space = this->space();
    if (bytes / kBlockBytes > space.free_bytes / kBlockBytes + attributes.head.allocated_blocks) {
        return fail(Errc::kNoSpace, "allocating for blob", value(blob));
    }
    while (at < stop) {
        // One run of the range: the next hole up to the next extent.
        const BlockRange around{.first = at == 0 ? 0 : at - 1, .end = stop + 1};
        std::vector<Extent> extents;
        TRY(load_extents(suspend, store.tree, blob, around, store.superblock.block_count, extents,
                         3));
        std::uint64_t hole_end = stop;
        BlockIndex near{};
        bool covered = false;
        for (const Extent& extent : extents) {
            if (extent.first <= at && extent.end() > at) {
                at = extent.end();
                covered = true;
                break;
            }
            if (extent.end() == at) near = BlockIndex{extent.device + extent.blocks};
            if (extent.first > at) {
                hole_end = std::min(hole_end, extent.first);
                break;
            }
        }
        if (covered) continue;
        TRY_ASSIGN(SpaceAllocator::Reservation reservation,
                   store.reserve(suspend, {.blocks = hole_end - at, .near = near}));
        const Extent fresh{.first = at,
                           .blocks = reservation.run().blocks,
                           .device = reservation.run().first(),
                           .flags = kExtentUnwritten};
        Transaction::State part;
        const BlockRange range{.first = at, .end = fresh.end()};
        TRY(load_extents(suspend, store.tree, blob,
                         {.first = at == 0 ? 0 : at - 1, .end = range.end + 1},
                         store.superblock.block_count, extents));
        remap(part, blob, range, extents, std::span(&fresh, 1));
        part.reservations.push_back(std::move(reservation));
        TRY(store.commit(suspend, part, false));
        at = fresh.end();
    }
    handle.state().locks.push_back(std::move(lock));
    return {};
}

}  // namespace blobfs::blobstore
