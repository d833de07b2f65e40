// rename(2) and renameat2(2), sentence by sentence.

#include <sys/stat.h>

#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

class RenameTest : public FilesystemTest {
  protected:
    Result<void> rename(Suspend& suspend, InodeNumber from, const std::string& old_name,
                        InodeNumber to, const std::string& new_name,
                        RenameMode mode = RenameMode::kReplace) {
        return fs->rename(suspend, from, old_name, to, new_name, mode);
    }
};

TEST_F(RenameTest, MovesAFileBetweenDirectoriesAndTouchesItsCtime) {
    run([&](Suspend& suspend) {
        const InodeNumber a = make_directory(suspend, kRootInode, "a");
        const InodeNumber b = make_directory(suspend, kRootInode, "b");
        const InodeNumber file = make_file(suspend, a, "file");
        const Timestamp mtime = attributes(suspend, file).mtime;
        tick();
        must(rename(suspend, a, "file", b, "other"));
        EXPECT_TRUE(names(suspend, a).empty());
        EXPECT_EQ(must(lookup(suspend, b, "other")), file);
        EXPECT_EQ(attributes(suspend, file).ctime, clock);
        EXPECT_EQ(attributes(suspend, file).mtime, mtime);
        EXPECT_EQ(attributes(suspend, a).mtime, clock);
        EXPECT_EQ(attributes(suspend, b).mtime, clock);
    });
}

TEST_F(RenameTest, MovesADirectoryWithItsLinkCountsAndParent) {
    run([&](Suspend& suspend) {
        const InodeNumber a = make_directory(suspend, kRootInode, "a");
        const InodeNumber b = make_directory(suspend, kRootInode, "b");
        const InodeNumber moved = make_directory(suspend, a, "moved");
        make_file(suspend, moved, "inner");
        must(rename(suspend, a, "moved", b, "moved"));
        EXPECT_EQ(attributes(suspend, a).nlink, 2u);
        EXPECT_EQ(attributes(suspend, b).nlink, 3u);
        EXPECT_EQ(must(lookup(suspend, moved, "..")), b);
        must(rename(suspend, b, "moved", b, "renamed"));
        EXPECT_EQ(attributes(suspend, b).nlink, 3u);
        remount(suspend);
        EXPECT_EQ(must(lookup(suspend, moved, "..")), b);
        EXPECT_EQ(names(suspend, moved), std::vector<std::string>{"inner"});
    });
}

TEST_F(RenameTest, ReplacesAFileAndDeletesTheOldOne) {
    run([&](Suspend& suspend) {
        const InodeNumber fresh = make_file(suspend, kRootInode, "fresh");
        const InodeNumber old = make_file(suspend, kRootInode, "old");
        must(rename(suspend, kRootInode, "fresh", kRootInode, "old"));
        EXPECT_EQ(names(suspend, kRootInode), std::vector<std::string>{"old"});
        EXPECT_EQ(must(lookup(suspend, kRootInode, "old")), fresh);
        fs->state().reaper.wait(suspend);
        EXPECT_TRUE(fails_with(fs->getattr(suspend, old), Errc::kNotFound));
    });
}

TEST_F(RenameTest, ReplacesAnEmptyDirectoryOnly) {
    run([&](Suspend& suspend) {
        const InodeNumber upper = make_directory(suspend, kRootInode, "upper");
        const InodeNumber moved = make_directory(suspend, kRootInode, "moved");
        make_directory(suspend, upper, "empty");
        const InodeNumber full = make_directory(suspend, upper, "full");
        make_file(suspend, full, "x");
        make_file(suspend, kRootInode, "file");
        EXPECT_TRUE(
            fails_with(rename(suspend, kRootInode, "moved", upper, "full"), Errc::kNotEmpty));
        EXPECT_TRUE(fails_with(rename(suspend, kRootInode, "moved", kRootInode, "file"),
                               Errc::kNotDirectory));
        EXPECT_TRUE(
            fails_with(rename(suspend, kRootInode, "file", upper, "empty"), Errc::kIsDirectory));
        must(rename(suspend, kRootInode, "moved", upper, "empty"));
        EXPECT_EQ(must(lookup(suspend, upper, "empty")), moved);
        EXPECT_EQ(attributes(suspend, upper).nlink, 4u);
        EXPECT_EQ(attributes(suspend, kRootInode).nlink, 3u);
    });
}

TEST_F(RenameTest, ADirectoryNeverBecomesItsOwnAncestor) {
    run([&](Suspend& suspend) {
        const InodeNumber a = make_directory(suspend, kRootInode, "a");
        const InodeNumber b = make_directory(suspend, a, "b");
        const InodeNumber c = make_directory(suspend, b, "c");
        EXPECT_TRUE(fails_with(rename(suspend, kRootInode, "a", a, "x"), Errc::kLoop));
        EXPECT_TRUE(fails_with(rename(suspend, kRootInode, "a", c, "x"), Errc::kLoop));
        EXPECT_TRUE(fails_with(rename(suspend, a, "b", c, "x"), Errc::kLoop));
        EXPECT_TRUE(fails_with(rename(suspend, b, "c", kRootInode, "a"), Errc::kNotEmpty));
        EXPECT_TRUE(fails_with(rename(suspend, b, "c", a, "b"), Errc::kNotEmpty));
        EXPECT_TRUE(fails_with(rename(suspend, b, "c", kRootInode, "a", RenameMode::kExchange),
                               Errc::kLoop));
        make_file(suspend, b, "file");
        EXPECT_TRUE(fails_with(rename(suspend, b, "file", kRootInode, "a", RenameMode::kExchange),
                               Errc::kLoop));
        must(rename(suspend, b, "c", kRootInode, "c"));
        EXPECT_EQ(must(lookup(suspend, c, "..")), kRootInode);
    });
}

TEST_F(RenameTest, TwoNamesOfOneFileStayBoth) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "one");
        unreferenced(must(fs->link(suspend, file, kRootInode, "two")));
        must(rename(suspend, kRootInode, "one", kRootInode, "two"));
        EXPECT_EQ(attributes(suspend, file).nlink, 2u);
        must(rename(suspend, kRootInode, "one", kRootInode, "one"));
        EXPECT_EQ(names(suspend, kRootInode).size(), 2u);
    });
}

TEST_F(RenameTest, NoReplaceRefusesAnExistingName) {
    run([&](Suspend& suspend) {
        make_file(suspend, kRootInode, "one");
        make_file(suspend, kRootInode, "two");
        EXPECT_TRUE(fails_with(
            rename(suspend, kRootInode, "one", kRootInode, "two", RenameMode::kNoReplace),
            Errc::kExists));
        must(rename(suspend, kRootInode, "one", kRootInode, "three", RenameMode::kNoReplace));
    });
}

TEST_F(RenameTest, ExchangeSwapsTwoNamesOfAnyKind) {
    run([&](Suspend& suspend) {
        const InodeNumber a = make_directory(suspend, kRootInode, "a");
        const InodeNumber b = make_directory(suspend, kRootInode, "b");
        const InodeNumber directory = make_directory(suspend, a, "x");
        const InodeNumber file = make_file(suspend, b, "y");
        make_file(suspend, directory, "inner");
        EXPECT_TRUE(
            fails_with(rename(suspend, a, "x", b, "no", RenameMode::kExchange), Errc::kNotFound));
        must(rename(suspend, a, "x", b, "y", RenameMode::kExchange));
        EXPECT_EQ(must(lookup(suspend, a, "x")), file);
        EXPECT_EQ(must(lookup(suspend, b, "y")), directory);
        EXPECT_EQ(must(lookup(suspend, directory, "..")), b);
        EXPECT_EQ(attributes(suspend, a).nlink, 2u);
        EXPECT_EQ(attributes(suspend, b).nlink, 3u);
        must(rename(suspend, kRootInode, "a", kRootInode, "b", RenameMode::kExchange));
        EXPECT_EQ(must(lookup(suspend, kRootInode, "a")), b);
    });
}

TEST_F(RenameTest, ErrorsOfNames) {
    run([&](Suspend& suspend) {
        make_file(suspend, kRootInode, "file");
        EXPECT_TRUE(
            fails_with(rename(suspend, kRootInode, "no", kRootInode, "x"), Errc::kNotFound));
        EXPECT_TRUE(fails_with(rename(suspend, kRootInode, ".", kRootInode, "x"), Errc::kBusy));
        EXPECT_TRUE(
            fails_with(rename(suspend, kRootInode, "file", kRootInode, std::string(256, 'x')),
                       Errc::kTooLong));
        const InodeNumber file = must(lookup(suspend, kRootInode, "file"));
        EXPECT_TRUE(
            fails_with(rename(suspend, kRootInode, "file", file, "x"), Errc::kNotDirectory));
    });
}

// The contract: never empty or half-written under the new name, fsync or not.
TEST_F(RenameTest, AfterACrashAReplacedFileIsWholeOldOrWholeNew) {
    run([&](Suspend& suspend) {
        for (int round = 0; round < 8; ++round) {
            const std::string old_text(30'000, 'o');
            const std::string new_text(50'000, 'n');
            const InodeNumber config = make_file(suspend, kRootInode, "config");
            must(write(suspend, config, 0, old_text));
            must(fs->sync(suspend));
            const InodeNumber fresh = make_file(suspend, kRootInode, "config.new");
            must(write(suspend, fresh, 0, new_text));
            must(rename(suspend, kRootInode, "config.new", kRootInode, "config"));
            if (round % 2 == 1) {
                // Something else becomes durable later, and with it the rename.
                const InodeNumber other = make_file(suspend, kRootInode, "other");
                must(fs->fsync(suspend, other, true));
                must(fs->unlink(suspend, kRootInode, "other"));
            }
            crash(suspend);
            const std::string text =
                read(suspend, must(lookup(suspend, kRootInode, "config")), 0, 60'000);
            EXPECT_TRUE(text == old_text || text == new_text) << text.size();
            if (round % 2 == 1) {
                EXPECT_EQ(text, new_text);
            }
            for (const std::string& name : names(suspend, kRootInode)) {
                must(fs->unlink(suspend, kRootInode, name));
            }
        }
    });
}

TEST_F(RenameTest, WhiteoutTakesTheOldName) {
    run([&](Suspend& suspend) {
        const InodeNumber a = make_directory(suspend, kRootInode, "a");
        const InodeNumber b = make_directory(suspend, kRootInode, "b");
        for (const InodeNumber to : {a, b}) {
            const InodeNumber file = make_file(suspend, a, "file");
            const std::string name = to == a ? "here" : "there";
            must(fs->rename(suspend, a, "file", to, name, RenameMode::kNoReplace,
                            Caller{.uid = 5, .gid = 6}));
            EXPECT_EQ(must(lookup(suspend, to, name)), file);
            const Attributes left = attributes(suspend, must(lookup(suspend, a, "file")));
            EXPECT_EQ(left.mode, static_cast<std::uint32_t>(S_IFCHR));
            EXPECT_EQ(left.rdev, 0u);
            EXPECT_EQ(left.uid, 5u);
            EXPECT_EQ(left.gid, 6u);
            EXPECT_EQ(left.nlink, 1u);
            must(fs->unlink(suspend, a, "file"));
        }
        EXPECT_TRUE(
            fails_with(fs->rename(suspend, a, "here", b, "there", RenameMode::kExchange, Caller{}),
                       Errc::kInvalidArgument));
        EXPECT_TRUE(must(fs->check(suspend)).empty());
    });
}

}  // namespace
}  // namespace blobfs::fs
