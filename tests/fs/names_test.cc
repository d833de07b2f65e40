// Making, finding and removing names.

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

using Names = FilesystemTest;

TEST_F(Names, NewFilesystemHasARootDirectory) {
    run([&](Suspend& suspend) {
        const Attributes root = attributes(suspend, kRootInode);
        EXPECT_EQ(root.mode, S_IFDIR | 0755u);
        EXPECT_EQ(root.nlink, 2u);
        EXPECT_EQ(must(lookup(suspend, kRootInode, ".")), kRootInode);
        EXPECT_EQ(must(lookup(suspend, kRootInode, "..")), kRootInode);
        EXPECT_TRUE(names(suspend, kRootInode).empty());
    });
}

TEST_F(Names, CreateMakesAFileThatSurvivesARemount) {
    run([&](Suspend& suspend) {
        const Attributes made = must(fs->create(suspend, kUser, kRootInode, "file", 0666, true));
        EXPECT_EQ(made.mode, S_IFREG | 0644u);  // umask 022
        EXPECT_EQ(made.uid, 1000u);
        EXPECT_EQ(made.gid, 100u);
        EXPECT_EQ(made.nlink, 1u);
        EXPECT_EQ(made.size, 0u);
        EXPECT_EQ(made.btime, clock);
        EXPECT_EQ(must(lookup(suspend, kRootInode, "file")), made.inode);
        remount(suspend);
        EXPECT_EQ(must(lookup(suspend, kRootInode, "file")), made.inode);
        EXPECT_EQ(attributes(suspend, made.inode).mode, S_IFREG | 0644u);
    });
}

TEST_F(Names, CreateOfAnExistingNameFailsWhenExclusiveAndAnswersItOtherwise) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        EXPECT_TRUE(
            fails_with(fs->create(suspend, kUser, kRootInode, "file", 0600, true), Errc::kExists));
        EXPECT_EQ(unreferenced(must(fs->create(suspend, kUser, kRootInode, "file", 0600, false))),
                  file);
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 0644u);
    });
}

TEST_F(Names, MkdirCountsLinksAndKnowsItsParent) {
    run([&](Suspend& suspend) {
        const InodeNumber upper = make_directory(suspend, kRootInode, "upper");
        const InodeNumber lower = make_directory(suspend, upper, "lower");
        EXPECT_EQ(attributes(suspend, kRootInode).nlink, 3u);
        EXPECT_EQ(attributes(suspend, upper).nlink, 3u);
        EXPECT_EQ(attributes(suspend, lower).nlink, 2u);
        EXPECT_EQ(must(lookup(suspend, lower, "..")), upper);
        remount(suspend);
        EXPECT_EQ(must(lookup(suspend, lower, "..")), upper);
    });
}

TEST_F(Names, MknodMakesEveryTypeAndKeepsTheDeviceNumber) {
    run([&](Suspend& suspend) {
        const std::uint64_t number = makedev(260, 70'000);
        int i = 0;
        for (const std::uint32_t type : {S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK}) {
            const Attributes made = must(fs->mknod(
                suspend, kRootUser, kRootInode, "node" + std::to_string(i++), type | 0600, number));
            fs->forget(made.inode, 1);
            EXPECT_EQ(made.mode, type | 0600);
            EXPECT_EQ(made.rdev, type == S_IFCHR || type == S_IFBLK ? number : 0);
        }
        EXPECT_TRUE(fails_with(fs->mknod(suspend, kRootUser, kRootInode, "dir", S_IFDIR | 0755, 0),
                               Errc::kInvalidArgument));
        remount(suspend);
        EXPECT_EQ(attributes(suspend, must(lookup(suspend, kRootInode, "node1"))).rdev, number);
    });
}

TEST_F(Names, SymlinkTargetsOfEveryLengthComeBack) {
    run([&](Suspend& suspend) {
        const std::vector<std::size_t> lengths = {1,   60,  391, 392,  393, 511,
                                                  512, 513, 904, 1024, 4095};
        for (const std::size_t length : lengths) {
            std::string target;
            for (std::size_t i = 0; i < length; ++i) {
                target += static_cast<char>('a' + (i / 7 + i) % 26);
            }
            const Attributes made =
                must(fs->symlink(suspend, kUser, kRootInode, "l" + std::to_string(length), target));
            fs->forget(made.inode, 1);
            EXPECT_EQ(made.size, length);
            EXPECT_EQ(made.mode, S_IFLNK | 0777u);
            EXPECT_EQ(must(fs->readlink(suspend, made.inode)), target);
            tick();
            must(fs->setattr(suspend, kUser, made.inode, {.mtime = Timestamp{9, 9}}));
            remount(suspend);
            EXPECT_EQ(must(fs->readlink(suspend, made.inode)), target);
        }
        EXPECT_TRUE(fails_with(fs->symlink(suspend, kUser, kRootInode, "x", std::string(4096, 'a')),
                               Errc::kTooLong));
        EXPECT_TRUE(fails_with(fs->symlink(suspend, kUser, kRootInode, "x", ""), Errc::kNotFound));
        EXPECT_TRUE(fails_with(fs->readlink(suspend, kRootInode), Errc::kInvalidArgument));
        for (const std::size_t length : lengths) {
            must(fs->unlink(suspend, kRootInode, "l" + std::to_string(length)));
        }
    });
}

TEST_F(Names, NamesAtTheirLimits) {
    run([&](Suspend& suspend) {
        const std::string longest(255, 'n');
        make_file(suspend, kRootInode, longest);
        EXPECT_TRUE(lookup(suspend, kRootInode, longest));
        EXPECT_TRUE(fails_with(lookup(suspend, kRootInode, longest + "n"), Errc::kTooLong));
        EXPECT_TRUE(
            fails_with(fs->mkdir(suspend, kUser, kRootInode, longest + "n", 0), Errc::kTooLong));
        EXPECT_TRUE(fails_with(fs->mkdir(suspend, kUser, kRootInode, ".", 0), Errc::kExists));
        EXPECT_TRUE(fails_with(fs->mkdir(suspend, kUser, kRootInode, "", 0), Errc::kNotFound));
        EXPECT_TRUE(
            fails_with(fs->mkdir(suspend, kUser, kRootInode, "a/b", 0), Errc::kInvalidArgument));
        make_file(suspend, kRootInode, "\xff\xfe not UTF-8 \x01");
        EXPECT_TRUE(lookup(suspend, kRootInode, "\xff\xfe not UTF-8 \x01"));
    });
}

TEST_F(Names, LookupOfWhatIsNotThere) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        EXPECT_TRUE(fails_with(lookup(suspend, kRootInode, "nothing"), Errc::kNotFound));
        EXPECT_TRUE(fails_with(lookup(suspend, file, "x"), Errc::kNotDirectory));
        EXPECT_TRUE(fails_with(lookup(suspend, InodeNumber{999}, "x"), Errc::kNotFound));
        EXPECT_TRUE(fails_with(fs->getattr(suspend, InodeNumber{0}), Errc::kNotFound));
    });
}

TEST_F(Names, LinkCountsAndUnlinkTakesOneNameOnly) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "one");
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        tick();
        const Attributes linked = must(fs->link(suspend, file, directory, "two"));
        fs->forget(file, 1);
        EXPECT_EQ(linked.nlink, 2u);
        EXPECT_EQ(linked.ctime, clock);
        EXPECT_TRUE(fails_with(fs->link(suspend, file, directory, "two"), Errc::kExists));
        EXPECT_TRUE(fails_with(fs->link(suspend, directory, kRootInode, "d"), Errc::kPermission));
        EXPECT_TRUE(fails_with(fs->link(suspend, kRootInode, directory, "d"), Errc::kPermission));
        must(write(suspend, file, 0, "content"));
        must(fs->unlink(suspend, kRootInode, "one"));
        EXPECT_EQ(must(lookup(suspend, directory, "two")), file);
        EXPECT_EQ(attributes(suspend, file).nlink, 1u);
        EXPECT_EQ(read(suspend, file, 0, 100), "content");
        must(fs->unlink(suspend, directory, "two"));
        EXPECT_TRUE(fails_with(lookup(suspend, directory, "two"), Errc::kNotFound));
    });
}

TEST_F(Names, WhatIsToldOfInodesThatLoseANameAndKeepAnother) {
    run([&](Suspend& suspend) {
        std::vector<InodeNumber> told;
        fs->on_fewer_names([&](InodeNumber inode) { told.push_back(inode); });
        const InodeNumber one = make_file(suspend, kRootInode, "one");
        const InodeNumber other = make_file(suspend, kRootInode, "other");
        for (const char* name : {"two", "three"}) {
            unreferenced(must(fs->link(suspend, one, kRootInode, name)));
        }
        EXPECT_TRUE(told.empty());
        must(fs->unlink(suspend, kRootInode, "two"));
        EXPECT_EQ(told, std::vector{one});
        must(fs->rename(suspend, kRootInode, "other", kRootInode, "three", RenameMode::kReplace));
        EXPECT_EQ(told, (std::vector{one, one}));
        must(fs->unlink(suspend, kRootInode, "one"));  // the last name
        EXPECT_EQ(must(lookup(suspend, kRootInode, "three")), other);
        EXPECT_EQ(told.size(), 2U);
        fs->on_fewer_names({});
    });
}

TEST_F(Names, AnInodeWithoutNamesIsNotFoundByItsNumber) {
    run([&](Suspend& suspend) {
        const Attributes made = must(fs->create(suspend, kUser, kRootInode, "file", 0666, true));
        EXPECT_EQ(must(lookup(suspend, made.inode, ".")), made.inode);
        must(fs->unlink(suspend, kRootInode, "file"));
        EXPECT_EQ(attributes(suspend, made.inode).nlink, 0U);  // still in use
        EXPECT_TRUE(fails_with(fs->lookup(suspend, made.inode, "."), Errc::kNotFound));
        fs->forget(made.inode, 1);
        EXPECT_TRUE(fails_with(fs->lookup(suspend, made.inode, "."), Errc::kNotFound));
    });
}

TEST_F(Names, UnlinkAndRmdirRefuseTheOtherKind) {
    run([&](Suspend& suspend) {
        make_file(suspend, kRootInode, "file");
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        make_file(suspend, directory, "inner");
        EXPECT_TRUE(fails_with(fs->unlink(suspend, kRootInode, "dir"), Errc::kIsDirectory));
        EXPECT_TRUE(fails_with(fs->rmdir(suspend, kRootInode, "file"), Errc::kNotDirectory));
        EXPECT_TRUE(fails_with(fs->rmdir(suspend, kRootInode, "dir"), Errc::kNotEmpty));
        EXPECT_TRUE(fails_with(fs->rmdir(suspend, kRootInode, "."), Errc::kInvalidArgument));
        EXPECT_TRUE(fails_with(fs->rmdir(suspend, directory, ".."), Errc::kNotEmpty));
        EXPECT_TRUE(fails_with(fs->unlink(suspend, kRootInode, "no"), Errc::kNotFound));
        must(fs->unlink(suspend, directory, "inner"));
        must(fs->rmdir(suspend, kRootInode, "dir"));
        EXPECT_EQ(attributes(suspend, kRootInode).nlink, 2u);
        EXPECT_TRUE(fails_with(lookup(suspend, kRootInode, "dir"), Errc::kNotFound));
    });
}

TEST_F(Names, NothingIsMadeInADirectoryThatWasRemoved) {
    run([&](Suspend& suspend) {
        const InodeNumber directory =
            must(fs->mkdir(suspend, kRootUser, kRootInode, "dir", 0755)).inode;
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(fs->rmdir(suspend, kRootInode, "dir"));
        EXPECT_EQ(attributes(suspend, directory).nlink, 0u);
        EXPECT_TRUE(
            fails_with(fs->create(suspend, kUser, directory, "x", 0644, true), Errc::kNotFound));
        EXPECT_TRUE(fails_with(fs->mkdir(suspend, kUser, directory, "x", 0644), Errc::kNotFound));
        EXPECT_TRUE(fails_with(fs->link(suspend, file, directory, "x"), Errc::kNotFound));
        EXPECT_TRUE(fails_with(
            fs->rename(suspend, kRootInode, "file", directory, "x", RenameMode::kReplace),
            Errc::kNotFound));
        EXPECT_TRUE(fails_with(fs->tmpfile(suspend, kUser, directory, 0600), Errc::kNotFound));
        EXPECT_TRUE(names(suspend, directory).empty());
        fs->forget(directory, 1);
    });
}

TEST_F(Names, SetgidDirectoriesPassTheirGroupOn) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "shared", 0775);
        must(fs->setattr(suspend, kRootUser, directory, {.mode = 02775, .gid = 42}));
        const Attributes file = must(fs->create(suspend, kUser, directory, "file", 0644, true));
        const Attributes sub = must(fs->mkdir(suspend, kUser, directory, "sub", 0755));
        const Attributes program =
            must(fs->create(suspend, kUser, directory, "program", 02755, true));
        EXPECT_EQ(file.gid, 42u);
        EXPECT_EQ(sub.gid, 42u);
        EXPECT_EQ(sub.mode & S_ISGID, static_cast<std::uint32_t>(S_ISGID));
        EXPECT_EQ(program.mode & S_ISGID, 0u);
        fs->forget(file.inode, 1);
        fs->forget(sub.inode, 1);
        fs->forget(program.inode, 1);
    });
}

TEST_F(Names, TimesOfTheDirectoryFollowItsNames) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        const auto expect_changed = [&](const char* what) {
            const Attributes now = attributes(suspend, directory);
            EXPECT_EQ(now.mtime, clock) << what;
            EXPECT_EQ(now.ctime, clock) << what;
            tick();
        };
        tick();
        const InodeNumber file = make_file(suspend, directory, "file");
        expect_changed("create");
        make_directory(suspend, directory, "sub");
        expect_changed("mkdir");
        unreferenced(must(fs->symlink(suspend, kUser, directory, "link", "target")));
        expect_changed("symlink");
        unreferenced(must(fs->mknod(suspend, kUser, directory, "fifo", S_IFIFO | 0600, 0)));
        expect_changed("mknod");
        unreferenced(must(fs->link(suspend, file, directory, "hard")));
        expect_changed("link");
        must(fs->unlink(suspend, directory, "hard"));
        expect_changed("unlink");
        must(fs->rename(suspend, directory, "file", directory, "renamed", RenameMode::kReplace));
        expect_changed("rename");
        must(fs->rmdir(suspend, directory, "sub"));
        expect_changed("rmdir");
        const Timestamp before = attributes(suspend, directory).mtime;
        EXPECT_TRUE(lookup(suspend, directory, "renamed"));
        must(write(suspend, file, 0, "x"));
        EXPECT_EQ(attributes(suspend, directory).mtime, before);
    });
}

TEST_F(Names, NamesOfEqualHashAreToldApart) {
    run([&](Suspend& suspend) {
        fs->state().name_hash_mask = std::uint64_t{3} << 62;  // four hashes in all
        for (int i = 0; i < 100; ++i) {
            make_file(suspend, kRootInode, "name" + std::to_string(i));
        }
        EXPECT_EQ(names(suspend, kRootInode).size(), 100u);
        for (int i = 0; i < 100; i += 2) {
            must(fs->unlink(suspend, kRootInode, "name" + std::to_string(i)));
        }
        for (int i = 0; i < 100; ++i) {
            EXPECT_EQ(lookup(suspend, kRootInode, "name" + std::to_string(i)).has_value(),
                      i % 2 == 1);
        }
        make_file(suspend, kRootInode, "name0");
        must(fs->rename(suspend, kRootInode, "name1", kRootInode, "name2", RenameMode::kReplace));
        must(fs->rename(suspend, kRootInode, "name3", kRootInode, "name0", RenameMode::kReplace));
        EXPECT_EQ(names(suspend, kRootInode).size(), 50u);
        expect_sound(suspend);
        for (const std::string& name : names(suspend, kRootInode)) {
            must(fs->unlink(suspend, kRootInode, name));
        }
    });
}

TEST_F(Names, AHashWhosePlacesAreTakenIsNoSpaceForMoreOfIt) {
    run([&](Suspend& suspend) {
        fs->state().name_hash_mask = 0;
        for (int i = 0; i < 256; ++i) {
            make_file(suspend, kRootInode, "name" + std::to_string(i));
        }
        EXPECT_TRUE(fails_with(fs->create(suspend, kUser, kRootInode, "one more", 0644, true),
                               Errc::kNoSpace));
        EXPECT_TRUE(
            fails_with(fs->mkdir(suspend, kUser, kRootInode, "one more", 0755), Errc::kNoSpace));
        EXPECT_TRUE(fails_with(lookup(suspend, kRootInode, "one more"), Errc::kNotFound));
        must(fs->rename(suspend, kRootInode, "name0", kRootInode, "name1", RenameMode::kReplace));
        make_file(suspend, kRootInode, "one more");
        for (const std::string& name : names(suspend, kRootInode)) {
            must(fs->unlink(suspend, kRootInode, name));
        }
    });
}

TEST_F(Names, EveryNamespaceOperationIsThereAfterACrashOnceSynced) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        const InodeNumber file = make_file(suspend, directory, "file");
        make_file(suspend, directory, "victim");
        unreferenced(must(fs->link(suspend, file, kRootInode, "hard")));
        must(fs->rename(suspend, directory, "file", kRootInode, "moved", RenameMode::kReplace));
        must(fs->unlink(suspend, directory, "victim"));
        must(fs->fsync(suspend, directory, false));
        crash(suspend);
        EXPECT_EQ(must(lookup(suspend, kRootInode, "hard")), file);
        EXPECT_EQ(must(lookup(suspend, kRootInode, "moved")), file);
        EXPECT_EQ(attributes(suspend, file).nlink, 2u);
        EXPECT_TRUE(names(suspend, directory).empty());
    });
}

}  // namespace
}  // namespace blobfs::fs
