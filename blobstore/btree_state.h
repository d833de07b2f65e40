#pragma once

// What the parts of the tree share: the root, and the descent from it through pages in memory.
// Private to btree*.cc. Reactor thread.
//
// Nothing here keeps a page across a suspension: whoever misses a page loads it and descends again
// from the root, as pages may have been copied, split, merged or evicted meanwhile. The path above
// a page that is being loaded is pinned, so that the next descent gets at least that far.

#include <array>
#include <cstdint>
#include <vector>

#include "blobstore/btree.h"
#include "blobstore/leaf_runs.h"
#include "blobstore/page.h"
#include "blobstore/page_cache.h"

namespace blobfs::blobstore {

struct Btree::State {
    using Frame = PageCache::Frame;

    PageIo& io;
    PageCache& cache;
    PageSource& source;
    PagePointer root{};
    std::uint32_t height = 0;
    Generation current{};
    // From freeze() to seal(): what the generation before `current` ended with.
    TreeRoot frozen_root{};
    Generation frozen_generation{};
    std::vector<Frame*> frozen{};  // children before their parents
    LeafRuns runs{};
    driver::Gate* ahead_gate = nullptr;  // of the fibers that read ahead; nullptr: none do
    std::size_t reading_ahead = 0;       // such fibers

    // Which leaf is wanted: the one that holds the key, or the one with the greatest keys below it.
    enum class Side : std::uint8_t { kAt, kBelow };

    // A way from the root down.
    struct Descent {
        enum class End : std::uint8_t {
            kLeaf,     // frames[depth - 1] is the leaf
            kEmpty,    // the tree has no pages
            kMissing,  // the page that `next` names is not in memory
            kDamaged,  // the page that `next` names is in memory, and is not what is wanted here
        };
        End end;
        std::uint32_t depth;  // frames found
        PagePointer next;
        std::array<Frame*, kMaxTreeHeight> frames;
        std::array<std::uint16_t, kMaxTreeHeight> slots;  // in each, the child that was followed

        [[nodiscard]] Frame& leaf() const { return *frames[depth - 1]; }
        // The bounds of the keys below the child followed last, or of the leaf. Empty: none.
        [[nodiscard]] KeyView lower(std::uint32_t levels) const;
        [[nodiscard]] KeyView upper(std::uint32_t levels) const;
    };
    class PinnedPath;
    void descend(KeyView key, Side side, Descent& descent) const;
    // The descent ended in the leaf that the key belongs to, or the tree is empty.
    bool resident(KeyView key, Descent& descent) const;
    // Loads what the descent to the key missed. kCorrupt when it ended in damage.
    Result<void> load_missing(Suspend& suspend, KeyView key, const Descent& descent);
    // What a page that the descent missed must be.
    struct Wanted {
        Key lower, upper;
        PageExpectation page;
        const char* check(ConstDmaSpan bytes) const;
    };
    [[nodiscard]] Wanted wanted(const Descent& descent) const;
    // Whether the leaf's keys are within the range that its parents give it: always so unless a
    // damaged parent shares the leaf with another, and then it must not be changed.
    [[nodiscard]] static bool leaf_in_range(const Descent& descent);

    [[nodiscard]] Page page(const Frame& frame) const { return Page(cache.bytes(frame)); }
    [[nodiscard]] static PageView view(const Frame& frame) { return PageView(frame.data); }

    // Reading ahead (btree_read_ahead.cc).
    // Now: who is faster than the device finds the page being read. Later: when the caller
    // suspends.
    enum class Begin : std::uint8_t { kNow, kLater };
    // A descent ended in its leaf, which is going to be used.
    void leaf_used(Suspend& suspend, KeyView key, const Descent& descent) {
        if (descent.leaf().read_ahead != 0) [[unlikely]]
            read_further(suspend, key, descent);
    }
    void read_further(Suspend& suspend, KeyView key, const Descent& descent);
    void leaf_missed(Suspend& suspend, KeyView key, const Descent& descent);
    void read_on(Suspend& suspend, KeyKind kind, const Descent& descent, std::uint32_t leaves,
                 std::uint32_t window, Begin begin);
    [[nodiscard]] bool small(const Descent& descent) const;
    void read_neighbours(Suspend& suspend, const Descent& descent);
    bool read_leaf_ahead(Suspend& suspend, KeyView key, std::uint32_t mark, Begin begin);
    bool load_ahead(Suspend& suspend, const Descent& descent, std::uint32_t mark);

    // Changes (btree_change.cc).
    void put(KeyView key, ValueView value);
    bool erase(KeyView key);
    void make_writable(Descent& descent);
    Frame& make_writable(Frame& frame);
    Frame& add_page(std::uint32_t level);
    void insert(Descent& descent, std::uint32_t depth, std::size_t index, KeyView key,
                ValueView value);
    [[nodiscard]] std::size_t split_point(const Descent& descent, std::uint32_t depth,
                                          std::size_t index, KeyView key, ValueView value) const;
    void shrink(Descent& descent, std::uint32_t depth);
    bool merge_with_sibling(Descent& descent, std::uint32_t depth, bool left);
    void collapse_root();
    void give_back(Frame& frame);

    // Checkpoint (btree_freeze.cc).
    void freeze(Frame& frame);
    [[nodiscard]] PagePointer sealed(const PagePointer& pointer) const;
    void name_sealed(Page& parent) const;
    void name_sealed_below(const PagePointer& changed) const;
};

// Keeps the pages of a descent in memory: while another is being read, so that the next descent
// gets at least that far, or as a change may need a frame, and must not get one of these.
class Btree::State::PinnedPath {
  public:
    PinnedPath(PageCache& cache, const Descent& descent) : cache_(cache), depth_(descent.depth) {
        for (std::uint32_t i = 0; i < depth_; ++i) {
            frames_[i] = descent.frames[i];
            cache_.pin(*frames_[i]);
        }
    }
    ~PinnedPath() {
        for (std::uint32_t i = 0; i < depth_; ++i) cache_.unpin(*frames_[i]);
    }
    PinnedPath(const PinnedPath&) = delete;
    PinnedPath& operator=(const PinnedPath&) = delete;

  private:
    PageCache& cache_;
    std::uint32_t depth_;
    std::array<PageCache::Frame*, kMaxTreeHeight> frames_;
};

// What is wrong with the keys of a valid page whose parents allow lower <= key < upper (upper
// empty: no end); nullptr when nothing is.
const char* check_range(const PageView& page, KeyView lower, KeyView upper);

}  // namespace blobfs::blobstore
