// link(2), unlink(2), mkdir(2), rmdir(2), symlink(2), readlink(2), mknod(2), and the rights that
// they need.

#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Link : public Case {};
class Unlink : public Case {};
class Mkdir : public Case {};
class Rmdir : public Case {};
class Symlink : public Case {};
class Mknod : public Case {};

std::string target_of(const char* path) {
    std::string target(PATH_MAX + 1, '\0');
    const ssize_t bytes = readlink(path, target.data(), target.size());
    if (bytes < 0) return "(" + error(bytes) + ")";
    target.resize(static_cast<std::size_t>(bytes));
    return target;
}

TEST_F(Link, IsAnotherNameOfTheSameInode) {
    make_file("one", "content");
    EXPECT_EQ(error(link("one", "two")), "ok");
    EXPECT_EQ(status_of("one").st_ino, status_of("two").st_ino);
    EXPECT_EQ(status_of("one").st_nlink, 2U);
    EXPECT_EQ(error(unlink("one")), "ok");
    EXPECT_EQ(status_of("two").st_nlink, 1U);
    EXPECT_EQ(content_of("two"), "content");
}

TEST_F(Link, ErrorsInTheirOrder) {
    make_file("file");
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    EXPECT_EQ(error(link("file", "file")), "EEXIST");
    EXPECT_EQ(error(link("folder", "x")), "EPERM");
    EXPECT_EQ(error(link("missing", "x")), "ENOENT");
    EXPECT_EQ(error(link("missing", "file")), "ENOENT");
    EXPECT_EQ(error(link("folder", "file")), "EEXIST");
    EXPECT_EQ(error(link("file", "missing/x")), "ENOENT");
    EXPECT_EQ(error(link("file", "file/x")), "ENOTDIR");
    EXPECT_EQ(error(link("file", std::string(256, 'n').c_str())), "ENAMETOOLONG");
    EXPECT_EQ(error(link("file", "x/")), "ENOENT");
}

TEST_F(Link, ToASymbolicLinkIsToTheLinkItself) {
    make_file("file");
    ASSERT_EQ(error(symlink("file", "symbolic")), "ok");
    EXPECT_EQ(error(link("symbolic", "copy")), "ok");
    EXPECT_TRUE(S_ISLNK(status_of("copy").st_mode));
    EXPECT_EQ(error(linkat(AT_FDCWD, "symbolic", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW)), "ok");
    EXPECT_EQ(status_of("followed").st_ino, status_of("file").st_ino);
}

TEST_F(Link, ThousandsOfNamesOfOneFile) {
    constexpr unsigned kNames = 2'000;
    make_file("file");
    for (unsigned i = 1; i < kNames; ++i) {
        ASSERT_EQ(error(link("file", std::to_string(i).c_str())), "ok") << i;
    }
    EXPECT_EQ(status_of("file").st_nlink, kNames);
}

TEST_F(Link, OfAnUnlinkedFileIsRefused) {
    make_file("file");
    const Descriptor file("file", O_RDONLY);
    ASSERT_EQ(error(unlink("file")), "ok");
    const std::string path = "/proc/self/fd/" + std::to_string(*file);
    EXPECT_EQ(error(linkat(AT_FDCWD, path.c_str(), AT_FDCWD, "again", AT_SYMLINK_FOLLOW)),
              "ENOENT");
}

TEST_F(Link, NeedsADirectoryThatMayBeWritten) {
    make_file("file");
    ASSERT_EQ(error(mkdir("closed", 0755)), "ok");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return link("file", "closed/x"); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return link("file", "x"); }), "ok");
}

TEST_F(Unlink, ErrorsInTheirOrder) {
    make_file("file");
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    EXPECT_EQ(error(unlink("folder")), "EISDIR");
    EXPECT_EQ(error(unlink("missing")), "ENOENT");
    EXPECT_EQ(error(unlink("file/x")), "ENOTDIR");
    EXPECT_EQ(error(unlink("file/")), "ENOTDIR");
    EXPECT_EQ(error(unlink("folder/.")), "EISDIR");
    EXPECT_EQ(error(unlink("folder/..")), "EISDIR");
    EXPECT_EQ(error(unlink("")), "ENOENT");
    EXPECT_EQ(error(unlink(std::string(256, 'n').c_str())), "ENAMETOOLONG");
    EXPECT_TRUE(exists("file"));
}

TEST_F(Unlink, IsForWhoMayWriteTheDirectory) {
    ASSERT_EQ(error(mkdir("closed", 0755)), "ok");
    make_file("closed/alices");
    ASSERT_EQ(error(chown("closed/alices", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return unlink("closed/alices"); }), "EACCES");
    make_file("roots", "", 0);
    EXPECT_EQ(as(kAlice, [] { return unlink("roots"); }), "ok");
}

TEST_F(Unlink, StickyDirectoriesKeepWhatBelongsToOthers) {
    ASSERT_EQ(error(mkdir("sticky", 0777)), "ok");
    ASSERT_EQ(error(chmod("sticky", 01777)), "ok");
    make_file("sticky/bobs", "", 0666);
    ASSERT_EQ(error(chown("sticky/bobs", kBob.uid, kBob.gid)), "ok");
    ASSERT_EQ(error(mkdir("sticky/folder", 0777)), "ok");
    EXPECT_EQ(as(kAlice, [] { return unlink("sticky/bobs"); }), "EPERM");
    EXPECT_EQ(as(kAlice, [] { return rmdir("sticky/folder"); }), "EPERM");
    EXPECT_EQ(as(kBob, [] { return unlink("sticky/bobs"); }), "ok");
    // The owner of the directory may remove what belongs to others.
    ASSERT_EQ(error(chown("sticky", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return rmdir("sticky/folder"); }), "ok");
}

TEST_F(Mkdir, HasTheModeLessTheUmaskAndTwoLinks) {
    umask(027);
    EXPECT_EQ(error(mkdir("folder", 01777)), "ok");
    EXPECT_EQ(permissions_of("folder"), 01750U);
    EXPECT_EQ(status_of("folder").st_nlink, 2U);
    EXPECT_TRUE(names_in("folder").empty());
    EXPECT_EQ(status_of("folder/..").st_ino, status_of(".").st_ino);
}

TEST_F(Mkdir, ErrorsInTheirOrder) {
    make_file("file");
    ASSERT_EQ(error(symlink("nowhere", "dangling")), "ok");
    EXPECT_EQ(error(mkdir("file", 0755)), "EEXIST");
    EXPECT_EQ(error(mkdir("dangling", 0755)), "EEXIST");
    EXPECT_EQ(error(mkdir(".", 0755)), "EEXIST");
    EXPECT_EQ(error(mkdir("missing/x", 0755)), "ENOENT");
    EXPECT_EQ(error(mkdir("file/x", 0755)), "ENOTDIR");
    EXPECT_EQ(error(mkdir(std::string(256, 'n').c_str(), 0755)), "ENAMETOOLONG");
    EXPECT_EQ(error(mkdir("new/", 0755)), "ok");
}

TEST_F(Mkdir, OwnerIsWhoMakesIt) {
    EXPECT_EQ(as(kAlice, [] { return mkdir("folder", 0755); }), "ok");
    EXPECT_EQ(status_of("folder").st_uid, kAlice.uid);
    EXPECT_EQ(status_of("folder").st_gid, kAlice.gid);
}

TEST_F(Rmdir, ErrorsInTheirOrder) {
    make_file("file");
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(error(mkdir("folder/inside", 0755)), "ok");
    EXPECT_EQ(error(rmdir("folder")), "ENOTEMPTY");
    EXPECT_EQ(error(rmdir("file")), "ENOTDIR");
    EXPECT_EQ(error(rmdir("missing")), "ENOENT");
    EXPECT_EQ(error(rmdir("folder/.")), "EINVAL");
    EXPECT_EQ(error(rmdir("folder/..")), "ENOTEMPTY");
    EXPECT_EQ(error(rmdir("folder/inside/")), "ok");
    EXPECT_EQ(error(rmdir("folder")), "ok");
}

TEST_F(Rmdir, ALinkToADirectoryIsNoDirectory) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(error(symlink("folder", "link")), "ok");
    EXPECT_EQ(error(rmdir("link")), "ENOTDIR");
    EXPECT_EQ(error(rmdir("link/")), "ENOTDIR");
}

TEST_F(Rmdir, WhoStandsInItSeesItEmptyAndGone) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    const Descriptor folder("folder", O_RDONLY | O_DIRECTORY);
    ASSERT_EQ(error(rmdir("folder")), "ok");
    EXPECT_EQ(status_of(folder).st_nlink, 0U);
    EXPECT_EQ(error(faccessat(*folder, "x", F_OK, 0)), "ENOENT");
    EXPECT_TRUE(names_in("/proc/self/fd/" + std::to_string(*folder)).empty());
}

TEST_F(Rmdir, TheParentLosesALink) {
    ASSERT_EQ(error(mkdir("a", 0755)), "ok");
    ASSERT_EQ(error(mkdir("a/b", 0755)), "ok");
    EXPECT_EQ(status_of("a").st_nlink, 3U);
    ASSERT_EQ(error(rmdir("a/b")), "ok");
    EXPECT_EQ(status_of("a").st_nlink, 2U);
}

TEST_F(Symlink, KeepsItsTargetByteForByte) {
    for (const std::size_t length : {1U, 59U, 60U, 391U, 392U, 393U, 1'023U, 4'094U}) {
        std::string target;
        while (target.size() < length) target += static_cast<char>('a' + target.size() % 26);
        const std::string name = "link" + std::to_string(length);
        ASSERT_EQ(error(symlink(target.c_str(), name.c_str())), "ok") << length;
        EXPECT_EQ(target_of(name.c_str()), target);
        EXPECT_EQ(status_of(name).st_size, static_cast<off_t>(length));
        EXPECT_EQ(status_of(name).st_mode, S_IFLNK | 0777U);
    }
}

TEST_F(Symlink, ErrorsInTheirOrder) {
    make_file("file");
    EXPECT_EQ(error(symlink("x", "file")), "EEXIST");
    EXPECT_EQ(error(symlink("", "link")), "ENOENT");
    EXPECT_EQ(error(symlink(std::string(4'096, 'n').c_str(), "link")), "ENAMETOOLONG");
    EXPECT_EQ(error(symlink("x", std::string(256, 'n').c_str())), "ENAMETOOLONG");
    EXPECT_EQ(target_of("file"), "(EINVAL)");
    EXPECT_EQ(target_of("missing"), "(ENOENT)");
}

TEST_F(Symlink, LoopsAreNoticed) {
    ASSERT_EQ(error(symlink("b", "a")), "ok");
    ASSERT_EQ(error(symlink("a", "b")), "ok");
    EXPECT_EQ(error(open("a", O_RDONLY)), "ELOOP");
    EXPECT_EQ(error(open("a/x", O_RDONLY)), "ELOOP");
    EXPECT_EQ(error(mkdir("a/x", 0755)), "ELOOP");
}

TEST_F(Symlink, ReadlinkCutsToTheRoomThatThereIs) {
    ASSERT_EQ(error(symlink("target", "link")), "ok");
    std::array<char, 4> room{'#', '#', '#', '#'};
    EXPECT_EQ(readlink("link", room.data(), 3), 3);
    EXPECT_EQ(std::string(room.data(), 4), "tar#");
}

TEST_F(Symlink, ProtectedSymlinksAndOwnersAreAsTheyWereMade) {
    EXPECT_EQ(as(kAlice, [] { return symlink("target", "link"); }), "ok");
    EXPECT_EQ(status_of("link").st_uid, kAlice.uid);
    EXPECT_EQ(error(lchown("link", kBob.uid, kBob.gid)), "ok");
    EXPECT_EQ(status_of("link").st_uid, kBob.uid);
    EXPECT_EQ(error(fchmodat(AT_FDCWD, "link", 0600, AT_SYMLINK_NOFOLLOW)), "EOPNOTSUPP");
}

TEST_F(Mknod, EveryType) {
    umask(0);
    EXPECT_EQ(error(mknod("regular", S_IFREG | 0640, 0)), "ok");
    EXPECT_EQ(error(mknod("untyped", 0640, 0)), "ok");
    EXPECT_EQ(error(mknod("pipe", S_IFIFO | 0640, 0)), "ok");
    EXPECT_EQ(error(mknod("socket", S_IFSOCK | 0640, 0)), "ok");
    EXPECT_EQ(error(mknod("character", S_IFCHR | 0640, makedev(1, 3))), "ok");
    EXPECT_EQ(error(mknod("block", S_IFBLK | 0640, makedev(0x1bc, 0x3edcb))), "ok");
    EXPECT_EQ(error(mknod("folder", S_IFDIR | 0640, 0)), "EPERM");
    EXPECT_EQ(error(mknod("link", S_IFLNK | 0640, 0)), "EINVAL");
    EXPECT_EQ(status_of("regular").st_mode, S_IFREG | 0640U);
    EXPECT_EQ(status_of("untyped").st_mode, S_IFREG | 0640U);
    EXPECT_EQ(status_of("pipe").st_mode, S_IFIFO | 0640U);
    EXPECT_EQ(status_of("socket").st_mode, S_IFSOCK | 0640U);
    EXPECT_EQ(status_of("character").st_mode, S_IFCHR | 0640U);
    EXPECT_EQ(status_of("block").st_mode, S_IFBLK | 0640U);
    EXPECT_EQ(status_of("character").st_rdev, makedev(1, 3));
    EXPECT_EQ(status_of("block").st_rdev, makedev(0x1bc, 0x3edcb));
    EXPECT_EQ(status_of("pipe").st_rdev, 0U);
}

TEST_F(Mknod, DevicesAreForRoot) {
    EXPECT_EQ(as(kAlice, [] { return mknod("device", S_IFCHR | 0600, makedev(1, 3)); }), "EPERM");
    EXPECT_EQ(as(kAlice, [] { return mknod("device", S_IFBLK | 0600, makedev(1, 3)); }), "EPERM");
    EXPECT_EQ(as(kAlice, [] { return mknod("pipe", S_IFIFO | 0600, 0); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return mknod("socket", S_IFSOCK | 0600, 0); }), "ok");
}

TEST_F(Mknod, DevicesAndPipesWork) {
    ASSERT_EQ(error(mknod("null", S_IFCHR | 0666, makedev(1, 3))), "ok");
    EXPECT_EQ(content_of("null"), "");
    ASSERT_EQ(error(mkfifo("pipe", 0600)), "ok");
    const Descriptor reader("pipe", O_RDONLY | O_NONBLOCK);
    const Descriptor writer("pipe", O_WRONLY | O_NONBLOCK);
    ASSERT_EQ(write(*writer, "through", 7), 7);
    std::array<char, 16> got{};
    EXPECT_EQ(read(*reader, got.data(), got.size()), 7);
    EXPECT_EQ(status_of("pipe").st_size, 0);
}

TEST_F(Mknod, SocketsAreBoundToNames) {
    const Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, "socket");
    const auto* where = reinterpret_cast<const sockaddr*>(&address);
    ASSERT_EQ(error(bind(*socket, where, sizeof(address))), "ok");
    EXPECT_TRUE(S_ISSOCK(status_of("socket").st_mode));
    EXPECT_EQ(error(bind(*Descriptor(::socket(AF_UNIX, SOCK_STREAM, 0)), where, sizeof(address))),
              "EADDRINUSE");
    ASSERT_EQ(error(listen(*socket, 1)), "ok");
    const Descriptor client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(error(connect(*client, where, sizeof(address))), "ok");
    EXPECT_EQ(error(open("socket", O_RDONLY)), "ENXIO");
}

}  // namespace
}  // namespace blobfs::posix
