#include "blobstore/blobstore.h"

#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "blobstore/page.h"
#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

constexpr std::size_t kBounceBuffers = 32;
constexpr std::uint64_t kSmallDeviceBytes = 1ull << 30;

PageIo::Geometry page_geometry(const Superblock& superblock) {
    return {.uuid = superblock.uuid,
            .page_bytes = superblock.page_bytes,
            .block_count = superblock.block_count};
}

// Blocks kept back so that deleting works on a full device: 1/128, at least what a few transactions
// of the largest kind set aside, at most 64 MiB and a sixteenth of the device.
std::uint64_t reserve_blocks(const Superblock& superblock) {
    return std::min(std::clamp<std::uint64_t>(superblock.block_count / 128, 384, 16384),
                    superblock.block_count / 16);
}

StoreInfo info_of(const Superblock& superblock) {
    const char* label = superblock.label.data();
    return {.uuid = superblock.uuid,
            .label = std::string(label, strnlen(label, superblock.label.size())),
            .cluster_bytes = superblock.cluster_bytes,
            .page_bytes = superblock.page_bytes,
            .inline_bytes = superblock.inline_bytes,
            .bytes = superblock.block_count * kBlockBytes,
            .log_bytes = superblock.log_blocks * kBlockBytes,
            .generation = superblock.generation,
            .mounts = superblock.mounts,
            .created_us = superblock.created_us,
            .written_us = superblock.written_us,
            .clean = superblock.state == static_cast<std::uint32_t>(SuperblockState::kClean)};
}

// A random UUID, RFC 4122 version 4.
Result<std::array<std::uint8_t, 16>> random_uuid() {
    std::array<std::uint8_t, 16> uuid;
    if (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) {
        return fail(errno_error(errno, "making a UUID"));
    }
    uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);
    uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
    return uuid;
}

// Below 2^40, from 1 (FORMAT.md, "Superblock").
Result<std::uint64_t> first_epoch() {
    std::uint64_t random = 0;
    if (getrandom(&random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random))) {
        return fail(errno_error(errno, "choosing the first epoch of the log"));
    }
    return std::max<std::uint64_t>(random >> 24, 1);
}

// The superblock of a new store on the device. kInvalidArgument names what is wrong.
Result<Superblock> plan_format(const Device& device, const FormatOptions& options) {
    Superblock plan{};
    const std::uint64_t bytes =
        options.device_bytes != 0 ? options.device_bytes : device.properties().bytes;
    if (bytes > device.properties().bytes) {
        return fail(Errc::kInvalidArgument, "formatting more than the device has");
    }
    if (bytes < kMinDeviceBytes) {
        return fail(Errc::kInvalidArgument, "formatting a device of less than 16 MiB");
    }
    if (bytes > kMaxDeviceBytes) {
        return fail(Errc::kInvalidArgument, "formatting a device of more than 1 PiB");
    }
    if (!power_of_two_within(options.cluster_bytes, kMinClusterBytes, kMaxClusterBytes)) {
        return fail(Errc::kInvalidArgument,
                    "choosing a cluster size: a power of two, 4 KiB to 4 MiB");
    }
    const std::uint32_t page_bytes =
        options.page_bytes != 0 ? options.page_bytes
                                : (bytes < kSmallDeviceBytes ? kMinPageBytes : kDefaultPageBytes);
    if (!power_of_two_within(page_bytes, kMinPageBytes, kMaxPageBytes)) {
        return fail(Errc::kInvalidArgument, "choosing a page size: 4, 8 or 16 KiB");
    }
    if (options.label.size() > plan.label.size()) {
        return fail(Errc::kInvalidArgument, "choosing a label: at most 64 bytes");
    }
    const std::uint32_t most_inline = std::min(max_value_bytes(page_bytes), kMinClusterBytes - 1);
    if (options.inline_bytes > most_inline) {
        return fail(Errc::kInvalidArgument, "choosing how large inline files may be");
    }
    plan.version = kFormatVersion;
    plan.state = static_cast<std::uint32_t>(SuperblockState::kClean);
    plan.uuid = options.uuid;
    if (plan.uuid == std::array<std::uint8_t, 16>{}) {
        TRY_ASSIGN(plan.uuid, random_uuid());
    }
    std::memcpy(plan.label.data(), options.label.data(), options.label.size());
    plan.block_bytes = kBlockBytes;
    plan.page_bytes = page_bytes;
    plan.cluster_bytes = options.cluster_bytes;
    plan.inline_bytes =
        options.inline_bytes != 0 ? options.inline_bytes : std::min(2048u, most_inline);
    plan.block_count = bytes / kBlockBytes;
    // The last block is for a copy of the superblock.
    if (bytes > kMinDeviceBytes) {
        --plan.block_count;
        plan.compatible = kSuperblockCopy;
    }
    plan.log_start = kLogStartBlock;
    const std::uint64_t log_bytes =
        options.log_bytes != 0 ? options.log_bytes
                               : std::clamp<std::uint64_t>(bytes / 64, 1u << 20, 64u << 20);
    plan.log_blocks = round_up(log_bytes, kBlockBytes) / kBlockBytes;
    if (plan.log_blocks < kMinLogBlocks || log_end(plan) > plan.block_count / 2) {
        return fail(Errc::kInvalidArgument, "choosing a log size: 1 MiB to half of the device");
    }
    plan.generation = 1;
    TRY_ASSIGN(plan.epoch, first_epoch());
    plan.log_batch = 1;
    plan.next_blob_id = 1;
    plan.created_us = plan.written_us = Blobstore::State::wall_clock_us();
    return plan;
}

template <class FrozenPage>
Result<void> write_each(Suspend& suspend, Device& device, const std::vector<FrozenPage>& pages) {
    for (const FrozenPage& page : pages) {
        TRY(device.write(suspend, value(page.block) * kBlockBytes, page.bytes));
    }
    return {};
}

}  // namespace

Blobstore::State::State(Device& dev, const OpenOptions& opts, const Superblock& sb,
                        std::unique_ptr<PageCache> page_cache,
                        std::unique_ptr<driver::DmaPool> bounce_pool,
                        driver::DmaBuffer zero_cluster)
    : device(dev),
      options(opts),
      superblock(sb),
      info(info_of(sb)),
      cache(std::move(page_cache)),
      io(dev, page_geometry(sb)),
      space(io,
            SpaceAllocator::Options{
                .cluster_blocks = sb.cluster_bytes / kBlockBytes,
                .reserve_blocks =
                    opts.broken_rule == OrderRule::kDeleteWhenFull ? 0 : reserve_blocks(sb),
                .reuse_data_at_once = opts.broken_rule == OrderRule::kDurableBeforeReuse,
                .reuse_pages_at_once = opts.broken_rule == OrderRule::kNeverInPlace}),
      tree(io, *cache, space),
      log(dev,
          WriteAheadLog::Geometry{.uuid = sb.uuid, .start = sb.log_start, .blocks = sb.log_blocks},
          WriteAheadLog::LeftOut{
              .data_before_log = opts.broken_rule == OrderRule::kDataBeforeLog,
              .log_before_answer = opts.broken_rule == OrderRule::kLogBeforeAnswer,
              .settle_before_answer = opts.broken_rule == OrderRule::kSettleBeforeAnswer,
              .data_under_way = opts.broken_rule == OrderRule::kDataUnderWay,
              .end_before_flush = opts.broken_rule == OrderRule::kEndBeforeFlush}),
      bounce(std::move(bounce_pool)),
      zeroes(std::move(zero_cluster)),
      read_only(opts.read_only) {}

Result<StoreInfo> Blobstore::format(Suspend& suspend, Device& device,
                                    const FormatOptions& options) {
    TRY_ASSIGN(Superblock plan, plan_format(device, options));
    PageIo io(device, page_geometry(plan));
    SpaceAllocator space(io, {.cluster_blocks = plan.cluster_bytes / kBlockBytes});
    TRY(space.create(suspend, {Run{BlockIndex{0}, log_end(plan)}}, Generation{plan.generation}));
    while (!space.ready_to_freeze()) {
        TRY(space.prepare_freeze(suspend));
    }
    const SpaceAllocator::Frozen frozen = space.freeze(Generation{plan.generation + 1});
    plan.map_root = frozen.root.page;
    plan.map_height = frozen.root.height;
    plan.free_blocks = frozen.root.free_blocks;
    // An interrupted format must not leave an older store that looks whole.
    TRY(erase_superblocks(suspend, device));
    TRY(erase_superblock_copy(suspend, device, plan.block_count));
    TRY(erase_superblock_copy(suspend, device, device.properties().bytes / kBlockBytes - 1));
    // What was in the first MiB and at the start of the log is gone: no old signature stays.
    TRY_ASSIGN(const driver::DmaBuffer zeroes, driver::DmaBuffer::allocate(64 * 1024));
    for (std::uint64_t at = 0; at < (kLogStartBlock + kMinLogBlocks) * kBlockBytes;
         at += zeroes.size()) {
        TRY(device.write(suspend, at, zeroes.span()));
    }
    TRY(write_each(suspend, device, frozen.pages));
    TRY(write_superblock(suspend, device, plan));
    ++plan.generation;
    TRY(write_superblock(suspend, device, plan));
    TRY(write_superblock_copy(suspend, device, plan));
    space.release();
    return info_of(plan);
}

Result<StoreInfo> Blobstore::inspect(Suspend& suspend, Device& device) {
    TRY_ASSIGN(const SuperblockSlots slots, read_superblocks(suspend, device));
    TRY_ASSIGN(const Superblock newest, slots.newest());
    return info_of(newest);
}

Result<std::unique_ptr<Blobstore>> Blobstore::open(Suspend& suspend, Device& device,
                                                   const OpenOptions& options) {
    // Too large for the stack of a fiber, with all that follows.
    const std::unique_ptr<Result<SuperblockSlots>> read(
        new Result<SuperblockSlots>(read_superblocks(suspend, device)));
    if (!*read) return fail(read->error());
    const SuperblockSlots& slots = **read;
    TRY_ASSIGN(const Superblock newest, slots.newest());
    for (const auto& slot : slots.slots) {
        if (slot) continue;
        spdlog::warn("{}: {}; going on with the other one{}", device.properties().name,
                     slot.error().message(),
                     options.read_only ? "" : ", from which it is written anew");
    }
    if (!slots.copy) {
        spdlog::warn("{}: the copy of the superblock: {}{}", device.properties().name,
                     slots.copy.error().message(), options.read_only ? "" : "; it is written anew");
    }
    OpenOptions chosen = options;
    chosen.read_only = options.read_only || device.properties().read_only;
    if (!chosen.read_only) {
        TRY(check_writable(newest));
    }
    TRY_ASSIGN(std::unique_ptr<PageCache> cache,
               PageCache::create(options.cache_bytes, newest.page_bytes));
    const std::size_t bounce_bytes =
        std::max<std::size_t>(2 * std::size_t{newest.cluster_bytes}, 64 * 1024);
    const std::size_t bounce_count =
        std::clamp<std::size_t>((std::size_t{8} << 20) / bounce_bytes, 2, kBounceBuffers);
    TRY_ASSIGN(std::unique_ptr<driver::DmaPool> bounce,
               driver::DmaPool::create(bounce_count, bounce_bytes));
    TRY_ASSIGN(driver::DmaBuffer zeroes, driver::DmaBuffer::allocate(newest.cluster_bytes));
    auto state = std::make_unique<State>(device, chosen, newest, std::move(cache),
                                         std::move(bounce), std::move(zeroes));
    State& store = *state;
    TRY(store.recover(suspend));
    store.start_background(suspend.reactor());
    if (!store.read_only && !options.keep_orphans) {
        if (const Result<void> resumed = store.resume_orphans(suspend); !resumed) {
            store.stop_background(suspend);
            return fail(resumed.error());
        }
    }
    return std::unique_ptr<Blobstore>(new Blobstore(std::move(state)));
}

Blobstore::Blobstore(std::unique_ptr<State> state) : state_(std::move(state)) {}
Blobstore::~Blobstore() = default;

Result<void> Blobstore::close(Suspend& suspend) {
    State& store = *state_;
    store.stop_background(suspend);
    store.unpin_root();
    if (store.failure) return fail(*store.failure);
    if (store.read_only) return {};
    return store.checkpoint(suspend, SuperblockState::kClean);
}

void Blobstore::abandon(Suspend& suspend) {
    state_->stop_background(suspend);
    state_->unpin_root();
}

void Blobstore::shut_down(Suspend& suspend) {
    State& store = *state_;
    store.shut_down = true;
    store.read_only = true;
    if (!store.failure) {
        store.failure = Error{.code = Errc::kIo, .what = "using a store that was shut down"};
    }
    store.device.fence(suspend);
}
bool Blobstore::is_shut_down() const { return state_->shut_down; }

const StoreInfo& Blobstore::info() const { return state_->info; }
bool Blobstore::read_only() const { return state_->read_only; }

SpaceInfo Blobstore::space() const {
    const State& store = *state_;
    const std::uint64_t free = store.space.free_blocks() + store.space.stash_blocks() +
                               store.space.pending_blocks() + store.space.pinned_blocks();
    const std::uint64_t kept = store.space.blocks_kept_from_data();
    return {.total_bytes = (store.superblock.block_count - log_end(store.superblock)) * kBlockBytes,
            .free_bytes = free * kBlockBytes,
            .available_bytes = (free > kept ? free - kept : 0) * kBlockBytes,
            .blobs = store.blob_count};
}

Blobstore::Statistics Blobstore::statistics() const {
    Statistics numbers = state_->counters;
    numbers.log_batches = state_->log.batches_written();
    const PageCache::Statistics cache = state_->cache->statistics();
    numbers.cache_hits = cache.hits;
    numbers.cache_misses = cache.misses;
    numbers.pages_read_ahead = cache.read_ahead;
    numbers.cache_frames = cache.frames;
    numbers.dirty_pages = state_->tree.dirty_pages();
    return numbers;
}

}  // namespace blobfs::blobstore
