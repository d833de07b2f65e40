#include "tests/fs/crash_verdict.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "fs/fsck/image_check.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {

using driver::PowerCutMedium;

namespace {

void check_file(Suspend& suspend, Filesystem& fs, const History& history, InodeNumber inode,
                std::uint64_t size, std::size_t durable, std::size_t cut) {
    if (!history.sectors.contains(value(inode))) return;  // the filler
    const driver::DmaBuffer buffer = must(driver::DmaBuffer::allocate(kFileSectors * kSector));
    const auto got = fs.read(suspend, inode, 0, buffer.span());
    ASSERT_TRUE(got) << got.error().message();
    ASSERT_EQ(*got, size);
    history.expect_content(inode, buffer.span().first(*got), durable, cut);
}

void check_history(Suspend& suspend, Filesystem& fs, const CrashWorkload& workload,
                   std::size_t cut) {
    const History& history = workload.history();
    const std::size_t synced = history.synced(cut);
    std::map<InodeNumber, std::uint64_t> files;
    const std::string state = describe(suspend, fs, workload.root(), "", &files);
    const auto found = history.after.find(state);
    ASSERT_TRUE(found != history.after.end()) << "a state that never was:\n" << state;
    const std::vector<std::size_t>& when = found->second;
    // Where the same state was there several times, that of the fewest operations.
    const auto shown = std::ranges::lower_bound(when, synced);
    ASSERT_TRUE(shown != when.end()) << "the state after operation " << when.back() << ", but "
                                     << synced << " were made durable";
    // Data that was written before the last of these is there as well.
    for (const auto& [inode, size] : files) {
        ASSERT_NO_FATAL_FAILURE(check_file(suspend, fs, history, inode, size, *shown, cut));
    }
}

void expect_sound(Suspend& suspend, Filesystem& fs) {
    // The checks want nobody else at work: orphans are being deleted.
    for (int turn = 0; turn < 1000; ++turn) suspend.yield();
    const auto findings = fs.check(suspend);
    ASSERT_TRUE(findings) << findings.error().message();
    for (const std::string& finding : *findings) ADD_FAILURE() << finding;
    const auto below = fs.store().check(suspend);
    ASSERT_TRUE(below) << below.error().message();
    for (const std::string& finding : *below) ADD_FAILURE() << "store: " << finding;
}

// Before anybody mounts it: nothing but a superblock may be torn.
void check_offline(Suspend& suspend, Device& device) {
    // Not on the stack of a fiber.
    const auto slots = std::make_unique<blobstore::SuperblockSlots>(
        must(blobstore::read_superblocks(suspend, device)));
    const auto check = std::make_unique<fsck::ImageCheck>(device, *slots, must(slots->newest()));
    must(check->run(suspend, [](fsck::Phase, std::uint64_t, std::uint64_t) {}));
    for (const fsck::Finding& finding : check->findings().list()) {
        EXPECT_TRUE(finding.problem == fsck::Problem::kSuperblockSlot ||
                    finding.problem == fsck::Problem::kSuperblockCopy)
            << "fsck: " << finding.text;
    }
}

}  // namespace

void check_image(Suspend& suspend, const CrashWorkloads& workloads, std::size_t cut,
                 driver::SparseImage image, int depth, std::mt19937_64& random) {
    auto owned = PowerCutMedium::create({.bytes = kCrashDeviceBytes}, std::move(image));
    PowerCutMedium* medium = owned.get();
    auto device = must(Device::open(suspend, std::move(owned)));
    check_offline(suspend, *device);
    std::size_t recovered_at = 0;
    OpenOptions options;
    options.store.commit_interval_ms = 0;
    if (auto fs = Filesystem::open(suspend, *device, std::move(options))) {
        recovered_at = medium->journal().size();
        for (const auto& workload : workloads) check_history(suspend, **fs, *workload, cut);
        expect_sound(suspend, **fs);
        (*fs)->abandon(suspend);
    } else {
        ADD_FAILURE() << "cannot be opened: " << fs.error().message();
    }
    if (depth > 0 && recovered_at != 0) {
        const std::size_t second = random() % (recovered_at + 1);
        check_image(suspend, workloads, cut, medium->image(second, random()), depth - 1, random);
    }
    must(device->close(suspend));
}

}  // namespace blobfs::fs
