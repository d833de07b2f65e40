// getxattr(2), setxattr(2), listxattr(2), removexattr(2), xattr(7).

#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Xattr : public Case {
  protected:
    static std::string get(const char* path, const char* name) {
        std::string value(65'536, '\0');
        const ssize_t bytes = lgetxattr(path, name, value.data(), value.size());
        if (bytes < 0) return "(" + error(bytes) + ")";
        value.resize(static_cast<std::size_t>(bytes));
        return value;
    }
    static std::string set(const char* path, const char* name, std::string_view value,
                           int flags = 0) {
        return error(lsetxattr(path, name, value.data(), value.size(), flags));
    }
    // Sorted, each followed by a blank.
    static std::string list(const char* path) {
        std::string names(65'536, '\0');
        const ssize_t bytes = llistxattr(path, names.data(), names.size());
        if (bytes < 0) return "(" + error(bytes) + ")";
        names.resize(static_cast<std::size_t>(bytes));
        std::vector<std::string> sorted;
        for (std::size_t at = 0; at < names.size(); at += sorted.back().size() + 1) {
            sorted.emplace_back(names.c_str() + at);
        }
        std::sort(sorted.begin(), sorted.end());
        std::string all;
        for (const std::string& name : sorted) all += name + " ";
        return all;
    }
};

TEST_F(Xattr, IsWhatWasSet) {
    make_file("file");
    EXPECT_EQ(set("file", "user.name", "value"), "ok");
    EXPECT_EQ(get("file", "user.name"), "value");
    EXPECT_EQ(set("file", "user.name", std::string_view("a\0b", 3)), "ok");
    EXPECT_EQ(get("file", "user.name"), std::string("a\0b", 3));
    EXPECT_EQ(set("file", "user.name", ""), "ok");
    EXPECT_EQ(get("file", "user.name"), "");
    EXPECT_EQ(list("file"), "user.name ");
    EXPECT_EQ(error(removexattr("file", "user.name")), "ok");
    EXPECT_EQ(get("file", "user.name"), "(ENODATA)");
    EXPECT_EQ(list("file"), "");
}

TEST_F(Xattr, CreateAndReplace) {
    make_file("file");
    EXPECT_EQ(set("file", "user.a", "1", XATTR_REPLACE), "ENODATA");
    EXPECT_EQ(set("file", "user.a", "1", XATTR_CREATE), "ok");
    EXPECT_EQ(set("file", "user.a", "2", XATTR_CREATE), "EEXIST");
    EXPECT_EQ(get("file", "user.a"), "1");
    EXPECT_EQ(set("file", "user.a", "3", XATTR_REPLACE), "ok");
    EXPECT_EQ(get("file", "user.a"), "3");
    EXPECT_EQ(set("file", "user.a", "3", 64), "EINVAL");
}

TEST_F(Xattr, SizesAreToldAndRoomIsChecked) {
    make_file("file");
    ASSERT_EQ(set("file", "user.name", "value"), "ok");
    EXPECT_EQ(getxattr("file", "user.name", nullptr, 0), 5);
    EXPECT_EQ(listxattr("file", nullptr, 0), 10);
    char room[4];
    EXPECT_EQ(error(getxattr("file", "user.name", room, sizeof(room))), "ERANGE");
    EXPECT_EQ(error(listxattr("file", room, sizeof(room))), "ERANGE");
}

TEST_F(Xattr, ValuesHave64KiB) {
    make_file("file");
    std::string value;
    while (value.size() < 65'536) value += static_cast<char>(value.size() % 251);
    for (const std::size_t bytes : {1UL, 511UL, 4'096UL, 40'000UL, 65'536UL}) {
        EXPECT_EQ(set("file", "user.large", value.substr(0, bytes)), "ok") << bytes;
        EXPECT_EQ(get("file", "user.large"), value.substr(0, bytes)) << bytes;
    }
    EXPECT_EQ(set("file", "user.large", value + "x"), "E2BIG");
    EXPECT_EQ(get("file", "user.large"), value);
}

TEST_F(Xattr, NamesHave255Bytes) {
    make_file("file");
    const std::string longest = "user." + std::string(250, 'n');
    EXPECT_EQ(set("file", longest.c_str(), "value"), "ok");
    EXPECT_EQ(get("file", longest.c_str()), "value");
    EXPECT_EQ(set("file", (longest + "n").c_str(), "value"), "ERANGE");
    EXPECT_EQ(set("file", "", "value"), "ERANGE");
    EXPECT_EQ(set("file", "user.", "value"), "EINVAL");
    EXPECT_EQ(set("file", "user", "value"), "EOPNOTSUPP");
    EXPECT_EQ(set("file", "unknown.name", "value"), "EOPNOTSUPP");
    EXPECT_EQ(get("file", "unknown.name"), "(EOPNOTSUPP)");
}

TEST_F(Xattr, ManyOnOneFile) {
    constexpr int kMany = 100;
    make_file("file");
    std::vector<std::string> names;
    for (int i = 0; i < kMany; ++i) {
        names.push_back("user.attribute" + std::to_string(i));
        ASSERT_EQ(set("file", names.back().c_str(), std::to_string(i)), "ok");
    }
    std::sort(names.begin(), names.end());
    std::string all;
    for (const std::string& name : names) all += name + " ";
    EXPECT_EQ(list("file"), all);
    for (int i = 0; i < kMany; ++i) {
        EXPECT_EQ(get("file", ("user.attribute" + std::to_string(i)).c_str()), std::to_string(i));
    }
}

TEST_F(Xattr, UserIsForFilesAndDirectoriesOnly) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(error(symlink("folder", "link")), "ok");
    ASSERT_EQ(error(mkfifo("pipe", 0644)), "ok");
    EXPECT_EQ(set("folder", "user.a", "1"), "ok");
    EXPECT_EQ(set("link", "user.a", "1"), "EPERM");
    EXPECT_EQ(set("pipe", "user.a", "1"), "EPERM");
    EXPECT_EQ(get("link", "user.a"), "(ENODATA)");
    EXPECT_EQ(set("link", "trusted.a", "1"), "ok");
    EXPECT_EQ(get("link", "trusted.a"), "1");
    EXPECT_EQ(get("folder", "trusted.a"), "(ENODATA)");
}

TEST_F(Xattr, UserFollowsThePermissionsOfTheFile) {
    make_file("file", "", 0640);
    ASSERT_EQ(set("file", "user.a", "1"), "ok");
    EXPECT_EQ(as(kAlice, [] { return getxattr("file", "user.a", nullptr, 0); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return setxattr("file", "user.a", "2", 1, 0); }), "EACCES");
    ASSERT_EQ(error(chmod("file", 0644)), "ok");
    EXPECT_EQ(as(kAlice, [] { return getxattr("file", "user.a", nullptr, 0); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return setxattr("file", "user.a", "2", 1, 0); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return removexattr("file", "user.a"); }), "EACCES");
    ASSERT_EQ(error(chmod("file", 0666)), "ok");
    EXPECT_EQ(as(kAlice, [] { return setxattr("file", "user.a", "2", 1, 0); }), "ok");
}

TEST_F(Xattr, UserOnAStickyDirectoryIsForItsOwner) {
    ASSERT_EQ(error(mkdir("folder", 0777)), "ok");
    ASSERT_EQ(error(chmod("folder", 01777)), "ok");
    EXPECT_EQ(as(kAlice, [] { return setxattr("folder", "user.a", "1", 1, 0); }), "EPERM");
}

TEST_F(Xattr, TrustedIsForRootAndNotEvenListedToOthers) {
    make_file("file", "", 0666);
    ASSERT_EQ(set("file", "trusted.secret", "1"), "ok");
    ASSERT_EQ(set("file", "user.open", "1"), "ok");
    EXPECT_EQ(list("file"), "trusted.secret user.open ");
    EXPECT_EQ(as(kAlice, [] { return getxattr("file", "trusted.secret", nullptr, 0); }), "ENODATA");
    EXPECT_EQ(as(kAlice, [] { return setxattr("file", "trusted.x", "1", 1, 0); }), "EPERM");
    EXPECT_EQ(as(kAlice,
                 [] {
                     errno = EUCLEAN;
                     return list("file") == "user.open " ? 0L : -1L;
                 }),
              "ok");
    EXPECT_EQ(as(kAlice,
                 [] {
                     errno = EUCLEAN;
                     return listxattr("file", nullptr, 0) == 10 ? 0L : -1L;
                 }),
              "ok");
}

TEST_F(Xattr, SecurityMayBeReadByAll) {
    make_file("file", "", 0600);
    ASSERT_EQ(set("file", "security.mark", "1"), "ok");
    EXPECT_EQ(as(kAlice, [] { return getxattr("file", "security.mark", nullptr, 0); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return setxattr("file", "security.mark", "2", 1, 0); }), "EPERM");
}

TEST_F(Xattr, BelongToTheInodeNotTheName) {
    make_file("file");
    ASSERT_EQ(set("file", "user.a", "1"), "ok");
    ASSERT_EQ(error(link("file", "second")), "ok");
    EXPECT_EQ(get("second", "user.a"), "1");
    ASSERT_EQ(error(rename("file", "third")), "ok");
    EXPECT_EQ(get("third", "user.a"), "1");
    make_file("file");
    EXPECT_EQ(get("file", "user.a"), "(ENODATA)");
}

TEST_F(Xattr, OfADescriptorWithoutAName) {
    make_file("file");
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(unlink("file")), "ok");
    EXPECT_EQ(error(fsetxattr(*file, "user.a", "1", 1, 0)), "ok");
    char value = 0;
    EXPECT_EQ(fgetxattr(*file, "user.a", &value, 1), 1);
    EXPECT_EQ(value, '1');
    EXPECT_EQ(error(fremovexattr(*file, "user.a")), "ok");
    EXPECT_EQ(error(fremovexattr(*file, "user.a")), "ENODATA");
}

}  // namespace
}  // namespace blobfs::posix
