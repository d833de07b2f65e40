// chmod, chown, truncate, utimensat, and the times that each operation changes.

#include <sys/stat.h>

#include <functional>

#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

using AttributesTest = FilesystemTest;

TEST_F(AttributesTest, ChmodKeepsTheTypeAndChangesCtimeOnly) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        const Timestamp before = clock;
        tick();
        const Attributes changed = must(fs->setattr(
            suspend, kRootUser, file, {.mode = static_cast<std::uint32_t>(S_IFDIR) | 04711u}));
        EXPECT_EQ(changed.mode, S_IFREG | 04711u);
        EXPECT_EQ(changed.ctime, clock);
        EXPECT_EQ(changed.mtime, before);
        EXPECT_EQ(changed.atime, before);
        remount(suspend);
        EXPECT_EQ(attributes(suspend, file).mode, S_IFREG | 04711u);
    });
}

TEST_F(AttributesTest, ChownTakesSetIdBitsFromFilesAndLeavesThemOnDirectories) {
    run([&](Suspend& suspend) {
        const InodeNumber program = make_file(suspend, kRootInode, "program", 06755);
        const InodeNumber locked = make_file(suspend, kRootInode, "locked", 06745);
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir", 02775);
        must(fs->setxattr(suspend, program, "security.capability", "caps", XattrMode::kAny));
        for (const InodeNumber inode : {program, locked, directory}) {
            must(fs->setattr(suspend, kRootUser, inode, {.uid = 7, .gid = 8}));
            EXPECT_EQ(attributes(suspend, inode).uid, 7u);
            EXPECT_EQ(attributes(suspend, inode).gid, 8u);
        }
        EXPECT_EQ(attributes(suspend, program).mode & 07777, 0755u);
        EXPECT_EQ(attributes(suspend, locked).mode & 07777, 02745u);  // no group execution
        EXPECT_EQ(attributes(suspend, directory).mode & 07777, 02775u);
        EXPECT_TRUE(
            fails_with(fs->getxattr(suspend, program, "security.capability"), Errc::kNoAttribute));
    });
}

TEST_F(AttributesTest, TruncateUpAndDownShowsZeroesNotOldData) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(write(suspend, file, 0, std::string(20'000, 'x')));
        tick();
        must(fs->setattr(suspend, kRootUser, file, {.size = 5'001}));
        EXPECT_EQ(attributes(suspend, file).mtime, clock);
        EXPECT_EQ(attributes(suspend, file).ctime, clock);
        must(fs->setattr(suspend, kRootUser, file, {.size = 15'000}));
        EXPECT_EQ(attributes(suspend, file).size, 15'000u);
        const std::string text = read(suspend, file, 0, 30'000);
        EXPECT_EQ(text, std::string(5'001, 'x') + std::string(9'999, '\0'));
        must(fs->setattr(suspend, kRootUser, file, {.size = kMaxFileBytes}));
        EXPECT_EQ(attributes(suspend, file).size, kMaxFileBytes);
        EXPECT_LE(attributes(suspend, file).allocated_bytes, 20'480u);
        remount(suspend);
        EXPECT_EQ(attributes(suspend, file).size, kMaxFileBytes);
        EXPECT_TRUE(fails_with(fs->setattr(suspend, kRootUser, file, {.size = kMaxFileBytes + 1}),
                               Errc::kTooLarge));
        must(fs->setattr(suspend, kRootUser, file, {.size = 0}));
        EXPECT_EQ(attributes(suspend, file).allocated_bytes, 0u);
    });
}

TEST_F(AttributesTest, TruncateOfOtherThanFilesIsRefused) {
    run([&](Suspend& suspend) {
        EXPECT_TRUE(fails_with(fs->setattr(suspend, kRootUser, kRootInode, {.size = 0}),
                               Errc::kIsDirectory));
        const InodeNumber fifo = unreferenced(
            must(fs->mknod(suspend, kRootUser, kRootInode, "fifo", S_IFIFO | 0600, 0)));
        EXPECT_TRUE(
            fails_with(fs->setattr(suspend, kRootUser, fifo, {.size = 0}), Errc::kInvalidArgument));
    });
}

TEST_F(AttributesTest, TruncateByAStrangerTakesPrivilegesAway) {
    run([&](Suspend& suspend) {
        const InodeNumber program = make_file(suspend, kRootInode, "program", 06755);
        must(fs->setxattr(suspend, program, "security.capability", "caps", XattrMode::kAny));
        must(fs->setattr(suspend, kUser, program, {.size = 0}));
        EXPECT_EQ(attributes(suspend, program).mode & 07777, 06755u);
        must(fs->setattr(suspend, kUser, program, {.size = 0, .kill_privileges = true}));
        EXPECT_EQ(attributes(suspend, program).mode & 07777, 0755u);
        EXPECT_TRUE(
            fails_with(fs->getxattr(suspend, program, "security.capability"), Errc::kNoAttribute));
    });
}

TEST_F(AttributesTest, TimesFrom1901ToBeyond2446ToTheNanosecond) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        const std::vector<Timestamp> times = {{-2'177'452'800, 999'999'999},  // 1901
                                              {-1, 1},
                                              {0, 0},
                                              {0x7fff'ffff, 1},
                                              {0x8000'0000, 2},
                                              {15'032'385'536, 123'456'789},  // 2446
                                              {INT64_MAX, 0},
                                              {INT64_MIN, 0}};
        for (const Timestamp& time : times) {
            must(fs->setattr(suspend, kRootUser, file, {.atime = time, .mtime = time}));
            remount(suspend);
            EXPECT_EQ(attributes(suspend, file).atime, time);
            EXPECT_EQ(attributes(suspend, file).mtime, time);
            EXPECT_EQ(attributes(suspend, file).ctime, clock);
        }
        EXPECT_TRUE(fails_with(
            fs->setattr(suspend, kRootUser, file, {.mtime = Timestamp{0, 1'000'000'000}}),
            Errc::kInvalidArgument));
        tick();
        must(fs->setattr(suspend, kRootUser, file, {.atime_now = true, .mtime_now = true}));
        EXPECT_EQ(attributes(suspend, file).atime, clock);
        EXPECT_EQ(attributes(suspend, file).mtime, clock);
    });
}

// Which of atime, mtime, ctime an operation on a file changes, as the manual pages have it.
TEST_F(AttributesTest, EachOperationChangesTheTimesThatItShould) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        const InodeNumber link =
            unreferenced(must(fs->symlink(suspend, kRootUser, kRootInode, "link", "target")));
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        must(write(suspend, file, 0, std::string(9000, 'x')));
        struct Case {
            const char* what;
            InodeNumber inode;
            const char* changed;
            std::function<void()> operation;
        };
        const std::vector<Case> cases = {
            {"read", file, "a", [&] { read(suspend, file, 0, 10); }},
            {"readlink", link, "a", [&] { must(fs->readlink(suspend, link)); }},
            {"readdir", directory, "a", [&] { names(suspend, directory); }},
            {"write", file, "mc", [&] { must(write(suspend, file, 3, "y")); }},
            {"write from the cache", file, "",
             [&] { must(write(suspend, file, 3, "y", {.keep_times = true})); }},
            {"write of nothing", file, "", [&] { must(write(suspend, file, 3, "")); }},
            {"truncate", file, "mc",
             [&] { must(fs->setattr(suspend, kRootUser, file, {.size = 8000})); }},
            {"truncate to the same size", file, "",
             [&] { must(fs->setattr(suspend, kRootUser, file, {.size = 8000})); }},
            {"truncate to the same size by a stranger", file, "",
             [&] {
                 must(fs->setattr(suspend, kRootUser, file,
                                  {.size = 8000, .kill_privileges = true}));
             }},
            {"chmod", file, "c",
             [&] { must(fs->setattr(suspend, kRootUser, file, {.mode = 0600})); }},
            {"setting a program's bits", file, "c",
             [&] { must(fs->setattr(suspend, kRootUser, file, {.mode = 04711})); }},
            {"truncate to the same size that takes them", file, "c",
             [&] {
                 must(fs->setattr(suspend, kRootUser, file,
                                  {.size = 8000, .kill_privileges = true}));
             }},
            {"chown", file, "c", [&] { must(fs->setattr(suspend, kRootUser, file, {.uid = 1})); }},
            {"setxattr", file, "c",
             [&] { must(fs->setxattr(suspend, file, "user.a", "b", XattrMode::kAny)); }},
            {"getxattr", file, "", [&] { must(fs->getxattr(suspend, file, "user.a")); }},
            {"removexattr", file, "c", [&] { must(fs->removexattr(suspend, file, "user.a")); }},
            {"link", file, "c",
             [&] { unreferenced(must(fs->link(suspend, file, kRootInode, "l"))); }},
            {"unlink", file, "c", [&] { must(fs->unlink(suspend, kRootInode, "l")); }},
            {"rename", file, "c",
             [&] {
                 must(fs->rename(suspend, kRootInode, "file", kRootInode, "renamed",
                                 RenameMode::kReplace));
             }},
            {"fallocate", file, "mc", [&] { must(fs->fallocate(suspend, file, 0, 0, 20'000)); }},
            {"getattr", file, "", [&] { attributes(suspend, file); }},
            {"lookup", file, "", [&] { must(lookup(suspend, kRootInode, "renamed")); }},
            {"nothing", file, "", [&] { must(fs->setattr(suspend, kRootUser, file, {})); }},
        };
        for (const Case& one : cases) {
            const Attributes before = attributes(suspend, one.inode);
            clock.seconds += 10;
            one.operation();
            // The same is true in memory and after a clean remount.
            for (const bool again : {false, true}) {
                if (again) {
                    remount(suspend);
                }
                const Attributes after = attributes(suspend, one.inode);
                const std::string changed = one.changed;
                const auto expect = [&](char letter, const Timestamp& old, const Timestamp& now) {
                    EXPECT_EQ(now, changed.find(letter) != std::string::npos ? clock : old)
                        << letter << " of " << one.what << (again ? " after a remount" : "");
                };
                expect('a', before.atime, after.atime);
                expect('m', before.mtime, after.mtime);
                expect('c', before.ctime, after.ctime);
                EXPECT_EQ(before.btime, after.btime);
            }
        }
    });
}

TEST_F(AttributesTest, RelatimeMovesOnceAfterAChangeAndOnceADay) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(write(suspend, file, 0, "x"));
        tick();
        read(suspend, file, 0, 1);
        const Timestamp first = clock;
        EXPECT_EQ(attributes(suspend, file).atime, first);
        tick();
        read(suspend, file, 0, 1);
        EXPECT_EQ(attributes(suspend, file).atime, first);
        clock.seconds += 24 * 60 * 60;
        read(suspend, file, 0, 1);
        EXPECT_EQ(attributes(suspend, file).atime, clock);
        tick();
        must(write(suspend, file, 0, "y"));
        read(suspend, file, 0, 1);
        EXPECT_EQ(attributes(suspend, file).atime, clock);
    });
}

class NoAtimeTest : public FilesystemTest {
  protected:
    OpenOptions open_options() override { return {.atime = AtimePolicy::kNever}; }
};

TEST_F(NoAtimeTest, ReadingLeavesAtimeAlone) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(write(suspend, file, 0, "x"));
        const Timestamp before = attributes(suspend, file).atime;
        tick();
        read(suspend, file, 0, 1);
        names(suspend, kRootInode);
        EXPECT_EQ(attributes(suspend, file).atime, before);
        EXPECT_NE(attributes(suspend, kRootInode).atime, clock);
    });
}

// The contract: what was answered more than a second ago survives kill -9. A machine that stands
// still may take longer.
TEST_F(AttributesTest, LazyTimesReachTheStoreByThemselves) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(fs->sync(suspend));
        tick();
        must(write(suspend, file, 0, std::string(5000, 'x')));
        EXPECT_EQ(fs->statistics().dirty_inodes, 1u);
        for (int i = 0; i < 60 && fs->statistics().dirty_inodes != 0; ++i) {
            suspend.sleep_us(1'000'000);
        }
        EXPECT_EQ(fs->statistics().dirty_inodes, 0u);
        crash(suspend, false);
        EXPECT_EQ(attributes(suspend, file).mtime, clock);
        EXPECT_EQ(attributes(suspend, file).size, 5000u);
    });
}

TEST_F(AttributesTest, FsyncMakesLazyTimesDurable) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        tick();
        must(write(suspend, file, 0, "x"));
        must(fs->fsync(suspend, file, false));
        crash(suspend);
        EXPECT_EQ(attributes(suspend, file).mtime, clock);
        EXPECT_EQ(read(suspend, file, 0, 10), "x");
    });
}

// The kernel tells the times that it kept with every fdatasync; they must not cost a log write.
TEST_F(AttributesTest, TimesThatAreSetLazilyWaitForFsync) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(fs->sync(suspend));
        const Timestamp before = attributes(suspend, file).mtime;
        const auto transactions = fs->store().statistics().transactions;
        const Timestamp mtime{.seconds = 1'800'000'000, .nanoseconds = 1};
        const Timestamp ctime{.seconds = 1'800'000'001, .nanoseconds = 2};
        const SetAttributes times{.mtime = mtime, .ctime = ctime, .lazily = true};
        const Attributes set = must(fs->setattr(suspend, kRootUser, file, times));
        EXPECT_EQ(set.mtime, mtime);
        EXPECT_EQ(set.ctime, ctime);
        must(fs->fsync(suspend, file, true));
        EXPECT_EQ(fs->store().statistics().transactions, transactions);
        crash(suspend);
        EXPECT_EQ(attributes(suspend, file).mtime, before);

        must(fs->setattr(suspend, kRootUser, file, times));
        must(fs->fsync(suspend, file, false));
        crash(suspend);
        EXPECT_EQ(attributes(suspend, file).mtime, mtime);
        EXPECT_EQ(attributes(suspend, file).ctime, ctime);

        // With anything else they are one change.
        SetAttributes more = times;
        more.mode = 0600;
        more.mtime = before;
        must(fs->setattr(suspend, kRootUser, file, more));
        must(fs->fsync(suspend, file, true));
        crash(suspend);
        EXPECT_EQ(attributes(suspend, file).mtime, before);
        EXPECT_EQ(attributes(suspend, file).mode & 07777u, 0600u);
    });
}

class SmallCacheTest : public FilesystemTest {
  protected:
    OpenOptions open_options() override { return {.max_cached_inodes = 16}; }
};

TEST_F(SmallCacheTest, InodesThatAreNotInUseAreForgottenAndComeBack) {
    run([&](Suspend& suspend) {
        std::vector<InodeNumber> files;
        for (int i = 0; i < 300; ++i) {
            tick();
            files.push_back(make_file(suspend, kRootInode, "file" + std::to_string(i)));
            must(write(suspend, files.back(), 0, "x"));
            if (i % 20 == 0) {
                must(fs->sync(suspend));
            }
        }
        must(fs->sync(suspend));
        EXPECT_LE(fs->statistics().cached_inodes, 17u);
        EXPECT_EQ(fs->statistics().referenced_inodes, 0u);
        for (std::size_t i = 0; i < files.size(); ++i) {
            const std::int64_t expected = 1'700'000'000 + static_cast<std::int64_t>(i) + 1;
            EXPECT_EQ(attributes(suspend, files[i]).mtime.seconds, expected);
        }
        EXPECT_LE(fs->statistics().cached_inodes, 17u);
    });
}

}  // namespace
}  // namespace blobfs::fs
