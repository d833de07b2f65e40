// Reading blob data, and asking where it is.

#include <algorithm>
#include <cstring>

#include "blobstore/extent_map.h"
#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

constexpr std::uint64_t kAlignment = kBlockBytes;

// Reads [offset, offset + into.size()) of the mapped parts into `into`, zeroes elsewhere. Offset is
// block-aligned, the memory block-sized. REQUIRES the range lock. A single extent is put into
// `found`.
Result<void> read_blocks(Suspend& suspend, Blobstore::State& store, BlobId blob,
                         std::uint64_t offset, DmaSpan into, Extent* found = nullptr) {
    const BlockRange range{.first = offset / kBlockBytes,
                           .end = (offset + into.size()) / kBlockBytes};
    std::vector<Extent> extents;
    TRY(load_extents(suspend, store.tree, blob, range, store.extent_bounds(), extents));
    if (found != nullptr && extents.size() == 1 && extents.front().written()) {
        *found = extents.front();
    }
    Device::Batch batch(store.device);
    std::uint64_t at = range.first;
    const auto zero = [&](std::uint64_t to) {
        if (to > at) {
            std::memset(into.data() + (at - range.first) * kBlockBytes, 0, (to - at) * kBlockBytes);
        }
        at = to;
    };
    for (const Extent& extent : extents) {
        const Extent part = extent.clip(range.first, range.end);
        if (!part.written()) continue;
        zero(part.first);
        batch.read(part.device * kBlockBytes, into.subspan((part.first - range.first) * kBlockBytes,
                                                           part.blocks * kBlockBytes));
        at = part.end();
    }
    zero(range.end);
    TRY(batch.wait(suspend));
    if (store.replayed_data.empty()) return {};
    for (const Extent& extent : extents) {
        const Extent part = extent.clip(range.first, range.end);
        if (!part.written()) continue;
        store.replayed_data.patch(part.device * kBlockBytes,
                                  into.subspan((part.first - range.first) * kBlockBytes,
                                               part.blocks * kBlockBytes));
    }
    return {};
}

}  // namespace

Result<std::size_t> Blobstore::read(Suspend& suspend, BlobId blob, std::uint64_t offset,
                                    DmaSpan into) {
    State& store = *state_;
    if (into.empty() || offset >= kMaxBlobBytes) return std::size_t{0};
    std::uint64_t end = std::min(offset + into.size(), kMaxBlobBytes);
    const BlobLock lock = store.locks.lock(suspend, blob, round_down(offset, kAlignment),
                                           round_up(end, kAlignment), BlobLocks::Mode::kShared);
    if (!store.not_written.empty() && store.not_written.contains(value(blob))) {
        return fail(*store.failure);
    }
    const bool aligned = offset % kAlignment == 0 &&
                         reinterpret_cast<std::uintptr_t>(into.data()) % kMemoryAlignment == 0;
    const bool whole_blocks = aligned && end % kAlignment == 0;
    if (const ReadHints::Hint* hint = whole_blocks ? store.hints.find(blob) : nullptr;
        hint != nullptr && end <= hint->size && offset >= hint->extent.first * kBlockBytes &&
        end <= hint->extent.end() * kBlockBytes) {
        const std::uint64_t at = hint->extent.device * kBlockBytes +
                                 (offset - hint->extent.first * kBlockBytes);
        TRY(store.device.read(suspend, at, into.first(end - offset)));
        return end - offset;
    }
    const std::uint64_t drops = store.hints.drops();
    TRY_ASSIGN(const StoredAttributes attributes, store.load_attributes(suspend, blob));
    if (offset >= attributes.head.size) return std::size_t{0};
    end = std::min(end, attributes.head.size);
    const std::size_t wanted = end - offset;

    if ((attributes.head.flags & kBlobInline) != 0) {
        std::string bytes;
        TRY(store.tree.get(suspend, Key(blob, KeyKind::kInlineData), bytes));
        const std::size_t have =
            offset < bytes.size() ? std::min<std::size_t>(wanted, bytes.size() - offset) : 0;
        if (have != 0) std::memcpy(into.data(), bytes.data() + offset, have);
        std::memset(into.data() + have, 0, wanted - have);
        return wanted;
    }
    if (aligned && round_up(wanted, kAlignment) <= into.size()) {
        Extent found;
        TRY(read_blocks(suspend, store, blob, offset, into.first(round_up(wanted, kAlignment)),
                        &found));
        // Not what is only in memory: replayed data lies over the extent.
        if (found.blocks != 0 && store.replayed_data.empty()) {
            store.hints.set(
                {.blob = value(blob), .size = attributes.head.size, .extent = found}, drops);
        }
        return wanted;
    }
    if (aligned && wanted >= kAlignment) {
        // All but the last block goes straight into the caller's memory.
        const std::size_t direct = round_down(wanted, kAlignment);
        TRY(read_blocks(suspend, store, blob, offset, into.first(direct)));
        const auto buffer = store.bounce->acquire(suspend);
        TRY(read_blocks(suspend, store, blob, offset + direct, buffer.span().first(kAlignment)));
        std::memcpy(into.data() + direct, buffer.span().data(), wanted - direct);
        return wanted;
    }
    const auto buffer = store.bounce->acquire(suspend);
    std::size_t done = 0;
    while (done < wanted) {
        const std::uint64_t from = offset + done;
        const std::uint64_t base = round_down(from, kAlignment);
        const std::size_t length = std::min<std::size_t>(
            round_down(buffer.span().size(), kAlignment), round_up(end, kAlignment) - base);
        TRY(read_blocks(suspend, store, blob, base, buffer.span().first(length)));
        const std::size_t part = std::min<std::size_t>(base + length, end) - from;
        std::memcpy(into.data() + done, buffer.span().data() + (from - base), part);
        done += part;
    }
    return wanted;
}

namespace {

// The first byte at or after offset whose being data is `wanted`.
Result<std::uint64_t> seek(Suspend& suspend, Blobstore::State& store, BlobId blob,
                           std::uint64_t offset, bool wanted) {
    const BlobLock lock = store.locks.lock(suspend, blob, round_down(offset, kAlignment),
                                           BlobLocks::kEnd, BlobLocks::Mode::kShared);
    TRY_ASSIGN(const StoredAttributes attributes, store.load_attributes(suspend, blob));
    const std::uint64_t size = attributes.head.size;
    if (offset >= size) return size;
    if ((attributes.head.flags & kBlobInline) != 0) {
        std::string bytes;
        TRY(store.tree.get(suspend, Key(blob, KeyKind::kInlineData), bytes));
        const bool data = offset < bytes.size();
        if (data == wanted) return offset;
        return data ? std::min<std::uint64_t>(size, bytes.size()) : size;
    }
    std::uint64_t at = offset;
    std::vector<Extent> extents;
    for (;;) {
        const BlockRange range{.first = at / kBlockBytes,
                               .end = round_up(size, kBlockBytes) / kBlockBytes};
        if (range.first >= range.end) return size;
        TRY(load_extents(suspend, store.tree, blob, range, store.extent_bounds(), extents, 256));
        for (const Extent& extent : extents) {
            const std::uint64_t first = std::max(at, extent.first * kBlockBytes);
            if (!extent.written()) continue;
            if (first > at && !wanted) return at;
            if (wanted) return std::min(first, size);
            at = extent.end() * kBlockBytes;
            if (at >= size) return size;
        }
        if (extents.size() < 256) return wanted ? size : at;
        if (extents.back().end() * kBlockBytes > at && wanted) {
            at = extents.back().end() * kBlockBytes;  // unwritten ones only, so far
        } else if (extents.back().end() * kBlockBytes > at) {
            return at;
        }
    }
}

}  // namespace

Result<std::uint64_t> Blobstore::next_data(Suspend& suspend, BlobId blob, std::uint64_t offset) {
    return seek(suspend, *state_, blob, offset, true);
}

Result<std::uint64_t> Blobstore::next_hole(Suspend& suspend, BlobId blob, std::uint64_t offset) {
    return seek(suspend, *state_, blob, offset, false);
}

}  // namespace blobfs::blobstore
