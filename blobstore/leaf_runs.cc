#include "blobstore/leaf_runs.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace blobfs::blobstore {

namespace {

std::uint64_t hash(KeyView key) { return XXH3_64bits(key.data(), key.size()); }

}  // namespace

void LeafRuns::note(Runs& runs, KeyView end, std::uint32_t window) {
    // The last leaf of the tree: nothing comes behind it.
    if (end.empty()) return;
    runs.runs[runs.next] = {.end = hash(end), .window = window};
    runs.next = (runs.next + 1) % kRuns;
}

std::uint32_t LeafRuns::missed(KeyKind kind, KeyView lower, KeyView upper) {
    Runs& runs = of(kind);
    const std::uint64_t begin = lower.empty() ? 0 : hash(lower);
    for (Run& run : runs.runs) {
        if (run.window == 0 || lower.empty() || run.end != begin) continue;
        const std::uint32_t window = doubled(run.window);
        run = {};
        note(runs, upper, window);
        return window >= kFirstWindow ? window : 0;
    }
    note(runs, upper, 1);
    return 0;
}

void LeafRuns::reached(KeyKind kind, KeyView end, std::uint32_t window) {
    // Half, as the next miss doubles it.
    note(of(kind), end, window / 2);
}

}  // namespace blobfs::blobstore
