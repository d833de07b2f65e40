// acl(5): access and default access control lists, in the form in which Linux passes them.

#include <sys/xattr.h>

#include <cerrno>
#include <cstring>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

constexpr const char* kAccess = "system.posix_acl_access";
constexpr const char* kDefault = "system.posix_acl_default";

// linux/posix_acl_xattr.h.
enum Tag : std::uint16_t {
    kUserObj = 1,
    kUser = 2,
    kGroupObj = 4,
    kGroup = 8,
    kMask = 16,
    kOther = 32
};

struct Entry {
    std::uint16_t tag;
    std::uint16_t permissions;
    std::uint32_t id = 0xffff'ffff;
};
using List = std::vector<Entry>;

std::string bytes_of(const List& list) {
    std::string bytes("\2\0\0\0", 4);
    for (const Entry& entry : list) {
        bytes.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
    }
    return bytes;
}

std::string text_of(const List& list) {
    std::string text;
    for (const Entry& entry : list) {
        switch (entry.tag) {
            case kUserObj:
                text += "u:";
                break;
            case kUser:
                text += "u" + std::to_string(entry.id) + ":";
                break;
            case kGroupObj:
                text += "g:";
                break;
            case kGroup:
                text += "g" + std::to_string(entry.id) + ":";
                break;
            case kMask:
                text += "m:";
                break;
            case kOther:
                text += "o:";
                break;
            default:
                text += "?";
                break;
        }
        text += std::to_string(entry.permissions) + " ";
    }
    return text;
}

std::string set(const char* path, const char* name, const List& list) {
    const std::string bytes = bytes_of(list);
    return error(setxattr(path, name, bytes.data(), bytes.size(), 0));
}

std::string get(const char* path, const char* name) {
    std::string bytes(4'096, '\0');
    const ssize_t got = getxattr(path, name, bytes.data(), bytes.size());
    if (got < 0) return "(" + error(got) + ")";
    List list((static_cast<std::size_t>(got) - 4) / sizeof(Entry));
    if (!list.empty()) std::memcpy(list.data(), bytes.data() + 4, list.size() * sizeof(Entry));
    return text_of(list);
}

class Acl : public Case {
  protected:
    static List for_alice(std::uint16_t permissions) {
        return {{kUserObj, 6},
                {kUser, permissions, kAlice.uid},
                {kGroupObj, 0},
                {kMask, 7},
                {kOther, 0}};
    }
};

TEST_F(Acl, GivesANamedUserRights) {
    make_file("file", "content", 0600);
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY); }), "EACCES");
    ASSERT_EQ(set("file", kAccess, for_alice(4)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDWR); }), "EACCES");
    EXPECT_EQ(as(kBob, [] { return open("file", O_RDONLY); }), "EACCES");
    EXPECT_EQ(get("file", kAccess), text_of(for_alice(4)));
}

TEST_F(Acl, GivesANamedGroupRights) {
    make_file("file", "content", 0600);
    ASSERT_EQ(set("file", kAccess,
                  {{kUserObj, 6}, {kGroupObj, 0}, {kGroup, 6, kBob.gid}, {kMask, 6}, {kOther, 0}}),
              "ok");
    EXPECT_EQ(as(kBob, [] { return open("file", O_RDWR); }), "ok");
    Person member = kAlice;
    EXPECT_EQ(as(member, [] { return open("file", O_RDONLY); }), "EACCES");
    member.groups = {kBob.gid};
    EXPECT_EQ(as(member, [] { return open("file", O_RDWR); }), "ok");
}

TEST_F(Acl, TheMaskIsTheGroupsBitsOfTheMode) {
    make_file("file", "", 0640);
    ASSERT_EQ(set("file", kAccess, for_alice(7)), "ok");
    EXPECT_EQ(permissions_of("file"), 0670U);
    ASSERT_EQ(error(chmod("file", 0640)), "ok");
    EXPECT_EQ(
        get("file", kAccess),
        text_of({{kUserObj, 6}, {kUser, 7, kAlice.uid}, {kGroupObj, 0}, {kMask, 4}, {kOther, 0}}));
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDWR); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY); }), "ok");
}

TEST_F(Acl, AListThatSaysNoMoreThanTheModeIsNotKept) {
    make_file("file", "", 0600);
    ASSERT_EQ(set("file", kAccess, {{kUserObj, 6}, {kGroupObj, 4}, {kOther, 4}}), "ok");
    EXPECT_EQ(permissions_of("file"), 0644U);
    EXPECT_EQ(get("file", kAccess), "(ENODATA)");
}

TEST_F(Acl, RemovingItLeavesTheMode) {
    make_file("file", "", 0640);
    ASSERT_EQ(set("file", kAccess, for_alice(6)), "ok");
    EXPECT_EQ(error(removexattr("file", kAccess)), "ok");
    EXPECT_EQ(get("file", kAccess), "(ENODATA)");
    EXPECT_EQ(permissions_of("file"), 0670U);
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY); }), "EACCES");
}

TEST_F(Acl, WhatIsNoListIsInvalid) {
    make_file("file", "", 0640);
    EXPECT_EQ(
        set("file", kAccess, {{kUserObj, 6}, {kUser, 4, kAlice.uid}, {kGroupObj, 0}, {kOther, 0}}),
        "EINVAL");  // no mask
    EXPECT_EQ(set("file", kAccess, {{kUserObj, 6}, {kOther, 0}}), "EINVAL");
    EXPECT_EQ(set("file", kAccess, {{kUserObj, 9}, {kGroupObj, 0}, {kOther, 0}}), "EINVAL");
    EXPECT_EQ(error(setxattr("file", kAccess, "\1\0\0\0", 4, 0)), "EOPNOTSUPP");
    EXPECT_EQ(error(setxattr("file", kAccess, "\2\0", 2, 0)), "EINVAL");
    EXPECT_EQ(permissions_of("file"), 0640U);
}

TEST_F(Acl, IsTheOwnersToChange) {
    make_file("file", "", 0666);
    EXPECT_EQ(
        as(kAlice,
           [] {
               const std::string list = bytes_of({{kUserObj, 7}, {kGroupObj, 7}, {kOther, 7}});
               return setxattr("file", kAccess, list.data(), list.size(), 0);
           }),
        "EPERM");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(
        as(kAlice,
           [] {
               const std::string list = bytes_of({{kUserObj, 7}, {kGroupObj, 7}, {kOther, 7}});
               return setxattr("file", kAccess, list.data(), list.size(), 0);
           }),
        "ok");
}

TEST_F(Acl, BySomebodyOutsideTheGroupTakesSetgid) {
    make_file("file");
    ASSERT_EQ(error(chown("file", kAlice.uid, kBob.gid)), "ok");
    ASSERT_EQ(error(chmod("file", 02755)), "ok");
    EXPECT_EQ(
        as(kAlice,
           [] {
               const std::string list = bytes_of({{kUserObj, 7}, {kGroupObj, 5}, {kOther, 5}});
               return setxattr("file", kAccess, list.data(), list.size(), 0);
           }),
        "ok");
    EXPECT_EQ(permissions_of("file"), 0755U);
}

TEST_F(Acl, DefaultsAreForDirectories) {
    make_file("file");
    ASSERT_EQ(error(symlink("file", "link")), "ok");
    EXPECT_EQ(set("file", kDefault, for_alice(7)), "EACCES");
    ASSERT_EQ(error(mkdir("folder", 0750)), "ok");
    EXPECT_EQ(set("folder", kDefault, for_alice(7)), "ok");
    EXPECT_EQ(get("folder", kDefault), text_of(for_alice(7)));
    EXPECT_EQ(permissions_of("folder"), 0750U);
    EXPECT_EQ(get("folder", kAccess), "(ENODATA)");
    EXPECT_EQ(error(removexattr("folder", kDefault)), "ok");
    EXPECT_EQ(get("folder", kDefault), "(ENODATA)");
}

TEST_F(Acl, DefaultsReplaceTheUmask) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(set("folder", kDefault,
                  {{kUserObj, 7}, {kUser, 7, kAlice.uid}, {kGroupObj, 5}, {kMask, 7}, {kOther, 0}}),
              "ok");
    umask(077);
    make_file("plain", "", 0644);
    EXPECT_EQ(error(close(open("folder/file", O_CREAT | O_RDWR, 0666))), "ok");
    EXPECT_EQ(permissions_of("folder/file"), 0660U);
    EXPECT_EQ(
        get("folder/file", kAccess),
        text_of({{kUserObj, 6}, {kUser, 7, kAlice.uid}, {kGroupObj, 5}, {kMask, 6}, {kOther, 0}}));
    EXPECT_EQ(get("folder/file", kDefault), "(ENODATA)");
    EXPECT_EQ(as(kAlice, [] { return open("folder/file", O_RDWR); }), "ok");
    EXPECT_EQ(as(kBob, [] { return open("folder/file", O_RDONLY); }), "EACCES");
}

TEST_F(Acl, DefaultsAreHandedDown) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    const List list = {
        {kUserObj, 7}, {kUser, 5, kAlice.uid}, {kGroupObj, 5}, {kMask, 5}, {kOther, 0}};
    ASSERT_EQ(set("folder", kDefault, list), "ok");
    ASSERT_EQ(error(mkdir("folder/sub", 0777)), "ok");
    EXPECT_EQ(get("folder/sub", kDefault), text_of(list));
    EXPECT_EQ(get("folder/sub", kAccess), text_of(list));
    EXPECT_EQ(permissions_of("folder/sub"), 0750U);
    ASSERT_EQ(error(mknod("folder/sub/pipe", S_IFIFO | 0666, 0)), "ok");
    EXPECT_EQ(permissions_of("folder/sub/pipe"), 0640U);
    ASSERT_EQ(error(symlink("x", "folder/sub/link")), "ok");
    EXPECT_EQ(permissions_of("folder/sub/link"), 0777U);
    const Descriptor nameless("folder", O_TMPFILE | O_RDWR, 0666);
    EXPECT_EQ(status_of(nameless).st_mode & 07777U, 0640U);
}

TEST_F(Acl, MinimalDefaultsLeaveNoList) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(set("folder", kDefault, {{kUserObj, 7}, {kGroupObj, 5}, {kOther, 5}}), "ok");
    umask(077);
    EXPECT_EQ(error(close(open("folder/file", O_CREAT | O_RDWR, 0666))), "ok");
    EXPECT_EQ(permissions_of("folder/file"), 0644U);
    EXPECT_EQ(get("folder/file", kAccess), "(ENODATA)");
}

TEST_F(Acl, ManyEntries) {
    make_file("file", "", 0600);
    List list = {{kUserObj, 6}};
    for (std::uint32_t user = 0; user < 100; ++user) list.push_back({kUser, 4, 50'000 + user});
    list.push_back({kUser, 4, kAlice.uid});
    list.push_back({kGroupObj, 0});
    list.push_back({kMask, 7});
    list.push_back({kOther, 0});
    ASSERT_EQ(set("file", kAccess, list), "ok");
    EXPECT_EQ(get("file", kAccess), text_of(list));
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY); }), "ok");
    EXPECT_EQ(as(kBob, [] { return open("file", O_RDONLY); }), "EACCES");
}

TEST_F(Acl, LinksHaveNone) {
    ASSERT_EQ(error(symlink("nowhere", "link")), "ok");
    EXPECT_EQ(error(lgetxattr("link", kAccess, nullptr, 0)), "EOPNOTSUPP");
    const std::string list = bytes_of({{kUserObj, 7}, {kGroupObj, 5}, {kOther, 5}});
    EXPECT_EQ(error(lsetxattr("link", kAccess, list.data(), list.size(), 0)), "EOPNOTSUPP");
}

}  // namespace
}  // namespace blobfs::posix
