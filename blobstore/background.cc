// What a store does by itself: commits what nobody synced, makes checkpoints, deletes orphans.

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

// A fiber that is inside the gate from now on, not only from when it first runs: the store may be
// closed and destroyed between. Leaving is the last thing that it does.
template <class Function>
void spawn_inside(driver::Reactor& reactor, driver::Gate& gate, Function function) {
    if (!gate.enter()) return;
    reactor.spawn([&gate, function = std::move(function)](Suspend& suspend) mutable {
        function(suspend);
        gate.leave();
    });
}

}  // namespace

void Blobstore::State::want_checkpoint() {
    if (checkpoint_wanted || reactor == nullptr || gate.closed()) return;
    checkpoint_wanted = true;
    // One fiber, until none is due: while a checkpoint is written each commit asks for another, and
    // whether that is due shows when the log is trimmed behind the first.
    spawn_inside(*reactor, gate, [this](Suspend& suspend) {
        for (;;) {
            { const driver::FiberMutex::Guard until_it_is_over(suspend, checkpoint_mutex); }
            if (gate.closed() || read_only || !checkpoint_due()) break;
            // An error has been logged, and has made the store read-only unless there is no space.
            if (!checkpoint(suspend, SuperblockState::kInUse)) break;
        }
        checkpoint_wanted = false;
    });
}

// Every commit interval: what was changed becomes durable, and now and then a checkpoint is made.
void Blobstore::State::tick(Suspend& suspend) {
    if (read_only) return;
    if (const Result<void> settled = log.settle(suspend); !settled) {
        return fail_store(settled.error());
    }
    if (!make_durable(suspend)) return;
    const std::uint64_t age = suspend.reactor().now_us() - last_checkpoint_us;
    const bool dirty = tree.dirty_pages() != 0 || space.pending_runs() != 0;
    if (dirty && age > std::uint64_t{options.checkpoint_interval_ms} * 1000) {
        static_cast<void>(checkpoint(suspend, SuperblockState::kInUse));
    }
}

void Blobstore::State::arm_timer() {
    timer = reactor->run_after(std::uint64_t{options.commit_interval_ms} * 1000, [this] {
        timer.reset();
        spawn_inside(*reactor, gate, [this](Suspend& suspend) {
            if (gate.closed()) return;
            tick(suspend);
            if (!gate.closed()) arm_timer();
        });
    });
}

void Blobstore::State::start_background(driver::Reactor& on) {
    reactor = &on;
    last_checkpoint_us = on.now_us();
    tree.read_ahead_inside(&gate);
    if (!read_only && options.commit_interval_ms != 0) arm_timer();
}

void Blobstore::State::stop_background(Suspend& suspend) {
    gate.close(suspend);
    if (timer) reactor->cancel(*timer);
    timer.reset();
}

Result<void> Blobstore::State::resume_orphans(Suspend& suspend) {
    struct Unfinished {
        BlobId blob;
        std::uint64_t size;
    };
    std::vector<Unfinished> truncations;
    std::vector<BlobId> orphans;
    Result<void> status;
    const auto note = [&](KeyView key, ValueView bytes) {
        const bool truncation = key.size() == 17 && key_kind(key) == KeyKind::kTruncation;
        if (key.size() != 17 || bytes.size() != (truncation ? sizeof(TruncationValue) : 0)) {
            status = fail(Errc::kCorrupt, "reading the list of orphans");
            return false;
        }
        const BlobId blob{load_big_endian(key_tail(key))};
        if (truncation) {
            const std::uint64_t size = load<TruncationValue>(bytes).size;
            // Beyond that, rounding up to a cluster would begin at the front again.
            if (size > kMaxBlobBytes) {
                status = fail(Errc::kCorrupt, "reading the list of truncations", value(blob));
                return false;
            }
            truncations.push_back({blob, size});
        } else {
            orphans.push_back(blob);
        }
        return true;
    };
    TRY(tree.scan(suspend, Key(BlobId{0}, KeyKind::kOrphan), Key(BlobId{0}, KeyKind::kDataChecksum),
                  note));
    TRY(tree.scan(suspend, Key(BlobId{0}, KeyKind::kTruncation), Key(BlobId{1}, KeyKind{}), note));
    TRY(status);
    for (const Unfinished& truncation : truncations) {
        // Before anybody can extend the blob over what lies behind its end.
        BlobLock lock =
            locks.lock(suspend, truncation.blob, 0, BlobLocks::kEnd, BlobLocks::Mode::kExclusive);
        lock.lock_mapping(suspend);
        try_finish_truncate(suspend,
                            {.blob = truncation.blob, .size = truncation.size, .tail = true}, lock);
    }
    if (orphans.empty()) return {};
    spawn_inside(*reactor, gate, [this, orphans = std::move(orphans)](Suspend& fiber) {
        for (const BlobId orphan : orphans) {
            if (gate.closed() || read_only) return;
            const Result<void> deleted = delete_blob(fiber, orphan);
            if (!deleted) {
                spdlog::error(
                    "{}: deleting orphan {}: {}; it stays until the next mount or a check",
                    device.properties().name, value(orphan), deleted.error().message());
            }
        }
    });
    return {};
}

}  // namespace blobfs::blobstore
