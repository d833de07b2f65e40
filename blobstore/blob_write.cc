// Writing blob data: inline in the tree, in place, or to new clusters. The data is on the device
// before the transaction that maps it is applied, or the log sees to it (README.md, "Before its
// data"); design section 5, order of writes, rule 1.

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "blobstore/blob_data.h"
#include "blobstore/extent_map.h"
#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

// One write: the bytes [offset, end) of a blob, from the caller's memory.
class DataWriter {
  public:
    DataWriter(Blobstore::State& store, BlobId blob, std::uint64_t offset, ConstDmaSpan from,
               std::uint64_t blob_size)
        : store_(store),
          blob_(blob),
          offset_(offset),
          end_(offset + from.size()),
          from_(from),
          blob_size_(blob_size),
          written_(store.log.copy_limit()),
          batch_(store.device) {
        const std::uint64_t cluster = store.cluster_blocks();
        range_.first = round_down(offset_ / kBlockBytes, cluster);
        range_.end = round_up(round_up(end_, kBlockBytes) / kBlockBytes, cluster);
    }

    Result<void> run(Suspend& suspend, BlobLock& lock, Transaction::State& transaction,
                     std::optional<UnderWay> under_way);
    // The extent that holds all of it, when it was overwritten in place.
    [[nodiscard]] const Extent* in_place() const;

  private:
    // Where a part of the range goes, and what surrounds the new bytes in it.
    struct Segment {
        Extent target;
        bool remapped;                        // the mapping changes
        std::optional<std::uint64_t> source;  // device block whose old content surrounds the new
    };

    Result<void> plan(Suspend& suspend);
    Result<void> plan_fresh(Suspend& suspend, std::uint64_t first, std::uint64_t end,
                            std::optional<std::uint64_t> source);
    Result<void> change(Suspend& suspend, Transaction::State& transaction, bool remapped);
    Result<void> map(Suspend& suspend, Transaction::State& transaction,
                     std::span<const Extent> mapping);
    Result<void> commit_first(Suspend& suspend, BlobLock& lock, Transaction::State& transaction,
                              bool remapped);
    Result<void> take_back(Suspend& suspend, BlobLock& lock);
    Result<void> end_under_way(Suspend& suspend, BlobLock& lock, const Result<void>& finished,
                               bool remapped);
    Result<void> write_segment(Suspend& suspend, const Segment& segment);
    Result<void> write_edge(Suspend& suspend, const Segment& segment, std::uint64_t from,
                            std::uint64_t to, DmaSpan buffer);
    void copy_in(std::uint64_t from, std::uint64_t to, DmaSpan buffer) const;
    Result<void> write_direct(Suspend& suspend, const Segment& segment, std::uint64_t from,
                              std::uint64_t to);
    [[nodiscard]] static std::uint64_t device_byte(const Segment& segment,
                                                   std::uint64_t blob_byte) {
        return segment.target.device * kBlockBytes +
               (blob_byte - segment.target.first * kBlockBytes);
    }
    void start_write(std::uint64_t address, ConstDmaSpan bytes) {
        written_.add(address, bytes);
        batch_.write(address, bytes);
    }
    Result<void> acquire_bounce(Suspend& suspend) {
        if (!bounce_) bounce_.emplace(store_.bounce->acquire(suspend));
        return {};
    }

    Blobstore::State& store_;
    BlobId blob_;
    std::uint64_t offset_, end_;
    ConstDmaSpan from_;
    std::uint64_t blob_size_;
    BlockRange range_;
    std::vector<Extent> existing_;
    std::vector<Segment> segments_;
    std::vector<SpaceAllocator::Reservation> reservations_;
    std::optional<driver::DmaPool::Buffer> bounce_;
    WrittenData written_;
    Device::Batch batch_;
    std::optional<UnflushedData::Note> under_way_;  // committed before its data
    Sequence committed_{};
};

Result<void> DataWriter::plan_fresh(Suspend& suspend, std::uint64_t first, std::uint64_t end,
                                    std::optional<std::uint64_t> source) {
    while (first < end) {
        BlockIndex near{};
        if (!segments_.empty()) {
            near = BlockIndex{segments_.back().target.device + segments_.back().target.blocks};
        } else if (!existing_.empty() && existing_.front().first < first) {
            near = BlockIndex{existing_.front().device + existing_.front().blocks};
        }
        TRY_ASSIGN(SpaceAllocator::Reservation reservation,
                   store_.reserve(suspend, {.blocks = end - first, .near = near}));
        const std::uint64_t blocks = std::min(reservation.run().blocks, end - first);
        CHECK(blocks == reservation.run().blocks);
        segments_.push_back(Segment{.target = Extent{.first = first,
                                                     .blocks = blocks,
                                                     .device = reservation.run().first(),
                                                     .flags = 0},
                                    .remapped = true,
                                    .source = source});
        reservations_.push_back(std::move(reservation));
        first += blocks;
        if (source) *source += blocks;
    }
    return {};
}

Result<void> DataWriter::plan(Suspend& suspend) {
    const BlockRange around{.first = range_.first == 0 ? 0 : range_.first - 1,
                            .end = range_.end + 1};
    TRY(load_extents(suspend, store_.tree, blob_, around, store_.extent_bounds(), existing_));
    std::uint64_t at = range_.first;
    for (const Extent& old : existing_) {
        if (old.end() <= range_.first || old.first >= range_.end) continue;
        const Extent part = old.clip(range_.first, range_.end);
        TRY(plan_fresh(suspend, at, part.first, std::nullopt));
        if (part.shared()) {
            TRY(plan_fresh(suspend, part.first, part.end(),
                           part.written() ? std::optional(part.device) : std::nullopt));
        } else if (part.written()) {
            segments_.push_back(Segment{.target = part, .remapped = false, .source = part.device});
        } else {
            Extent target = part;
            target.flags = 0;
            segments_.push_back(Segment{.target = target, .remapped = true, .source = {}});
        }
        at = part.end();
    }
    return plan_fresh(suspend, at, range_.end, std::nullopt);
}

void DataWriter::copy_in(std::uint64_t from, std::uint64_t to, DmaSpan buffer) const {
    const std::uint64_t first = std::max(from, offset_);
    const std::uint64_t last = std::min(to, end_);
    if (first < last) {
        std::memcpy(buffer.data() + (first - from), from_.data() + (first - offset_), last - first);
    }
}

// Writes [from, to) of the blob through the buffer: old content or zeroes around the new bytes.
Result<void> DataWriter::write_edge(Suspend& suspend, const Segment& segment, std::uint64_t from,
                                    std::uint64_t to, DmaSpan buffer) {
    const DmaSpan bytes = buffer.first(to - from);
    // What lies behind the end of the blob does not count and need not be read.
    const bool old_content = segment.source && (from < offset_ || end_ < std::min(to, blob_size_));
    if (old_content) {
        const std::uint64_t at =
            *segment.source * kBlockBytes + (from - segment.target.first * kBlockBytes);
        TRY(store_.device.read(suspend, at, bytes));
    } else {
        std::memset(bytes.data(), 0, bytes.size());
    }
    if (blob_size_ < to) {
        const std::uint64_t behind = std::max(blob_size_, from);
        std::memset(bytes.data() + (behind - from), 0, to - behind);
    }
    copy_in(from, to, bytes);
    start_write(device_byte(segment, from), bytes);
    return {};
}

// Writes [from, to), all new bytes: from the caller's memory, or by a copy when it is not aligned.
Result<void> DataWriter::write_direct(Suspend& suspend, const Segment& segment, std::uint64_t from,
                                      std::uint64_t to) {
    if (from >= to) return {};
    const std::byte* source = from_.data() + (from - offset_);
    if (reinterpret_cast<std::uintptr_t>(source) % kMemoryAlignment == 0) {
        start_write(device_byte(segment, from), ConstDmaSpan(source, to - from));
        return {};
    }
    TRY(acquire_bounce(suspend));
    TRY(batch_.wait(suspend));  // the edges are done with the buffer
    while (from < to) {
        const std::uint64_t length = std::min<std::uint64_t>(bounce_->span().size(), to - from);
        copy_in(from, from + length, bounce_->span());
        start_write(device_byte(segment, from), bounce_->span().first(length));
        TRY(batch_.wait(suspend));
        from += length;
    }
    return {};
}

Result<void> DataWriter::write_segment(Suspend& suspend, const Segment& segment) {
    const std::uint64_t segment_first = segment.target.first * kBlockBytes;
    const std::uint64_t segment_end = segment.target.end() * kBlockBytes;
    const bool in_place = !segment.remapped;
    const std::uint64_t unit =
        in_place ? store_.device.properties().lba_bytes : store_.superblock.cluster_bytes;
    // In place only what is new is written; new clusters are written whole.
    std::uint64_t from = segment_first, to = segment_end;
    if (in_place) {
        from = round_down(std::max(offset_, segment_first), unit);
        to = round_up(std::min(end_, segment_end), unit);
    }
    const bool head = from < offset_;
    const bool tail = end_ < to;
    if (!head && !tail) return write_direct(suspend, segment, from, to);
    TRY(acquire_bounce(suspend));
    const DmaSpan buffer = bounce_->span();
    const std::size_t half = buffer.size() / 2;
    std::uint64_t middle_from = from, middle_to = to;
    if (head) {
        middle_from = from + unit;
        TRY(write_edge(suspend, segment, from, middle_from, buffer.first(half)));
    }
    if (tail && to - unit >= middle_from) {
        middle_to = to - unit;
        TRY(write_edge(suspend, segment, middle_to, to, buffer.subspan(half)));
    }
    return write_direct(suspend, segment, middle_from, middle_to);
}

// What changes besides the data. REQUIRES the mapping's lock if `remapped`.
Result<void> DataWriter::change(Suspend& suspend, Transaction::State& transaction, bool remapped) {
    if (remapped) {
        std::vector<Extent> mapping;
        for (const Segment& segment : segments_) mapping.push_back(segment.target);
        TRY(map(suspend, transaction, mapping));
        for (auto& reservation : reservations_) {
            transaction.reservations.push_back(std::move(reservation));
        }
    }
    if (end_ > blob_size_) {
        AttributesUpdate& update = transaction.attributes_of(blob_);
        update.size_at_least = std::max(update.size_at_least, end_);
    }
    return {};
}

Result<void> DataWriter::map(Suspend& suspend, Transaction::State& transaction,
                             std::span<const Extent> mapping) {
    const BlockRange around{.first = range_.first == 0 ? 0 : range_.first - 1,
                            .end = range_.end + 1};
    TRY(load_extents(suspend, store_.tree, blob_, around, store_.extent_bounds(), existing_));
    remap(transaction, blob_, range_, existing_, mapping);
    return {};
}

// Commits while the device is at work on the data: README.md, "Before its data".
Result<void> DataWriter::commit_first(Suspend& suspend, BlobLock& lock,
                                      Transaction::State& transaction, bool remapped) {
    CHECK(transaction.empty());
    if (remapped && !lock.holds_mapping() && !lock.try_lock_mapping()) {
        // Whoever holds it may wait for a buffer, or for long: then the data comes first.
        return {};
    }
    TRY(change(suspend, transaction, remapped));
    if (transaction.empty()) {
        under_way_ = store_.log.begin_data(std::move(written_));
        return {};
    }
    Transaction::State::DataUnderWay data{.written = std::move(written_), .note = {}};
    transaction.data_under_way = &data;
    const auto committed = store_.commit(suspend, transaction, false);
    transaction.data_under_way = nullptr;
    under_way_ = data.note;
    if (!under_way_) written_ = std::move(data.written);
    TRY(committed);
    committed_ = *committed;
    if (remapped) lock.unlock_mapping();
    return {};
}

// The data is not there, what maps it is committed: it reads as zeroes instead, and nobody sees
// what is there, after a crash either. Waits for nobody who may wait for this.
Result<void> DataWriter::take_back(Suspend& suspend, BlobLock& lock) {
    if (!lock.holds_mapping() && !lock.try_lock_mapping()) {
        return fail(Errc::kBusy, "taking back a mapping");
    }
    std::vector<Extent> mapping;
    for (const Segment& segment : segments_) {
        mapping.push_back(segment.target);
        if (segment.remapped) mapping.back().flags |= kExtentUnwritten;
    }
    Transaction::State undo;
    undo.waits_for_checkpoints = false;
    TRY(map(suspend, undo, mapping));
    TRY_ASSIGN(const Sequence undone, store_.commit(suspend, undo, true));
    lock.unlock_mapping();
    if (!store_.log.undone(*under_way_, committed_, undone)) {
        return fail(Errc::kBusy, "taking back a mapping in time");
    }
    return {};
}

Result<void> DataWriter::end_under_way(Suspend& suspend, BlobLock& lock,
                                       const Result<void>& finished, bool remapped) {
    if (remapped && !finished) {
        if (const Result<void> undone = take_back(suspend, lock); !undone) {
            store_.not_written.insert(value(blob_));
            store_.fail_store(finished.error());
            store_.log.give_up(finished.error());
        }
    }
    store_.log.end_data(*under_way_, finished.has_value());
    if (finished) return {};
    // The caller was told of all of it: nobody tries with less, or again, when the device is full.
    Error error = finished.error();
    if (error.code == Errc::kNoSpace) error.code = Errc::kIo;
    return fail(error);
}

Result<void> DataWriter::run(Suspend& suspend, BlobLock& lock, Transaction::State& transaction,
                             std::optional<UnderWay> under_way) {
    TRY(plan(suspend));
    Result<void> status;
    for (const Segment& segment : segments_) {
        status = write_segment(suspend, segment);
        if (!status) break;
    }
    const bool remapped = std::any_of(segments_.begin(), segments_.end(),
                                      [](const Segment& segment) { return segment.remapped; });
    if (status && under_way) {
        suspend.yield();  // the commands are rung for first
        status = commit_first(suspend, lock, transaction, remapped);
        if (under_way_) (*under_way)(remapped);
    }
    const Result<void> finished = batch_.wait(suspend);
    bounce_.reset();  // before the mapping is waited for: its holder may wait for a buffer
    if (under_way_) return end_under_way(suspend, lock, finished, remapped);

    if (!status || !finished) written_.drop_copies();
    const auto note = store_.log.note_data_written(std::move(written_), !remapped);
    TRY(status);
    TRY(finished);
    if (remapped) {
        transaction.data.push_back(note);
        if (!lock.holds_mapping()) lock.lock_mapping(suspend);
    }
    return change(suspend, transaction, remapped);
}

const Extent* DataWriter::in_place() const {
    if (segments_.size() != 1 || segments_.front().remapped) return nullptr;
    const auto whole = std::ranges::find_if(existing_, [&](const Extent& extent) {
        return extent.first <= range_.first && range_.end <= extent.end();
    });
    return whole == existing_.end() ? nullptr : &*whole;
}

}  // namespace

Result<void> write_extents(Suspend& suspend, Blobstore::State& store, const BlobWrite& write,
                           BlobLock& lock, Transaction::State& transaction, Extent* in_place) {
    DataWriter writer(store, write.blob, write.offset, write.from, write.blob_size);
    TRY(writer.run(suspend, lock, transaction, write.under_way));
    if (const Extent* extent = writer.in_place(); extent != nullptr && in_place != nullptr) {
        *in_place = *extent;
    }
    return {};
}

Result<void> zero_behind_end(Suspend& suspend, Blobstore::State& store, const BlobWrite& end,
                             std::uint64_t limit, BlobLock& lock) {
    const std::uint64_t size = end.blob_size;
    const std::uint64_t to =
        std::min<std::uint64_t>(limit, round_up(size, store.superblock.cluster_bytes));
    if (size >= to) return {};
    std::vector<Extent> mapped;
    TRY(load_extents(suspend, store.tree, end.blob,
                     {.first = size / kBlockBytes, .end = round_up(to, kBlockBytes) / kBlockBytes},
                     store.extent_bounds(), mapped, 1));
    if (mapped.empty() || !mapped.front().written()) return {};
    Transaction::State nothing;  // the mapping does not change, and for this write the size neither
    TRY(write_extents(suspend, store,
                      BlobWrite{.blob = end.blob,
                                .offset = size,
                                .from = store.zeroes.span().first(to - size),
                                .blob_size = to},
                      lock, nothing));
    CHECK(nothing.empty());
    return {};
}

Result<void> inline_to_extents(Suspend& suspend, Blobstore::State& store, BlobId blob,
                               BlobLock& lock) {
    TRY_ASSIGN(const StoredAttributes attributes, store.load_attributes(suspend, blob));
    CHECK((attributes.head.flags & kBlobInline) != 0);
    std::string bytes;
    TRY_ASSIGN(const bool found, store.tree.get(suspend, Key(blob, KeyKind::kInlineData), bytes));
    Transaction transaction;
    if (found && !bytes.empty()) {
        // Less than a cluster, so the bytes are copied into a bounce buffer and padded with zeroes.
        if (bytes.size() >= kMinClusterBytes) {
            return fail(Errc::kCorrupt, "reading the inline data of blob", value(blob));
        }
        TRY(write_extents(suspend, store,
                          BlobWrite{.blob = blob,
                                    .offset = 0,
                                    .from = std::as_bytes(std::span(bytes)),
                                    .blob_size = attributes.head.size},
                          lock, transaction.state()));
    }
    if (found) transaction.state().erase(Key(blob, KeyKind::kInlineData));
    transaction.state().attributes_of(blob).is_inline = false;
    TRY(store.commit(suspend, transaction.state(), false));
    return {};
}

namespace {

Result<void> write_inline(Suspend& suspend, Blobstore::State& store, const BlobWrite& write,
                          Transaction::State& transaction) {
    const Key key(write.blob, KeyKind::kInlineData);
    std::string bytes;
    TRY_ASSIGN(const bool found, store.tree.get(suspend, key, bytes));
    if (!found) bytes.clear();
    const std::uint64_t end = write.offset + write.from.size();
    if (bytes.size() < end) bytes.resize(end);
    std::memcpy(bytes.data() + write.offset, write.from.data(), write.from.size());
    transaction.put(key, bytes);
    AttributesUpdate& update = transaction.attributes_of(write.blob);
    update.is_inline = true;
    update.size_at_least = std::max(update.size_at_least, end);
    return {};
}

}  // namespace

Result<void> Blobstore::write(Suspend& suspend, BlobId blob, std::uint64_t offset,
                              ConstDmaSpan from, Transaction& transaction,
                              std::optional<UnderWay> under_way) {
    State& store = *state_;
    if (from.empty()) return {};
    if (store.read_only) return fail(Errc::kReadOnly, "writing to blob", value(blob));
    if (offset > kMaxBlobBytes || from.size() > kMaxBlobBytes - offset) {
        return fail(Errc::kTooLarge, "writing to blob", value(blob));
    }
    const std::uint64_t end = offset + from.size();
    const std::uint64_t cluster = store.superblock.cluster_bytes;
    TRY_ASSIGN(BlobLock lock, store.lock_to_change(suspend, blob, round_down(offset, cluster),
                                                   round_up(end, cluster)));
    std::uint64_t locked_from = round_down(offset, cluster);
    bool whole = false;
    for (;;) {
        const std::uint64_t drops = store.hints.drops();
        TRY_ASSIGN(const StoredAttributes attributes, store.load_attributes(suspend, blob));
        const BlobWrite write{.blob = blob,
                              .offset = offset,
                              .from = from,
                              .blob_size = attributes.head.size,
                              .under_way = under_way};
        const bool is_inline = (attributes.head.flags & kBlobInline) != 0;
        const bool stays_small = end <= store.inline_limit() &&
                                 attributes.head.size <= store.inline_limit() &&
                                 attributes.head.allocated_blocks == 0;
        Result<void> status;
        if (!is_inline && !stays_small && offset > attributes.head.size) {
            // The blob grows over a gap: its last cluster is a part of this.
            const std::uint64_t last = round_down(attributes.head.size, cluster);
            if (last < locked_from) {
                lock.release();
                TRY_ASSIGN(lock, store.lock_to_change(suspend, blob, last, round_up(end, cluster)));
                locked_from = last;
                continue;
            }
            TRY(zero_behind_end(suspend, store, write, offset, lock));
        }
        if (!is_inline && !stays_small) {
            Extent extent;
            status = write_extents(suspend, store, write, lock, transaction.state(), &extent);
            if (status && extent.blocks != 0 && end <= attributes.head.size) {
                store.hints.set(
                    {.blob = value(blob), .size = attributes.head.size, .extent = extent}, drops);
            }
        } else if (!whole) {
            // Small data is one value in the tree: lock all of the blob and look again.
            lock.release();
            TRY_ASSIGN(lock, store.lock_to_change(suspend, blob, 0, BlobLocks::kEnd));
            whole = true;
            locked_from = 0;
            continue;
        } else if (is_inline && end > store.inline_limit()) {
            TRY(inline_to_extents(suspend, store, blob, lock));
            continue;
        } else {
            status = write_inline(suspend, store, write, transaction.state());
        }
        TRY(status);
        transaction.state().locks.push_back(std::move(lock));
        return {};
    }
}

Result<bool> Blobstore::overwrite(Suspend& suspend, BlobId blob, std::uint64_t offset,
                                  ConstDmaSpan from) {
    State& store = *state_;
    const std::uint64_t lba = store.device.properties().lba_bytes;
    const bool aligned = ((offset | from.size()) & (lba - 1)) == 0 &&
                         reinterpret_cast<std::uintptr_t>(from.data()) % kMemoryAlignment == 0;
    if (!aligned || from.empty() || store.read_only || store.hints.find(blob) == nullptr) {
        return false;
    }
    const std::uint64_t end = offset + from.size();
    const std::uint64_t cluster = store.superblock.cluster_bytes;
    const auto covers = [&](const ReadHints::Hint* hint) {
        return hint != nullptr && offset < end && end <= hint->size && !hint->extent.shared() &&
               offset >= hint->extent.first * kBlockBytes &&
               end <= hint->extent.end() * kBlockBytes;
    };
    // Without the lock first, as that is all where it does not lie there.
    if (!covers(store.hints.find(blob))) return false;
    TRY_ASSIGN(const BlobLock lock, store.lock_to_change(suspend, blob, round_down(offset, cluster),
                                                         round_up(end, cluster)));
    // With it what the hint says of the range stays true until the data is there, as in read().
    const ReadHints::Hint* const hint = store.hints.find(blob);
    if (!covers(hint) || store.read_only) return false;
    const std::uint64_t at =
        hint->extent.device * kBlockBytes + (offset - hint->extent.first * kBlockBytes);
    WrittenData written(store.log.copy_limit());
    written.add(at, from);
    const Result<void> status = store.device.write(suspend, at, from);
    if (!status) written.drop_copies();
    store.log.note_data_written(std::move(written), true);
    TRY(status);
    return true;
}

}  // namespace blobfs::blobstore
