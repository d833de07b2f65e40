#pragma once

// What a Transaction collects; private to the blobstore. Reactor thread.

#include <optional>
#include <string>
#include <vector>

#include "blobstore/blob_lock.h"
#include "blobstore/key.h"
#include "blobstore/space_allocator.h"
#include "blobstore/transaction.h"
#include "blobstore/unflushed_data.h"
#include "blobstore/write_ahead_log.h"

namespace blobfs::blobstore {

// How a blob's AttributesValue is to change. Resolved against the value in the tree when the
// transaction is applied, so that an attribute change and a data change of two fibers both count.
struct AttributesUpdate {
    BlobId blob{};
    bool create = false;
    std::optional<std::string> block{};
    std::optional<std::uint64_t> set_size{};
    std::uint64_t size_at_least = 0;
    std::int64_t allocated_blocks = 0;  // added
    std::optional<bool> is_inline{};
};

// What is left to do of a truncation after the transaction that made the cut: more extents to free
// than one transaction may, and the rest of the last cluster to zero in place, when there was no
// space for another copy of it.
struct Truncation {
    BlobId blob{};
    std::uint64_t size = 0;  // bytes
    bool tail = false;
    std::size_t lock = 0;  // of the transaction's locks, the one that holds the range
};

struct Transaction::State {
    struct Change {
        std::string key;
        std::string value;
        bool erase;
    };

    std::vector<AttributesUpdate> attributes;
    std::vector<Change> changes;  // in order: later ones win
    std::vector<SpaceAllocator::Reservation> reservations;
    std::vector<Run> frees;
    std::vector<BlobLock> locks;
    std::vector<UnflushedData::Note> data;  // that was written to the reservations

    // Its data is still under way: commit() notes that where it appends (WriteAheadLog::begin_data()).
    struct DataUnderWay {
        WrittenData written;
        std::optional<UnflushedData::Note> note;
    };
    DataUnderWay* data_under_way = nullptr;
    // Others wait for it: where it would have to wait for a checkpoint it fails.
    bool waits_for_checkpoints = true;

    // A truncation that one transaction cannot do whole: the rest follows before the locks are
    // released.
    std::optional<Truncation> remainder;

    AttributesUpdate& attributes_of(BlobId blob) {
        for (AttributesUpdate& update : attributes) {
            if (update.blob == blob) return update;
        }
        attributes.push_back(AttributesUpdate{.blob = blob});
        return attributes.back();
    }
    void put(KeyView key, ValueView bytes) {
        changes.push_back(
            Change{.key = std::string(key), .value = std::string(bytes), .erase = false});
    }
    void erase(KeyView key) {
        changes.push_back(Change{.key = std::string(key), .value = {}, .erase = true});
    }
    [[nodiscard]] bool empty() const {
        return attributes.empty() && changes.empty() && reservations.empty() && frees.empty();
    }
    // Forgets everything: reserved blocks are given back, locks released.
    void clear() {
        attributes.clear();
        changes.clear();
        reservations.clear();
        frees.clear();
        remainder.reset();
        data.clear();
        locks.clear();
    }
};

}  // namespace blobfs::blobstore
