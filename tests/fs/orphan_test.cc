// Inodes without names: open files that were unlinked, O_TMPFILE, what a crash leaves of them.

#include <sys/stat.h>

#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

class OrphanTest : public FilesystemTest {
  protected:
    std::uint64_t blobs() { return fs->store().space().blobs; }
    void wait_for_reaper(Suspend& suspend) { fs->state().reaper.wait(suspend); }
};

TEST_F(OrphanTest, AnUnlinkedFileLivesAsLongAsItIsReferenced) {
    run([&](Suspend& suspend) {
        const InodeNumber file =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
        must(lookup(suspend, kRootInode, "file"));  // a second reference that goes at once
        must(write(suspend, file, 0, "before"));
        must(fs->unlink(suspend, kRootInode, "file"));
        wait_for_reaper(suspend);
        EXPECT_EQ(attributes(suspend, file).nlink, 0u);
        must(write(suspend, file, 6, " after"));
        EXPECT_EQ(read(suspend, file, 0, 100), "before after");
        EXPECT_TRUE(fails_with(fs->link(suspend, file, kRootInode, "again"), Errc::kNotFound));
        EXPECT_EQ(blobs(), 2u);
        expect_sound(suspend);
        fs->forget(file, 1);
        wait_for_reaper(suspend);
        EXPECT_TRUE(fails_with(fs->getattr(suspend, file), Errc::kNotFound));
        EXPECT_EQ(blobs(), 1u);
    });
}

TEST_F(OrphanTest, ForgettingLessThanAllKeepsIt) {
    run([&](Suspend& suspend) {
        const InodeNumber file =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
        must(fs->lookup(suspend, kRootInode, "file"));
        must(fs->lookup(suspend, kRootInode, "file"));
        must(fs->unlink(suspend, kRootInode, "file"));
        fs->forget(file, 2);
        wait_for_reaper(suspend);
        EXPECT_TRUE(fs->getattr(suspend, file));
        fs->forget(file, 100);
        wait_for_reaper(suspend);
        EXPECT_FALSE(fs->getattr(suspend, file));
        fs->forget(file, 1);
        fs->forget(InodeNumber{12'345}, 1);
    });
}

TEST_F(OrphanTest, ReferencesAreCountedUpAndDown) {
    run([&](Suspend& suspend) {
        const InodeNumber file =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
        must(fs->lookup(suspend, kRootInode, "file"));
        fs->forget(file, 1);
        must(fs->lookup(suspend, kRootInode, "file"));
        must(fs->lookup(suspend, kRootInode, "file"));
        EXPECT_EQ(fs->statistics().referenced_inodes, 1u);
        must(fs->unlink(suspend, kRootInode, "file"));
        for (int left = 2; left >= 0; --left) {
            wait_for_reaper(suspend);
            EXPECT_TRUE(fs->getattr(suspend, file)) << left;
            fs->forget(file, 1);
            EXPECT_EQ(fs->statistics().referenced_inodes, left != 0 ? 1u : 0u);
        }
        wait_for_reaper(suspend);
        EXPECT_FALSE(fs->getattr(suspend, file));
    });
}

TEST_F(OrphanTest, CloseDeletesWhatHasNoName) {
    run([&](Suspend& suspend) {
        const InodeNumber file =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
        must(write(suspend, file, 0, std::string(300'000, 'x')));
        must(fs->unlink(suspend, kRootInode, "file"));
        must(fs->tmpfile(suspend, kRootUser, kRootInode, 0600));
        EXPECT_EQ(blobs(), 3u);
        remount(suspend);
        EXPECT_EQ(blobs(), 1u);
        EXPECT_FALSE(fs->getattr(suspend, file));
    });
}

TEST_F(OrphanTest, ACrashDeletesThemAtTheNextOpen) {
    run([&](Suspend& suspend) {
        const InodeNumber file =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
        must(write(suspend, file, 0, std::string(300'000, 'x')));
        const InodeNumber directory =
            must(fs->mkdir(suspend, kRootUser, kRootInode, "dir", 0755)).inode;
        must(fs->tmpfile(suspend, kRootUser, kRootInode, 0600));
        must(fs->unlink(suspend, kRootInode, "file"));
        must(fs->rmdir(suspend, kRootInode, "dir"));
        must(fs->sync(suspend));
        crash(suspend);
        for (int i = 0; i < 1000 && blobs() != 1; ++i) {
            suspend.sleep_us(1000);  // the store deletes them in the background
        }
        EXPECT_EQ(blobs(), 1u);
        EXPECT_FALSE(fs->getattr(suspend, file));
        EXPECT_FALSE(fs->getattr(suspend, directory));
    });
}

TEST_F(OrphanTest, ATemporaryFileCanBeGivenAName) {
    run([&](Suspend& suspend) {
        const Attributes made = must(fs->tmpfile(suspend, kUser, kRootInode, 0666));
        EXPECT_EQ(made.nlink, 0u);
        EXPECT_EQ(made.mode, S_IFREG | 0644u);
        must(write(suspend, made.inode, 0, "content"));
        EXPECT_EQ(unreferenced(must(fs->link(suspend, made.inode, kRootInode, "named"))),
                  made.inode);
        EXPECT_EQ(attributes(suspend, made.inode).nlink, 1u);
        fs->forget(made.inode, 1);
        wait_for_reaper(suspend);
        must(fs->sync(suspend));
        crash(suspend);
        EXPECT_EQ(read(suspend, must(lookup(suspend, kRootInode, "named")), 0, 100), "content");
        // Named once and unlinked again it is like any other.
        must(fs->lookup(suspend, kRootInode, "named"));
        must(fs->unlink(suspend, kRootInode, "named"));
        EXPECT_TRUE(fails_with(fs->link(suspend, made.inode, kRootInode, "x"), Errc::kNotFound));
        fs->forget(made.inode, 1);
    });
}

TEST_F(OrphanTest, AReplacedFileThatIsInUseStaysReadable) {
    run([&](Suspend& suspend) {
        const InodeNumber old =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
        must(write(suspend, old, 0, "old"));
        make_file(suspend, kRootInode, "fresh");
        must(fs->rename(suspend, kRootInode, "fresh", kRootInode, "file", RenameMode::kReplace));
        EXPECT_EQ(read(suspend, old, 0, 10), "old");
        EXPECT_EQ(attributes(suspend, old).nlink, 0u);
        fs->forget(old, 1);
        wait_for_reaper(suspend);
        EXPECT_EQ(blobs(), 2u);
    });
}

TEST_F(OrphanTest, ATruncatedOneIsStillDeletedAfterACrash) {
    run([&](Suspend& suspend) {
        const InodeNumber file =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
        for (std::uint64_t i = 0; i < 300; ++i) {
            must(write(suspend, file, i * 8192, std::string(4096, 'x')));
        }
        must(fs->unlink(suspend, kRootInode, "file"));
        must(fs->setattr(suspend, kRootUser, file, {.size = 4096}));
        must(fs->sync(suspend));
        crash(suspend);
        for (int i = 0; i < 1000 && blobs() != 1; ++i) {
            suspend.sleep_us(1000);
        }
        EXPECT_EQ(blobs(), 1u);
    });
}

TEST_F(OrphanTest, ManyAreDeletedInTheBackground) {
    run([&](Suspend& suspend) {
        for (int i = 0; i < 300; ++i) {
            const InodeNumber file = make_file(suspend, kRootInode, "f" + std::to_string(i));
            must(write(suspend, file, 0, std::string(9000, 'x')));
        }
        for (int i = 0; i < 300; ++i) {
            must(fs->unlink(suspend, kRootInode, "f" + std::to_string(i)));
        }
        wait_for_reaper(suspend);
        EXPECT_EQ(blobs(), 1u);
        EXPECT_EQ(fs->statistics().cached_inodes, 1u);
    });
}

}  // namespace
}  // namespace blobfs::fs
