// Recovery: the newest root, then the log. README.md, "Generations and checkpoints".

#include <spdlog/spdlog.h>

#include <algorithm>

#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

// Ids handed out before a crash, but not committed durably, may have been seen (file handles): what
// follows starts well behind them. More than anybody creates between two background commits.
constexpr std::uint64_t kIdGap = 1u << 24;

// The log ended where it cannot have ended: what was acknowledged behind that place is lost.
Result<void> log_is_damaged(const driver::Device& device, const Superblock& superblock,
                            const WriteAheadLog::End& end, std::uint64_t beyond, bool read_only) {
    const std::uint64_t at = (superblock.log_start + end.position.block) * kBlockBytes;
    spdlog::critical(
        "{}: the log is damaged at byte {}: batch {} is not there, and {} later ones are; {}",
        device.properties().name, at, end.position.batch, beyond,
        read_only ? "what they changed does not show"
                  : "fsck.blobfs -y drops them, mounting read-only shows what is left");
    if (read_only) return {};
    return fail(Errc::kCorrupt, "replaying the log: it is damaged in the middle", at);
}

// Loads the leaves of many keys, several at a time: one by one, in the order in which the log names
// them, the second pass would wait for each. Errors are for who needs the page.
class LeafReader {
  public:
    LeafReader(Btree& tree, const PageCache& cache) : tree_(tree), most_(cache.capacity() / 2) {}
    // Suspends while as many as may be are being read. Beyond half of the cache nothing is read:
    // what came first would go again.
    void read(Suspend& suspend, KeyView key) {
        if (started_ >= most_ || tree_.resident(key)) return;
        while (reading_.count() >= kAtATime) one_read_.wait(suspend);
        ++started_;
        reading_.add();
        suspend.reactor().spawn([this, wanted = Key(key)](Suspend& fiber) {
            static_cast<void>(tree_.fetch(fiber, wanted));
            one_read_.wake_one();
            reading_.done();
        });
    }
    // REQUIRED before destruction.
    void wait(Suspend& suspend) { reading_.wait(suspend); }

  private:
    static constexpr std::size_t kAtATime = 32;

    Btree& tree_;
    const std::size_t most_;
    std::size_t started_ = 0;
    driver::WaitGroup reading_;
    driver::WaitQueue one_read_;
};

bool sane_key(KeyView key) { return key.size() >= 9 && key.size() <= kMaxKeyBytes; }

}  // namespace

Result<void> Blobstore::State::recover(Suspend& suspend) {
    generation = Generation{superblock.generation + 1};
    next_blob_id = superblock.next_blob_id;
    blob_count = superblock.blob_count;
    tree.open(TreeRoot{.page = superblock.tree_root, .height = superblock.tree_height}, generation);
    const Result<void> map = space.open(suspend,
                                        MapRoot{.page = superblock.map_root,
                                                .height = superblock.map_height,
                                                .free_blocks = superblock.free_blocks},
                                        generation);
    if (!map) {
        // Who only reads needs no map, unless there is a log to replay.
        const bool clean = superblock.state == static_cast<std::uint32_t>(SuperblockState::kClean);
        if (map.error().code != Errc::kCorrupt || !read_only || !clean) return map;
        spdlog::error(
            "{}: {}; reading goes on without the allocation map, fsck.blobfs -y rebuilds it",
            device.properties().name, map.error().message());
    }
    const LogPosition from{.block = superblock.log_position, .batch = superblock.log_batch};
    const Sequence contained{superblock.transaction};

    // First pass: blocks that became file data, so that the second hands none of them to the tree.
    LeafReader leaves(tree, *cache);
    const auto found =
        log.replay(suspend, superblock.epoch, from, contained,
                   [&](Suspend& s, Sequence, const LogOperation& operation) -> Result<void> {
                       const bool leaf = operation.type == LogOperationType::kPut ||
                                         operation.type == LogOperationType::kErase;
                       if (leaf && sane_key(operation.key)) leaves.read(s, operation.key);
                       if (operation.type != LogOperationType::kAllocate) return {};
                       return space.replay_allocate(s, operation.run);
                   });
    leaves.wait(suspend);
    TRY_ASSIGN(const WriteAheadLog::End end, found);
    TRY_ASSIGN(const WriteAheadLog::Beyond beyond,
               log.batches_beyond(suspend, superblock.epoch, end.position));
    if (beyond.batches != 0) {
        TRY(log_is_damaged(device, superblock, end, beyond.batches, read_only));
    }
    const std::uint64_t data_from = std::max(end.data_from, beyond.data_from);
    // Second pass: everything else.
    ReplayedData data;
    const auto apply = [&](Suspend& s, Sequence, const LogOperation& operation) -> Result<void> {
        switch (operation.type) {
            case LogOperationType::kPut:
            case LogOperationType::kErase: {
                if (!sane_key(operation.key) || operation.value.size() > tree.max_value_bytes()) {
                    return fail(Errc::kCorrupt, "replaying the log");
                }
                while (!tree.resident(operation.key)) {
                    TRY(tree.fetch(s, operation.key));
                }
                const std::uint32_t pages = tree.max_pages_per_change();
                if (space.reserved_pages(true) < pages) {
                    TRY(space.reserve_pages(s, pages, true));
                    while (!tree.resident(operation.key)) {
                        TRY(tree.fetch(s, operation.key));
                    }
                }
                const bool attributes = key_kind(operation.key) == KeyKind::kAttributes;
                if (operation.type == LogOperationType::kErase) {
                    if (tree.erase(operation.key) && attributes) --blob_count;
                } else {
                    if (attributes && !tree.peek(operation.key)) ++blob_count;
                    tree.put(operation.key, operation.value);
                }
                return {};
            }
            case LogOperationType::kFree:
                return space.replay_free(s, operation.run);
            case LogOperationType::kNextBlobId:
                next_blob_id = std::max(next_blob_id, value(operation.next_blob_id));
                return {};
            case LogOperationType::kAllocate:
                return {};
            case LogOperationType::kData:
                if (operation.batch < data_from) return {};
                return data.add(s, device, superblock, operation);
            default:
                return fail(Errc::kCorrupt, "replaying the log");
        }
    };
    TRY_ASSIGN(const WriteAheadLog::End again,
               log.replay(suspend, superblock.epoch, from, contained, apply));
    if (again.batches != end.batches) return fail(Errc::kIo, "replaying the log twice");
    if (superblock.state != static_cast<std::uint32_t>(SuperblockState::kClean)) {
        next_blob_id = std::min(next_blob_id + kIdGap, kBlobIdEnd);
        spdlog::info("{}: was not unmounted cleanly; {} batches of the log replayed",
                     device.properties().name, end.batches);
    }
    if (read_only) {
        replayed_data = std::move(data);
        return {};
    }
    // Before anything else is written, and again if this is cut off.
    TRY(data.write(suspend, device, [](std::uint64_t) { return true; }));

    // A new epoch, made durable before anything is written to the log: records of the old one that
    // lie beyond the tail can never be taken for new ones. Its ring starts where the old one ended.
    TRY(log.open(superblock.epoch + 1, LogPosition{.block = end.position.block, .batch = 1},
                 end.last_transaction));
    ++superblock.mounts;
    TRY(checkpoint(suspend, SuperblockState::kInUse));
    return space.fill_reserve(suspend);
}

}  // namespace blobfs::blobstore
