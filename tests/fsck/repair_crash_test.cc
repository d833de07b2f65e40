// Power cuts during repairs: whatever a cut leaves can be repaired again, and then everything is
// there. BLOBFS_SEED chooses the cuts, BLOBFS_CUTS how many there are of each kind.

#include <iostream>
#include <random>

#include "driver/soft/power_cut_medium.h"
#include "driver/soft/sparse_image.h"
#include "tests/fsck/fsck_fixture.h"
#include "tools/fsck/check_device.h"

namespace blobfs::fsck {
namespace {

using driver::PowerCutMedium;
using driver::SparseImage;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

class RepairCrash : public FsckTest {
  protected:
    static constexpr std::size_t kFiles = 150;

    void SetUp() override {
        format_options.page_bytes = 4096;
        format();
        with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
            const InodeNumber directory =
                make_directory(suspend, filesystem, fs::kRootInode, "dir");
            for (std::size_t i = 0; i < kFiles; ++i) {
                const auto made = make_file(suspend, filesystem, directory, name(i),
                                            content_of(i, i % 5 == 0 ? 9000 : 60));
                files_.push_back(fs::value(made));
            }
        });
    }
    static std::string name(std::size_t i) { return "file" + std::to_string(i); }

    SparseImage image() {
        const std::string bytes = bytes_at(0, static_cast<std::size_t>(kBytes));
        SparseImage result;
        for (std::size_t at = 0; at < bytes.size(); at += SparseImage::kPage) {
            const std::string_view page = std::string_view(bytes).substr(at, SparseImage::kPage);
            if (page.find_first_not_of('\0') != std::string_view::npos) {
                result.write(at, std::as_bytes(std::span(page)));
            }
        }
        return result;
    }
    static void repair(Suspend& suspend, driver::Device& device, RepairMode mode) {
        CheckRequest request;
        request.device = "image";
        request.mode = mode;
        request.force = true;
        const auto report = check_opened(suspend, device, request);
        ASSERT_TRUE(report) << report.error().text;
        EXPECT_EQ(report->left, 0u)
            << (report->problems.empty() ? "" : report->problems.back().text);
    }
    // All files, under their names, or, where the name was lost, in lost+found.
    void expect_files(Suspend& suspend, driver::Device& device) {
        const auto filesystem = must(Filesystem::open(suspend, device));
        for (std::size_t i = 0; i < kFiles; ++i) {
            InodeNumber inode = lookup(suspend, *filesystem, "dir/" + name(i));
            if (fs::value(inode) == 0) {
                inode = lookup(suspend, *filesystem, "lost+found/#" + std::to_string(files_[i]));
            }
            ASSERT_NE(fs::value(inode), 0u) << name(i);
            EXPECT_EQ(read(suspend, *filesystem, inode), content_of(i, i % 5 == 0 ? 9000 : 60));
        }
        EXPECT_TRUE(must(filesystem->check(suspend)).empty());
        must(filesystem->close(suspend));
    }
    void cut_repairs(std::uint64_t otherwise_cuts) {
        const std::uint64_t seed = from_environment("BLOBFS_SEED", 5);
        const std::uint64_t cuts = from_environment("BLOBFS_CUTS", otherwise_cuts);
        std::cout << "BLOBFS_SEED=" << seed << " BLOBFS_CUTS=" << cuts << std::endl;
        std::mt19937_64 random(seed);
        const SparseImage damaged = image();
        driver::Reactor reactor({.fiber_stack_bytes = std::size_t{256} << 10});
        reactor.block_on([&](Suspend& suspend) {
            auto owned = PowerCutMedium::create({.bytes = kBytes}, damaged);
            const PowerCutMedium* medium = owned.get();
            const auto device = must(driver::Device::open(suspend, std::move(owned)));
            repair(suspend, *device, RepairMode::kAll);
            ASSERT_GT(medium->journal().size(), 0u);
            for (std::uint64_t i = 0; i < cuts && !HasFailure(); ++i) {
                // The first cuts are at the beginning and at the end.
                const std::size_t events = medium->journal().size();
                const std::size_t cut = i == 0 ? 0 : i == 1 ? events : random() % (events + 1);
                const std::uint64_t choice = i % 4 == 0 ? i / 4 % 2 : random();
                const testing::ScopedTrace trace(__FILE__, __LINE__,
                                                 "cut " + std::to_string(cut) + " of " +
                                                     std::to_string(events) + ", choice " +
                                                     std::to_string(choice));
                const auto after = must(driver::Device::open(
                    suspend,
                    PowerCutMedium::create({.bytes = kBytes}, medium->image(cut, choice))));
                repair(suspend, *after, RepairMode::kAll);
                repair(suspend, *after, RepairMode::kNone);
                expect_files(suspend, *after);
                must(after->close(suspend));
            }
            must(device->close(suspend));
        });
    }
    std::vector<std::uint64_t> files_;
};

TEST_F(RepairCrash, OfTheTree) {
    const auto pages = tree_pages();
    ASSERT_GE(pages.front().level, 1u);
    flip(pages.front().block * 4096 + 1000);
    cut_repairs(40);
}

TEST_F(RepairCrash, OfTheMap) {
    flip(superblock().map_root.block * 4096 + 200);
    cut_repairs(40);
}

TEST_F(RepairCrash, OfNamesAndCounts) {
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        for (const std::size_t i : {3u, 40u, 77u}) {
            transaction.state().erase(entry_key(2, name(i)));
        }
    });
    edit_inode(files_[10], [](fs::InodeBlock& block) { block.nlink = 5; });
    edit_head(files_[15], [](blobstore::AttributesValue& head) { head.allocated_blocks = 77; });
    cut_repairs(40);
}

TEST_F(RepairCrash, OfASuperblock) {
    flip(blobstore::kSuperblockBlocks[0] * 4096 + 70);
    cut_repairs(20);
}

TEST_F(RepairCrash, OfBothSuperblocks) {
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) flip(block * 4096 + 70);
    cut_repairs(20);
}

}  // namespace
}  // namespace blobfs::fsck
