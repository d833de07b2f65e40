// read(2), write(2), truncate(2), lseek(2), copy_file_range(2), fallocate(2), O_DIRECT, O_SYNC.

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Data : public Case {};
class Truncate : public Case {};
class Seek : public Case {};
class Allocate : public Case {};
class CopyRange : public Case {};
class Direct : public Case {};

constexpr off_t kLargest = INT64_MAX;
constexpr off_t kKib = 1024;
constexpr off_t kMib = 1024 * 1024;

std::string pattern(std::size_t bytes, unsigned seed) {
    std::string content(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i) {
        content[i] = static_cast<char>(1 + (i * 7 + i / 251 + seed) % 250);
    }
    return content;
}

long write_all(const Descriptor& file, std::string_view content, off_t offset) {
    return pwrite(*file, content.data(), content.size(), offset);
}

TEST_F(Data, WhatIsWrittenIsReadAtEveryAlignment) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    std::string expected;
    unsigned seed = 0;
    for (const std::size_t offset : {0UL, 1UL, 511UL, 4'095UL, 4'097UL, 65'535UL, 1'000'003UL}) {
        for (const std::size_t bytes : {1UL, 4'096UL, 4'097UL, 100'000UL}) {
            const std::string content = pattern(bytes, ++seed);
            ASSERT_EQ(write_all(file, content, static_cast<off_t>(offset)),
                      static_cast<long>(bytes));
            if (expected.size() < offset + bytes) expected.resize(offset + bytes);
            expected.replace(offset, bytes, content);
        }
    }
    EXPECT_EQ(content_of("file"), expected);
    forget_cached(file);
    EXPECT_EQ(content_of("file"), expected);
}

TEST_F(Data, ReadingStopsAtTheEnd) {
    make_file("file", "content");
    const Descriptor file("file", O_RDONLY);
    EXPECT_EQ(read_at(file, 100, 3), "tent");
    EXPECT_EQ(read_at(file, 100, 7), "");
    EXPECT_EQ(read_at(file, 100, 1'000'000), "");
    EXPECT_EQ(read_at(file, 100, kLargest - 100), "");
}

TEST_F(Data, OffsetsThatAreNone) {
    make_file("file", "content");
    const Descriptor file("file", O_RDWR);
    char byte = 0;
    EXPECT_EQ(error(pread(*file, &byte, 1, -1)), "EINVAL");
    EXPECT_EQ(error(pwrite(*file, &byte, 1, -1)), "EINVAL");
    EXPECT_EQ(error(lseek(*file, -1, SEEK_SET)), "EINVAL");
    EXPECT_EQ(error(lseek(*file, -100, SEEK_END)), "EINVAL");
    EXPECT_EQ(error(lseek(*file, 0, 77)), "EINVAL");
    EXPECT_EQ(lseek(*file, -1, SEEK_END), 6);
}

TEST_F(Data, VectorsAreOneWrite) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    std::string a = "one ", b = "two ", c = "three";
    const std::array<iovec, 3> parts{iovec{a.data(), a.size()}, iovec{b.data(), b.size()},
                                     iovec{c.data(), c.size()}};
    EXPECT_EQ(pwritev(*file, parts.data(), 3, 2), 13);
    EXPECT_EQ(content_of("file"), std::string(2, '\0') + "one two three");
}

TEST_F(Data, ABufferThatIsNoMemory) {
    make_file("file", "content");
    const Descriptor file("file", O_RDWR);
    void* nowhere = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_EQ(error(pread(*file, nowhere, 10, 0)), "EFAULT");
    EXPECT_EQ(error(pwrite(*file, nowhere, 10, 0)), "EFAULT");
    munmap(nowhere, 4096);
    EXPECT_EQ(content_of("file"), "content");
}

TEST_F(Data, TheLimitOfTheProcessIsKept) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    EXPECT_EQ(in_child([&]() -> long {
                  const rlimit limit{.rlim_cur = 1'000, .rlim_max = 1'000};
                  signal(SIGXFSZ, SIG_IGN);
                  setrlimit(RLIMIT_FSIZE, &limit);
                  if (write_all(file, std::string(900, 'x'), 200) != 800) return -1;
                  if (write_all(file, "x", 1'000) != -1 || errno != EFBIG) return 0;
                  return ftruncate(*file, 2'000);
              }),
              "EFBIG");
    EXPECT_EQ(status_of(file).st_size, 1'000);
}

TEST_F(Data, LargestOffsets) {
    UNLESS_ON("ext4", "its files end at 16 TiB");
    const Descriptor file("file", O_CREAT | O_RDWR);
    EXPECT_EQ(write_all(file, "end", kLargest - 3), 3);
    EXPECT_EQ(status_of(file).st_size, kLargest);
    EXPECT_EQ(read_at(file, 5, kLargest - 5), std::string(2, '\0') + "end");
    forget_cached(file);
    EXPECT_EQ(read_at(file, 5, kLargest - 5), std::string(2, '\0') + "end");
    EXPECT_LE(status_of(file).st_blocks, 64);
    EXPECT_EQ(error(write_all(file, "xx", kLargest - 1)), "EINVAL");
    EXPECT_EQ(error(ftruncate(*file, 0)), "ok");
    EXPECT_EQ(error(ftruncate(*file, kLargest)), "ok");
    EXPECT_EQ(status_of(file).st_size, kLargest);
    EXPECT_EQ(lseek(*file, 0, SEEK_END), kLargest);
}

TEST_F(Data, SyncWritesAndTheirFriendsSucceed) {
    const Descriptor synced("file", O_CREAT | O_RDWR | O_SYNC);
    EXPECT_EQ(write_all(synced, "one", 0), 3);
    const Descriptor data_synced("file", O_RDWR | O_DSYNC);
    EXPECT_EQ(write_all(data_synced, "two", 3), 3);
    EXPECT_EQ(error(fsync(*synced)), "ok");
    EXPECT_EQ(error(fdatasync(*synced)), "ok");
    EXPECT_EQ(error(sync_file_range(*synced, 0, 6,
                                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                        SYNC_FILE_RANGE_WAIT_AFTER)),
              "ok");
    EXPECT_EQ(error(syncfs(*synced)), "ok");
    const Descriptor folder(".", O_RDONLY | O_DIRECTORY);
    EXPECT_EQ(error(fsync(*folder)), "ok");
    EXPECT_EQ(error(fsync(*Descriptor("file", O_RDONLY))), "ok");
    const iovec part{const_cast<char*>("three"), 5};
    EXPECT_EQ(pwritev2(*synced, &part, 1, 6, RWF_DSYNC), 5);
    EXPECT_EQ(pwritev2(*synced, &part, 1, 0, RWF_APPEND), 5);
    EXPECT_EQ(content_of("file"), "onetwothreethree");
}

TEST_F(Data, SpliceAndSendfile) {
    make_file("from", pattern(200'000, 1));
    const Descriptor from("from", O_RDONLY), to("to", O_CREAT | O_RDWR);
    off_t offset = 1'000;
    ssize_t sent = 0;
    while (sent < 199'000) {
        const ssize_t bytes = sendfile(*to, *from, &offset, 199'000 - static_cast<size_t>(sent));
        ASSERT_GT(bytes, 0);
        sent += bytes;
    }
    EXPECT_EQ(content_of("to"), pattern(200'000, 1).substr(1'000));
}

// Truncation. -------------------------------------------------------------------------------------

TEST_F(Truncate, CutsAndWhatComesBackIsZero) {
    for (const off_t size : {0L, 1L, 100L, 4'095L, 4'096L, 4'097L, 70'000L}) {
        make_file("file", pattern(100'000, 1));
        ASSERT_EQ(error(truncate("file", size)), "ok");
        EXPECT_EQ(status_of("file").st_size, size);
        ASSERT_EQ(error(truncate("file", 100'000)), "ok");
        std::string expected = pattern(100'000, 1).substr(0, static_cast<std::size_t>(size));
        expected.resize(100'000);
        EXPECT_EQ(content_of("file"), expected) << size;
        forget_cached(Descriptor("file", O_RDWR));
        EXPECT_EQ(content_of("file"), expected) << size;
        ASSERT_EQ(error(unlink("file")), "ok");
    }
}

TEST_F(Truncate, ErrorsInTheirOrder) {
    make_file("file", "content", 0444);
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(error(mkfifo("pipe", 0644)), "ok");
    EXPECT_EQ(error(truncate("file", -1)), "EINVAL");
    EXPECT_EQ(error(truncate("folder", 0)), "EISDIR");
    EXPECT_EQ(error(truncate("pipe", 0)), "EINVAL");
    EXPECT_EQ(error(truncate("missing", 0)), "ENOENT");
    EXPECT_EQ(error(truncate("file/x", 0)), "ENOTDIR");
    EXPECT_EQ(as(kAlice, [] { return truncate("file", 0); }), "EACCES");
    EXPECT_EQ(content_of("file"), "content");
}

TEST_F(Truncate, OfADescriptorDoesNotAskForPermissionAgain) {
    make_file("file", "content", 0666);
    EXPECT_EQ(as(kAlice,
                 [] {
                     const Descriptor file("file", O_RDWR);
                     if (!file.open() || in_child([] { return chmod("file", 0); }) == "ok")
                         return -1;
                     return ftruncate(*file, 3);
                 }),
              "ok");
    EXPECT_EQ(content_of("file"), "con");
}

TEST_F(Truncate, UpTakesNoSpace) {
    make_file("file");
    ASSERT_EQ(error(truncate("file", 1'000 * kMib)), "ok");
    EXPECT_EQ(status_of("file").st_blocks, 0);
    const Descriptor file("file", O_RDWR);
    EXPECT_EQ(read_at(file, 10, 999 * kMib), std::string(10, '\0'));
}

TEST_F(Data, SpaceOfAnOpenFileIsShownOnceItIsWritten) {
    // du and cp look at files that others have open and whose attributes were asked for before.
    const Descriptor file("file", O_CREAT | O_RDWR);
    for (int i = 0; i < 5; ++i) {
        ASSERT_EQ(write_all(file, pattern(100 * kKib, 1), i * 100 * kKib), 100 * kKib);
        ASSERT_EQ(error(fsync(*file)), "ok");
        EXPECT_GE(status_of("file").st_blocks * 512, (i + 1) * 100 * kKib);
    }
}

TEST_F(Truncate, GivesSpaceBack) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    ASSERT_EQ(write_all(file, pattern(1'000'000, 1), 0), 1'000'000);
    ASSERT_EQ(error(fsync(*file)), "ok");
    EXPECT_GE(status_of(file).st_blocks * 512, 1'000'000);
    ASSERT_EQ(error(ftruncate(*file, 100'000)), "ok");
    EXPECT_LE(status_of(file).st_blocks * 512, 200'000);
    EXPECT_GE(status_of(file).st_blocks * 512, 100'000);
}

// Holes. ------------------------------------------------------------------------------------------

TEST_F(Seek, FindsDataAndHoles) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    ASSERT_EQ(error(ftruncate(*file, 10 * kMib)), "ok");
    ASSERT_EQ(write_all(file, pattern(64 * kKib, 1), 1 * kMib), 64 * kKib);
    ASSERT_EQ(write_all(file, pattern(64 * kKib, 1), 4 * kMib), 64 * kKib);
    ASSERT_EQ(error(fsync(*file)), "ok");
    EXPECT_EQ(lseek(*file, 0, SEEK_DATA), 1 * kMib);
    EXPECT_EQ(lseek(*file, 0, SEEK_HOLE), 0);
    EXPECT_EQ(lseek(*file, 1 * kMib, SEEK_DATA), 1 * kMib);
    EXPECT_EQ(lseek(*file, 1 * kMib + 5, SEEK_DATA), 1 * kMib + 5);
    EXPECT_EQ(lseek(*file, 1 * kMib, SEEK_HOLE), 1 * kMib + 64 * kKib);
    EXPECT_EQ(lseek(*file, 1 * kMib + 64 * kKib, SEEK_DATA), 4 * kMib);
    EXPECT_EQ(lseek(*file, 4 * kMib + 5, SEEK_HOLE), 4 * kMib + 64 * kKib);
    EXPECT_EQ(error(lseek(*file, 5 * kMib, SEEK_DATA)), "ENXIO");
    EXPECT_EQ(lseek(*file, 5 * kMib, SEEK_HOLE), 5 * kMib);
    EXPECT_EQ(error(lseek(*file, 10 * kMib, SEEK_HOLE)), "ENXIO");
    EXPECT_EQ(error(lseek(*file, 10 * kMib, SEEK_DATA)), "ENXIO");
    EXPECT_EQ(error(lseek(*file, -1, SEEK_DATA)), "ENXIO");
}

TEST_F(Seek, TheEndIsAHole) {
    make_file("file", std::string(10'000, 'x'));
    const Descriptor file("file", O_RDWR);
    EXPECT_EQ(lseek(*file, 0, SEEK_HOLE), 10'000);
    EXPECT_EQ(lseek(*file, 9'999, SEEK_DATA), 9'999);
    EXPECT_EQ(error(lseek(*file, 10'000, SEEK_HOLE)), "ENXIO");
}

TEST_F(Seek, SeesWhatOnlyTheCacheHas) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    ASSERT_EQ(error(ftruncate(*file, 1 * kMib)), "ok");
    ASSERT_EQ(write_all(file, "x", 512 * kKib), 1);
    EXPECT_EQ(lseek(*file, 0, SEEK_DATA), 512 * kKib);
}

TEST_F(Seek, AnEmptyFileHasNeither) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    EXPECT_EQ(error(lseek(*file, 0, SEEK_DATA)), "ENXIO");
    EXPECT_EQ(error(lseek(*file, 0, SEEK_HOLE)), "ENXIO");
}

TEST_F(Allocate, TakesSpaceAndReadsAsZeroes) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    ASSERT_EQ(error(fallocate(*file, 0, 0, 1 * kMib)), "ok");
    EXPECT_EQ(status_of(file).st_size, 1 * kMib);
    EXPECT_GE(status_of(file).st_blocks * 512, 1 * kMib);
    EXPECT_EQ(content_of("file"), std::string(1 * kMib, '\0'));
}

TEST_F(Allocate, KeepsWhatIsThere) {
    make_file("file", pattern(50'000, 1));
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(fallocate(*file, 0, 10'000, 90'000)), "ok");
    std::string expected = pattern(50'000, 1);
    expected.resize(100'000);
    EXPECT_EQ(content_of("file"), expected);
    ASSERT_EQ(error(fallocate(*file, 0, 0, 10)), "ok");
    EXPECT_EQ(status_of(file).st_size, 100'000);
}

TEST_F(Allocate, KeepSizeKeepsTheSize) {
    make_file("file", "content");
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(fallocate(*file, FALLOC_FL_KEEP_SIZE, 0, 1 * kMib)), "ok");
    EXPECT_EQ(status_of(file).st_size, 7);
    EXPECT_GE(status_of(file).st_blocks * 512, 1 * kMib);
    EXPECT_EQ(content_of("file"), "content");
}

TEST_F(Allocate, PunchedHolesAreZeroesWithoutSpace) {
    make_file("file", pattern(1'000'000, 1));
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(fsync(*file)), "ok");
    const auto before = status_of(file).st_blocks;
    ASSERT_EQ(error(fallocate(*file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100'001, 500'000)),
              "ok");
    std::string expected = pattern(1'000'000, 1);
    expected.replace(100'001, 500'000, std::string(500'000, '\0'));
    EXPECT_EQ(content_of("file"), expected);
    EXPECT_LE(status_of(file).st_blocks, before - 900);
    forget_cached(file);
    EXPECT_EQ(content_of("file"), expected);
    EXPECT_EQ(lseek(*file, 100'001, SEEK_HOLE), 102'400);
    EXPECT_EQ(lseek(*file, 102'400, SEEK_DATA), 598'016);
    ASSERT_EQ(error(fallocate(*file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10 * kMib)),
              "ok");
    EXPECT_EQ(status_of(file).st_size, 1'000'000);
    EXPECT_EQ(status_of(file).st_blocks, 0);
}

TEST_F(Allocate, ZeroRangeIsZeroesWithSpace) {
    make_file("file", pattern(100'000, 1));
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(fallocate(*file, FALLOC_FL_ZERO_RANGE, 10'001, 50'000)), "ok");
    std::string expected = pattern(100'000, 1);
    expected.replace(10'001, 50'000, std::string(50'000, '\0'));
    EXPECT_EQ(content_of("file"), expected);
    EXPECT_GE(status_of(file).st_blocks * 512, 100'000);
    ASSERT_EQ(error(fallocate(*file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 90'000, 50'000)),
              "ok");
    EXPECT_EQ(status_of(file).st_size, 100'000);
    ASSERT_EQ(error(fallocate(*file, FALLOC_FL_ZERO_RANGE, 90'000, 50'000)), "ok");
    EXPECT_EQ(status_of(file).st_size, 140'000);
}

TEST_F(Allocate, ErrorsInTheirOrder) {
    make_file("file", "content");
    const Descriptor file("file", O_RDWR);
    const Descriptor folder(".", O_RDONLY | O_DIRECTORY);
    EXPECT_EQ(error(fallocate(*file, 0, 0, 0)), "EINVAL");
    EXPECT_EQ(error(fallocate(*file, 0, -1, 10)), "EINVAL");
    EXPECT_EQ(error(fallocate(*file, 0, kLargest, 10)), "EFBIG");
    EXPECT_EQ(error(fallocate(*file, FALLOC_FL_PUNCH_HOLE, 0, 10)), "EOPNOTSUPP");
    EXPECT_EQ(error(fallocate(*folder, 0, 0, 10)), "EBADF");
    EXPECT_EQ(error(fallocate(*Descriptor("file", O_RDONLY), 0, 0, 10)), "EBADF");
    EXPECT_EQ(error(fallocate(*file, FALLOC_FL_KEEP_SIZE, 0, 1'000'000 * kMib)), "ENOSPC");
    EXPECT_EQ(content_of("file"), "content");
}

TEST_F(Allocate, CollapseAndInsert) {
    make_file("file", pattern(3 * 4'096, 1));
    const Descriptor file("file", O_RDWR);
    if (on("blobfs")) {
        // Linux does not pass them on to FUSE. Programs fall back on copying when they hear so.
        EXPECT_EQ(error(fallocate(*file, FALLOC_FL_COLLAPSE_RANGE, 4'096, 4'096)), "EOPNOTSUPP");
        EXPECT_EQ(error(fallocate(*file, FALLOC_FL_INSERT_RANGE, 4'096, 4'096)), "EOPNOTSUPP");
        EXPECT_EQ(content_of("file"), pattern(3 * 4'096, 1));
        return;
    }
    EXPECT_EQ(error(fallocate(*file, FALLOC_FL_COLLAPSE_RANGE, 4'096, 4'096)), "ok");
    EXPECT_EQ(status_of(file).st_size, 2 * 4'096);
}

TEST_F(Allocate, CloningIsNotThere) {
    make_file("from", "content");
    UNLESS_ON("xfs", "it can");
    const Descriptor from("from", O_RDONLY), to("to", O_CREAT | O_RDWR);
    const std::string result = error(ioctl(*to, FICLONE, *from));
    EXPECT_TRUE(result == "EOPNOTSUPP" || result == "ENOTTY") << result;
}

// copy_file_range. --------------------------------------------------------------------------------

TEST_F(CopyRange, CopiesBytesOfAnyAlignment) {
    make_file("from", pattern(3'000'000, 1));
    const Descriptor from("from", O_RDONLY), to("to", O_CREAT | O_RDWR);
    off_t source = 1'001, target = 777;
    std::size_t left = 2'500'000;
    while (left > 0) {
        const ssize_t bytes = copy_file_range(*from, &source, *to, &target, left, 0);
        ASSERT_GT(bytes, 0) << std::strerror(errno);
        left -= static_cast<std::size_t>(bytes);
    }
    EXPECT_EQ(source, 2'501'001);
    EXPECT_EQ(target, 2'500'777);
    EXPECT_EQ(content_of("to"),
              std::string(777, '\0') + pattern(3'000'000, 1).substr(1'001, 2'500'000));
}

TEST_F(CopyRange, MovesTheFileOffsetsWhenNoneAreGiven) {
    make_file("from", "0123456789");
    const Descriptor from("from", O_RDONLY), to("to", O_CREAT | O_RDWR);
    ASSERT_EQ(lseek(*from, 3, SEEK_SET), 3);
    EXPECT_EQ(copy_file_range(*from, nullptr, *to, nullptr, 4, 0), 4);
    EXPECT_EQ(copy_file_range(*from, nullptr, *to, nullptr, 100, 0), 3);
    EXPECT_EQ(copy_file_range(*from, nullptr, *to, nullptr, 100, 0), 0);
    EXPECT_EQ(content_of("to"), "3456789");
}

TEST_F(CopyRange, TakesWhatIsOnlyInTheCacheAndIsSeenAtOnce) {
    const Descriptor from("from", O_CREAT | O_RDWR), to("to", O_CREAT | O_RDWR);
    ASSERT_EQ(write_all(to, std::string(20'000, 'o'), 0), 20'000);
    EXPECT_EQ(read_at(to, 1, 5'000), "o");
    ASSERT_EQ(write_all(from, pattern(10'000, 3), 0), 10'000);
    off_t source = 0, target = 4'000;
    EXPECT_EQ(copy_file_range(*from, &source, *to, &target, 10'000, 0), 10'000);
    EXPECT_EQ(read_at(to, 20'000, 0),
              std::string(4'000, 'o') + pattern(10'000, 3) + std::string(6'000, 'o'));
}

TEST_F(CopyRange, WithinAFileWithoutOverlap) {
    make_file("file", pattern(100'000, 1));
    const Descriptor file("file", O_RDWR);
    off_t source = 0, target = 200'000;
    EXPECT_EQ(copy_file_range(*file, &source, *file, &target, 100'000, 0), 100'000);
    EXPECT_EQ(read_at(file, 100'000, 200'000), pattern(100'000, 1));
    source = 0;
    target = 50'000;
    EXPECT_EQ(error(copy_file_range(*file, &source, *file, &target, 100'000, 0)), "EINVAL");
}

TEST_F(CopyRange, ErrorsInTheirOrder) {
    make_file("from", "content");
    make_file("to", "content");
    const Descriptor from("from", O_RDWR), to("to", O_RDWR), folder(".", O_RDONLY);
    const Descriptor appending("to", O_RDWR | O_APPEND), reading("to", O_RDONLY);
    const Descriptor writing("from", O_WRONLY);
    EXPECT_EQ(error(copy_file_range(*from, nullptr, *to, nullptr, 1, 1)), "EINVAL");
    EXPECT_EQ(error(copy_file_range(*folder, nullptr, *to, nullptr, 1, 0)), "EISDIR");
    EXPECT_EQ(error(copy_file_range(*from, nullptr, *appending, nullptr, 1, 0)), "EBADF");
    EXPECT_EQ(error(copy_file_range(*from, nullptr, *reading, nullptr, 1, 0)), "EBADF");
    EXPECT_EQ(error(copy_file_range(*writing, nullptr, *to, nullptr, 1, 0)), "EBADF");
}

// O_DIRECT. ---------------------------------------------------------------------------------------

class Aligned {
  public:
    explicit Aligned(std::size_t bytes)
        : bytes_(bytes),
          data_(static_cast<char*>(
              mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
    ~Aligned() { munmap(data_, bytes_); }
    Aligned(const Aligned&) = delete;
    Aligned& operator=(const Aligned&) = delete;
    [[nodiscard]] char* data() const { return data_; }
    [[nodiscard]] std::string text(std::size_t bytes) const { return {data_, bytes}; }

  private:
    std::size_t bytes_;
    char* data_;
};

TEST_F(Direct, SeesWhatWasCachedAndTheOtherWay) {
    const Descriptor cached("file", O_CREAT | O_RDWR);
    const Descriptor direct("file", O_RDWR | O_DIRECT);
    const Aligned memory(1 << 20);
    for (unsigned round = 0; round < 5; ++round) {
        ASSERT_EQ(write_all(cached, pattern(100 * 4'096, round), 0), 100 * 4'096);
        ASSERT_EQ(pread(*direct, memory.data(), 100 * 4'096, 0), 100 * 4'096);
        EXPECT_EQ(memory.text(100 * 4'096), pattern(100 * 4'096, round));
        std::memset(memory.data(), 'A' + static_cast<int>(round), 8'192);
        ASSERT_EQ(pwrite(*direct, memory.data(), 8'192, 12'288), 8'192);
        EXPECT_EQ(read_at(cached, 8'192, 12'288), memory.text(8'192));
    }
}

TEST_F(Direct, GrowsTheFile) {
    const Descriptor direct("file", O_CREAT | O_RDWR | O_DIRECT);
    const Aligned memory(8'192);
    std::memset(memory.data(), 'x', 8'192);
    ASSERT_EQ(pwrite(*direct, memory.data(), 8'192, 4'096), 8'192);
    EXPECT_EQ(status_of(direct).st_size, 12'288);
    EXPECT_EQ(content_of("file"), std::string(4'096, '\0') + std::string(8'192, 'x'));
    ASSERT_EQ(pread(*direct, memory.data(), 8'192, 8'192), 4'096);
}

TEST_F(Direct, SectorsOf512BytesAnywhereInMemoryAndFile) {
    make_file("file", pattern(100'000, 1));
    const Descriptor direct("file", O_RDWR | O_DIRECT);
    const Aligned memory(1 << 20);
    std::string expected = pattern(100'000, 1);
    for (const off_t offset : {0L, 512L, 4'096L, 7'680L}) {
        for (const std::size_t bytes : {512UL, 1'536UL, 8'192UL}) {
            ASSERT_EQ(pread(*direct, memory.data() + 512, bytes, offset), static_cast<long>(bytes));
            EXPECT_EQ(std::string(memory.data() + 512, bytes),
                      expected.substr(static_cast<std::size_t>(offset), bytes));
            std::memset(memory.data() + 1'024, 'A' + static_cast<int>(bytes % 26), bytes);
            ASSERT_EQ(pwrite(*direct, memory.data() + 1'024, bytes, offset),
                      static_cast<long>(bytes));
            expected.replace(static_cast<std::size_t>(offset), bytes,
                             std::string(memory.data() + 1'024, bytes));
        }
    }
    EXPECT_EQ(content_of("file"), expected);
    // The last part may be shorter.
    EXPECT_EQ(pread(*direct, memory.data(), 4'096, 98'304), 1'696);
}

}  // namespace
}  // namespace blobfs::posix
