#pragma once

// Which blocks are free. The durable truth is the allocation map, a radix tree of copy-on-write
// pages found by index: bitmaps (one bit a block, 1 = used) below MapEntry pages with the counts of
// free blocks. Only pages that are needed are in memory; groups that were never used have none.
//
// Each bitmap in memory has a shadow, "busy": used, or set aside by a Reservation, or freed but not
// yet safe to use again. A block's life:
//     free --reserve--> busy --commit--> used --free--> pending --freeze--> quarantined
//     --release--> free
// * reserve sets the busy bit only, so a crash or a checkpoint in between leaks nothing;
// * commit sets the used bit, in the same atomic step that puts the mapping into the tree;
// * free() notes the run; the checkpoint that contains the freeing clears its used bits (freeze),
//   and only when that checkpoint is durable may the blocks be handed out again (release): design
//   section 5, order of writes, rules 3 and 4 in one stronger rule.
// Pages live the same life, but that those set aside wait in a stash for take_page(), and that one
// made in the current generation goes back into the stash at once. The stash holds the reserve,
// too: real pages, so that small data cannot break up the last places that a page fits into. For
// the same reason small data goes where no page fits first, once the device is rather full. The
// map's own pages move to new addresses in a freeze; that freeze already clears the used bits of
// the old ones, as nothing but the root before it reaches them, and release() gives them free: so
// no page leaks over a crash.
//
// The sums, at every instant (verify() holds them against the bits):
//     block_count = used + held + free_blocks()
//     held        = reserved by Reservations + stash + quarantined + pinned
//     pending     is part of used;   pending_blocks() = pending + quarantined
//     MapRoot::free_blocks (on the device) = block_count - used
// Reactor thread.

#include <absl/functional/function_ref.h>

#include <memory>
#include <vector>

#include "blobstore/allocation_map.h"
#include "blobstore/page_io.h"
#include "blobstore/page_source.h"

namespace blobfs::blobstore {

class SpaceAllocator final : public PageSource {
  public:
    struct Options {
        std::uint32_t cluster_blocks = 1;  // data is allocated in multiples of this, so aligned
        // Set aside as pages for urgent requests (deleting on a full device); as much again is kept
        // from data, so that metadata goes on for a while on a device that is full of data.
        std::uint64_t reserve_blocks = 0;
        std::size_t cached_map_pages = 1024;  // clean map pages kept in memory at most
        // Tests only: what is freed may be used again at once.
        bool reuse_data_at_once = false, reuse_pages_at_once = false;
    };
    SpaceAllocator(PageIo& io, const Options& options);
    ~SpaceAllocator() override;

    // A map in which all is free but `used` (mkfs: superblocks and log, [0, log_end)), or a durable
    // one, of which only the root page is read. `current` is the generation that changes belong to:
    // that of the next checkpoint. Suspend.
    Result<void> create(Suspend& suspend, const std::vector<Run>& used, Generation current);
    Result<void> open(Suspend& suspend, const MapRoot& root, Generation current);

    // Data. ----------------------------------------------------------------------------------
    // Blocks set aside for one owner until commit() or cancel(). Move-only; cancels on destruction.
    class Reservation {
      public:
        Reservation() = default;
        Reservation(Reservation&&) noexcept;
        Reservation& operator=(Reservation&&) noexcept;
        ~Reservation();
        [[nodiscard]] const Run& run() const { return run_; }
        explicit operator bool() const { return run_.blocks != 0; }

      private:
        friend class SpaceAllocator;
        SpaceAllocator* owner_ = nullptr;
        Run run_{};
    };
    struct Request {
        std::uint64_t blocks = 0;  // wanted; rounded up to clusters; the answer may be shorter
        BlockIndex near{};  // continue there if it is free, else search from there; 0: anywhere
    };
    // One run of 1..blocks blocks, whole clusters, cluster-aligned: at `near` if free there, else
    // (less than a page on a device that is rather full) a place where no page fits, else the first
    // run that is long enough near it, else the longest found. kNoSpace when nothing but the
    // reserve is free (the caller may checkpoint and try again when pending_blocks() > 0). The
    // answer does not cross the boundary of two bitmaps, so a cluster that does (clusters of 4 MiB
    // only) is never handed out. Suspends to load pages of the map.
    Result<Reservation> reserve(Suspend& suspend, const Request& request);
    // The run is used from now on. Does not suspend.
    void commit(Reservation reservation);
    // A used run of data is free after the next checkpoint. Does not suspend, cannot fail: whether
    // the run is used, as a damaged tree may name any, shows in prepare_freeze() (kCorrupt).
    void free(const Run& run);
    // Recovery: the log says that this run became used. kCorrupt when it is not free.
    Result<void> replay_allocate(Suspend& suspend, const Run& run);
    // Recovery: the log says that this run became free: free(), but kCorrupt when it is not used.
    Result<void> replay_free(Suspend& suspend, const Run& run);

    // Pages. ---------------------------------------------------------------------------------
    // Sets pages aside for take_page() until there are that many (`urgent`: the reserve counts).
    // Nobody owns them: whoever needs n pages does, without suspending between the question and
    // use,
    //     while (space.reserved_pages(urgent) < n) TRY(space.reserve_pages(s, n, urgent));
    // Suspends to load pages of the map. kNoSpace when it cannot be.
    Result<void> reserve_pages(Suspend& suspend, std::uint32_t pages, bool urgent);
    // How often take_page() can be called now with enough left for the map's own pages at a freeze
    // and, unless `urgent`, the reserve.
    [[nodiscard]] std::uint32_t reserved_pages(bool urgent) const;
    // After an open: sets the reserve aside, as much of it as there are places for pages. Suspends.
    Result<void> fill_reserve(Suspend& suspend);
    BlockIndex take_page() override;
    void return_page(BlockIndex block, Generation made) override;

    // Checkpoint. ----------------------------------------------------------------------------
    // Makes resident what freeze() will need, and sets pages aside for the map (from the reserve if
    // it must be); suspends; call until ready_to_freeze(), then freeze without suspending in
    // between. kCorrupt when a run was freed that is not used: there is no checkpoint of such a
    // store. kNoSpace when the map's own pages do not fit any more.
    Result<void> prepare_freeze(Suspend& suspend);
    [[nodiscard]] bool ready_to_freeze() const;
    struct FrozenPage {
        BlockIndex block;
        DmaSpan bytes;
    };
    struct Frozen {
        std::vector<FrozenPage> pages;  // ascending; copies, valid until release()
        MapRoot root;
    };
    // Clears the used bits of pending frees (they go to quarantine), gives the dirty map pages new
    // addresses (taking pages, so call after the tree's freeze), seals copies of them. Without any
    // change there are no pages and the root is the old one. Changes belong to `next` from now on.
    // REQUIRES ready_to_freeze(), and release() of the freeze before. Does not suspend.
    Frozen freeze(Generation next);
    // The checkpoint of the last freeze() is durable: quarantined blocks are free now.
    void release();

    // Right after the freeze() of a generation: until unpin() the pages of that root are kept, the
    // superseded ones too, so that it can be read whole. They are neither free nor pending.
    void pin(Generation root);
    void unpin();
    [[nodiscard]] std::uint64_t pinned_blocks() const;  // superseded, and kept for that

    [[nodiscard]] std::uint64_t free_blocks() const;     // can be handed out now as data
    [[nodiscard]] std::uint64_t stash_blocks() const;    // set aside for pages, reserve included
    [[nodiscard]] std::uint64_t pending_blocks() const;  // free after the next checkpoint(s)
    [[nodiscard]] std::uint64_t blocks_kept_from_data() const;
    // Of these, what was data, and the pages: those that were copied and those that were given up.
    [[nodiscard]] std::uint64_t pending_data_blocks() const;
    [[nodiscard]] std::uint64_t pending_pages() const;
    // Number of runs that wait for a checkpoint: grows without bound if none is made.
    [[nodiscard]] std::size_t pending_runs() const;

    [[nodiscard]] std::size_t dirty_map_pages() const;

    // Check: whether the durable form of the map (used bits) shows the block used. Suspends.
    Result<bool> is_used(Suspend& suspend, BlockIndex block);
    // Holds all counts and sums against the bits; reads the whole map. Suspends; REQUIRES that
    // nobody changes anything meanwhile.
    Result<void> verify(Suspend& suspend);

    // Check: the map as it is in memory. Visits the runs of its own pages, the used runs (within a
    // bitmap each, ascending), and the runs that are used but freed by the next freeze. REQUIRES
    // that nothing changes it meanwhile; the visitors must not suspend. Suspends.
    struct Visitor {
        absl::FunctionRef<void(const Run&)> map_page;
        absl::FunctionRef<void(const Run&)> used;
        absl::FunctionRef<void(const Run&)> pending;
    };
    Result<void> walk(Suspend& suspend, const Visitor& visit);

  private:
    friend class Reservation;
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::blobstore
