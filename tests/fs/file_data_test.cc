// Reading, writing, holes, allocation, copying, full devices.

#include <linux/falloc.h>
#include <sys/stat.h>

#include <cerrno>

#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

using FileData = FilesystemTest;

std::string pattern(std::size_t bytes, unsigned salt) {
    std::string text(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i) {
        text[i] = static_cast<char>(salt + i * 31 + i / 253);
    }
    return text;
}

TEST_F(FileData, WhatWasWrittenIsRead) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        std::string model;
        unsigned salt = 1;
        for (const auto& [offset, bytes] : std::vector<std::pair<std::size_t, std::size_t>>{
                 {0, 5}, {3, 4000}, {100, 1}, {4096, 4096}, {8000, 70'000}, {500'000, 3}, {0, 1}}) {
            const std::string text = pattern(bytes, salt++);
            EXPECT_EQ(must(write(suspend, file, offset, text)), bytes);
            model.resize(std::max(model.size(), offset + bytes));
            model.replace(offset, bytes, text);
            EXPECT_EQ(attributes(suspend, file).size, model.size());
            EXPECT_EQ(read(suspend, file, 0, model.size() + 10), model);
        }
        remount(suspend);
        EXPECT_EQ(read(suspend, file, 0, model.size() + 10), model);
        EXPECT_EQ(read(suspend, file, model.size(), 10), "");
        EXPECT_EQ(read(suspend, file, kMaxFileBytes + 1, 10), "");
    });
}

TEST_F(FileData, OnlyRegularFilesHaveData) {
    run([&](Suspend& suspend) {
        const InodeNumber fifo = unreferenced(
            must(fs->mknod(suspend, kRootUser, kRootInode, "fifo", S_IFIFO | 0600, 0)));
        EXPECT_TRUE(fails_with(write(suspend, kRootInode, 0, "x"), Errc::kIsDirectory));
        EXPECT_TRUE(fails_with(write(suspend, fifo, 0, "x"), Errc::kInvalidArgument));
        EXPECT_TRUE(fails_with(fs->read(suspend, kRootInode, 0, buffer.span().first(1)),
                               Errc::kIsDirectory));
    });
}

TEST_F(FileData, TheLargestFile) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        EXPECT_EQ(must(write(suspend, file, kMaxFileBytes - 3, "end")), 3u);
        EXPECT_EQ(attributes(suspend, file).size, kMaxFileBytes);
        EXPECT_EQ(read(suspend, file, kMaxFileBytes - 3, 10), "end");
        EXPECT_TRUE(fails_with(write(suspend, file, kMaxFileBytes - 2, "end"), Errc::kTooLarge));
    });
}

TEST_F(FileData, AWriteThatMustTakesSetIdBitsAndCapabilitiesAway) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file", 06755);
        must(fs->setxattr(suspend, file, "security.capability", "caps", XattrMode::kAny));
        must(write(suspend, file, 0, "x"));
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 06755u);
        must(write(suspend, file, 0, "", {.kill_privileges = true}));
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 06755u);
        must(write(suspend, file, 0, "y", {.kill_privileges = true}));
        EXPECT_EQ(attributes(suspend, file).mode & 07777, 0755u);
        EXPECT_TRUE(
            fails_with(fs->getxattr(suspend, file, "security.capability"), Errc::kNoAttribute));
    });
}

TEST_F(FileData, DurableWritesSurviveAPowerCut) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(write(suspend, file, 0, pattern(10'000, 1), {.durable = true}));
        must(write(suspend, file, 4096, pattern(4096, 2), {.durable = true}));
        crash(suspend);
        EXPECT_EQ(must(lookup(suspend, kRootInode, "file")), file);
        EXPECT_EQ(read(suspend, file, 0, 4096), pattern(10'000, 1).substr(0, 4096));
        EXPECT_EQ(read(suspend, file, 4096, 4096), pattern(4096, 2));
    });
}

TEST_F(FileData, AFileNeverShowsWhatItNeverHeld) {
    run([&](Suspend& suspend) {
        const InodeNumber secret = make_file(suspend, kRootInode, "secret");
        must(write(suspend, secret, 0, std::string(400'000, 'S')));
        must(fs->sync(suspend));
        must(fs->unlink(suspend, kRootInode, "secret"));
        must(fs->sync(suspend));
        for (int i = 0; i < 20; ++i) {
            const InodeNumber file = make_file(suspend, kRootInode, "f" + std::to_string(i));
            must(write(suspend, file, 10'000 * static_cast<std::uint64_t>(i), "x"));
            must(fs->setattr(suspend, kRootUser, file, {.size = 300'000}));
        }
        crash(suspend);
        for (const std::string& name : names(suspend, kRootInode)) {
            const InodeNumber file = must(lookup(suspend, kRootInode, name));
            EXPECT_EQ(read(suspend, file, 0, 400'000).find('S'), std::string::npos) << name;
        }
    });
}

TEST_F(FileData, FallocateAllocatesAndGrowsUnlessToldNotTo) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(fs->fallocate(suspend, file, FALLOC_FL_KEEP_SIZE, 0, 1 << 20));
        EXPECT_EQ(attributes(suspend, file).size, 0u);
        EXPECT_GE(attributes(suspend, file).allocated_bytes, 1u << 20);
        must(fs->fallocate(suspend, file, 0, 0, 100'000));
        EXPECT_EQ(attributes(suspend, file).size, 100'000u);
        EXPECT_EQ(read(suspend, file, 0, 200'000), std::string(100'000, '\0'));
        must(write(suspend, file, 50'000, "data"));
        remount(suspend);
        EXPECT_EQ(read(suspend, file, 49'999, 6), std::string("\0data\0", 6));
        EXPECT_TRUE(fails_with(fs->fallocate(suspend, file, 0, 0, 0), Errc::kInvalidArgument));
        EXPECT_TRUE(fails_with(fs->fallocate(suspend, file, 0, kMaxFileBytes, 1), Errc::kTooLarge));
        EXPECT_TRUE(fails_with(fs->fallocate(suspend, file, FALLOC_FL_COLLAPSE_RANGE, 0, 4096),
                               Errc::kNotSupported));
        EXPECT_TRUE(fails_with(fs->fallocate(suspend, file, FALLOC_FL_PUNCH_HOLE, 0, 4096),
                               Errc::kNotSupported));
        EXPECT_TRUE(fails_with(fs->fallocate(suspend, kRootInode, 0, 0, 4096), Errc::kIsDirectory));
    });
}

TEST_F(FileData, PunchedAndZeroedRangesReadAsZeroes) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        std::string model = pattern(200'000, 3);
        must(write(suspend, file, 0, model));
        const std::uint64_t allocated = attributes(suspend, file).allocated_bytes;
        must(fs->fallocate(suspend, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10'000,
                           100'000));
        model.replace(10'000, 100'000, 100'000, '\0');
        EXPECT_EQ(read(suspend, file, 0, 300'000), model);
        EXPECT_LE(attributes(suspend, file).allocated_bytes, allocated - 90'000);
        must(fs->fallocate(suspend, file, FALLOC_FL_ZERO_RANGE, 190'001, 20'000));
        model.resize(210'001);
        model.replace(190'001, 20'000, 20'000, '\0');
        EXPECT_EQ(attributes(suspend, file).size, 210'001u);
        EXPECT_EQ(read(suspend, file, 0, 300'000), model);
        must(fs->fallocate(suspend, file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 200'000,
                           50'000));
        EXPECT_EQ(attributes(suspend, file).size, 210'001u);
        remount(suspend);
        EXPECT_EQ(read(suspend, file, 0, 300'000), model);
    });
}

TEST_F(FileData, SeekFindsDataAndHoles) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        const auto beyond = [&](std::uint64_t offset, SeekFor what) {
            const auto result = fs->seek(suspend, file, offset, what);
            return !result && to_errno(result.error()) == ENXIO;
        };
        EXPECT_TRUE(beyond(0, SeekFor::kData));
        must(fs->setattr(suspend, kRootUser, file, {.size = 1 << 20}));
        EXPECT_TRUE(beyond(0, SeekFor::kData));
        EXPECT_EQ(must(fs->seek(suspend, file, 5, SeekFor::kHole)), 5u);
        must(write(suspend, file, 65'536, pattern(8192, 1)));
        EXPECT_EQ(must(fs->seek(suspend, file, 0, SeekFor::kData)), 65'536u);
        EXPECT_EQ(must(fs->seek(suspend, file, 70'000, SeekFor::kData)), 70'000u);
        EXPECT_EQ(must(fs->seek(suspend, file, 70'000, SeekFor::kHole)), 73'728u);
        EXPECT_TRUE(beyond(73'728, SeekFor::kData));
        EXPECT_TRUE(beyond(1 << 20, SeekFor::kHole));
        must(write(suspend, file, (1 << 20) - 4096, pattern(4096, 1)));
        EXPECT_EQ(must(fs->seek(suspend, file, (1 << 20) - 10, SeekFor::kHole)), 1u << 20);
    });
}

TEST_F(FileData, CopyFileRange) {
    run([&](Suspend& suspend) {
        const InodeNumber from = make_file(suspend, kRootInode, "from");
        const InodeNumber to = make_file(suspend, kRootInode, "to", 06755);
        const std::string text = pattern(500'000, 9);
        must(write(suspend, from, 0, text));
        must(write(suspend, to, 0, "0123456789"));
        const auto copy = [&](InodeNumber source, std::uint64_t at, InodeNumber target,
                              std::uint64_t to_at, std::uint64_t bytes) {
            return fs->copy_file_range(suspend, source, at, target, to_at, bytes,
                                       buffer.span().first(200'000));
        };
        EXPECT_EQ(must(copy(from, 1000, to, 5, 600'000)), 499'000u);
        EXPECT_EQ(read(suspend, to, 0, 600'000), "01234" + text.substr(1000));
        EXPECT_EQ(attributes(suspend, to).mode & 07777, 0755u);
        EXPECT_EQ(must(copy(from, 500'000, to, 0, 10)), 0u);
        EXPECT_EQ(must(copy(from, 0, from, 500'000, 1000)), 1000u);
        EXPECT_TRUE(fails_with(copy(from, 0, from, 10, 11), Errc::kInvalidArgument));
        EXPECT_TRUE(fails_with(copy(kRootInode, 0, to, 0, 1), Errc::kIsDirectory));
        EXPECT_TRUE(fails_with(copy(from, 0, to, kMaxFileBytes, 1), Errc::kTooLarge));
    });
}

class FullDevice : public FilesystemTest {
  protected:
    FullDevice() : FilesystemTest(std::uint64_t{24} << 20) {}
    OpenOptions open_options() override { return {.atime = AtimePolicy::kNever}; }
};

TEST_F(FullDevice, IsNoSpaceAndDeletingBringsItBack) {
    run([&](Suspend& suspend) {
        const std::uint64_t free_at_first = fs->statfs().blocks_available;
        ASSERT_GT(free_at_first, 0u);
        for (int round = 0; round < 3; ++round) {
            std::vector<std::pair<InodeNumber, std::size_t>> files;
            Errc error{};
            for (int i = 0; error == Errc{}; ++i) {
                const auto made = fs->create(suspend, kRootUser, kRootInode,
                                             "file" + std::to_string(i), 0644, true);
                if (!made) {
                    error = made.error().code;
                    break;
                }
                const InodeNumber file = unreferenced(*made);
                const std::string text = pattern(700'000, static_cast<unsigned>(i));
                const auto written = write(suspend, file, 0, text);
                if (!written) {
                    error = written.error().code;
                }
                files.emplace_back(file, written ? *written : 0);
            }
            EXPECT_EQ(error, Errc::kNoSpace);
            EXPECT_GT(files.size(), 5u);
            must(fs->sync(suspend));
            // Nothing that was acknowledged is lost.
            for (std::size_t i = 0; i < files.size(); ++i) {
                EXPECT_EQ(read(suspend, files[i].first, 0, 800'000),
                          pattern(700'000, static_cast<unsigned>(i)).substr(0, files[i].second));
            }
            if (round == 1) {
                crash(suspend);
            }
            must(fs->setattr(suspend, kRootUser, files[0].first, {.size = 1000}));
            for (const std::string& name : names(suspend, kRootInode)) {
                must(fs->unlink(suspend, kRootInode, name));
            }
            expect_sound(suspend);
            must(fs->store().checkpoint(suspend));
            EXPECT_GE(fs->statfs().blocks_available + 64, free_at_first);
        }
    });
}

TEST_F(FullDevice, AWriteWaitsForTheSpaceOfDeletedFiles) {
    run([&](Suspend& suspend) {
        const std::uint64_t bytes = fs->statfs().blocks_available * 4096 * 6 / 10;
        for (int round = 0; round < 4; ++round) {
            const InodeNumber file = make_file(suspend, kRootInode, "file");
            for (std::uint64_t at = 0; at < bytes; at += 1'000'000) {
                ASSERT_EQ(must(write(suspend, file, at, std::string(1'000'000, 'x'))), 1'000'000u)
                    << round;
            }
            must(fs->unlink(suspend, kRootInode, "file"));
            // Somebody still reads the file, so its deletion is late.
            auto reader = must(LockedInode::shared(suspend, fs->state().table.pin(file)));
            reactor.spawn([locked = std::move(reader)](Suspend& fiber) mutable {
                fiber.sleep_us(30'000);
                locked.unlock();
            });
        }
    });
}

TEST_F(FileData, WritingTellsWhetherTheFileTakesOtherSpace) {
    run([&](Suspend& suspend) {
        const Attributes file =
            must(fs->create(suspend, kRootUser, kRootInode, "file", 0644, true));
        const auto allocates = [&](std::uint64_t offset) {
            std::memset(buffer.data(), 'x', 65'536);
            return must(fs->write(suspend, file.inode, offset, buffer.span().first(65'536), {}))
                .allocated;
        };
        EXPECT_TRUE(allocates(0));
        EXPECT_FALSE(allocates(0));
        EXPECT_TRUE(allocates(65'536));
        must(fs->unlink(suspend, kRootInode, "file"));
        EXPECT_FALSE(allocates(2 * 65'536));
        fs->forget(file.inode, 1);
    });
}

}  // namespace
}  // namespace blobfs::fs
