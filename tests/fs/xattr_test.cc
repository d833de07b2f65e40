// Extended attributes and access control lists on inodes.

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "fs/posix_acl.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

constexpr std::uint32_t kNone = 0xffff'ffff;

class XattrTest : public FilesystemTest {
  protected:
    Result<void> set(Suspend& suspend, InodeNumber inode, std::string_view name,
                     std::string_view bytes, XattrMode mode = XattrMode::kAny) {
        return fs->setxattr(suspend, inode, name, bytes, mode);
    }
    std::vector<std::string> sorted_names(Suspend& suspend, InodeNumber inode) {
        auto list = must(fs->listxattr(suspend, inode));
        std::sort(list.begin(), list.end());
        return list;
    }
    static std::string with_user(std::uint16_t user, std::uint16_t mask) {
        return encode_acl({{AclTag::kUserObj, 7, kNone},
                           {AclTag::kUser, user, 1001},
                           {AclTag::kGroupObj, 5, kNone},
                           {AclTag::kMask, mask, kNone},
                           {AclTag::kOther, 5, kNone}});
    }
};

TEST_F(XattrTest, ValuesUpTo64KiBComeBack) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        for (const std::size_t bytes :
             {std::size_t{0}, std::size_t{1}, std::size_t{511}, std::size_t{512}, std::size_t{513},
              std::size_t{65'536}, std::size_t{100}}) {
            const std::string text(bytes, static_cast<char>('a' + bytes % 26));
            must(set(suspend, file, "user.one", text));
            EXPECT_EQ(must(fs->getxattr(suspend, file, "user.one")), text);
        }
        const auto large = set(suspend, file, "user.one", std::string(65'537, 'x'));
        ASSERT_FALSE(large);
        EXPECT_EQ(to_errno(large.error()), E2BIG);
        remount(suspend);
        EXPECT_EQ(must(fs->getxattr(suspend, file, "user.one")).size(), 100u);
    });
}

TEST_F(XattrTest, CreateAndReplaceAreHeld) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        EXPECT_TRUE(
            fails_with(set(suspend, file, "user.a", "1", XattrMode::kReplace), Errc::kNoAttribute));
        must(set(suspend, file, "user.a", "1", XattrMode::kCreate));
        EXPECT_TRUE(
            fails_with(set(suspend, file, "user.a", "2", XattrMode::kCreate), Errc::kExists));
        must(set(suspend, file, "user.a", "3", XattrMode::kReplace));
        EXPECT_EQ(must(fs->getxattr(suspend, file, "user.a")), "3");
    });
}

TEST_F(XattrTest, NamespacesAndNames) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        for (const std::string name : {"user.a", "trusted.a", "security.a"}) {
            must(set(suspend, file, name, "x"));
        }
        EXPECT_EQ(sorted_names(suspend, file),
                  (std::vector<std::string>{"security.a", "trusted.a", "user.a"}));
        EXPECT_TRUE(fails_with(set(suspend, file, "system.a", "x"), Errc::kNotSupported));
        EXPECT_TRUE(fails_with(set(suspend, file, "a", "x"), Errc::kNotSupported));
        EXPECT_TRUE(fails_with(set(suspend, file, "user.", "x"), Errc::kInvalidArgument));
        EXPECT_TRUE(fails_with(set(suspend, file, "", "x"), Errc::kRange));
        const std::string longest = "user." + std::string(250, 'n');
        must(set(suspend, file, longest, "x"));
        EXPECT_TRUE(fails_with(set(suspend, file, longest + "n", "x"), Errc::kRange));
        EXPECT_TRUE(fails_with(fs->getxattr(suspend, file, "user.b"), Errc::kNoAttribute));
    });
}

TEST_F(XattrTest, RemovingTheLastOneLeavesNone) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        EXPECT_TRUE(fails_with(fs->removexattr(suspend, file, "user.a"), Errc::kNoAttribute));
        must(set(suspend, file, "user.a", std::string(3000, 'x')));
        must(set(suspend, file, "user.b", "y"));
        must(fs->removexattr(suspend, file, "user.a"));
        EXPECT_EQ(must(fs->getxattr(suspend, file, "user.b")), "y");
        must(fs->removexattr(suspend, file, "user.b"));
        EXPECT_TRUE(sorted_names(suspend, file).empty());
        must(set(suspend, file, "user.c", "z"));
        remount(suspend);
        EXPECT_EQ(must(fs->getxattr(suspend, file, "user.c")), "z");
    });
}

TEST_F(XattrTest, AnAccessListChangesTheModeAndChmodTheList) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file", 0600);
        must(set(suspend, file, kAccessAclName, with_user(6, 6)));
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 0765u);
        EXPECT_EQ(must(fs->getxattr(suspend, file, kAccessAclName)), with_user(6, 6));
        must(fs->setattr(suspend, kRootUser, file, {.mode = 0745}));
        EXPECT_EQ(must(fs->getxattr(suspend, file, kAccessAclName)), with_user(6, 4));
        // A list of no more than the nine bits becomes the mode, and none is kept.
        must(set(suspend, file, kAccessAclName,
                 encode_acl({{AclTag::kUserObj, 6, kNone},
                             {AclTag::kGroupObj, 4, kNone},
                             {AclTag::kOther, 0, kNone}})));
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 0640u);
        EXPECT_TRUE(sorted_names(suspend, file).empty());
        EXPECT_TRUE(
            fails_with(set(suspend, file, kAccessAclName, "nonsense"), Errc::kInvalidArgument));
    });
}

TEST_F(XattrTest, AnAccessListByAStrangerToTheGroupClearsSetgid) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file", 02755);
        must(fs->setxattr(suspend, file, kAccessAclName, with_user(6, 7), XattrMode::kAny));
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 02775u);
        must(fs->setxattr(suspend, file, kAccessAclName, with_user(6, 7), XattrMode::kAny, true));
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 0775u);
    });
}

TEST_F(XattrTest, ListsBelongWhereTheyHaveAMeaning) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        const InodeNumber link =
            unreferenced(must(fs->symlink(suspend, kRootUser, kRootInode, "link", "x")));
        EXPECT_TRUE(
            fails_with(set(suspend, file, kDefaultAclName, with_user(7, 7)), Errc::kAccess));
        EXPECT_TRUE(
            fails_with(set(suspend, link, kAccessAclName, with_user(7, 7)), Errc::kNotSupported));
    });
}

TEST_F(XattrTest, ADefaultListIsInheritedInsteadOfTheUmask) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        must(set(suspend, directory, kDefaultAclName, with_user(7, 7)));
        const InodeNumber file =
            unreferenced(must(fs->create(suspend, kUser, directory, "file", 0666, true)));
        // umask 022 does not count: the list does.
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 0664u);
        const auto acl = must(parse_acl(must(fs->getxattr(suspend, file, kAccessAclName))));
        EXPECT_EQ(acl[0].permissions, 6);
        EXPECT_EQ(acl[1], (AclEntry{AclTag::kUser, 7, 1001}));
        EXPECT_EQ(acl[3], (AclEntry{AclTag::kMask, 6, kNone}));
        EXPECT_TRUE(fails_with(fs->getxattr(suspend, file, kDefaultAclName), Errc::kNoAttribute));
        const InodeNumber sub =
            unreferenced(must(fs->mkdir(suspend, kUser, directory, "sub", 0777)));
        EXPECT_EQ(must(fs->getxattr(suspend, sub, kDefaultAclName)), with_user(7, 7));
        const InodeNumber link =
            unreferenced(must(fs->symlink(suspend, kUser, directory, "link", "x")));
        EXPECT_EQ(attributes(suspend, link).mode & 07777, 0777u);
        const InodeNumber temporary = must(fs->tmpfile(suspend, kUser, directory, 0666)).inode;
        EXPECT_EQ(attributes(suspend, temporary).mode & 07777, 0664u);
        fs->forget(temporary, 1);
        must(fs->removexattr(suspend, directory, kDefaultAclName));
        const InodeNumber plain =
            unreferenced(must(fs->create(suspend, kUser, directory, "plain", 0666, true)));
        EXPECT_EQ(attributes(suspend, plain).mode & 07777, 0644u);
        EXPECT_TRUE(sorted_names(suspend, plain).empty());
    });
}

TEST_F(XattrTest, AttributesGoWithTheirInode) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        for (int i = 0; i < 50; ++i) {
            must(set(suspend, file, "user.a" + std::to_string(i), std::string(2000, 'x')));
        }
        EXPECT_EQ(sorted_names(suspend, file).size(), 50u);
        must(fs->unlink(suspend, kRootInode, "file"));
        expect_sound(suspend);
        EXPECT_TRUE(fails_with(fs->listxattr(suspend, file), Errc::kNotFound));
    });
}

}  // namespace
}  // namespace blobfs::fs
