// user_namespaces(7): who somebody is on the filesystem, and what root of a namespace may do there.

#include <grp.h>
#include <sched.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <tuple>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

// Inside, root is alice and user 1 is bob; nobody else is there.
const std::string kUsers = "0 60001 1\n1 60002 1\n";
const std::string kGroups = "0 61001 1\n1 61002 1\n";
constexpr uid_t kNobody = 65'534;  // /proc/sys/kernel/overflowuid

class UserNamespace : public Case {
  protected:
    // Runs the call as root of a new user namespace, and answers like error().
    static std::string as_its_root(const std::function<long()>& call) {
        std::array<int, 2> entered{}, mapped{};
        if (pipe2(entered.data(), O_CLOEXEC) != 0 || pipe2(mapped.data(), O_CLOEXEC) != 0) {
            return "no pipes";
        }
        const pid_t child = fork();
        if (child == 0) {
            char byte = 0;
            const bool inside = unshare(CLONE_NEWUSER) == 0 && write(entered[1], &byte, 1) == 1 &&
                                read(mapped[0], &byte, 1) == 1 && setgroups(0, nullptr) == 0 &&
                                setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0;
            if (!inside) _exit(kBroken);
            const long result = call();
            _exit(result == -1 ? errno : 0);
        }
        close(entered[1]);
        char byte = 0;
        bool prepared = read(entered[0], &byte, 1) == 1;
        const std::string folder = "/proc/" + std::to_string(child);
        prepared =
            prepared && put(folder + "/uid_map", kUsers) && put(folder + "/gid_map", kGroups);
        prepared = prepared && write(mapped[1], &byte, 1) == 1;
        for (const int end : {entered[0], mapped[0], mapped[1]}) close(end);
        int status = 0;
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) return "the child is lost";
        if (!prepared || WEXITSTATUS(status) == kBroken) return kNone;
        errno = WEXITSTATUS(status);
        return error(errno == 0 ? 0 : -1);
    }
    void SetUp() override {
        Case::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        if (as_its_root([] { return 0; }) == kNone) GTEST_SKIP() << "no user namespaces here";
    }
    static void expect_owner(const char* path, uid_t user, gid_t group) {
        EXPECT_EQ(status_of(path).st_uid, user) << path;
        EXPECT_EQ(status_of(path).st_gid, group) << path;
    }

  private:
    static constexpr int kBroken = 255;
    static constexpr const char* kNone = "no namespace";
    static bool put(const std::string& path, const std::string& text) {
        const Descriptor file(path, O_WRONLY);
        return write(*file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    }
};

TEST_F(UserNamespace, WhatIsMadeInsideBelongsToWhoItIsOutside) {
    EXPECT_EQ(as_its_root([] {
                  const Descriptor file("file", O_CREAT | O_WRONLY);
                  return file.open() ? mkdir("folder", 0755) : -1;
              }),
              "ok");
    expect_owner("file", kAlice.uid, kAlice.gid);
    expect_owner("folder", kAlice.uid, kAlice.gid);
}

TEST_F(UserNamespace, OwnersAreShownAsTheyAreInside) {
    for (const auto& [name, user] :
         {std::pair("root", uid_t{0}), {"alice", kAlice.uid}, {"bob", kBob.uid}}) {
        make_file(name);
        ASSERT_EQ(error(chown(name, user, user + 1'000)), "ok");
    }
    EXPECT_EQ(
        as_its_root([] {
            const auto owner_is = [](const char* path, uid_t user) {
                struct stat status {};
                return lstat(path, &status) == 0 && status.st_uid == user && status.st_gid == user;
            };
            errno = EUCLEAN;
            return owner_is("root", kNobody) && owner_is("alice", 0) && owner_is("bob", 1) ? 0 : -1;
        }),
        "ok");
}

TEST_F(UserNamespace, ItsRootHasPowerOverWhomItKnowsOnly) {
    make_file("root", "content", 0600);
    make_file("bob", "content", 0600);
    ASSERT_EQ(error(chown("bob", kBob.uid, kBob.gid)), "ok");
    // Files of somebody who is not inside: as for any stranger.
    EXPECT_EQ(as_its_root([] { return open("root", O_RDONLY | O_CLOEXEC); }), "EACCES");
    EXPECT_EQ(as_its_root([] { return chmod("root", 0666); }), "EPERM");
    EXPECT_EQ(as_its_root([] { return chown("root", 0, 0); }), "EPERM");
    // Files of somebody who is: as root.
    EXPECT_EQ(as_its_root([] { return open("bob", O_RDWR | O_CLOEXEC); }), "ok");
    EXPECT_EQ(as_its_root([] { return chmod("bob", 0640); }), "ok");
    EXPECT_EQ(as_its_root([] { return chown("bob", 0, 0); }), "ok");
    expect_owner("bob", kAlice.uid, kAlice.gid);
    EXPECT_EQ(as_its_root([] { return chown("bob", 1, 1); }), "ok");
    expect_owner("bob", kBob.uid, kBob.gid);
    // To nobody who is not inside.
    EXPECT_EQ(as_its_root([] { return chown("bob", 2, 2); }), "EINVAL");
    expect_owner("bob", kBob.uid, kBob.gid);
}

TEST_F(UserNamespace, ItsRootIsNotRootOfTheFilesystem) {
    make_file("file");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as_its_root([] { return mknod("device", S_IFCHR | 0600, 0x103); }), "EPERM");
    EXPECT_EQ(as_its_root([] { return setxattr("file", "trusted.a", "v", 1, 0); }), "EPERM");
    EXPECT_EQ(as_its_root([] { return setxattr("file", "user.a", "v", 1, 0); }), "ok");
}

TEST_F(UserNamespace, AccessListsNameWhoItIsOutside) {
    make_file("file", "content", 0600);
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kBob, [] { return open("file", O_RDONLY); }), "EACCES");
    // linux/posix_acl_xattr.h; user 1 may read.
    EXPECT_EQ(as_its_root([] {
                  std::string list("\2\0\0\0", 4);
                  for (const auto& [tag, bits, id] : {std::tuple('\1', '\6', -1),
                                                      {'\2', '\4', 1},
                                                      {'\4', '\0', -1},
                                                      {'\20', '\4', -1},
                                                      {'\40', '\0', -1}}) {
                      list += {tag, '\0', bits, '\0'};
                      list.append(reinterpret_cast<const char*>(&id), sizeof(id));
                  }
                  return setxattr("file", "system.posix_acl_access", list.data(), list.size(), 0);
              }),
              "ok");
    EXPECT_EQ(as(kBob, [] { return open("file", O_RDONLY); }), "ok");
    EXPECT_EQ(as(kBob, [] { return open("file", O_RDWR); }), "EACCES");
}

TEST_F(UserNamespace, SetIdBitsGoWithAWriteOfItsRoot) {
    // Whom the file belongs to root of the namespace has power over: CAP_FSETID is asked for in the
    // namespace of who mounted the filesystem.
    make_file("file", "content", 0644);
    ASSERT_EQ(error(chown("file", kBob.uid, kBob.gid)), "ok");
    ASSERT_EQ(error(chmod("file", 06755)), "ok");
    EXPECT_EQ(as_its_root([] {
                  const Descriptor file("file", O_WRONLY);
                  return pwrite(*file, "C", 1, 0);
              }),
              "ok");
    EXPECT_EQ(permissions_of("file"), 0755U);
}

}  // namespace
}  // namespace blobfs::posix
