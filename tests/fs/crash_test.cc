// Power cuts at every point of work on a filesystem, through the library: what a cut could leave is
// opened, checked, and held against what was answered. BLOBFS_SEED chooses the workload,
// BLOBFS_CUTS how many cuts are tried.
//
// Promised (design, section 7): the names, types, modes, sizes and links are those after some
// prefix of the operations in the order in which they were answered, which holds everything before
// the last fsync; a file shows in each sector what was written to that place of it, not older than
// the last fsync, and not older than the last operation of that prefix; a file that was written
// once shows all of what its size says; fsck.blobfs finds nothing, before the log is replayed, and
// both checks of what is open are clean; a cut during the recovery changes nothing of that. Of
// several who work at the same time, each in a directory of its own, that holds for each.
//
// Most writes are answered as those of the kernel's cache are, while a slow device is at work on
// them, and may fail after that: then they are there in parts, or read as zeroes, as answered ones
// that nobody made durable may be gone; but what the blocks held before nobody reads, neither
// before a cut nor after it.

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <tuple>
#include <vector>

#include "driver/memory/environment.h"
#include "tests/fs/crash_explorer.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

using blobstore::OrderRule;
using driver::PowerCutMedium;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

class FilesystemCrash : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    }

    static CrashExplorer explore(std::uint64_t cuts, bool failing) {
        const CrashExplorerOptions options{
            .seed = from_environment("BLOBFS_SEED", std::random_device()()),
            .cuts = from_environment("BLOBFS_CUTS", cuts),
            .failing = failing};
        std::printf("seed %lu: rerun with BLOBFS_SEED=%lu\n", options.seed, options.seed);
        CrashExplorer explorer(options, [] { return HasFailure(); });
        explorer.run();
        std::printf("%lu writes were answered early, %lu failed\n", explorer.answered_early(),
                    explorer.failed_writes());
        EXPECT_GT(explorer.answered_early(), options.cuts / 20);
        return explorer;
    }
};

TEST_F(FilesystemCrash, AnyCutLeavesThePrefixThatHoldsWhatWasSynced) { explore(1800, false); }

TEST_F(FilesystemCrash, AnyWriteMayFailLateAndShowsNothingOfOtherFiles) {
    EXPECT_GT(explore(600, true).failed_writes(), 0U);
}

// So a finding comes again with its seed.
TEST_F(FilesystemCrash, TheSameSeedIsTheSameRun) {
    const auto journal_of = [](std::uint64_t seed) {
        std::vector<std::tuple<std::uint64_t, std::uint64_t, std::size_t, bool>> events;
        driver::Reactor reactor(crash_reactor_options(seed));
        reactor.block_on([&](Suspend& suspend) {
            CrashWorld world;
            world.make(suspend, {.shuffle_seed = seed, .free_bytes = 400 * 1024, .failing = true});
            CrashExplorer::work(suspend, world, CrashExplorer::make_roots(suspend, world, 3), seed,
                                150);
            for (const PowerCutMedium::Event& event : world.medium->journal()) {
                events.emplace_back(event.offset, event.bytes, event.started, event.durable);
            }
            EXPECT_GT(world.answered_early, 0U);
            EXPECT_GT(world.failed_writes, 0U);
            must(world.device->close(suspend));
        });
        return events;
    };
    EXPECT_TRUE(journal_of(7) == journal_of(7));
    EXPECT_FALSE(journal_of(7) == journal_of(8));
}

// The explorer bites: a store that does not keep one of the rules is found out. (What breaks the
// others the store may notice by itself: BlobstoreCrashWithout, BlobstoreSpace.)
class FilesystemCrashWithout : public testing::TestWithParam<OrderRule> {};

TEST_P(FilesystemCrashWithout, IsFoundOut) {
    must(driver::start_environment({.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    testing::TestPartResultArray found;
    {
        const testing::ScopedFakeTestPartResultReporter reporter(
            testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &found);
        CrashExplorer(
            {.seed = from_environment("BLOBFS_SEED", 1), .cuts = 5000, .broken_rule = GetParam()},
            [&] { return found.size() != 0; })
            .run();
    }
    ASSERT_GT(found.size(), 0) << "nothing was found in 5000 cuts";
    std::printf("found: %s\n", found.GetTestPartResult(0).message());
}

std::string rule_name(const testing::TestParamInfo<OrderRule>& rule) {
    switch (rule.param) {
        case OrderRule::kDataBeforeLog:
            return "DataBeforeLog";
        case OrderRule::kLogBeforeAnswer:
            return "LogBeforeAnswer";
        case OrderRule::kSettleBeforeAnswer:
            return "SettleBeforeAnswer";
        case OrderRule::kDataUnderWay:
            return "DataUnderWay";
        case OrderRule::kEndBeforeFlush:
            return "EndBeforeFlush";
        default:
            return "Other";
    }
}

INSTANTIATE_TEST_SUITE_P(Rule, FilesystemCrashWithout,
                         testing::Values(OrderRule::kDataBeforeLog, OrderRule::kLogBeforeAnswer,
                                         OrderRule::kSettleBeforeAnswer, OrderRule::kDataUnderWay,
                                         OrderRule::kEndBeforeFlush),
                         rule_name);

}  // namespace
}  // namespace blobfs::fs
