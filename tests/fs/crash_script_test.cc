// Power cuts of each kind of operation alone: at every point, and with every subset of what was
// under way then where these are few. What is promised: crash_test.cc.

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "driver/memory/environment.h"
#include "tests/fs/crash_verdict.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

struct Script {
    const char* name;
    std::function<void(Suspend&, CrashWorkload&)> prepare, act;
    bool early = false;  // writes are answered early, and the device is slow
};

InodeNumber file_of(Suspend& suspend, CrashWorkload& workload, const std::string& name,
                    std::uint64_t sectors, bool early = false) {
    const InodeNumber file = workload.create(suspend, kRootInode, name);
    workload.answered(suspend);
    workload.write(suspend, file, 0, sectors, early);
    workload.answered(suspend);
    return file;
}
const std::vector<Script>& scripts() {
    static const auto two = [](Suspend& s, CrashWorkload& w) {
        file_of(s, w, "a", 20);
        file_of(s, w, "b", 10);
    };
    static const std::vector<Script> all = {
        {"Create", [](Suspend&, CrashWorkload&) {},
         [](Suspend& s, CrashWorkload& w) {
             w.create(s, kRootInode, "new");
             w.answered(s);
         }},
        {"CreateAndWrite", [](Suspend&, CrashWorkload&) {},
         [](Suspend& s, CrashWorkload& w) { file_of(s, w, "new", 20); }},
        {"Overwrite", two,
         [](Suspend& s, CrashWorkload& w) {
             w.write(s, w.lookup(s, "a"), 4, 9, false);
             w.answered(s);
         }},
        {"Append", two,
         [](Suspend& s, CrashWorkload& w) {
             w.write(s, w.lookup(s, "a"), 20, 17, false);
             w.answered(s);
         }},
        {"TruncateDown", two,
         [](Suspend& s, CrashWorkload& w) {
             w.truncate(s, w.lookup(s, "a"), 5);
             w.answered(s);
         }},
        {"TruncateUp", two,
         [](Suspend& s, CrashWorkload& w) {
             w.truncate(s, w.lookup(s, "a"), 60);
             w.answered(s);
         }},
        {"RenameOver", two,
         [](Suspend& s, CrashWorkload& w) {
             must(w.fs().rename(s, kRootInode, "a", kRootInode, "b", RenameMode::kReplace));
             w.answered(s);
         }},
        {"Exchange", two,
         [](Suspend& s, CrashWorkload& w) {
             must(w.fs().rename(s, kRootInode, "a", kRootInode, "b", RenameMode::kExchange));
             w.answered(s);
         }},
        {"ReplaceBySavePattern", two,
         [](Suspend& s, CrashWorkload& w) {
             file_of(s, w, "a.new", 30);
             must(w.fs().rename(s, kRootInode, "a.new", kRootInode, "a", RenameMode::kReplace));
             w.answered(s);
         }},
        {"Link", two,
         [](Suspend& s, CrashWorkload& w) {
             w.fs().forget(must(w.fs().link(s, w.lookup(s, "a"), kRootInode, "c")).inode, 1);
             w.answered(s);
         }},
        {"Unlink", two,
         [](Suspend& s, CrashWorkload& w) {
             must(w.fs().unlink(s, kRootInode, "a"));
             w.answered(s);
             file_of(s, w, "c", 20);
         }},
        {"MakeAndRemoveDirectory", [](Suspend&, CrashWorkload&) {},
         [](Suspend& s, CrashWorkload& w) {
             w.fs().forget(must(w.fs().mkdir(s, kRootUser, kRootInode, "d", 0755)).inode, 1);
             w.answered(s);
             must(w.fs().rmdir(s, kRootInode, "d"));
             w.answered(s);
         }},
        {"TemporaryFileThatGetsAName", two,
         [](Suspend& s, CrashWorkload& w) {
             const InodeNumber file = must(w.fs().tmpfile(s, kRootUser, kRootInode, 0644)).inode;
             w.write(s, file, 0, 12, false);
             w.answered(s);
             w.fs().forget(must(w.fs().link(s, file, kRootInode, "c")).inode, 2);
             w.answered(s);
         }},
        {"Allocate", two,
         [](Suspend& s, CrashWorkload& w) {
             for (int i = 0; i < 4; ++i) {
                 w.allocate(s, w.lookup(s, "a"));
                 w.answered(s);
             }
         }},
        {"SetXattr", two,
         [](Suspend& s, CrashWorkload& w) {
             must(w.fs().setxattr(s, w.lookup(s, "a"), "user.x", std::string(3000, 'x'),
                                  XattrMode::kAny));
             w.answered(s);
         }},
        {"AppendEarly", two,
         [](Suspend& s, CrashWorkload& w) {
             w.write(s, w.lookup(s, "a"), 20, 17, true);
             w.answered(s);
             file_of(s, w, "c", 3);
         },
         true},
        {"OverwriteEarly", two,
         [](Suspend& s, CrashWorkload& w) {
             w.write(s, w.lookup(s, "a"), 4, 9, true);
             w.answered(s);
             must(w.fs().rename(s, kRootInode, "b", kRootInode, "c", RenameMode::kReplace));
             w.answered(s);
         },
         true},
        {"CopyEarlyAndUnlink", two,
         [](Suspend& s, CrashWorkload& w) {
             file_of(s, w, "c", 20, true);
             must(w.fs().unlink(s, kRootInode, "a"));
             w.answered(s);
         },
         true},
        {"CopyRangeEarlyAndUnlink", two,
         [](Suspend& s, CrashWorkload& w) {
             const InodeNumber copied = w.create(s, kRootInode, "c");
             w.answered(s);
             w.copy(s, {.from = w.lookup(s, "a"), .to = copied, .count = 20}, true);
             w.answered(s);
             must(w.fs().unlink(s, kRootInode, "a"));
             w.answered(s);
         },
         true},
        {"ReplaceBySavePatternEarly", two,
         [](Suspend& s, CrashWorkload& w) {
             file_of(s, w, "a.new", 30, true);
             must(w.fs().rename(s, kRootInode, "a.new", kRootInode, "a", RenameMode::kReplace));
             w.answered(s);
         },
         true},
    };
    return all;
}

class FilesystemCrashScript : public testing::TestWithParam<std::size_t> {
  protected:
    static void SetUpTestSuite() {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    }

    static std::size_t check_every_image(Suspend& suspend, const CrashWorld& world,
                                         const CrashWorkloads& workloads, std::size_t from);
};

std::size_t FilesystemCrashScript::check_every_image(Suspend& suspend, const CrashWorld& world,
                                                     const CrashWorkloads& workloads,
                                                     std::size_t from) {
    constexpr std::size_t kAllSubsetsOf = 5;
    std::mt19937_64 random(1);
    std::size_t images = 0;
    for (std::size_t cut = from; cut <= world.end_of_journal && !HasFailure(); ++cut) {
        const std::vector<std::size_t> undecided = world.medium->undecided(cut);
        const std::size_t subsets =
            undecided.size() <= kAllSubsetsOf ? std::size_t{1} << undecided.size() : 0;
        for (std::size_t subset = 0; subset < subsets; ++subset) {
            std::vector<std::size_t> survivors;
            for (std::size_t i = 0; i < undecided.size(); ++i) {
                if ((subset >> i & 1) != 0) survivors.push_back(undecided[i]);
            }
            SCOPED_TRACE("cut " + std::to_string(cut) + ", subset " + std::to_string(subset));
            check_image(suspend, workloads, cut, world.medium->image_with(cut, survivors), 0,
                        random);
            ++images;
        }
        for (std::uint64_t choice = 0; choice < 16; ++choice) {
            SCOPED_TRACE("cut " + std::to_string(cut) + ", choice " + std::to_string(choice));
            check_image(suspend, workloads, cut, world.medium->image(cut, choice), 1, random);
            ++images;
        }
    }
    return images;
}

TEST_P(FilesystemCrashScript, HoldsAtEveryCut) {
    const Script& script = scripts()[GetParam()];
    driver::Reactor reactor(crash_reactor_options(std::nullopt));
    reactor.block_on([&](Suspend& suspend) {
        CrashWorld world;
        world.make(suspend, {.shuffle_seed = script.early ? 1u : 0u, .all_slow = script.early});
        world.start(suspend);
        CrashWorkloads workloads;
        CrashWorkload& workload =
            *workloads.emplace_back(std::make_unique<CrashWorkload>(1, world));
        workload.start(suspend);
        script.prepare(suspend, workload);
        workload.sync(suspend);
        const std::size_t from = world.medium->journal().size();
        script.act(suspend, workload);
        EXPECT_EQ(world.answered_early != 0, script.early);
        workload.sync(suspend);
        world.end(suspend);
        const std::size_t images = check_every_image(suspend, world, workloads, from);
        std::printf("%zu images\n", images);
        EXPECT_GT(images, 10u);
        must(world.device->close(suspend));
    });
}

std::string script_name(const testing::TestParamInfo<std::size_t>& script) {
    return scripts()[script.param].name;
}

INSTANTIATE_TEST_SUITE_P(Operation, FilesystemCrashScript,
                         testing::Range(std::size_t{0}, scripts().size()), script_name);

}  // namespace
}  // namespace blobfs::fs
