// Trees with pages that are gone: what is left of them on the device comes back.

#include "tests/fsck/fsck_fixture.h"

namespace blobfs::fsck {
namespace {

class RebuildTest : public FsckTest {
  protected:
    static constexpr std::size_t kFiles = 1500;

    void SetUp() override {
        format_options.page_bytes = 4096;
        format();
        with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
            const InodeNumber directory =
                make_directory(suspend, filesystem, fs::kRootInode, "dir");
            for (std::size_t i = 0; i < kFiles; ++i) {
                make_file(suspend, filesystem, directory, name(i), content_of(i, bytes_of_file(i)));
            }
        });
        expect_clean();
    }
    static std::string name(std::size_t i) { return "file" + std::to_string(i); }
    // Inline, and in extents.
    static std::size_t bytes_of_file(std::size_t i) { return i % 7 == 0 ? 9000 + i : 40 + i % 50; }

    struct Found {
        std::size_t whole = 0, different = 0, missing = 0;
    };
    Found count_files() {
        Found found;
        with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
            for (std::size_t i = 0; i < kFiles; ++i) {
                const InodeNumber inode = lookup(suspend, filesystem, "dir/" + name(i));
                if (fs::value(inode) == 0) {
                    ++found.missing;
                } else if (read(suspend, filesystem, inode) == content_of(i, bytes_of_file(i))) {
                    ++found.whole;
                } else {
                    ++found.different;
                }
            }
            must(filesystem.sync(suspend));  // the access times: checks want nobody else at work
            EXPECT_TRUE(must(filesystem.check(suspend)).empty());
            EXPECT_TRUE(must(filesystem.store().check(suspend)).empty());
        });
        return found;
    }
};

TEST_F(RebuildTest, ALostRootCostsNothing) {
    const auto pages = tree_pages();
    ASSERT_GE(pages.front().level, 2u);
    flip(pages.front().block * 4096 + 1000);
    expect_finds({{"tree-page", 1}});
    EXPECT_EQ(run({"-p", "-f"}).status, kExitLeft);
    expect_repairs("-y");
    EXPECT_EQ(count_files().whole, kFiles);
}

TEST_F(RebuildTest, LostInteriorPagesCostNothing) {
    int damaged = 0;
    for (const PageAt& page : tree_pages()) {
        if (page.level == 1) {
            flip(page.block * 4096 + 1000);
            ++damaged;
        }
    }
    ASSERT_GE(damaged, 2);
    expect_finds({{"tree-page", damaged}});
    expect_repairs("-y");
    EXPECT_EQ(count_files().whole, kFiles);
}

TEST_F(RebuildTest, LostLeavesCostWhatWasInThemAtMost) {
    std::vector<std::uint64_t> leaves;
    for (const PageAt& page : tree_pages()) {
        if (page.level == 0) leaves.push_back(page.block);
    }
    ASSERT_GE(leaves.size(), 20u);
    for (const std::size_t i : {leaves.size() / 3, leaves.size() / 2}) {
        flip(leaves[i] * 4096 + 1000);
    }
    expect_finds({{"tree-page", 2}});
    expect_repairs("-y");
    EXPECT_GE(count_files().whole, kFiles - 60);
}

TEST_F(RebuildTest, AZeroedTreeAndMapAreNoEndOfTheDevice) {
    const Superblock before = superblock();
    const std::string zeroes(4096, '\0');
    for (const PageAt& page : tree_pages()) {
        if (page.level != 0) set_bytes(page.block * 4096, zeroes);
    }
    set_bytes(superblock().map_root.block * 4096, zeroes);
    EXPECT_EQ(run({"-n", "-f"}).status, kExitLeft);
    expect_repairs("-y");
    EXPECT_EQ(count_files().whole, kFiles);
    EXPECT_GT(superblock().epoch, before.epoch);
}

TEST_F(RebuildTest, NothingOfTheTreeIsLeft) {
    const std::string zeroes(4096, '\0');
    const std::string image = bytes_at(0, static_cast<std::size_t>(kBytes));
    const Superblock now = superblock();
    for (std::uint64_t block = log_end(now); block < now.block_count; ++block) {
        if (image.compare(block * 4096, 4, "BFPG") == 0) set_bytes(block * 4096, zeroes);
    }
    EXPECT_EQ(run({"-n", "-f"}).status, kExitLeft);
    expect_repairs("-y");
    // An empty filesystem, but one that works.
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        make_file(suspend, filesystem, fs::kRootInode, "new", content_of(1, 5000));
    });
    expect_clean();
}

// More metadata than the reserve on a full device has room for.
TEST_F(RebuildTest, WithoutRoomForASecondTreeNothingIsChangedUntilTheDeviceIsLarger) {
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        const InodeNumber more = make_directory(suspend, filesystem, fs::kRootInode, "more");
        for (std::size_t i = 0; i < 12'000; ++i) {
            make_file(suspend, filesystem, more, name(i), content_of(i, 400));
        }
        const InodeNumber filler = make_file(suspend, filesystem, fs::kRootInode, "filler", "");
        const auto buffer = must(driver::DmaBuffer::allocate(std::size_t{1} << 20));
        std::memset(buffer.data(), 1, buffer.size());
        // Until nothing fits although all that was freed is free.
        std::uint64_t at = 0;
        for (std::size_t bytes = buffer.size(); bytes >= 4096; bytes /= 4) {
            must(filesystem.sync(suspend));
            while (filesystem.write(suspend, filler, at, buffer.span().first(bytes),
                                    {.whole = true})) {
                at += bytes;
            }
        }
    });
    flip(tree_pages().front().block * 4096 + 1000);
    expect_finds({{"tree-page", 1}});
    const std::string superblocks = bytes_at(0, 17 * 4096);
    const Outcome outcome = run({"-y", "-f"});
    EXPECT_EQ(outcome.status, kExitFailed) << outcome.output;
    EXPECT_NE(outcome.errors.find("not enough free space"), std::string::npos) << outcome.errors;
    // In free space lies the beginning of a second tree, to which nothing leads.
    EXPECT_EQ(bytes_at(0, 17 * 4096), superblocks);
    expect_finds({{"tree-page", 1}});
    std::filesystem::resize_file(path_, kBytes * 2);
    expect_repairs("-y");
    EXPECT_EQ(count_files().whole, kFiles);
    EXPECT_EQ(superblock().block_count, kBytes * 2 / 4096 - 1);
    expect_clean();
}

TEST_F(RebuildTest, TheLogIsPartOfWhatIsRebuilt) {
    std::uint64_t root = 0;
    with_device([&](Suspend& suspend, driver::Device& device) {
        const auto filesystem = must(Filesystem::open(suspend, device));
        root = filesystem->store().state().superblock.tree_root.block;
        const auto made =
            make_file(suspend, *filesystem, fs::kRootInode, "late", content_of(9, 70'000));
        must(filesystem->fsync(suspend, made, false));
        filesystem->abandon(suspend);
    });
    flip(root * 4096 + 500);
    EXPECT_EQ(run({"-n"}).status, kExitLeft);
    expect_repairs("-y");
    EXPECT_EQ(count_files().whole, kFiles);
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        EXPECT_EQ(read(suspend, filesystem, lookup(suspend, filesystem, "late")),
                  content_of(9, 70'000));
    });
}

}  // namespace
}  // namespace blobfs::fsck
