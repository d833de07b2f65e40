// Checkpoints: freeze without suspending, then seal, write, flush, superblock, release. README.md,
// "Generations and checkpoints".

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>

#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

// One command writes that many adjacent pages at most, and that many are in flight at a time: what
// others read, write and flush meanwhile waits behind them.
constexpr std::size_t kPagesPerWrite = 32;
constexpr std::size_t kWritesInFlight = 4;
constexpr std::uint64_t kPagesWorthACheckpoint = 16;
constexpr std::size_t kMostDirtyPages = 4096;

// Pages that lie side by side on the device go out as one scattered write.
template <class FrozenPage>
Result<void> write_pages(Suspend& suspend, Device& device, const std::vector<FrozenPage>& pages) {
    Device::Batch batch(device);
    std::vector<driver::DmaSegment> segments;
    std::size_t in_flight = 0;
    for (std::size_t i = 0; i < pages.size();) {
        segments.clear();
        const std::uint64_t start = value(pages[i].block) * kBlockBytes;
        std::uint64_t end = start;
        while (i < pages.size() && segments.size() < kPagesPerWrite &&
               value(pages[i].block) * kBlockBytes == end) {
            segments.push_back({.data = pages[i].bytes.data(), .bytes = pages[i].bytes.size()});
            end += pages[i].bytes.size();
            ++i;
        }
        batch.write(start, segments);
        if (++in_flight == kWritesInFlight) {
            TRY(batch.wait(suspend));
            in_flight = 0;
        }
    }
    return batch.wait(suspend);
}

}  // namespace

std::size_t Blobstore::State::dirty_page_limit() const {
    // Each holds memory, and the blocks of its old version: a part of both. And each may be read and
    // written by the next mount, if this one ends in a crash.
    const std::uint64_t device_pages =
        superblock.block_count * kBlockBytes / superblock.page_bytes;
    const std::size_t wanted = std::min<std::uint64_t>(cache->capacity() / 4, device_pages / 64);
    return std::clamp(wanted, PageCache::kMinFrames / 4, kMostDirtyPages);
}

bool Blobstore::State::checkpoint_due() const {
    return tree.dirty_pages() > dirty_page_limit() ||
           log.used_blocks() > superblock.log_blocks / 2 || space.pending_runs() > 50'000;
}

bool Blobstore::State::must_wait_for_checkpoint(std::size_t record_bytes) const {
    return tree.dirty_pages() + cache->frozen_pages() > 3 * dirty_page_limit() ||
           !log.has_room(record_bytes) || space.pending_runs() > 100'000;
}

void Blobstore::State::fail_store(const Error& error) {
    if (failure) return;
    failure = error;
    read_only = true;
    spdlog::critical(
        "{}: {}: the filesystem is read-only now; what was not synced may be lost; "
        "unmount it and check the device",
        device.properties().name, error.message());
}

// Something was freed. A few pages that were copied are not worth it: they come back as they went,
// and on a full device each change would wait for a checkpoint instead of being told so.
bool Blobstore::State::checkpoint_gives_space() const {
    return space.pending_data_blocks() > 0 || space.pending_pages() >= kPagesWorthACheckpoint;
}

Result<SpaceAllocator::Reservation> Blobstore::State::reserve(
    Suspend& suspend, const SpaceAllocator::Request& request) {
    for (int attempt = 0;; ++attempt) {
        auto reservation = space.reserve(suspend, request);
        const bool full = !reservation && reservation.error().code == Errc::kNoSpace;
        if (full && unpin_root()) reservation = space.reserve(suspend, request);
        const bool retry = !reservation && reservation.error().code == Errc::kNoSpace &&
                           checkpoint_gives_space() && attempt < 2;
        if (!retry) return reservation;
        TRY(checkpoint(suspend, SuperblockState::kInUse));
    }
}

Result<void> Blobstore::State::reserve_pages(Suspend& suspend, std::uint32_t pages, bool urgent) {
    for (int attempt = 0;; ++attempt) {
        auto reserved = space.reserve_pages(suspend, pages, urgent);
        const bool full = !reserved && reserved.error().code == Errc::kNoSpace;
        if (full && unpin_root()) reserved = space.reserve_pages(suspend, pages, urgent);
        const bool gives = urgent ? space.pending_blocks() > 0 : checkpoint_gives_space();
        const bool retry =
            !reserved && reserved.error().code == Errc::kNoSpace && gives && attempt < 2;
        if (!retry) return reserved;
        TRY(checkpoint(suspend, SuperblockState::kInUse));
    }
}

std::uint64_t Blobstore::State::wall_clock_us() {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                          std::chrono::system_clock::now().time_since_epoch())
                                          .count());
}

Result<void> Blobstore::State::checkpoint(Suspend& suspend, SuperblockState mark_state) {
    const std::uint64_t asked_after = checkpoints_begun;
    const driver::FiberMutex::Guard guard(suspend, checkpoint_mutex);
    // Whoever waited meanwhile for a whole one, begun after it asked, has what it wanted.
    if (!read_only && checkpoints_begun > asked_after && mark_state == SuperblockState::kInUse) {
        return {};
    }
    return write_checkpoint(suspend, mark_state);
}

Result<void> Blobstore::State::write_checkpoint(Suspend& suspend, SuperblockState mark_state) {
    if (read_only) return failure ? fail(*failure) : fail(Errc::kReadOnly, "writing a checkpoint");
    while (!space.ready_to_freeze()) {
        const Result<void> ready = space.prepare_freeze(suspend);
        if (!ready && ready.error().code == Errc::kNoSpace && unpin_root()) continue;
        if (!ready) {
            // Nothing is frozen yet: without space for it everything goes on by the log.
            if (ready.error().code != Errc::kNoSpace) fail_store(ready.error());
            return ready;
        }
    }
    // Nothing suspends from here until everything is frozen.
    const Generation frozen_generation = generation;
    const Sequence contained = log.last_appended();
    const LogPosition log_mark = log.mark();
    const Generation next{value(generation) + 2};
    ++checkpoints_begun;
    tree.freeze(next);
    const SpaceAllocator::Frozen frozen_space = space.freeze(next);
    // Asked for, and not yet of a root.
    if (pin_valid && !root_pinned) {
        space.pin(frozen_generation);
        root_pinned = true;
    }
    generation = next;
    Superblock fresh = superblock;
    fresh.state = static_cast<std::uint32_t>(mark_state);
    fresh.generation = value(frozen_generation);
    fresh.epoch = log.epoch();
    fresh.log_position = log_mark.block;
    fresh.log_batch = log_mark.batch;
    fresh.transaction = value(contained);
    fresh.map_root = frozen_space.root.page;
    fresh.map_height = frozen_space.root.height;
    fresh.free_blocks = frozen_space.root.free_blocks;
    fresh.next_blob_id = std::min(next_blob_id, kBlobIdEnd);
    fresh.blob_count = blob_count;
    fresh.written_us = wall_clock_us();

    // From here on others go on; what they change of the frozen pages they copy first.
    const Btree::Frozen frozen_tree = tree.seal(suspend);
    fresh.tree_root = frozen_tree.root.page;
    fresh.tree_height = frozen_tree.root.height;
    Result<void> status = write_pages(suspend, device, frozen_tree.pages);
    if (status) status = write_pages(suspend, device, frozen_space.pages);
    // The root maps data that may be under way still.
    log.wait_for_data(suspend);
    if (status) status = log.status();
    // Into both slots, one after the other, so that either is damaged at no loss at any time: until
    // both are durable nothing is released, and the root in the other slot is whole.
    if (status) status = write_superblock(suspend, device, fresh);
    ++fresh.generation;
    if (status) status = write_superblock(suspend, device, fresh);
    // Before anything is released, too: so the copy always names a root that is whole.
    if (status) status = write_superblock_copy(suspend, device, fresh);
    if (!status) {
        fail_store(status.error());
        return status;
    }
    superblock = fresh;
    info.generation = fresh.generation;
    info.written_us = fresh.written_us;
    tree.thaw();
    space.release();
    log.trim(log_mark);
    log.note_durable(contained);
    ++counters.checkpoints;
    last_checkpoint_us = suspend.reactor().now_us();
    return {};
}

Result<void> Blobstore::checkpoint(Suspend& suspend) {
    if (state_->failure) return fail(*state_->failure);
    if (state_->read_only) return {};
    return state_->checkpoint(suspend, SuperblockState::kInUse);
}

}  // namespace blobfs::blobstore
