#pragma once

// Changes laid over the entries of a tree: what the log or a repair says of some keys. The keys of
// the tree and of the changes merged, in order. One thread.

#include <absl/container/btree_map.h>
#include <absl/functional/function_ref.h>

#include <optional>
#include <string>

#include "blobstore/key.h"
#include "blobstore/page.h"
#include "driver/base/result.h"

namespace blobfs::fsck {

class KeyOverlay {
  public:
    void put(blobstore::KeyView key, blobstore::ValueView value) {
        changes_.insert_or_assign(std::string(key), std::string(value));
    }
    void erase(blobstore::KeyView key) {
        changes_.insert_or_assign(std::string(key), std::nullopt);
    }
    // The changes of `later` win.
    void add_all(const KeyOverlay& later);
    // nullptr: nothing is said of the key. An empty optional: it is gone.
    [[nodiscard]] const std::optional<std::string>* find(blobstore::KeyView key) const;

    using Changes = absl::btree_map<std::string, std::optional<std::string>, std::less<>>;
    [[nodiscard]] const Changes& changes() const { return changes_; }
    [[nodiscard]] bool empty() const { return changes_.empty(); }

  private:
    Changes changes_;
};

// Gives the entries of leaves, visited in order, merged with the overlay's. The overlay must not
// change meanwhile.
class MergedEntries {
  public:
    using Visit = absl::FunctionRef<Result<void>(blobstore::KeyView, blobstore::ValueView)>;

    explicit MergedEntries(const KeyOverlay& overlay)
        : next_(overlay.changes().begin()), end_(overlay.changes().end()) {}
    // The entries of a leaf and all of the overlay that come before its last.
    Result<void> leaf(const blobstore::PageView& page, Visit visit);
    // What the overlay has behind the last leaf.
    Result<void> finish(Visit visit);

  private:
    KeyOverlay::Changes::const_iterator next_, end_;
};

}  // namespace blobfs::fsck
