#pragma once

// The steps of data changes that several calls share; private to the blobstore. Reactor thread.

#include "blobstore/blob_lock.h"
#include "blobstore/store_state.h"

namespace blobfs::blobstore {

struct BlobWrite {
    BlobId blob{};
    std::uint64_t offset = 0;  // bytes
    ConstDmaSpan from;
    std::uint64_t blob_size = 0;          // now
    std::optional<UnderWay> under_way{};  // Blobstore::write()
};

// Writes data of a blob that is not inline; mapping and size changes go into the transaction.
// REQUIRES the exclusive lock of the clusters touched; takes its mapping when that changes.
Result<void> write_extents(Suspend& suspend, Blobstore::State& store, const BlobWrite& write,
                           BlobLock& lock, Transaction::State& transaction,
                           Extent* in_place = nullptr);

// Zeroes what lies between the end of the blob and `limit` (bytes) in its last cluster, if that is
// mapped and written: bytes of appends that were never committed may be there, and a blob that
// grows over a gap must not show them. REQUIRES the exclusive lock of that cluster.
Result<void> zero_behind_end(Suspend& suspend, Blobstore::State& store, const BlobWrite& end,
                             std::uint64_t limit, BlobLock& lock);

// Turns an inline blob into one with extents, in a transaction of its own. REQUIRES the exclusive
// lock of the whole blob.
Result<void> inline_to_extents(Suspend& suspend, Blobstore::State& store, BlobId blob,
                               BlobLock& lock);

}  // namespace blobfs::blobstore
