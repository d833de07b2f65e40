// Committing a transaction: warm up (may suspend), then apply (never does). README.md, "How a
// transaction happens".

#include <absl/container/inlined_vector.h>

#include <algorithm>

#include "blobstore/extent_map.h"
#include "blobstore/held_pages.h"
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

// The leaves that a transaction changes, and by how much.
class LeafChanges {
  public:
    void clear() { changes_.clear(); }
    void add(std::uint64_t leaf, std::uint32_t puts, std::size_t bytes) {
        changes_.push_back({.leaf = leaf, .puts = puts, .bytes = bytes});
    }
    // Pages that the transaction takes at most.
    std::uint32_t pages(const Btree& tree) {
        std::ranges::sort(changes_, {}, &Change::leaf);
        std::uint32_t pages = 0;
        for (std::size_t i = 0; i < changes_.size();) {
            Change sum{.leaf = changes_[i].leaf};
            for (; i < changes_.size() && changes_[i].leaf == sum.leaf; ++i) {
                sum.puts += changes_[i].puts;
                sum.bytes += changes_[i].bytes;
            }
            pages += tree.max_pages_per_leaf(sum.puts, sum.bytes);
        }
        return pages;
    }

  private:
    struct Change {
        std::uint64_t leaf = 0;
        std::uint32_t puts = 0;
        std::size_t bytes = 0;  // of their keys and values
    };
    absl::InlinedVector<Change, 16> changes_;
};

// Makes the pages of all keys resident. True when nothing had to be loaded: then `leaves` is whole,
// and the pages are held.
Result<bool> warm_up(Suspend& suspend, Btree& tree, const Transaction::State& transaction,
                     LeafChanges& leaves, HeldPages& held) {
    bool complete = true;
    leaves.clear();
    held.release();
    const auto visit = [&](KeyView key, std::uint32_t puts, std::size_t bytes) -> Result<void> {
        if (const auto leaf = tree.resident_leaf(key, held)) {
            leaves.add(*leaf, puts, bytes);
            return {};
        }
        complete = false;
        held.release();
        return tree.fetch(suspend, key);
    };
    for (const AttributesUpdate& update : transaction.attributes) {
        const Key key(update.blob, KeyKind::kAttributes);
        TRY(visit(key, 1, key.view().size() + sizeof(AttributesValue) + kMaxAttributeBlockBytes));
    }
    for (const auto& change : transaction.changes) {
        TRY(visit(change.key, change.erase ? 0 : 1, change.key.size() + change.value.size()));
    }
    if (!complete) held.release();
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
    urgent = urgent && options.broken_rule != OrderRule::kDeleteWhenFull;
    LeafChanges leaves;
    HeldPages held(*cache);
    // Repeated until nothing had to be waited for: only then all that was found still holds.
    for (;;) {
        if (!transaction.waits_for_checkpoints) {
            if (!log.has_room(bytes)) return fail(Errc::kNoSpace, "appending to the log");
        } else if (must_wait_for_checkpoint(bytes)) {
            // The end of the one under way may be enough.
            { const driver::FiberMutex::Guard until_it_is_over(suspend, checkpoint_mutex); }
            if (must_wait_for_checkpoint(bytes)) {
                TRY(checkpoint(suspend, SuperblockState::kInUse));
            }
            continue;
        }
        TRY_ASSIGN(const bool complete, warm_up(suspend, tree, transaction, leaves, held));
        if (!complete) continue;
        const std::uint32_t pages = leaves.pages(tree);
        if (space.reserved_pages(urgent) >= pages) break;
        held.release();
        TRY(transaction.waits_for_checkpoints ? reserve_pages(suspend, pages, urgent)
                                              : space.reserve_pages(suspend, pages, urgent));
    }
    if (read_only) return failure ? fail(*failure) : fail(Errc::kReadOnly, "changing the store");

    // From here on nothing suspends. First everything that can still be refused.
    std::vector<std::string> values;
    values.reserve(transaction.attributes.size());
    for (const AttributesUpdate& update : transaction.attributes) {
        TRY_ASSIGN(values.emplace_back(), resolve(update));
    }
    if (auto* const data = transaction.data_under_way; data != nullptr) {
        data->note = log.begin_data(std::move(data->written));
    }
    LogRecord record;
    bool created = false;
    const auto put = [&](KeyView key, ValueView bytes_to_put) {
        hints.drop(key_blob(key));
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
            hints.drop(key_blob(change.key));
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
    for (const UnflushedData::Note note : transaction.data) log.make_loggable(note);
    ++counters.transactions;
    transaction.data.clear();
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
    const Result<Sequence> sequence = state_->commit(suspend, transaction, handle.urgent());
    // The cut is made; what is left behind the end goes before anybody can extend the blob over it.
    if (sequence && remainder) {
        state_->try_finish_truncate(suspend, *remainder, transaction.locks[remainder->lock]);
    }
    transaction.clear();
    return sequence;
}

Result<void> Blobstore::sync(Suspend& suspend) {
    State& store = *state_;
    if (store.failure) return fail(*store.failure);
    if (store.read_only) return {};
    return store.make_durable(suspend);
}

Result<void> Blobstore::State::make_durable(Suspend& suspend) {
    LogRecord empty;
    const std::string_view nothing = empty.finish();
    const Sequence last = log.last_appended();
    const UnflushedData::Note data = log.data_noted();
    Result<void> status;
    if (log.last_durable() < last) {
        status = log.commit(suspend, last);
    } else if (log.flush_must_settle() && last != last_carried && log.has_room(nothing.size())) {
        // A flush would need a batch behind it. One that carries the data does both. Where nothing
        // but that happens the flush is cheaper, as the next one needs no batch.
        status = log.commit(suspend, log.append(nothing));
        last_carried = log.last_appended();
        if (checkpoint_due()) want_checkpoint();
    }
    if (status) status = log.flush_data(suspend, data);
    while (status && log.must_settle()) {
        if (!log.has_room(nothing.size())) {
            TRY(checkpoint(suspend, SuperblockState::kInUse));
            continue;
        }
        status = log.commit(suspend, log.append(nothing));
    }
    if (!status) fail_store(status.error());
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
                auto extent = decode_extent(key, bytes, extent_bounds());
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
            if (unfinished_truncations.contains(value(blob))) {
                part.erase(Key(BlobId{0}, KeyKind::kTruncation, value(blob)));
            }
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
        if (last) {
            unfinished_truncations.erase(value(blob));
            return {};
        }
    }
}

Result<void> Blobstore::delete_blob(Suspend& suspend, BlobId blob) {
    if (state_->read_only) return fail(Errc::kReadOnly, "deleting blob", value(blob));
    return state_->delete_blob(suspend, blob);
}

}  // namespace blobfs::blobstore
