// open(2), openat(2), creat(2), close(2): flags, and in which order errors win.

#include <sys/statvfs.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Open : public Case {};

TEST_F(Open, CreatesWithTheModeLessTheUmask) {
    umask(027);
    EXPECT_EQ(error(close(open("file", O_CREAT | O_WRONLY, 06777))), "ok");
    EXPECT_EQ(permissions_of("file"), 06750U);
    const auto status = status_of("file");
    EXPECT_EQ(status.st_nlink, 1U);
    EXPECT_EQ(status.st_size, 0);
    EXPECT_EQ(status.st_blocks, 0);
}

TEST_F(Open, AModeWithoutAnyRightDoesNotHinderTheCreator) {
    EXPECT_EQ(as(kAlice,
                 [] {
                     const int file = open("file", O_CREAT | O_RDWR, 0);
                     return file < 0 ? -1L : write(file, "x", 1);
                 }),
              "ok");
    EXPECT_EQ(content_of("file"), "x");
}

TEST_F(Open, ExclRefusesWhateverHasTheName) {
    make_file("file");
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(error(symlink("nowhere", "dangling")), "ok");
    EXPECT_EQ(error(open("file", O_CREAT | O_EXCL | O_RDWR, 0644)), "EEXIST");
    EXPECT_EQ(error(open("folder", O_CREAT | O_EXCL | O_RDWR, 0644)), "EEXIST");
    EXPECT_EQ(error(open("dangling", O_CREAT | O_EXCL | O_RDWR, 0644)), "EEXIST");
    EXPECT_FALSE(exists("nowhere"));
}

TEST_F(Open, CreatFollowsADanglingLink) {
    ASSERT_EQ(error(symlink("elsewhere", "dangling")), "ok");
    EXPECT_EQ(error(close(open("dangling", O_CREAT | O_RDWR, 0644))), "ok");
    EXPECT_TRUE(S_ISREG(status_of("elsewhere").st_mode));
}

TEST_F(Open, TruncEmptiesAndKeepsTheInode) {
    make_file("file", std::string(100'000, 'a'), 0640);
    const auto before = status_of("file");
    EXPECT_EQ(error(close(open("file", O_WRONLY | O_TRUNC))), "ok");
    const auto after = status_of("file");
    EXPECT_EQ(after.st_size, 0);
    EXPECT_EQ(after.st_ino, before.st_ino);
    EXPECT_EQ(after.st_mode, before.st_mode);
    EXPECT_EQ(after.st_blocks, 0);
}

TEST_F(Open, TruncWithCreateKeepsModeAndOwner) {
    make_file("file", "content", 0604);
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(error(close(open("file", O_CREAT | O_WRONLY | O_TRUNC, 0777))), "ok");
    EXPECT_EQ(permissions_of("file"), 0604U);
    EXPECT_EQ(status_of("file").st_uid, kAlice.uid);
    EXPECT_EQ(content_of("file"), "");
}

TEST_F(Open, TruncNeedsPermissionToWrite) {
    make_file("file", "content", 0444);
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY | O_TRUNC); }), "EACCES");
    EXPECT_EQ(content_of("file"), "content");
}

TEST_F(Open, TruncIsSeenThroughOtherDescriptors) {
    make_file("file", "content");
    const Descriptor reader("file", O_RDONLY);
    EXPECT_EQ(read_at(reader, 100, 0), "content");
    EXPECT_EQ(error(close(open("file", O_WRONLY | O_TRUNC))), "ok");
    EXPECT_EQ(read_at(reader, 100, 0), "");
    EXPECT_EQ(status_of(reader).st_size, 0);
}

TEST_F(Open, DirectoryFlagRefusesOthers) {
    make_file("file");
    EXPECT_EQ(error(open("file", O_RDONLY | O_DIRECTORY)), "ENOTDIR");
    EXPECT_EQ(error(open("missing", O_RDONLY | O_DIRECTORY)), "ENOENT");
    EXPECT_EQ(error(close(open(".", O_RDONLY | O_DIRECTORY))), "ok");
}

TEST_F(Open, DirectoriesAreNotForWriting) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    EXPECT_EQ(error(open("folder", O_WRONLY)), "EISDIR");
    EXPECT_EQ(error(open("folder", O_RDWR)), "EISDIR");
    EXPECT_EQ(error(open("folder", O_RDONLY | O_TRUNC)), "EISDIR");
    EXPECT_EQ(error(open("folder", O_RDONLY | O_CREAT, 0644)), "EISDIR");
    const Descriptor folder("folder", O_RDONLY);
    char byte = 0;
    EXPECT_EQ(error(read(*folder, &byte, 1)), "EISDIR");
}

TEST_F(Open, NofollowRefusesALink) {
    make_file("file");
    ASSERT_EQ(error(symlink("file", "link")), "ok");
    EXPECT_EQ(error(open("link", O_RDONLY | O_NOFOLLOW)), "ELOOP");
    EXPECT_EQ(error(open("link", O_RDONLY | O_NOFOLLOW | O_DIRECTORY)), "ENOTDIR");
}

TEST_F(Open, PathDescriptorsNeedNoPermissionAndDoNotRead) {
    make_file("file", "secret", 0);
    EXPECT_EQ(as(kAlice,
                 [] {
                     const int path = open("file", O_PATH);
                     struct stat status {};
                     return path < 0 ? -1L : fstat(path, &status);
                 }),
              "ok");
    const Descriptor path("file", O_PATH);
    char byte = 0;
    EXPECT_EQ(error(read(*path, &byte, 1)), "EBADF");
    EXPECT_EQ(error(fchmod(*path, 0644)), "EBADF");
    EXPECT_EQ(error(linkat(*path, "", AT_FDCWD, "linked", AT_EMPTY_PATH)), "ok");
    EXPECT_EQ(status_of("file").st_nlink, 2U);
}

TEST_F(Open, PathDescriptorOfALinkIsTheLink) {
    ASSERT_EQ(error(symlink("target", "link")), "ok");
    const Descriptor link("link", O_PATH | O_NOFOLLOW);
    std::array<char, 64> target{};
    EXPECT_EQ(readlinkat(*link, "", target.data(), target.size()), 6);
    EXPECT_STREQ(target.data(), "target");
}

TEST_F(Open, NoatimeIsForTheOwner) {
    make_file("file", "content", 0644);
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY | O_NOATIME); }), "EPERM");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY | O_NOATIME); }), "ok");
}

TEST_F(Open, ReadOnlyDescriptorsDoNotWriteAndTheOtherWay) {
    make_file("file", "content");
    const Descriptor reader("file", O_RDONLY);
    const Descriptor writer("file", O_WRONLY);
    char byte = 0;
    EXPECT_EQ(error(write(*reader, "x", 1)), "EBADF");
    EXPECT_EQ(error(read(*writer, &byte, 1)), "EBADF");
    EXPECT_EQ(error(ftruncate(*reader, 0)), "EINVAL");
    EXPECT_EQ(error(fallocate(*reader, 0, 0, 1)), "EBADF");
}

TEST_F(Open, PermissionsAreAskedForWhatIsOpened) {
    make_file("file", "content", 0440);
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY); }), "EACCES");
    ASSERT_EQ(error(chmod("file", 0404)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDONLY); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("file", O_RDWR); }), "EACCES");
}

TEST_F(Open, AComponentThatIsNoDirectoryIsNoticedBeforeTheLastName) {
    make_file("file");
    EXPECT_EQ(error(open("file/name", O_RDONLY)), "ENOTDIR");
    EXPECT_EQ(error(open("file/name", O_CREAT | O_RDWR, 0644)), "ENOTDIR");
    EXPECT_EQ(error(open("missing/name", O_CREAT | O_RDWR, 0644)), "ENOENT");
    EXPECT_EQ(error(open("", O_RDONLY)), "ENOENT");
    EXPECT_EQ(error(open("file/", O_RDONLY)), "ENOTDIR");
    EXPECT_EQ(error(open("new/", O_CREAT | O_RDWR, 0644)), "EISDIR");
}

TEST_F(Open, SearchPermissionIsAskedBeforeTheNameIsLookedFor) {
    ASSERT_EQ(error(mkdir("closed", 0700)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("closed/missing", O_RDONLY); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return open("closed/missing", O_CREAT | O_RDWR, 0644); }), "EACCES");
    ASSERT_EQ(error(chmod("closed", 0755)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("closed/missing", O_RDONLY); }), "ENOENT");
    EXPECT_EQ(as(kAlice, [] { return open("closed/missing", O_CREAT | O_RDWR, 0644); }), "EACCES");
}

TEST_F(Open, NamesHave255BytesAndPaths4095) {
    const std::string longest(255, 'n');
    make_file(longest, "content");
    EXPECT_EQ(content_of(longest), "content");
    EXPECT_EQ(error(open((longest + "n").c_str(), O_RDONLY)), "ENAMETOOLONG");
    EXPECT_EQ(error(open((longest + "n").c_str(), O_CREAT | O_RDWR, 0644)), "ENAMETOOLONG");
    std::string path;
    while (path.size() < 4095 - longest.size()) path += "./";
    path += longest;
    ASSERT_EQ(path.size(), 4095U);
    EXPECT_EQ(content_of(path), "content");
    EXPECT_EQ(error(open(("./" + path).c_str(), O_RDONLY)), "ENAMETOOLONG");
}

TEST_F(Open, NamesAreBytes) {
    std::vector<std::string> names;
    for (int byte = 1; byte < 256; ++byte) {
        if (byte == '/' || byte == '.') continue;
        names.push_back(std::string(1, static_cast<char>(byte)) + '\xff');
        make_file(names.back());
    }
    names.emplace_back("a\xcc\x81");  // two spellings of one letter stay two names
    make_file(names.back());
    names.emplace_back("\xc3\xa1");
    make_file(names.back());
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names_in("."), names);
}

TEST_F(Open, NamesOfOtherCaseAreOtherNames) {
    make_file("file", "small");
    make_file("FILE", "large");
    EXPECT_EQ(content_of("file"), "small");
    EXPECT_EQ(content_of("FILE"), "large");
}

TEST_F(Open, AppendedWritesOfManyDoNotMix) {
    constexpr int kWriters = 4;
    constexpr int kRecords = 200;
    constexpr std::size_t kRecordBytes = 100;
    make_file("file");
    std::vector<pid_t> children;
    for (int writer = 0; writer < kWriters; ++writer) {
        const pid_t child = fork();
        if (child == 0) {
            const Descriptor file("file", O_WRONLY | O_APPEND);
            const std::string record(kRecordBytes, static_cast<char>('a' + writer));
            for (int i = 0; i < kRecords; ++i) {
                if (write(*file, record.data(), record.size()) !=
                    static_cast<ssize_t>(record.size())) {
                    _exit(1);
                }
            }
            _exit(0);
        }
        children.push_back(child);
    }
    for (const pid_t child : children) {
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT_EQ(status, 0);
    }
    const std::string content = content_of("file");
    ASSERT_EQ(content.size(), kRecordBytes * kWriters * kRecords);
    for (std::size_t at = 0; at < content.size(); at += kRecordBytes) {
        EXPECT_EQ(content.substr(at, kRecordBytes), std::string(kRecordBytes, content[at]));
    }
}

TEST_F(Open, AppendWritesAtTheEndWhereverTheOffsetIs) {
    make_file("file", "0123456789");
    const Descriptor file("file", O_RDWR | O_APPEND);
    EXPECT_EQ(lseek(*file, 3, SEEK_SET), 3);
    EXPECT_EQ(write(*file, "AB", 2), 2);
    EXPECT_EQ(lseek(*file, 0, SEEK_CUR), 12);
    EXPECT_EQ(pwrite(*file, "CD", 2, 0), 2);  // Linux appends here too (pwrite(2), BUGS)
    EXPECT_EQ(content_of("file"), "0123456789ABCD");
}

TEST_F(Open, UnlinkedFilesLiveUntilTheLastClose) {
    make_file("file", "content");
    Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(unlink("file")), "ok");
    EXPECT_EQ(status_of(file).st_nlink, 0U);
    EXPECT_EQ(read_at(file, 100, 0), "content");
    EXPECT_EQ(pwrite(*file, "more", 4, 7), 4);
    EXPECT_EQ(error(ftruncate(*file, 9)), "ok");
    EXPECT_EQ(error(fchmod(*file, 0600)), "ok");
    EXPECT_EQ(read_at(file, 100, 0), "contentmo");
    make_file("file", "another");
    EXPECT_EQ(read_at(file, 100, 0), "contentmo");
}

// O_TMPFILE. --------------------------------------------------------------------------------------

class Tmpfile : public Case {
  protected:
    static std::string path_of(const Descriptor& file) {
        return "/proc/self/fd/" + std::to_string(*file);
    }
};

TEST_F(Tmpfile, HasNoNameUntilItIsLinked) {
    const Descriptor file(".", O_TMPFILE | O_RDWR, 0640);
    ASSERT_TRUE(file.open()) << std::strerror(errno);
    EXPECT_EQ(status_of(file).st_nlink, 0U);
    EXPECT_EQ(status_of(file).st_mode, S_IFREG | 0640U);
    EXPECT_TRUE(names_in(".").empty());
    ASSERT_EQ(write(*file, "content", 7), 7);
    ASSERT_EQ(error(linkat(AT_FDCWD, path_of(file).c_str(), AT_FDCWD, "name", AT_SYMLINK_FOLLOW)),
              "ok");
    EXPECT_EQ(content_of("name"), "content");
    EXPECT_EQ(status_of(file).st_nlink, 1U);
    EXPECT_EQ(status_of("name").st_ino, status_of(file).st_ino);
}

TEST_F(Tmpfile, LinkDoesNotReplace) {
    make_file("name", "first");
    const Descriptor file(".", O_TMPFILE | O_RDWR, 0640);
    EXPECT_EQ(error(linkat(AT_FDCWD, path_of(file).c_str(), AT_FDCWD, "name", AT_SYMLINK_FOLLOW)),
              "EEXIST");
    EXPECT_EQ(content_of("name"), "first");
}

TEST_F(Tmpfile, WithExclItNeverGetsAName) {
    const Descriptor file(".", O_TMPFILE | O_EXCL | O_RDWR, 0640);
    ASSERT_TRUE(file.open());
    EXPECT_EQ(error(linkat(AT_FDCWD, path_of(file).c_str(), AT_FDCWD, "name", AT_SYMLINK_FOLLOW)),
              "ENOENT");
}

TEST_F(Tmpfile, NeedsToWrite) { EXPECT_EQ(error(open(".", O_TMPFILE | O_RDONLY, 0640)), "EINVAL"); }

TEST_F(Tmpfile, NeedsADirectoryThatMayBeWritten) {
    make_file("file");
    ASSERT_EQ(error(mkdir("closed", 0755)), "ok");
    EXPECT_EQ(error(open("file", O_TMPFILE | O_RDWR, 0640)), "ENOTDIR");
    EXPECT_EQ(error(open("missing", O_TMPFILE | O_RDWR, 0640)), "ENOENT");
    EXPECT_EQ(as(kAlice, [] { return open("closed", O_TMPFILE | O_RDWR, 0640); }), "EACCES");
}

TEST_F(Tmpfile, TakesItsSpaceAlong) {
    struct statvfs before {
    }, after{};
    ASSERT_EQ(error(statvfs(".", &before)), "ok");
    {
        const Descriptor file(".", O_TMPFILE | O_RDWR, 0640);
        const std::string content(8'000'000, 'x');
        ASSERT_EQ(write(*file, content.data(), content.size()),
                  static_cast<ssize_t>(content.size()));
        ASSERT_EQ(error(fsync(*file)), "ok");
    }
    // Deleting may be done a moment later.
    for (int i = 0; i < 400; ++i) {
        ASSERT_EQ(error(statvfs(".", &after)), "ok");
        if (after.f_bfree + 500 >= before.f_bfree) break;
        let_time_pass();
    }
    EXPECT_GE(after.f_bfree + 500, before.f_bfree);
}

}  // namespace
}  // namespace blobfs::posix
