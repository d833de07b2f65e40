#pragma once

// A blob's mapping: extents from blocks within the blob to runs on the device, as keys of the tree.
// load_extents() reads it, remap() computes the changes that replace a part of it. Reactor thread.

#include <cstdint>
#include <span>
#include <vector>

#include "blobstore/btree.h"
#include "blobstore/transaction_state.h"

namespace blobfs::blobstore {

struct Extent {
    std::uint64_t first = 0;  // block within the blob
    std::uint64_t blocks = 0;
    std::uint64_t device = 0;  // block on the device
    std::uint32_t flags = 0;

    [[nodiscard]] std::uint64_t end() const { return first + blocks; }
    // The part within [from, to). REQUIRES that there is one.
    [[nodiscard]] Extent clip(std::uint64_t from, std::uint64_t to) const;
    [[nodiscard]] bool written() const { return (flags & kExtentUnwritten) == 0; }
    [[nodiscard]] bool shared() const { return (flags & kExtentShared) != 0; }
};

struct BlockRange {
    std::uint64_t first = 0, end = 0;  // blocks within a blob
};

// What an extent of a store may be: whole clusters behind the log.
struct ExtentBounds {
    std::uint64_t first_block = 0;  // of the device, behind superblocks and log
    std::uint64_t end_block = 0;
    std::uint64_t cluster_blocks = 1;
};

// An extent from its key and value as they are on the device: kCorrupt when anything is out of
// bounds, no whole cluster, or marked shared, which no store of this format version has.
Result<Extent> decode_extent(KeyView key, ValueView value, const ExtentBounds& bounds);

// All extents that overlap the range, whole, ascending; at most `limit` of them. kCorrupt when they
// overlap each other or are out of bounds. Suspends.
Result<void> load_extents(Suspend& suspend, Btree& tree, BlobId blob, const BlockRange& range,
                          const ExtentBounds& bounds, std::vector<Extent>& out,
                          std::size_t limit = ~std::size_t{0});

// Puts the changes into the transaction that make `replacement` (ascending, within the range) the
// whole mapping of the range: keys, runs that become free (what was mapped and is not any more),
// and the count of allocated blocks. `existing` is what load_extents() answers for the range
// widened by one block on either side, so that neighbours are joined.
void remap(Transaction::State& transaction, BlobId blob, const BlockRange& range,
           std::span<const Extent> existing, std::span<const Extent> replacement);

}  // namespace blobfs::blobstore
