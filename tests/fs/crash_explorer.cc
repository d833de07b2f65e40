#include "tests/fs/crash_explorer.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "tests/blobstore/lost_superblocks.h"
#include "tests/fs/crash_verdict.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {

void CrashExplorer::run() {
    for (std::uint64_t round = 0; !over(); ++round) {
        driver::Reactor reactor(crash_reactor_options(options_.seed + round));
        reactor.block_on([&](Suspend& suspend) { explore(suspend, round); });
    }
}

std::vector<InodeNumber> CrashExplorer::make_roots(Suspend& suspend, CrashWorld& world, int count) {
    std::vector<InodeNumber> roots;
    for (int i = 0; i < count; ++i) {
        const std::string name = "actor" + std::to_string(i);
        const Attributes made = must(world.fs->mkdir(suspend, kRootUser, kRootInode, name, 0755));
        world.fs->forget(made.inode, 1);
        roots.push_back(made.inode);
    }
    return roots;
}

CrashWorkloads CrashExplorer::work(Suspend& suspend, CrashWorld& world,
                                   const std::vector<InodeNumber>& roots, std::uint64_t seed,
                                   int steps) {
    CrashWorkloads workloads;
    world.start(suspend);
    for (const InodeNumber root : roots) {
        workloads.push_back(
            std::make_unique<CrashWorkload>(seed * 16 + workloads.size(), world, root));
        workloads.back()->start(suspend);
    }
    driver::WaitGroup group;
    for (const auto& workload : workloads) {
        group.add();
        suspend.reactor().spawn([&, steps](Suspend& own) {
            const auto count = static_cast<std::size_t>(steps) / workloads.size() + 15;
            for (std::size_t i = 0; i < count; ++i) workload->random_step(own);
            group.done();
        });
    }
    group.wait(suspend);
    world.end(suspend);
    return workloads;
}

void CrashExplorer::explore(Suspend& suspend, std::uint64_t round) {
    CrashWorldOptions with{.broken_rule = options_.broken_rule, .failing = options_.failing};
    // Now and then each operation ends at once, in its order.
    if (round % 4 != 1 || options_.failing) with.shuffle_seed = (options_.seed + 2 * round) | 1;
    // A write that takes one transaction after the other, as space runs out, can be cut between
    // them: only for one, who hardly ever gets there.
    if (round % 3 != 2 && round % 4 >= 2) with.free_bytes = 400 * 1024;
    CrashWorld first;
    first.make(suspend, with);
    const std::vector<InodeNumber> roots =
        round % 3 == 2 ? make_roots(suspend, first, 4) : std::vector{kRootInode};
    // What fails is seen before any cut.
    const int steps = options_.failing ? 300 : 150, cuts = options_.failing ? 40 : 110;
    const CrashWorkloads before = work(suspend, first, roots, round, steps);
    count(first);
    cut(suspend, first, before, round, cuts);
    if (!over() && !options_.broken_rule) {
        CrashWorld second;
        second.recover(suspend, first.medium->image(choose_cut(first), random_()), with);
        // What was made last may be gone, but not the directories.
        const CrashWorkloads after =
            work(suspend, second, roots, round + (1u << 20), steps * 2 / 5);
        count(second);
        cut(suspend, second, after, round, cuts * 2 / 5);
        must(second.device->close(suspend));
    }
    must(first.device->close(suspend));
}

void CrashExplorer::count(const CrashWorld& world) {
    answered_early_ += world.answered_early;
    failed_writes_ += world.failed_writes;
}

std::size_t CrashExplorer::choose_cut(const CrashWorld& world) {
    return world.started_at + random_() % (world.end_of_journal - world.started_at + 1);
}

void CrashExplorer::cut(Suspend& suspend, const CrashWorld& world, const CrashWorkloads& workloads,
                        std::uint64_t round, int times) {
    for (int i = 0; i < times && !over(); ++i, ++done_) {
        const std::size_t at = choose_cut(world);
        const std::uint64_t choice = random_() % 4 == 0 ? random_() % 2 : random_();
        SCOPED_TRACE("round " + std::to_string(round) + ", cut " + std::to_string(at) + " of " +
                     std::to_string(world.end_of_journal) + ", choice " + std::to_string(choice) +
                     ", " + std::to_string(workloads.size()) + " at work");
        driver::SparseImage image = world.medium->image(at, choice);
        if (i % 8 == 1) blobstore::restore_superblocks_from_copy(image, kCrashDeviceBytes);
        check_image(suspend, workloads, at, std::move(image), i % 4 == 0 ? 1 : 0, random_);
    }
}

}  // namespace blobfs::fs
