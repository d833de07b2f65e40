#pragma once

// Where free blocks lie: searches of the allocation map, whose answers are held (AllocationMap)
// when they are given, so that nobody else finds them. Reactor thread.

#include "blobstore/allocation_map.h"

namespace blobfs::blobstore {

class FreeSpaceSearch {
  public:
    // Data is allocated in multiples of `cluster_blocks`, a power of two.
    FreeSpaceSearch(AllocationMap& map, std::uint32_t cluster_blocks)
        : map_(map), cluster_blocks_(cluster_blocks) {}

    struct Wanted {
        std::uint64_t from = 0;       // block where the search begins
        std::uint64_t blocks = 0;     // the answer may be shorter; multiple of the alignment
        std::uint64_t alignment = 1;  // of the answer's start and length; a power of two
    };
    // The first run that is long enough, from `from` on and around, else the longest found, in one
    // bitmap. Empty when there is none. A damaged bitmap is passed over as long as there is space
    // elsewhere. Suspends.
    Result<Run> find(Suspend& suspend, const Wanted& wanted);
    // More of the kind where find() found less than was wanted, in the same bitmap: runs at least
    // half as long. Held, each told to take(run). REQUIRES that nothing suspended since.
    void find_more(const Run& found, std::uint64_t blocks, std::uint64_t alignment,
                   absl::FunctionRef<void(const Run&)> take);
    // The free blocks at that one, in whole clusters, as many as wanted at most. Empty when it is
    // not free. REQUIRES that its bitmap is in memory. Does not suspend.
    Run take_at(std::uint64_t block, std::uint64_t wanted);
    // A place that no page fits into, where the last such search ended or behind it. Empty when
    // none is near. Suspends.
    Result<Run> find_fragment(Suspend& suspend, std::uint64_t wanted);

  private:
    struct Found {
        Run run{};               // held; empty: there is none
        bool disturbed = false;  // or others took it meanwhile
        bool shorter = false;    // or it is shorter than was known of its bitmap
    };
    Result<Found> pass(Suspend& suspend, const Wanted& wanted);
    Run look(MapPage& page, std::uint64_t from, const Wanted& wanted) const;
    [[nodiscard]] std::uint32_t longest(const MapPage& page, const Wanted& wanted) const;

    AllocationMap& map_;
    const std::uint64_t cluster_blocks_;
    std::uint64_t fragment_cursor_ = 0;
};

}  // namespace blobfs::blobstore
