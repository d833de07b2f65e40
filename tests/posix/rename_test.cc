// rename(2), renameat2(2).

#include <linux/fs.h>

#include <cstdio>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Rename : public Case {
  protected:
    static int rename_with(const char* from, const char* to, unsigned flags) {
        return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
    }
};

TEST_F(Rename, MovesTheNameAndKeepsTheInode) {
    make_file("old", "content", 0604);
    const auto before = status_of("old");
    EXPECT_EQ(error(rename("old", "new")), "ok");
    EXPECT_FALSE(exists("old"));
    EXPECT_EQ(status_of("new").st_ino, before.st_ino);
    EXPECT_EQ(status_of("new").st_nlink, 1U);
    EXPECT_EQ(content_of("new"), "content");
}

TEST_F(Rename, ReplacesAFileThatOthersStillRead) {
    make_file("old", "from");
    make_file("new", "to");
    const Descriptor replaced("new", O_RDONLY);
    EXPECT_EQ(error(rename("old", "new")), "ok");
    EXPECT_EQ(content_of("new"), "from");
    EXPECT_EQ(read_at(replaced, 10, 0), "to");
    EXPECT_EQ(status_of(replaced).st_nlink, 0U);
}

TEST_F(Rename, TwoNamesOfOneFileStay) {
    make_file("one");
    ASSERT_EQ(error(link("one", "two")), "ok");
    EXPECT_EQ(error(rename("one", "two")), "ok");
    EXPECT_EQ(names_in("."), (std::vector<std::string>{"one", "two"}));
    EXPECT_EQ(error(rename("one", "one")), "ok");
    EXPECT_EQ(status_of("one").st_nlink, 2U);
}

TEST_F(Rename, DirectoriesReplaceEmptyDirectoriesOnly) {
    ASSERT_EQ(error(mkdir("from", 0755)), "ok");
    make_file("from/file");
    ASSERT_EQ(error(mkdir("empty", 0755)), "ok");
    ASSERT_EQ(error(mkdir("full", 0755)), "ok");
    make_file("full/file");
    make_file("file");
    EXPECT_EQ(error(rename("from", "full")), "ENOTEMPTY");
    EXPECT_EQ(error(rename("from", "file")), "ENOTDIR");
    EXPECT_EQ(error(rename("file", "empty")), "EISDIR");
    EXPECT_EQ(error(rename("from", "empty")), "ok");
    EXPECT_EQ(names_in("empty"), std::vector<std::string>{"file"});
}

TEST_F(Rename, LinkCountsFollowDirectories) {
    ASSERT_EQ(error(mkdir("a", 0755)), "ok");
    ASSERT_EQ(error(mkdir("b", 0755)), "ok");
    ASSERT_EQ(error(mkdir("a/moved", 0755)), "ok");
    EXPECT_EQ(status_of("a").st_nlink, 3U);
    EXPECT_EQ(status_of("b").st_nlink, 2U);
    EXPECT_EQ(error(rename("a/moved", "b/moved")), "ok");
    EXPECT_EQ(status_of("a").st_nlink, 2U);
    EXPECT_EQ(status_of("b").st_nlink, 3U);
    EXPECT_EQ(status_of("b/moved/..").st_ino, status_of("b").st_ino);
    ASSERT_EQ(error(mkdir("a/moved", 0755)), "ok");
    EXPECT_EQ(error(rename("b/moved", "a/moved")), "ok");
    EXPECT_EQ(status_of("a").st_nlink, 3U);
    EXPECT_EQ(status_of("b").st_nlink, 2U);
}

TEST_F(Rename, ADirectoryDoesNotGoIntoItself) {
    ASSERT_EQ(error(mkdir("a", 0755)), "ok");
    ASSERT_EQ(error(mkdir("a/b", 0755)), "ok");
    ASSERT_EQ(error(mkdir("a/b/c", 0755)), "ok");
    EXPECT_EQ(error(rename("a", "a/x")), "EINVAL");
    EXPECT_EQ(error(rename("a", "a/b")), "EINVAL");
    EXPECT_EQ(error(rename("a", "a/b/c/x")), "EINVAL");
    EXPECT_EQ(error(rename("a/b/c", "a")), "ENOTEMPTY");
    EXPECT_EQ(error(rename("a/b/c", "a/b")), "ENOTEMPTY");
}

TEST_F(Rename, DotsAreBusy) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    EXPECT_EQ(error(rename("folder/.", "x")), "EBUSY");
    EXPECT_EQ(error(rename("folder/..", "x")), "EBUSY");
    EXPECT_EQ(error(rename("folder", "folder/.")), "EBUSY");
}

TEST_F(Rename, ATrailingSlashIsForDirectories) {
    make_file("file");
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    EXPECT_EQ(error(rename("file/", "x")), "ENOTDIR");
    EXPECT_EQ(error(rename("file", "x/")), "ENOTDIR");
    EXPECT_EQ(error(rename("folder/", "moved/")), "ok");
}

TEST_F(Rename, WhatIsMissingIsNotFound) {
    make_file("file", "content");
    EXPECT_EQ(error(rename("missing", "file")), "ENOENT");
    EXPECT_EQ(content_of("file"), "content");
    EXPECT_EQ(error(rename("file", "missing/file")), "ENOENT");
    EXPECT_EQ(error(rename("file", "file/x")), "ENOTDIR");
    EXPECT_EQ(error(rename("file", std::string(256, 'n').c_str())), "ENAMETOOLONG");
}

TEST_F(Rename, LinksThemselvesAreRenamedAndReplaced) {
    make_file("file", "content");
    ASSERT_EQ(error(symlink("file", "link")), "ok");
    EXPECT_EQ(error(rename("link", "moved")), "ok");
    EXPECT_TRUE(S_ISLNK(status_of("moved").st_mode));
    make_file("other", "other");
    EXPECT_EQ(error(rename("other", "moved")), "ok");
    EXPECT_EQ(content_of("file"), "content");
    EXPECT_EQ(content_of("moved"), "other");
}

TEST_F(Rename, NoReplaceRefusesWhateverIsThere) {
    make_file("a", "a");
    make_file("b", "b");
    ASSERT_EQ(error(link("a", "same")), "ok");
    EXPECT_EQ(error(rename_with("a", "b", RENAME_NOREPLACE)), "EEXIST");
    EXPECT_EQ(error(rename_with("a", "same", RENAME_NOREPLACE)), "EEXIST");
    EXPECT_EQ(error(rename_with("a", "c", RENAME_NOREPLACE)), "ok");
    EXPECT_EQ(content_of("b"), "b");
    EXPECT_EQ(content_of("c"), "a");
}

TEST_F(Rename, ExchangeSwapsWhateverTheirTypes) {
    ASSERT_EQ(error(mkdir("here", 0755)), "ok");
    ASSERT_EQ(error(mkdir("there", 0755)), "ok");
    make_file("here/x", "file");
    ASSERT_EQ(error(mkdir("there/x", 0755)), "ok");
    make_file("there/x/inside");
    EXPECT_EQ(error(rename_with("here/x", "there/x", RENAME_EXCHANGE)), "ok");
    EXPECT_EQ(names_in("here/x"), std::vector<std::string>{"inside"});
    EXPECT_EQ(content_of("there/x"), "file");
    EXPECT_EQ(status_of("here").st_nlink, 3U);
    EXPECT_EQ(status_of("there").st_nlink, 2U);
    EXPECT_EQ(status_of("here/x/..").st_ino, status_of("here").st_ino);
}

TEST_F(Rename, ExchangeNeedsBothAndNoLoop) {
    make_file("file");
    ASSERT_EQ(error(mkdir("a", 0755)), "ok");
    ASSERT_EQ(error(mkdir("a/b", 0755)), "ok");
    EXPECT_EQ(error(rename_with("file", "missing", RENAME_EXCHANGE)), "ENOENT");
    EXPECT_EQ(error(rename_with("missing", "file", RENAME_EXCHANGE)), "ENOENT");
    EXPECT_EQ(error(rename_with("a", "a/b", RENAME_EXCHANGE)), "EINVAL");
    EXPECT_EQ(error(rename_with("a/b", "a", RENAME_EXCHANGE)), "EINVAL");
}

TEST_F(Rename, FlagsThatContradictAreInvalid) {
    make_file("a");
    make_file("b");
    EXPECT_EQ(error(rename_with("a", "b", RENAME_EXCHANGE | RENAME_NOREPLACE)), "EINVAL");
    EXPECT_EQ(error(rename_with("a", "b", RENAME_EXCHANGE | RENAME_WHITEOUT)), "EINVAL");
    EXPECT_EQ(error(rename_with("a", "b", 0x1000)), "EINVAL");
}

TEST_F(Rename, WhiteoutLeavesADeviceOfNumberZero) {
    make_file("a", "content");
    ASSERT_EQ(error(rename_with("a", "b", RENAME_WHITEOUT)), "ok");
    EXPECT_EQ(content_of("b"), "content");
    EXPECT_TRUE(S_ISCHR(status_of("a").st_mode));
    EXPECT_EQ(status_of("a").st_rdev, 0U);
}

TEST_F(Rename, StickyDirectoriesProtectWhatBelongsToOthers) {
    ASSERT_EQ(error(mkdir("sticky", 0777)), "ok");
    ASSERT_EQ(error(chmod("sticky", 01777)), "ok");
    make_file("sticky/bobs");
    ASSERT_EQ(error(chown("sticky/bobs", kBob.uid, kBob.gid)), "ok");
    make_file("sticky/alices");
    ASSERT_EQ(error(chown("sticky/alices", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return rename("sticky/bobs", "sticky/x"); }), "EPERM");
    EXPECT_EQ(as(kAlice, [] { return rename("sticky/alices", "sticky/bobs"); }), "EPERM");
    EXPECT_EQ(as(kAlice, [] { return rename("sticky/alices", "sticky/x"); }), "ok");
    // Whoever owns the directory may.
    ASSERT_EQ(error(chown("sticky", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return rename("sticky/bobs", "sticky/y"); }), "ok");
}

TEST_F(Rename, BothDirectoriesMustBeWritable) {
    ASSERT_EQ(error(mkdir("closed", 0755)), "ok");
    make_file("closed/file");
    make_file("file");
    EXPECT_EQ(as(kAlice, [] { return rename("closed/file", "x"); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return rename("file", "closed/x"); }), "EACCES");
}

TEST_F(Rename, AForeignDirectoryThatMovesMustBeWritableToo) {
    // ".." of the directory changes.
    ASSERT_EQ(error(mkdir("from", 0777)), "ok");
    ASSERT_EQ(error(chmod("from", 0777)), "ok");
    ASSERT_EQ(error(mkdir("to", 0777)), "ok");
    ASSERT_EQ(error(chmod("to", 0777)), "ok");
    ASSERT_EQ(error(mkdir("from/folder", 0755)), "ok");
    EXPECT_EQ(as(kAlice, [] { return rename("from/folder", "to/folder"); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return rename("from/folder", "from/renamed"); }), "ok");
}

TEST_F(Rename, ARemovedDirectoryTakesNothing) {
    ASSERT_EQ(error(mkdir("gone", 0755)), "ok");
    make_file("file");
    const Descriptor gone("gone", O_RDONLY | O_DIRECTORY);
    ASSERT_EQ(error(rmdir("gone")), "ok");
    EXPECT_EQ(error(renameat(AT_FDCWD, "file", *gone, "file")), "ENOENT");
    EXPECT_EQ(error(openat(*gone, "file", O_CREAT | O_RDWR, 0644)), "ENOENT");
    EXPECT_EQ(error(mkdirat(*gone, "file", 0755)), "ENOENT");
    EXPECT_EQ(error(linkat(AT_FDCWD, "file", *gone, "file", 0)), "ENOENT");
    EXPECT_EQ(openat(*gone, ".", O_TMPFILE | O_RDWR, 0644), -1);
}

}  // namespace
}  // namespace blobfs::posix
