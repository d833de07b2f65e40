// Visiting the whole allocation map, for the check of a store.

#include "blobstore/allocation_map.h"

namespace blobfs::blobstore {

Result<void> AllocationMap::walk(Suspend& suspend, absl::FunctionRef<void(const Run&)> on_page,
                                 absl::FunctionRef<void(const Run&)> on_used) {
    return walk_below(suspend, height_ - 1, 0, on_page, on_used);
}

Result<void> AllocationMap::walk_below(Suspend& suspend, std::uint32_t level, std::uint64_t index,
                                       absl::FunctionRef<void(const Run&)> on_page,
                                       absl::FunctionRef<void(const Run&)> on_used) {
    TRY_ASSIGN(MapPage * page, ensure(suspend, level, index));
    if (page->pointer.block != 0) {
        on_page(Run{BlockIndex{page->pointer.block}, io_.blocks_per_page()});
    }
    if (level != 0) {
        for (std::uint64_t slot = 0; slot < fanout_; ++slot) {
            // Loading a child may have dropped the page.
            TRY_ASSIGN(page, ensure(suspend, level, index));
            if (slot == page->entries.size()) break;
            const std::uint64_t child = index * fanout_ + slot;
            const bool never_used =
                page->entries[slot].child.block == 0 && find(level - 1, child) == nullptr;
            if (never_used) continue;
            TRY(walk_below(suspend, level - 1, child, on_page, on_used));
        }
        return {};
    }
    const std::uint64_t base = index * bits_per_page_;
    for (std::uint64_t bit = 0; bit < page->bits;) {
        const std::uint64_t word = page->used[bit / 64] >> (bit % 64);
        if (word == 0) {
            bit = (bit / 64 + 1) * 64;
            continue;
        }
        bit += static_cast<std::uint64_t>(std::countr_zero(word));
        std::uint64_t end = bit;
        while (end < page->bits && (page->used[end / 64] >> (end % 64) & 1) != 0) ++end;
        on_used(Run{BlockIndex{base + bit}, end - bit});
        bit = end;
    }
    return {};
}

}  // namespace blobfs::blobstore
