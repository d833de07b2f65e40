#include "blobstore/extent_map.h"

#include <algorithm>

namespace blobfs::blobstore {

namespace {

constexpr std::uint64_t kMaxExtentBlocks = 1u << 30;

bool joins(const Extent& left, const Extent& right) {
    return left.end() == right.first && left.device + left.blocks == right.device &&
           left.flags == right.flags && left.blocks + right.blocks <= kMaxExtentBlocks;
}

// Notes as free what of [extent] no extent of `kept` (ascending by blob block) still maps.
void free_unless_kept(Transaction::State& transaction, const Extent& extent,
                      std::span<const Extent> kept) {
    std::uint64_t at = extent.first;
    const auto release = [&](std::uint64_t from, std::uint64_t to) {
        if (from >= to) return;
        transaction.frees.push_back(
            Run{BlockIndex{extent.device + (from - extent.first)}, to - from});
    };
    for (const Extent& other : kept) {
        if (other.end() <= at || other.first >= extent.end()) continue;
        const std::uint64_t from = std::max(other.first, at);
        const std::uint64_t to = std::min(other.end(), extent.end());
        const bool same_blocks =
            other.device + (from - other.first) == extent.device + (from - extent.first);
        if (!same_blocks) continue;
        release(at, from);
        at = to;
    }
    release(at, extent.end());
}

}  // namespace

Extent Extent::clip(std::uint64_t from, std::uint64_t to) const {
    Extent part = *this;
    part.first = std::max(first, from);
    CHECK(part.first < std::min(end(), to));
    part.blocks = std::min(end(), to) - part.first;
    part.device = device + (part.first - first);
    return part;
}

Result<Extent> decode_extent(KeyView key, ValueView bytes, const ExtentBounds& bounds) {
    if (key.size() != 17 || bytes.size() != sizeof(ExtentValue)) {
        return fail(Errc::kCorrupt, "reading an extent");
    }
    const auto stored = load<ExtentValue>(bytes);
    const Extent extent{.first = load_big_endian(key_tail(key)),
                        .blocks = stored.blocks,
                        .device = stored.block,
                        .flags = stored.flags};
    // cluster_blocks is a power of two.
    const std::uint64_t unaligned =
        (extent.first | extent.blocks | extent.device) & (bounds.cluster_blocks - 1);
    const bool sane = extent.blocks != 0 && unaligned == 0 && extent.device >= bounds.first_block &&
                      extent.device < bounds.end_block &&
                      extent.blocks <= bounds.end_block - extent.device &&
                      extent.first <= (std::uint64_t{1} << 51) - extent.blocks &&
                      (extent.flags & ~kExtentUnwritten) == 0;
    if (!sane) return fail(Errc::kCorrupt, "reading an extent of blob", value(key_blob(key)));
    return extent;
}

namespace {

Result<void> load_once(Suspend& suspend, Btree& tree, BlobId blob, const BlockRange& range,
                       const ExtentBounds& bounds, std::vector<Extent>& out, std::size_t limit) {
    out.clear();
    if (range.first >= range.end) return {};
    std::string key, bytes;
    TRY_ASSIGN(const bool before, tree.floor(suspend, Key(blob, KeyKind::kExtent, 0),
                                             Key(blob, KeyKind::kExtent, range.first), key, bytes));
    std::uint64_t from = range.first;
    if (before) {
        TRY_ASSIGN(const Extent extent, decode_extent(key, bytes, bounds));
        if (extent.end() > range.first) {
            out.push_back(extent);
            from = extent.first + 1;
        }
        from = std::max(from, range.first);
        if (extent.first == range.first) from = range.first + 1;
        if (extent.end() >= range.end) from = range.end;  // it is all there is
    }
    if (from >= range.end || out.size() >= limit) return {};
    Result<void> status;
    const Result<void> scanned =
        tree.scan(suspend, Key(blob, KeyKind::kExtent, from),
                  Key(blob, KeyKind::kExtent, range.end), [&](KeyView k, ValueView v) {
                      auto extent = decode_extent(k, v, bounds);
                      if (!extent) {
                          status = fail(extent.error());
                          return false;
                      }
                      if (!out.empty() && extent->first < out.back().end()) {
                          status = fail(Errc::kCorrupt, "overlapping extents of blob", value(blob));
                          return false;
                      }
                      out.push_back(*extent);
                      return out.size() < limit;
                  });
    TRY(scanned);
    return status;
}

}  // namespace

Result<void> load_extents(Suspend& suspend, Btree& tree, BlobId blob, const BlockRange& range,
                          const ExtentBounds& bounds, std::vector<Extent>& out, std::size_t limit) {
    // An extent that reaches into the range may be split at its edge by another fiber between the
    // two look-ups, which then seem to overlap: damage is what stays.
    Result<void> status;
    for (int attempt = 0; attempt < 3; ++attempt) {
        status = load_once(suspend, tree, blob, range, bounds, out, limit);
        if (status || status.error().code != Errc::kCorrupt) break;
    }
    return status;
}

void remap(Transaction::State& transaction, BlobId blob, const BlockRange& range,
           std::span<const Extent> existing, std::span<const Extent> replacement) {
    // The new mapping of the range and of the extents that reach into it or touch it.
    std::vector<Extent> wanted;
    const auto add = [&](const Extent& extent) {
        if (!wanted.empty() && joins(wanted.back(), extent)) {
            wanted.back().blocks += extent.blocks;
        } else {
            wanted.push_back(extent);
        }
    };
    std::int64_t allocated = 0;
    for (const Extent& old : existing) {
        if (old.first < range.first) add(old.clip(0, range.first));
    }
    for (const Extent& extent : replacement) {
        CHECK(extent.first >= range.first && extent.end() <= range.end);
        add(extent);
        allocated += static_cast<std::int64_t>(extent.blocks);
    }
    for (const Extent& old : existing) {
        if (old.end() > range.end) add(old.clip(range.end, old.end()));
        if (old.end() > range.first && old.first < range.end) {
            const Extent inside = old.clip(range.first, range.end);
            allocated -= static_cast<std::int64_t>(inside.blocks);
            free_unless_kept(transaction, inside, replacement);
        }
    }
    // Keys that differ.
    const auto same = [](const Extent& a, const Extent& b) {
        return a.first == b.first && a.blocks == b.blocks && a.device == b.device &&
               a.flags == b.flags;
    };
    for (const Extent& old : existing) {
        const bool key_stays = std::any_of(wanted.begin(), wanted.end(),
                                           [&](const Extent& e) { return e.first == old.first; });
        if (!key_stays) transaction.erase(Key(blob, KeyKind::kExtent, old.first));
    }
    for (const Extent& extent : wanted) {
        const bool unchanged = std::any_of(existing.begin(), existing.end(),
                                           [&](const Extent& old) { return same(old, extent); });
        if (unchanged) continue;
        const ExtentValue stored{.block = extent.device,
                                 .blocks = static_cast<std::uint32_t>(extent.blocks),
                                 .flags = extent.flags};
        transaction.put(Key(blob, KeyKind::kExtent, extent.first), bytes_of(stored));
    }
    if (allocated != 0) transaction.attributes_of(blob).allocated_blocks += allocated;
}

}  // namespace blobfs::blobstore
