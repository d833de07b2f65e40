#pragma once

// Visits every page of the tree of a device, in order of keys, whatever bytes are there. Reactor
// thread.

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <string>

#include "blobstore/page.h"
#include "fs/fsck/page_reader.h"

namespace blobfs::fsck {

struct TreeRoot {
    blobstore::PagePointer page;
    std::uint32_t height = 0;  // 0: no page
};

// The keys that belong below a page: lower <= key < upper; upper empty: no end.
struct KeyRange {
    std::string lower, upper;

    [[nodiscard]] bool contains(blobstore::KeyView key) const {
        return key >= lower && (upper.empty() || key < upper);
    }
};

struct TreeVisitor {
    // A pointer before its page is read; false: the page is left out, without further word.
    absl::FunctionRef<bool(const blobstore::PagePointer& pointer, std::uint32_t level,
                           const KeyRange& range)>
        enter;
    // A leaf that is sound and lies in its range. May suspend; the page is good until it returns.
    absl::FunctionRef<Result<void>(const blobstore::PageView& page)> leaf;
    // A page that cannot be read or is not what it must be: all keys of the range are missing.
    absl::FunctionRef<void(const blobstore::PagePointer& pointer, std::uint32_t level,
                           const KeyRange& range, const Error& error)>
        damaged;
};

// Errors are those of leaf() and of the reader's pace. Suspends.
Result<void> walk_tree(driver::Suspend& suspend, PageReader& reader, const TreeRoot& root,
                       const TreeVisitor& visitor);

}  // namespace blobfs::fsck
