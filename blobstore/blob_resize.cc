// Truncating, deallocating and preallocating blob data.

#include <absl/functional/function_ref.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>

#include "blobstore/blob_data.h"
#include "blobstore/extent_map.h"

namespace blobfs::blobstore {

namespace {

// Extents that one transaction removes at most, so that its log record and page needs are bounded.
constexpr std::size_t kExtentsPerTransaction = 32;

// Removes whole extents and parts in the range from the mapping, at most that many. Answers the
// block up to which (from the end down is not needed: ascending) it is done. REQUIRES the mapping
// lock.
Result<std::uint64_t> unmap_some(Suspend& suspend, Blobstore::State& store, BlobId blob,
                                 const BlockRange& range, std::size_t limit,
                                 Transaction::State& transaction) {
    std::vector<Extent> extents;
    TRY(load_extents(suspend, store.tree, blob, range, store.extent_bounds(), extents, limit));
    if (extents.empty()) return range.end;
    const std::uint64_t done =
        extents.size() < limit ? range.end : std::min(range.end, extents.back().end());
    remap(transaction, blob, BlockRange{.first = range.first, .end = done}, extents, {});
    return done;
}

constexpr std::uint64_t kEndBlock = std::uint64_t{1} << 51;

// Unmaps the range in as many transactions as it takes: fewer extents in each when the device is so
// full that the pages for more cannot be set aside. `last` is added to the last one.
Result<void> unmap_all(Suspend& suspend, Blobstore::State& store, BlobId blob, BlockRange range,
                       absl::FunctionRef<void(Transaction::State&)> last) {
    std::size_t limit = kExtentsPerTransaction;
    while (range.first < range.end) {
        Transaction::State part;
        TRY_ASSIGN(const std::uint64_t done, unmap_some(suspend, store, blob, range, limit, part));
        if (done >= range.end) last(part);
        const auto committed = store.commit(suspend, part, true);
        if (!committed && committed.error().code == Errc::kNoSpace && limit > 1) {
            limit = std::max<std::size_t>(1, limit / 4);
            TRY(store.checkpoint(suspend, SuperblockState::kInUse));
            continue;
        }
        TRY(committed);
        range.first = done;
    }
    return {};
}

// The cluster in which the blob is to end keeps its first bytes, the rest must be zero. It gets a
// new place, so that a crash before the transaction is durable shows the old bytes. Without space
// for one it stays where it is, and is zeroed when the transaction is durable (finish_truncate).
Result<void> cut_cluster(Suspend& suspend, Blobstore::State& store, BlobId blob, std::uint64_t size,
                         Transaction::State& transaction, std::vector<Extent>& replacement) {
    const std::uint64_t cluster_blocks = store.cluster_blocks();
    const std::uint64_t first = round_down(size / kBlockBytes, cluster_blocks);
    std::vector<Extent> old;
    TRY(load_extents(suspend, store.tree, blob, {.first = first, .end = first + cluster_blocks},
                     store.extent_bounds(), old));
    if (old.empty()) return {};
    if (!old.front().written()) {
        replacement.push_back(old.front().clip(first, first + cluster_blocks));
        return {};
    }
    const Extent source = old.front().clip(first, first + cluster_blocks);
    auto reserved = store.reserve(suspend, {.blocks = cluster_blocks, .near = {}});
    if (!reserved && reserved.error().code == Errc::kNoSpace) {
        replacement.push_back(source);
        transaction.remainder = Truncation{.blob = blob, .size = size, .tail = true};
        return {};
    }
    TRY_ASSIGN(SpaceAllocator::Reservation reservation, std::move(reserved));
    const Extent target{
        .first = first, .blocks = cluster_blocks, .device = reservation.run().first(), .flags = 0};
    const auto buffer = store.bounce->acquire(suspend);
    const DmaSpan bytes = buffer.span().first(cluster_blocks * kBlockBytes);
    TRY(store.device.read(suspend, source.device * kBlockBytes, bytes));
    const std::size_t keep = size - first * kBlockBytes;
    std::memset(bytes.data() + keep, 0, bytes.size() - keep);
    TRY(store.device.write(suspend, target.device * kBlockBytes, bytes));
    WrittenData written(store.log.copy_limit());
    written.add(target.device * kBlockBytes, bytes);
    transaction.data.push_back(store.log.note_data_written(std::move(written), false));
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
    TRY_ASSIGN(BlobLock lock,
               store.lock_to_change(suspend, blob, round_down(size, cluster), BlobLocks::kEnd));
    TRY_ASSIGN(StoredAttributes attributes, store.load_attributes(suspend, blob));
    std::uint64_t locked_from = round_down(size, cluster);
    if ((attributes.head.flags & kBlobInline) != 0) {
        locked_from = 0;
        lock.release();
        TRY_ASSIGN(lock, store.lock_to_change(suspend, blob, 0, BlobLocks::kEnd));
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
                         store.extent_bounds(), extents, kExtentsPerTransaction));
        std::uint64_t end = kEndBlock;
        if (extents.size() == kExtentsPerTransaction) {
            end = extents.back().end();
            if (!transaction.remainder) {
                transaction.remainder = Truncation{.blob = blob, .size = size, .tail = false};
            }
        }
        if (transaction.remainder) {
            const TruncationValue rest{.size = size};
            transaction.put(Key(BlobId{0}, KeyKind::kTruncation, value(blob)), bytes_of(rest));
        }
        remap(transaction, blob, {.first = first, .end = end}, extents, kept);
    } else if (size > attributes.head.size) {
        if (round_down(attributes.head.size, cluster) < locked_from) {
            lock.release();
            TRY_ASSIGN(lock, store.lock_to_change(suspend, blob, 0, BlobLocks::kEnd));
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
    if (transaction.remainder) transaction.remainder->lock = transaction.locks.size();
    transaction.locks.push_back(std::move(lock));
    return {};
}

Result<void> Blobstore::State::finish_truncate(Suspend& suspend, const Truncation& truncation,
                                               BlobLock& lock) {
    const std::uint64_t end = round_up(truncation.size, superblock.cluster_bytes);
    if (truncation.tail && truncation.size != end) {
        // Not before the cut is durable: until then a crash shows the blob as long as it was.
        if (const auto durable = log.commit(suspend, log.last_appended()); !durable) {
            fail_store(durable.error());
            return fail(durable.error());
        }
        TRY(zero_behind_end(
            suspend, *this,
            BlobWrite{
                .blob = truncation.blob, .offset = 0, .from = {}, .blob_size = truncation.size},
            end, lock));
    }
    return unmap_all(suspend, *this, truncation.blob,
                     {.first = end / kBlockBytes, .end = kEndBlock}, [&](Transaction::State& last) {
                         last.erase(Key(BlobId{0}, KeyKind::kTruncation, value(truncation.blob)));
                     });
}

void Blobstore::State::try_finish_truncate(Suspend& suspend, const Truncation& truncation,
                                           BlobLock& lock) {
    const Result<void> finished = finish_truncate(suspend, truncation, lock);
    if (finished) return;
    // What is mapped behind the end must not show: until it is gone nothing changes the blob's
    // data.
    unfinished_truncations[value(truncation.blob)] = truncation.size;
    spdlog::error(
        "{}: freeing what a truncation cut off from blob {}: {}; it is tried again when the blob "
        "is "
        "next written to, and at the next mount",
        device.properties().name, value(truncation.blob), finished.error().message());
}

Result<void> Blobstore::State::finish_earlier_truncate(Suspend& suspend, BlobId blob) {
    if (!unfinished_truncations.contains(value(blob))) return {};
    BlobLock lock = locks.lock(suspend, blob, 0, BlobLocks::kEnd, BlobLocks::Mode::kExclusive);
    lock.lock_mapping(suspend);
    const auto found = unfinished_truncations.find(value(blob));
    if (found == unfinished_truncations.end()) return {};
    TRY(finish_truncate(suspend, {.blob = blob, .size = found->second, .tail = true}, lock));
    unfinished_truncations.erase(value(blob));
    return {};
}

Result<BlobLock> Blobstore::State::lock_to_change(Suspend& suspend, BlobId blob,
                                                  std::uint64_t first, std::uint64_t end) {
    for (;;) {
        TRY(finish_earlier_truncate(suspend, blob));
        BlobLock lock = locks.lock(suspend, blob, first, end, BlobLocks::Mode::kExclusive);
        // Whoever held it may have been a truncation that could not be finished.
        if (!unfinished_truncations.contains(value(blob))) return lock;
    }
}

Result<void> Blobstore::deallocate(Suspend& suspend, BlobId blob, std::uint64_t offset,
                                   std::uint64_t bytes, Transaction& handle) {
    State& store = *state_;
    Transaction::State& transaction = handle.state();
    if (store.read_only) return fail(Errc::kReadOnly, "deallocating in blob", value(blob));
    const std::uint64_t cluster = store.superblock.cluster_bytes;
    if (offset >= kMaxBlobBytes || bytes == 0) return {};
    std::uint64_t end = offset + std::min(bytes, kMaxBlobBytes - offset);
    TRY_ASSIGN(BlobLock lock, store.lock_to_change(suspend, blob, 0, BlobLocks::kEnd));
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
            store.extent_bounds(), mapped, 1));
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
    TRY(unmap_all(suspend, store, blob,
                  {.first = inner_first / kBlockBytes, .end = inner_end / kBlockBytes},
                  [](Transaction::State&) {}));
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
    TRY_ASSIGN(BlobLock lock, store.lock_to_change(suspend, blob, 0, BlobLocks::kEnd));
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
        TRY(load_extents(suspend, store.tree, blob, around, store.extent_bounds(), extents, 3));
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
                         store.extent_bounds(), extents));
        remap(part, blob, range, extents, std::span(&fresh, 1));
        part.reservations.push_back(std::move(reservation));
        TRY(store.commit(suspend, part, false));
        at = fresh.end();
    }
    handle.state().locks.push_back(std::move(lock));
    return {};
}

}  // namespace blobfs::blobstore
