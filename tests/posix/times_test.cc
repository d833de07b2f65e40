// Which operation changes which times: one table. And what utimensat(2) and statx(2) promise.

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

bool later(const timespec& a, const timespec& b) {
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

std::string text(const timespec& time) {
    return std::to_string(time.tv_sec) + "." + std::to_string(time.tv_nsec);
}

// Which times moved on, as letters: a(ccess), m(odification), c(hange). Small letters in capitals
// when one went back.
std::string moved(const struct stat& before, const struct stat& after) {
    std::string letters;
    const auto compare = [&](char letter, const timespec& a, const timespec& b) {
        if (later(b, a)) letters += letter;
        if (later(a, b)) letters += static_cast<char>(letter - 'a' + 'A');
    };
    compare('a', before.st_atim, after.st_atim);
    compare('m', before.st_mtim, after.st_mtim);
    compare('c', before.st_ctim, after.st_ctim);
    return letters;
}

struct Change {
    const char* path;   // looked at before, and after (or where it is then)
    const char* after;  // nullptr: the same path
    const char* times;
};

struct Operation {
    const char* name;
    std::function<long()> run;
    std::vector<Change> changes;
};

long with_file(int flags, const std::function<long(int)>& use) {
    const Descriptor file("folder/file", flags);
    return file.open() ? use(*file) : -1L;
}

char byte = 0;

// The directory has: file (10 bytes, mode 0644), other (a file), sub (empty directory), link.
const std::vector<Operation>& operations() {
    static const std::vector<Operation> kOperations = {
        {"stat",
         [] {
             struct stat status {};
             return lstat("folder/file", &status);
         },
         {{"folder/file", nullptr, ""}, {"folder", nullptr, ""}}},
        {"open",
         [] { return with_file(O_RDWR, [](int) { return 0; }); },
         {{"folder/file", nullptr, ""}, {"folder", nullptr, ""}}},
        {"open O_CREAT of what exists",
         [] { return with_file(O_RDWR | O_CREAT, [](int) { return 0; }); },
         {{"folder/file", nullptr, ""}, {"folder", nullptr, ""}}},
        {"open O_CREAT",
         [] { return close(open("folder/new", O_CREAT | O_RDWR, 0644)); },
         {{"folder", nullptr, "mc"}}},
        {"open O_TRUNC",
         [] { return with_file(O_RDWR | O_TRUNC, [](int) { return 0; }); },
         {{"folder/file", nullptr, "mc"}, {"folder", nullptr, ""}}},
        {"O_TMPFILE",
         [] { return close(open("folder", O_TMPFILE | O_RDWR, 0644)); },
         {{"folder", nullptr, ""}}},
        {"write",
         [] { return with_file(O_WRONLY, [](int file) { return write(file, "x", 1); }); },
         {{"folder/file", nullptr, "mc"}, {"folder", nullptr, ""}}},
        {"write of nothing",
         [] { return with_file(O_RDWR, [](int file) { return write(file, "x", 0); }); },
         {{"folder/file", nullptr, ""}}},
        {"appending",
         [] {
             return with_file(O_WRONLY | O_APPEND, [](int file) { return write(file, "x", 1); });
         },
         {{"folder/file", nullptr, "mc"}}},
        {"read",
         [] { return with_file(O_RDWR, [](int file) { return read(file, &byte, 1); }); },
         {{"folder/file", nullptr, "a"}, {"folder", nullptr, ""}}},
        {"read with O_NOATIME",
         [] {
             return with_file(O_RDWR | O_NOATIME, [](int file) { return read(file, &byte, 1); });
         },
         {{"folder/file", nullptr, ""}}},
        {"truncate down",
         [] { return truncate("folder/file", 3); },
         {{"folder/file", nullptr, "mc"}, {"folder", nullptr, ""}}},
        {"truncate up",
         [] { return truncate("folder/file", 30); },
         {{"folder/file", nullptr, "mc"}}},
        {"ftruncate to the same size",
         [] { return with_file(O_RDWR, [](int file) { return ftruncate(file, 10); }); },
         {{"folder/file", nullptr, "mc"}}},
        {"fallocate",
         [] { return with_file(O_RDWR, [](int file) { return fallocate(file, 0, 0, 100'000); }); },
         {{"folder/file", nullptr, "mc"}}},
        {"punching a hole",
         [] {
             return with_file(O_RDWR, [](int file) {
                 return fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 5);
             });
         },
         {{"folder/file", nullptr, "mc"}}},
        {"zeroing",
         [] {
             return with_file(O_RDWR,
                              [](int file) { return fallocate(file, FALLOC_FL_ZERO_RANGE, 0, 5); });
         },
         {{"folder/file", nullptr, "mc"}}},
        {"copy_file_range",
         [] {
             return with_file(O_RDWR, [](int file) {
                 const Descriptor other("folder/other", O_WRONLY);
                 return copy_file_range(file, nullptr, *other, nullptr, 10, 0);
             });
         },
         {{"folder/file", nullptr, "a"}, {"folder/other", nullptr, "mc"}}},
        {"chmod",
         [] { return chmod("folder/file", 0600); },
         {{"folder/file", nullptr, "c"}, {"folder", nullptr, ""}}},
        {"chmod to the same",
         [] { return chmod("folder/file", 0644); },
         {{"folder/file", nullptr, "c"}}},
        {"chown",
         [] { return chown("folder/file", 5, 5); },
         {{"folder/file", nullptr, "c"}, {"folder", nullptr, ""}}},
        {"link",
         [] { return link("folder/file", "folder/new"); },
         {{"folder/file", nullptr, "c"}, {"folder", nullptr, "mc"}}},
        {"unlink of one name",
         [] {
             if (link("folder/file", "second") != 0) return -1;
             let_time_pass();
             return unlink("folder/file");
         },
         {{"folder/file", "second", "c"}, {"folder", nullptr, "mc"}}},
        {"rename",
         [] { return rename("folder/file", "folder/new"); },
         {{"folder/file", "folder/new", "c"}, {"folder", nullptr, "mc"}}},
        {"rename between directories",
         [] { return rename("folder/file", "folder/sub/new"); },
         {{"folder/file", "folder/sub/new", "c"},
          {"folder", nullptr, "mc"},
          {"folder/sub", nullptr, "mc"}}},
        {"rename of a directory",
         [] { return rename("folder/sub", "folder/new"); },
         {{"folder/sub", "folder/new", "c"}, {"folder", nullptr, "mc"}}},
        {"rename over a name",
         [] {
             if (link("folder/other", "other") != 0) return -1;
             let_time_pass();
             return rename("folder/file", "folder/other");
         },
         {{"folder/file", "folder/other", "c"},
          {"folder/other", "other", "c"},
          {"folder", nullptr, "mc"}}},
        {"mkdir", [] { return mkdir("folder/new", 0755); }, {{"folder", nullptr, "mc"}}},
        {"rmdir", [] { return rmdir("folder/sub"); }, {{"folder", nullptr, "mc"}}},
        {"symlink", [] { return symlink("x", "folder/new"); }, {{"folder", nullptr, "mc"}}},
        {"mknod",
         [] { return mknod("folder/new", S_IFIFO | 0644, 0); },
         {{"folder", nullptr, "mc"}}},
        {"readlink",
         [] {
             std::array<char, 16> target{};
             return readlink("folder/link", target.data(), target.size());
         },
         {{"folder/link", nullptr, "a"}, {"folder", nullptr, ""}}},
        {"readdir",
         [] { return names_in("folder").empty() ? -1L : 0L; },
         {{"folder", nullptr, "a"}}},
        {"setxattr",
         [] { return setxattr("folder/file", "user.a", "v", 1, 0); },
         {{"folder/file", nullptr, "c"}, {"folder", nullptr, ""}}},
        {"getxattr",
         [] {
             getxattr("folder/file", "user.a", &byte, 1);
             return 0;
         },
         {{"folder/file", nullptr, ""}}},
        {"utimensat",
         [] { return utimensat(AT_FDCWD, "folder/file", nullptr, 0); },
         {{"folder/file", nullptr, "amc"}, {"folder", nullptr, ""}}},
        {"mmap and write",
         [] {
             return with_file(O_RDWR | O_NOATIME, [](int file) -> long {
                 void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
                 if (at == MAP_FAILED) return -1;
                 *static_cast<volatile char*>(at) = 'x';
                 const int result = msync(at, 4096, MS_SYNC);
                 munmap(at, 4096);
                 return result;
             });
         },
         {{"folder/file", nullptr, "mc"}}},
        {"a failed rename",
         [] {
             rename("folder/missing", "folder/file");
             return 0;
         },
         {{"folder/file", nullptr, ""}, {"folder", nullptr, ""}}},
        {"a failed chown",
         [] {
             as(kBob, [] { return chown("folder/file", 7, 7); });
             return 0;
         },
         {{"folder/file", nullptr, ""}}},
    };
    return kOperations;
}

class Times : public Case {
  protected:
    static void prepare() {
        ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
        make_file("folder/file", "0123456789");
        make_file("folder/other", "other");
        ASSERT_EQ(error(mkdir("folder/sub", 0755)), "ok");
        ASSERT_EQ(error(symlink("target", "folder/link")), "ok");
        // The kernel answers reads from its cache without telling FUSE, so that the access time
        // stays: README.md of fs/fuse, "Known limits".
        forget_cached(Descriptor("folder/file", O_RDONLY));
        // All access times lie before, so that relatime moves them with the next access.
        const std::array<timespec, 2> times{timespec{.tv_sec = 1'000'000, .tv_nsec = 0},
                                            timespec{.tv_sec = 2'000'000, .tv_nsec = 0}};
        for (const char* path :
             {"folder/file", "folder/other", "folder/link", "folder/sub", "folder"}) {
            ASSERT_EQ(error(utimensat(AT_FDCWD, path, times.data(), AT_SYMLINK_NOFOLLOW)), "ok");
        }
        let_time_pass();
    }
    static void take_down() {
        for (const char* path : {"folder/sub/new", "folder/file", "folder/other", "folder/link",
                                 "folder/new", "second", "other"}) {
            if (unlink(path) != 0) rmdir(path);
        }
        rmdir("folder/sub");
        ASSERT_EQ(error(rmdir("folder")), "ok");
    }
};

TEST_F(Times, EveryOperationMovesThoseOfTheManualPagesAndNoOthers) {
    for (const Operation& operation : operations()) {
        SCOPED_TRACE(operation.name);
        prepare();
        if (HasFatalFailure()) return;
        std::vector<struct stat> before;
        before.reserve(operation.changes.size());
        for (const Change& change : operation.changes) before.push_back(status_of(change.path));
        EXPECT_EQ(error(operation.run()), "ok");
        for (std::size_t i = 0; i < operation.changes.size(); ++i) {
            const Change& change = operation.changes[i];
            const char* path = change.after != nullptr ? change.after : change.path;
            EXPECT_EQ(moved(before[i], status_of(path)), change.times) << path;
        }
        take_down();
        if (HasFatalFailure()) return;
    }
}

TEST_F(Times, TruncateToTheSameSizeMovesNone) {
    UNLESS_ON("ext4", "moves them, XFS and the manual page do not");
    make_file("file", "0123456789");
    const auto before = status_of("file");
    let_time_pass();
    ASSERT_EQ(error(truncate("file", 10)), "ok");
    EXPECT_EQ(moved(before, status_of("file")), "");
    ASSERT_EQ(error(truncate("file", 11)), "ok");
    EXPECT_EQ(moved(before, status_of("file")), "mc");
}

TEST_F(Times, OfANewFileAreOneMomentWithinItsBirth) {
    let_time_pass();
    timespec before{}, after{};
    clock_gettime(CLOCK_REALTIME_COARSE, &before);
    make_file("file");
    clock_gettime(CLOCK_REALTIME, &after);
    const auto status = status_of("file");
    EXPECT_EQ(text(status.st_atim), text(status.st_mtim));
    EXPECT_FALSE(later(before, status.st_mtim));
    EXPECT_FALSE(later(status.st_mtim, after));
}

TEST_F(Times, OfBirthStaysWhatItIs) {
    make_file("file", "content");
    struct statx first {
    }, second{};
    ASSERT_EQ(error(statx(AT_FDCWD, "file", 0, STATX_BTIME | STATX_MTIME, &first)), "ok");
    if ((first.stx_mask & STATX_BTIME) == 0) GTEST_SKIP() << "this kernel does not ask FUSE for it";
    let_time_pass();
    ASSERT_EQ(error(truncate("file", 1)), "ok");
    ASSERT_EQ(error(rename("file", "renamed")), "ok");
    ASSERT_EQ(error(statx(AT_FDCWD, "renamed", 0, STATX_BTIME, &second)), "ok");
    EXPECT_EQ(first.stx_btime.tv_sec, second.stx_btime.tv_sec);
    EXPECT_EQ(first.stx_btime.tv_nsec, second.stx_btime.tv_nsec);
    EXPECT_NE(first.stx_btime.tv_sec, 0);
}

TEST_F(Times, UtimensatIsExactToTheNanosecond) {
    make_file("file");
    const std::array<timespec, 2> times{timespec{.tv_sec = 1'234'567'890, .tv_nsec = 1},
                                        timespec{.tv_sec = 987'654'321, .tv_nsec = 999'999'999}};
    ASSERT_EQ(error(utimensat(AT_FDCWD, "file", times.data(), 0)), "ok");
    EXPECT_EQ(text(status_of("file").st_atim), "1234567890.1");
    EXPECT_EQ(text(status_of("file").st_mtim), "987654321.999999999");
}

TEST_F(Times, UtimeOmitAndUtimeNow) {
    make_file("file");
    const std::array<timespec, 2> both{timespec{.tv_sec = 100, .tv_nsec = 0},
                                       timespec{.tv_sec = 200, .tv_nsec = 0}};
    ASSERT_EQ(error(utimensat(AT_FDCWD, "file", both.data(), 0)), "ok");
    const std::array<timespec, 2> one{timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                                      timespec{.tv_sec = 300, .tv_nsec = 0}};
    ASSERT_EQ(error(utimensat(AT_FDCWD, "file", one.data(), 0)), "ok");
    EXPECT_EQ(text(status_of("file").st_atim), "100.0");
    EXPECT_EQ(text(status_of("file").st_mtim), "300.0");
    const std::array<timespec, 2> now{timespec{.tv_sec = 0, .tv_nsec = UTIME_NOW},
                                      timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}};
    ASSERT_EQ(error(utimensat(AT_FDCWD, "file", now.data(), 0)), "ok");
    EXPECT_GT(status_of("file").st_atim.tv_sec, 1'000'000'000);
    EXPECT_EQ(text(status_of("file").st_mtim), "300.0");
    const auto before = status_of("file");
    let_time_pass();
    const std::array<timespec, 2> none{timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                                       timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}};
    ASSERT_EQ(error(utimensat(AT_FDCWD, "file", none.data(), 0)), "ok");
    EXPECT_EQ(moved(before, status_of("file")), "");
}

TEST_F(Times, UtimensatRefusesWhatIsNoTime) {
    make_file("file");
    const std::array<timespec, 2> times{timespec{.tv_sec = 0, .tv_nsec = 1'000'000'000},
                                        timespec{.tv_sec = 0, .tv_nsec = 0}};
    EXPECT_EQ(error(utimensat(AT_FDCWD, "file", times.data(), 0)), "EINVAL");
}

TEST_F(Times, ToNowNeedsTheRightToWriteToOthersTheFileItself) {
    make_file("file", "", 0666);
    const std::array<timespec, 2> times{timespec{.tv_sec = 1, .tv_nsec = 0},
                                        timespec{.tv_sec = 1, .tv_nsec = 0}};
    EXPECT_EQ(as(kAlice, [] { return utimensat(AT_FDCWD, "file", nullptr, 0); }), "ok");
    EXPECT_EQ(as(kAlice, [&] { return utimensat(AT_FDCWD, "file", times.data(), 0); }), "EPERM");
    ASSERT_EQ(error(chmod("file", 0644)), "ok");
    EXPECT_EQ(as(kAlice, [] { return utimensat(AT_FDCWD, "file", nullptr, 0); }), "EACCES");
    ASSERT_EQ(error(chown("file", kAlice.uid, kAlice.gid)), "ok");
    EXPECT_EQ(as(kAlice, [&] { return utimensat(AT_FDCWD, "file", times.data(), 0); }), "ok");
}

TEST_F(Times, OfALinkAreItsOwn) {
    make_file("file");
    ASSERT_EQ(error(symlink("file", "link")), "ok");
    const auto before = status_of("file");
    const std::array<timespec, 2> times{timespec{.tv_sec = 10, .tv_nsec = 11},
                                        timespec{.tv_sec = 12, .tv_nsec = 13}};
    ASSERT_EQ(error(utimensat(AT_FDCWD, "link", times.data(), AT_SYMLINK_NOFOLLOW)), "ok");
    EXPECT_EQ(text(status_of("link").st_mtim), "12.13");
    EXPECT_EQ(moved(before, status_of("file")), "");
}

TEST_F(Times, From1901ToBeyond2446) {
    make_file("file");
    // ext4 ends in 2446, XFS in 2486.
    std::vector<std::int64_t> seconds = {
        -2'147'483'647, -1, 0, 2'147'483'647, 2'147'483'648, 4'294'967'296, 15'032'385'534};
    if (on("blobfs")) {
        for (const std::int64_t more : {15'032'385'536, 32'503'680'000, 253'402'300'799}) {
            seconds.push_back(more);
        }
    }
    for (const std::int64_t second : seconds) {
        const std::array<timespec, 2> times{timespec{.tv_sec = second, .tv_nsec = 5},
                                            timespec{.tv_sec = second, .tv_nsec = 999'999'999}};
        ASSERT_EQ(error(utimensat(AT_FDCWD, "file", times.data(), 0)), "ok");
        EXPECT_EQ(text(status_of("file").st_atim), std::to_string(second) + ".5");
        EXPECT_EQ(text(status_of("file").st_mtim), std::to_string(second) + ".999999999");
    }
}

TEST_F(Times, RelatimeMovesOncePerModification) {
    make_file("file", "content");
    const Descriptor file("file", O_RDWR);
    const auto read_anew = [&] {
        forget_cached(file);
        let_time_pass();
        return read_at(file, 100, 0);
    };
    EXPECT_EQ(read_anew(), "content");
    const auto first = status_of("file");
    EXPECT_EQ(read_anew(), "content");
    EXPECT_EQ(moved(first, status_of("file")), "");
    ASSERT_EQ(pwrite(*file, "C", 1, 0), 1);
    const auto written = status_of("file");
    EXPECT_EQ(read_anew(), "Content");
    EXPECT_EQ(moved(written, status_of("file")), "a");
}

TEST_F(Times, WhatUtimensatSetStaysWhenCachedDataIsWrittenOut) {
    // tar and cp -p set the times while the data is still in the kernel's cache.
    Descriptor file("file", O_CREAT | O_RDWR);
    ASSERT_EQ(write(*file, "content", 7), 7);
    const std::array<timespec, 2> times{timespec{.tv_sec = 100, .tv_nsec = 1},
                                        timespec{.tv_sec = 200, .tv_nsec = 2}};
    ASSERT_EQ(error(futimens(*file, times.data())), "ok");
    ASSERT_EQ(error(fsync(*file)), "ok");
    EXPECT_EQ(text(status_of("file").st_mtim), "200.2");
    file.close();
    EXPECT_EQ(text(status_of("file").st_mtim), "200.2");
}

TEST_F(Times, ChownToNobodyNewChangesNothingThatIsSeen) {
    make_file("file", "", 0644);
    const auto before = status_of("file");
    ASSERT_EQ(error(chown("file", static_cast<uid_t>(-1), static_cast<gid_t>(-1))), "ok");
    EXPECT_EQ(status_of("file").st_mode, before.st_mode);
    EXPECT_EQ(status_of("file").st_uid, before.st_uid);
}

}  // namespace
}  // namespace blobfs::posix
