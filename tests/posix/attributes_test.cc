// chmod(2), chown(2), access(2), setgid directories, and what takes set-id bits and capabilities
// away.

#include <linux/capability.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Chmod : public Case {};
class Chown : public Case {};
class Access : public Case {};
class SetgidDirectory : public Case {};

TEST_F(Chmod, SetsAllTwelveBits) {
    make_file("file");
    for (const mode_t mode : {0U, 0777U, 01234U, 04711U, 02755U, 07777U}) {
        EXPECT_EQ(error(chmod("file", mode)), "ok");
        EXPECT_EQ(permissions_of("file"), mode);
    }
}

TEST_F(Chmod, IsForTheOwner) {
    make_file("file", "", 0666);
    EXPECT_EQ(as(kAlice, [] { return chmod("file", 0777); }), "EPERM");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return chmod("file", 0400); }), "ok");
    EXPECT_EQ(permissions_of("file"), 0400U);
}

TEST_F(Chmod, SetgidNeedsMembership) {
    make_file("file");
    ASSERT_EQ(error(chown("file", kAlice.uid, kBob.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return chmod("file", 02755); }), "ok");
    EXPECT_EQ(permissions_of("file"), 0755U);
    Person member = kAlice;
    member.groups = {kBob.gid};
    EXPECT_EQ(as(member, [] { return chmod("file", 02755); }), "ok");
    EXPECT_EQ(permissions_of("file"), 02755U);
}

TEST_F(Chmod, OfAnOpenFileIsSeenByName) {
    make_file("file");
    const Descriptor file("file", O_RDWR);
    EXPECT_EQ(error(fchmod(*file, 0611)), "ok");
    EXPECT_EQ(permissions_of("file"), 0611U);
}

TEST_F(Chown, OwnersMayGiveToTheirGroupsOnly) {
    make_file("file");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return chown("file", kBob.uid, kAlice.gid); }), "EPERM");
    EXPECT_EQ(as(kAlice, [] { return chown("file", kAlice.uid, kBob.gid); }), "EPERM");
    Person member = kAlice;
    member.groups = {kBob.gid};
    EXPECT_EQ(as(member, [] { return chown("file", static_cast<uid_t>(-1), kBob.gid); }), "ok");
    EXPECT_EQ(status_of("file").st_gid, kBob.gid);
    EXPECT_EQ(as(kBob, [] { return chown("file", kBob.uid, kBob.gid); }), "EPERM");
}

TEST_F(Chown, MinusOneLeavesAsItIs) {
    make_file("file");
    ASSERT_EQ(error(chown("file", 5, 6)), "ok");
    ASSERT_EQ(error(chown("file", static_cast<uid_t>(-1), 7)), "ok");
    ASSERT_EQ(error(chown("file", 8, static_cast<gid_t>(-1))), "ok");
    EXPECT_EQ(status_of("file").st_uid, 8U);
    EXPECT_EQ(status_of("file").st_gid, 7U);
}

TEST_F(Chown, IdsHave32Bits) {
    make_file("file");
    ASSERT_EQ(error(chown("file", 0xffff'fffe, 0xffff'fffd)), "ok");
    EXPECT_EQ(status_of("file").st_uid, 0xffff'fffeU);
    EXPECT_EQ(status_of("file").st_gid, 0xffff'fffdU);
}

TEST_F(Chown, TakesSetIdBitsFromFilesAlsoForRoot) {
    make_file("file");
    ASSERT_EQ(error(chmod("file", 06755)), "ok");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(permissions_of("file"), 0755U);
    // Setgid without the group's right to execute is mandatory locking's mark and stays.
    ASSERT_EQ(error(chmod("file", 06745)), "ok");
    ASSERT_EQ(error(chown("file", kBob.uid, kBob.gid)), "ok");
    EXPECT_EQ(permissions_of("file"), 02745U);
}

TEST_F(Chown, ToTheSameOwnerTakesThemToo) {
    make_file("file");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    ASSERT_EQ(error(chmod("file", 06755)), "ok");
    EXPECT_EQ(as(kAlice, [] { return chown("file", kAlice.uid, kAlice.gid); }), "ok");
    EXPECT_EQ(permissions_of("file"), 0755U);
}

TEST_F(Chown, LeavesDirectoriesTheirBits) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(error(chmod("folder", 06755)), "ok");
    ASSERT_EQ(error(chown("folder", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(permissions_of("folder"), 06755U);
}

TEST_F(Access, AsksForTheRealUser) {
    make_file("file", "", 0640);
    ASSERT_EQ(error(chown("file", kAlice.uid, kBob.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return access("file", R_OK | W_OK); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return access("file", X_OK); }), "EACCES");
    EXPECT_EQ(as(kBob, [] { return access("file", R_OK); }), "ok");
    EXPECT_EQ(as(kBob, [] { return access("file", W_OK); }), "EACCES");
    EXPECT_EQ(error(access("file", R_OK | W_OK)), "ok");
    EXPECT_EQ(error(access("file", X_OK)), "EACCES");  // root needs somebody's x
    EXPECT_EQ(error(access("missing", F_OK)), "ENOENT");
}

TEST_F(Access, TheFirstClassThatFitsDecides) {
    make_file("file", "", 0066);
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return access("file", R_OK); }), "EACCES");
    EXPECT_EQ(as(kBob, [] { return access("file", R_OK); }), "ok");
    ASSERT_EQ(error(chmod("file", 0606)), "ok");
    Person member = kBob;
    member.groups = {kAlice.gid};
    EXPECT_EQ(as(member, [] { return access("file", R_OK); }), "EACCES");
}

TEST_F(Access, SupplementaryGroupsCount) {
    ASSERT_EQ(error(mkdir("folder", 0770)), "ok");
    ASSERT_EQ(error(chmod("folder", 0770)), "ok");
    ASSERT_EQ(error(chown("folder", 0, kBob.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return mkdir("folder/x", 0755); }), "EACCES");
    Person member = kAlice;
    for (gid_t group = 1; group <= 40; ++group) member.groups.push_back(70'000 + group);
    member.groups.push_back(kBob.gid);
    EXPECT_EQ(as(member, [] { return mkdir("folder/x", 0755); }), "ok");
}

TEST_F(SetgidDirectory, GivesItsGroup) {
    ASSERT_EQ(error(mkdir("folder", 0777)), "ok");
    ASSERT_EQ(error(chown("folder", 0, kBob.gid)), "ok");
    ASSERT_EQ(error(chmod("folder", 02777)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("folder/file", O_CREAT | O_RDWR, 0644); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return mkdir("folder/sub", 0755); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return symlink("x", "folder/link"); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return mknod("folder/pipe", S_IFIFO | 0644, 0); }), "ok");
    for (const char* path : {"folder/file", "folder/sub", "folder/link", "folder/pipe"}) {
        EXPECT_EQ(status_of(path).st_gid, kBob.gid) << path;
        EXPECT_EQ(status_of(path).st_uid, kAlice.uid) << path;
    }
    EXPECT_EQ(permissions_of("folder/sub"), 02755U);
    EXPECT_EQ(permissions_of("folder/file"), 0644U);
}

TEST_F(SetgidDirectory, MakesNoSetgidProgramForNonMembers) {
    ASSERT_EQ(error(mkdir("folder", 0777)), "ok");
    ASSERT_EQ(error(chown("folder", 0, kBob.gid)), "ok");
    ASSERT_EQ(error(chmod("folder", 02777)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("folder/stranger", O_CREAT | O_RDWR, 02755); }), "ok");
    EXPECT_EQ(permissions_of("folder/stranger"), 0755U);
    EXPECT_EQ(as(kAlice, [] { return mknod("folder/node", S_IFREG | 02755, 0); }), "ok");
    EXPECT_EQ(permissions_of("folder/node"), 0755U);
    EXPECT_EQ(as(kBob, [] { return open("folder/own", O_CREAT | O_RDWR, 02755); }), "ok");
    EXPECT_EQ(permissions_of("folder/own"), 02755U);
    EXPECT_EQ(as(kAlice, [] { return open("folder/plain", O_CREAT | O_RDWR, 02744); }), "ok");
    EXPECT_EQ(permissions_of("folder/plain"), 02744U);
}

TEST_F(SetgidDirectory, SupplementaryMembersKeepTheBit) {
    ASSERT_EQ(error(mkdir("folder", 0777)), "ok");
    ASSERT_EQ(error(chown("folder", 0, kBob.gid)), "ok");
    ASSERT_EQ(error(chmod("folder", 02777)), "ok");
    Person member = kAlice;
    member.groups = {kBob.gid};
    EXPECT_EQ(as(member, [] { return open("folder/file", O_CREAT | O_RDWR, 02755); }), "ok");
    EXPECT_EQ(permissions_of("folder/file"), 02755U);
}

// Privileges. -------------------------------------------------------------------------------------

class Privileges : public Case {
  protected:
    // A program of Alice's with all privileges that everybody may write.
    static void make_program() {
        make_file("program", std::string(10'000, 'p'));
        give_back();
    }
    static void give_back() {
        ASSERT_EQ(error(chown("program", kAlice.uid, kAlice.gid)), "ok");
        ASSERT_EQ(error(chmod("program", 06777)), "ok");
        const vfs_cap_data capability{
            .magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
            .data = {{.permitted = 1U << CAP_NET_RAW, .inheritable = 0}, {}}};
        ASSERT_EQ(
            error(setxattr("program", "security.capability", &capability, sizeof(capability), 0)),
            "ok");
        ASSERT_TRUE(has_capability());
        ASSERT_EQ(permissions_of("program"), 06777U);
    }
    static bool has_capability() {
        return getxattr("program", "security.capability", nullptr, 0) >= 0;
    }
    static void expect_gone(const char* after_what) {
        EXPECT_EQ(permissions_of("program"), 0777U) << after_what;
        EXPECT_FALSE(has_capability()) << after_what;
    }
    static long with_program(int flags, const std::function<long(int)>& use) {
        const Descriptor file("program", flags);
        return file.open() ? use(*file) : -1L;
    }
};

TEST_F(Privileges, GoWithAWrite) {
    make_program();
    EXPECT_EQ(
        as(kBob,
           [] { return with_program(O_WRONLY, [](int file) { return pwrite(file, "x", 1, 0); }); }),
        "ok");
    expect_gone("write");
}

TEST_F(Privileges, GoWithADirectWrite) {
    make_program();
    EXPECT_EQ(as(kBob,
                 [] {
                     return with_program(O_WRONLY | O_DIRECT, [](int file) {
                         void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                         return pwrite(file, page, 4096, 0);
                     });
                 }),
              "ok");
    expect_gone("direct write");
}

TEST_F(Privileges, GoWithTruncation) {
    make_program();
    EXPECT_EQ(as(kBob, [] { return truncate("program", 100); }), "ok");
    expect_gone("truncate");
    give_back();
    EXPECT_EQ(
        as(kBob,
           [] { return with_program(O_RDWR, [](int file) { return ftruncate(file, 20'000); }); }),
        "ok");
    expect_gone("ftruncate");
    give_back();
    EXPECT_EQ(as(kBob, [] { return open("program", O_WRONLY | O_TRUNC); }), "ok");
    expect_gone("O_TRUNC");
    give_back();
    EXPECT_EQ(as(kBob, [] { return open("program", O_WRONLY | O_TRUNC | O_CREAT, 0644); }), "ok");
    expect_gone("O_TRUNC with O_CREAT");
}

TEST_F(Privileges, GoWithFallocate) {
    for (const int mode : {0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE}) {
        make_program();
        EXPECT_EQ(as(kBob,
                     [mode] {
                         return with_program(
                             O_RDWR, [mode](int file) { return fallocate(file, mode, 0, 4096); });
                     }),
                  "ok");
        expect_gone("fallocate");
        ASSERT_EQ(error(unlink("program")), "ok");
    }
}

TEST_F(Privileges, GoWithCopyFileRange) {
    make_program();
    make_file("source", std::string(8'192, 's'));
    EXPECT_EQ(as(kBob,
                 [] {
                     return with_program(O_WRONLY, [](int file) {
                         const Descriptor source("source", O_RDONLY);
                         return copy_file_range(*source, nullptr, file, nullptr, 8'192, 0);
                     });
                 }),
              "ok");
    expect_gone("copy_file_range");
}

TEST_F(Privileges, GoWithChown) {
    make_program();
    ASSERT_EQ(error(chown("program", kBob.uid, kBob.gid)), "ok");
    expect_gone("chown");
}

TEST_F(Privileges, RootsWriteKeepsSetIdBitsAndTakesCapabilities) {
    make_program();
    EXPECT_EQ(with_program(O_WRONLY, [](int file) { return pwrite(file, "x", 1, 0); }), 1);
    EXPECT_EQ(permissions_of("program"), 06777U);
    EXPECT_FALSE(has_capability());
}

TEST_F(Privileges, SetgidWithoutExecuteStaysOnWrite) {
    make_file("file", "content");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    ASSERT_EQ(error(chmod("file", 02666)), "ok");
    EXPECT_EQ(as(kAlice,
                 [] {
                     const Descriptor file("file", O_WRONLY);
                     return pwrite(*file, "x", 1, 0);
                 }),
              "ok");
    EXPECT_EQ(permissions_of("file"), 02666U);
}

TEST_F(Privileges, ReadingTakesNothing) {
    make_program();
    EXPECT_EQ(as(kBob,
                 [] {
                     return with_program(O_RDONLY, [](int file) {
                         char byte = 0;
                         return pread(file, &byte, 1, 0);
                     });
                 }),
              "ok");
    EXPECT_EQ(permissions_of("program"), 06777U);
    EXPECT_TRUE(has_capability());
}

TEST_F(Privileges, AreGoneBeforeTheWriterIsDone) {
    // Whoever executes the file after somebody's write must not get the old rights.
    make_program();
    const Descriptor reader("program", O_RDONLY);
    ASSERT_EQ(status_of(reader).st_mode & 07777U, 06777U);
    EXPECT_EQ(as(kBob,
                 [] {
                     return with_program(O_WRONLY, [](int file) -> long {
                         if (pwrite(file, "x", 1, 0) != 1) return -1;
                         struct stat status {};
                         if (fstat(file, &status) != 0) return -1;
                         errno = EUCLEAN;
                         return (status.st_mode & 07777U) == 0777U ? 0 : -1;
                     });
                 }),
              "ok");
    EXPECT_EQ(status_of(reader).st_mode & 07777U, 0777U);
}

TEST_F(Privileges, AreGoneForWhoExecutesNext) {
    // A program of Alice's that says whether it runs as her: whether its user owns the file.
    std::filesystem::copy_file("/usr/bin/test", "program");
    const auto run = [] {
        return as(kBob, [] { return execl("program", "test", "-O", "program", nullptr); });
    };
    const auto size = status_of("program").st_size;
    const std::map<std::string, std::function<long(int)>> changes = {
        {"write", [](int file) { return pwrite(file, "\177", 1, 0); }},
        {"truncate", [&](int file) { return ftruncate(file, size + 1); }},
        {"fallocate", [](int file) { return fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 4096); }},
    };
    for (const auto& [name, change] : changes) {
        SCOPED_TRACE(name);
        give_back();
        if (run() != "ok") GTEST_SKIP() << "mounted nosuid";
        EXPECT_EQ(as(kBob, [&] { return with_program(O_RDWR, change); }), "ok");
        EXPECT_EQ(run(), "EPERM");  // status 1
    }
}

}  // namespace
}  // namespace blobfs::posix
