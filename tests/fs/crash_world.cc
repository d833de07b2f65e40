#include "tests/fs/crash_world.h"

#include <random>
#include <utility>

#include "tests/fs/crash_history.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {

using driver::MediumOperation;
using driver::MediumStatus;
using driver::PowerCutMedium;

driver::ReactorOptions crash_reactor_options(std::optional<std::uint64_t> shuffle_seed) {
    return {.fiber_stack_bytes = std::size_t{256} << 10,  // as fsck.blobfs
            .shuffle_seed = shuffle_seed,
            .virtual_turn_us = 20};
}

namespace {

// Several times as long as the filesystem waits before it commits or makes a checkpoint by itself:
// so these, too, meet writes that are under way.
constexpr std::uint64_t kSlowPolls = 400;

std::unique_ptr<PowerCutMedium> medium_of(const CrashWorldOptions& options,
                                          driver::SparseImage image) {
    return PowerCutMedium::create({.bytes = kCrashDeviceBytes,
                                   .shuffle_seed = options.shuffle_seed,
                                   .slow_one_in = options.all_slow ? 1u : 4u,
                                   .slow_polls = options.shuffle_seed == 0 ? 0 : kSlowPolls},
                                  std::move(image));
}

// Which of the operations are of files: those that the rest of the store is to survive.
bool writes_data(const MediumOperation& operation) {
    return operation.kind == MediumOperation::Kind::kWrite &&
           Stamp::at(static_cast<const std::byte*>(operation.memory->iov_base)).whole();
}

}  // namespace

void CrashWorld::make(Suspend& suspend, const CrashWorldOptions& with) {
    options = with;
    auto owned = medium_of(options, {});
    medium = owned.get();
    device = must(Device::open(suspend, std::move(owned)));
    must(Filesystem::format(suspend, *device, {}));
    open(suspend);
    if (options.free_bytes == 0) return;
    // So little space is left that what is freed is soon used again.
    const Attributes filler =
        must(fs->create(suspend, kRootUser, kRootInode, "filler", 0644, true));
    fs->forget(filler.inode, 1);
    const std::uint64_t available = fs->store().space().available_bytes;
    must(fs->fallocate(suspend, filler.inode, 0, 0, available - options.free_bytes));
}

void CrashWorld::recover(Suspend& suspend, driver::SparseImage image,
                         const CrashWorldOptions& with) {
    options = with;
    auto owned = medium_of(options, std::move(image));
    medium = owned.get();
    device = must(Device::open(suspend, std::move(owned)));
    open(suspend);
}

void CrashWorld::open(Suspend& suspend) {
    OpenOptions open_options;
    open_options.store.commit_interval_ms = 1;
    open_options.store.checkpoint_interval_ms = 3;
    open_options.store.broken_rule = options.broken_rule;
    open_options.write_back_ms = 1;
    open_options.clock = [this] { return Timestamp{.seconds = ++seconds_, .nanoseconds = 0}; };
    fs = must(Filesystem::open(suspend, *device, std::move(open_options)));
}

void CrashWorld::start(Suspend& suspend) {
    must(fs->sync(suspend));
    started_at = medium->journal().size();
    if (options.failing) let_writes_fail();
}

void CrashWorld::let_writes_fail() {
    std::mt19937_64 random(options.shuffle_seed);
    // Few stores live long where much else fails, too.
    const std::uint64_t others = random() % 2 == 0 ? 2000 : 100;
    medium->set_fails([this, others, random](
                          const MediumOperation& operation) mutable -> std::optional<MediumStatus> {
        const bool data = writes_data(operation);
        if (random() % (data ? 8 : others) != 0) return std::nullopt;
        if (data) ++failed_writes;
        return MediumStatus(driver::nvme::Status::kWriteFault);
    });
}

void CrashWorld::end(Suspend& suspend) {
    early.settle_all(suspend);
    fs->abandon(suspend);
    fs.reset();
    end_of_journal = medium->journal().size();
    medium->set_fails({});
}

}  // namespace blobfs::fs
