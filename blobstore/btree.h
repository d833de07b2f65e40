#pragma once

// The copy-on-write B+tree of byte-string keys and values that holds all metadata. Reads may
// suspend to load pages. Changes never suspend: the caller first makes the pages that a change
// needs resident (fetch), then changes; so several changes are one atomic step to all other fibers.
// A page of an earlier generation is copied to a new address when it is first changed; the frames
// of the generation that a checkpoint is writing are never touched. Reactor thread.

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blobstore/key.h"
#include "blobstore/page_io.h"
#include "blobstore/page_source.h"
#include "driver/reactor/gate.h"

namespace blobfs::blobstore {

class HeldPages;
class PageCache;
class PageView;

struct TreeRoot {
    PagePointer page;          // block 0: empty
    std::uint32_t height = 0;  // 0: empty, 1: the root is a leaf
};

class Btree {
  public:
    Btree(PageIo& io, PageCache& cache, PageSource& source);
    ~Btree();

    // Starts from a durable root; changes belong to generation `current`.
    void open(const TreeRoot& root, Generation current);

    // Reads. ---------------------------------------------------------------------------------
    // Copies the value out; false when there is none. Does not suspend when the path is cached.
    Result<bool> get(Suspend& suspend, KeyView key, std::string& value);
    // The greatest entry with from <= key <= at; false when there is none.
    Result<bool> floor(Suspend& suspend, KeyView from, KeyView at, std::string& key,
                       std::string& value);
    // Calls visit for entries with from <= key < to (to empty: no end) in order until it returns
    // false. Sees every entry that was there for the whole of the call, once; changes by other
    // fibers meanwhile may show or not. visit must not suspend and must not change the tree; its
    // arguments are valid during the call only.
    Result<void> scan(Suspend& suspend, KeyView from, KeyView to,
                      absl::FunctionRef<bool(KeyView, ValueView)> visit);
    // Without suspending: whether the path to the key is in memory (and undamaged). The value, if
    // it is: peek().
    [[nodiscard]] bool resident(KeyView key) const { return resident_leaf(key).has_value(); }
    // The leaf that the key belongs to when resident(key), by its block; 0 in an empty tree. Good
    // until the next change.
    [[nodiscard]] std::optional<std::uint64_t> resident_leaf(KeyView key) const;
    // The same, and holds the path, so that the key stays resident while others are changed.
    [[nodiscard]] std::optional<std::uint64_t> resident_leaf(KeyView key, HeldPages& held) const;

    // Reading ahead. README.md, "Leaves that are read ahead". -----------------------------------
    // From now on leaves may be read by fibers that pass this gate: it is closed before the tree
    // goes. nullptr, as at first: none are.
    void read_ahead_inside(driver::Gate* gate);
    // Starts reading what get() of the key would wait for, and does not wait. False when enough is
    // being read.
    bool read_ahead(Suspend& suspend, KeyView key);

    // Changes. -------------------------------------------------------------------------------
    // Loads the path to the key. Suspends; afterwards other fibers may have run: check resident()
    // for all keys of the change again before applying it.
    Result<void> fetch(Suspend& suspend, KeyView key);
    // The value of a resident key, or nothing. REQUIRES resident(key). Valid until the next change.
    [[nodiscard]] std::optional<ValueView> peek(KeyView key) const;
    // REQUIRES resident(key) (a change of another key may end that, unless the path is held), at
    // least max_pages_per_change() pages set aside in the source,
    // 1 <= key.size() <= kMaxKeyBytes, value.size() <= max_value_bytes(); neither lies in the tree
    // (as what peek() returns does).
    void put(KeyView key, ValueView value);
    // False when there was none. Merges with neighbours that are resident, frees empty pages.
    bool erase(KeyView key);
    // Pages that one put or erase takes from the source at most (copies and splits on the path).
    [[nodiscard]] std::uint32_t max_pages_per_change() const;
    // The same for several changes of one leaf: so many puts with so many bytes of keys and values
    // together, and any number of erases.
    [[nodiscard]] std::uint32_t max_pages_per_leaf(std::uint32_t puts, std::size_t bytes) const;
    // The largest value: a quarter of the page less the largest key and overheads, so that a page
    // holds at least three entries.
    [[nodiscard]] std::uint32_t max_value_bytes() const;

    // Checkpoint. ----------------------------------------------------------------------------
    // Ends the current generation: its dirty pages, and the root, stay as they are now; changes
    // from now on belong to `next`, and copy a frozen page first. Does not suspend. REQUIRES no
    // earlier freeze without its thaw.
    void freeze(Generation next);
    struct FrozenPage {
        BlockIndex block;
        DmaSpan bytes;  // sealed; valid until thaw()
    };
    struct Frozen {
        std::vector<FrozenPage> pages;  // ascending by address
        TreeRoot root;
    };
    // What freeze() froze, to be written: seals the pages bottom-up (checksums into the parents),
    // some at a time, while others read and change the tree. Suspends. Once between freeze() and
    // thaw().
    Frozen seal(Suspend& suspend);
    // The frozen pages are on the device: they are clean now (or dropped when replaced meanwhile).
    void thaw();

    [[nodiscard]] std::size_t dirty_pages() const;

    // Check. ---------------------------------------------------------------------------------
    struct WalkedPage {
        PagePointer pointer;   // of a page changed since the last freeze the checksum means nothing
        std::uint32_t level;   // 0: a leaf
        KeyView lower, upper;  // its keys are in lower <= key < upper; upper empty: no end
        const PageView* page;  // valid until visit returns; nullptr when it could not be read
        Error error;           // then
    };
    // Visits every page, parents before their children, children in order of keys; what lies below
    // a page that cannot be read is left out, the rest is not. Every page given was validated and
    // lies in its range. visit must not suspend; false ends the walk. Pages that are not in the
    // cache are read past it. REQUIRES that nothing changes the tree meanwhile. Suspends.
    // kNoMemory; errors of pages go to visit only.
    Result<void> walk(Suspend& suspend, absl::FunctionRef<bool(const WalkedPage&)> visit);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::blobstore
