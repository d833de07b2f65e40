// Committing a transaction: warm up (may suspend), then apply (never does). README.md, "How a
// transaction happens".

#include <algorithm>

#include "blobstore/extent_map.h"
#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

// What a transaction's log record takes at most, and the keys it touches.
std::size_t record_bound(const Transaction::State& transaction) {
    std::size_t bytes = 256 + transaction.attributes.size() *
                                  (64 + sizeof(AttributesValue) + kMaxAttributeBlockBytes);
    for (const auto& change : transaction.changes) {
        bytes += sizeof(LogOperationHeader) + change.key.size() + change.value.size();
    }
    bytes += (transaction.reservations.size() + transaction.frees.size()) *
             (sizeof(LogOperationHeader) + sizeof(LogRun));
    return bytes;
}

// Makes the pages of all keys resident. True when nothing had to be loaded.
Result<bool> warm_up(Suspend& suspend, Btree& tree, const Transaction::State& transaction) {
    bool complete = true;
    for (const AttributesUpdate& update : transaction.attributes) {
        const Key key(update.blob, KeyKind::kAttributes);
        if (tree.resident(key)) continue;
        complete = false;
        TRY(tree.fetch(suspend, key));
    }
    for (const auto& change : transaction.changes) {
        if (tree.resident(change.key)) continue;
        complete = false;
        TRY(tree.fetch(suspend, change.key));
    }
    return complete;
}

}  // namespace

Result<Sequence> Blobstore::State::commit(Suspend& suspend, Transaction::State& transaction,
                                          bool urgent) {
    if (transaction.empty()) return log.last_appended();
    if (read_only) {
        return failure ? fail(*failure) : fail(Errc::kReadOnly, "changing the store");
    }
    const std::size_t bytes = record_bound(transaction);
    if (bytes > log.max_record_bytes()) {
        return fail(Errc::kTooLarge, "committing a transaction larger than the log takes");
    }
    const auto changes =
        static_cast<std::uint32_t>(transaction.attributes.size() + transaction.changes.size());
    // Repeated until nothing had to be waited for: only then all that was found still holds.
    for (;;) {
        if (must_wait_for_checkpoint(bytes)) {
            TRY(checkpoint(suspend, SuperblockState::kInUse));
            continue;
        }
        const std::uint32_t pages = (changes + 1) * tree.max_pages_per_change();
        if (space.reserved_pages() < pages) {
            TRY(reserve_pages(suspend, pages, urgent));
        }
        TRY_ASSIGN(const bool complete, warm_up(suspend, tree, transaction));
        if (complete && space.reserved_pages() >= pages && !must_wait_for_checkpoint(bytes)) break;
    }
    if (read_only) return failure ? fail(*failure) : fail(Errc::kReadOnly, "changing the store");

    // From here on nothing suspends. First everything that can still be refused.
    std::vector<std::string> values;
    values.reserve(transaction.attributes.size());
    for (const AttributesUpdate& update : transaction.attributes) {
        TRY_ASSIGN(values.emplace_back(), resolve(update));
    }
    LogRecord record;
    bool created = false;
    const auto put = [&](KeyView key, ValueView bytes_to_put) {
        tree.put(key, bytes_to_put);
        record.put(key, bytes_to_put);
    };
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (transaction.attributes[i].create) {
            ++blob_count;
            created = true;
        }
        put(Key(transaction.attributes[i].blob, KeyKind::kAttributes), values[i]);
    }
    for (const auto& change : transaction.changes) {
        if (change.erase) {
            const bool erased = tree.erase(change.key);
            if (erased && key_kind(change.key) == KeyKind::kAttributes) --blob_count;
            record.erase(change.key);
        } else {
            put(change.key, change.value);
        }
    }
    for (auto& reservation : transaction.reservations) {
        record.allocate(reservation.run());
        space.commit(std::move(reservation));
    }
    for (const Run& run : transaction.frees) {
        record.free(run);
        space.free(run);
    }
    if (created) record.next_blob_id(BlobId{next_blob_id});
    const Sequence sequence = log.append(record.finish());
    ++counters.transactions;
    transaction.attributes.clear();
    transaction.changes.clear();
    transaction.reservations.clear();
    transaction.frees.clear();
    if (checkpoint_due()) want_checkpoint();
    return sequence;
}

Result<Sequence> Blobstore::commit(Suspend& suspend, Transaction& handle) {
    Transaction::State& transaction = handle.state();
    const auto remainder = transaction.remainder;
    Result<Sequence> sequence = state_->commit(suspend, transaction, handle.urgent());
    if (sequence && remainder) {
        // The cut is made; what is left behind the end is freed before anybody can extend it.
        const Result<void> finished =
            state_->finish_truncate(suspend, remainder->blob, remainder->size);
        if (!finished) {
            // What is mapped behind the end must not show: nothing may extend the blob any more.
            state_->fail_store(finished.error());
            sequence = fail(finished.error());
        }
    }
    transaction.clear();
    return sequence;
}

Result<void> Blobstore::sync(Suspend& suspend) {
    State& store = *state_;
    if (store.failure) return fail(*store.failure);
    if (store.read_only) return {};
    const Sequence last = store.log.last_appended();
    Result<void> status;
    if (value(store.log.last_durable()) < value(last)) status = store.log.commit(suspend, last);
    if (status) status = store.log.flush_data(suspend);
    if (!status) store.fail_store(status.error());
    return status;
}

Result<void> Blobstore::State::delete_blob(Suspend& suspend, BlobId blob) {
    // Fewer when the device is so full that the pages for more cannot be set aside.
    std::size_t keys_per_transaction = 32;
    const BlobLock lock =
        locks.lock(suspend, blob, 0, BlobLocks::kEnd, BlobLocks::Mode::kExclusive);
    const Key first(blob, static_cast<KeyKind>(0));
    const Key end(BlobId{value(blob) + 1}, static_cast<KeyKind>(0));
    for (;;) {
        Transaction::State part;
        Result<void> status;
        bool attributes = false;
        std::size_t keys = 0;
        TRY(tree.scan(suspend, first, end, [&](KeyView key, ValueView bytes) {
            // The attributes go last, so that what is left after a crash is still a blob.
            if (key_kind(key) == KeyKind::kAttributes) {
                attributes = true;
                return true;
            }
            if (key_kind(key) == KeyKind::kExtent) {
                auto extent = decode_extent(key, bytes, superblock.block_count);
                if (!extent) {
                    status = fail(extent.error());
                    return false;
                }
                part.frees.push_back(Run{BlockIndex{extent->device}, extent->blocks});
            }
            part.erase(key);
            return ++keys < keys_per_transaction;
        }));
        TRY(status);
        const bool last = keys < keys_per_transaction;
        if (last) {
            if (attributes) part.erase(Key(blob, KeyKind::kAttributes));
            part.erase(Key(BlobId{0}, KeyKind::kOrphan, value(blob)));
        }
        const auto committed = commit(suspend, part, true);
        if (!committed && committed.error().code == Errc::kNoSpace && keys_per_transaction > 1) {
            keys_per_transaction = std::max<std::size_t>(1, keys_per_transaction / 4);
            TRY(checkpoint(suspend, SuperblockState::kInUse));
            continue;
        }
        TRY(committed);
        if (last) return {};
    }
}

Result<void> Blobstore::delete_blob(Suspend& suspend, BlobId blob) {
    if (state_->read_only) return fail(Errc::kReadOnly, "deleting blob", value(blob));
    return state_->delete_blob(suspend, blob);
}

}  // namespace blobfs::blobstore
