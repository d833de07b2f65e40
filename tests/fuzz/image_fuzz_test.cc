// Whole filesystems with damage that has right checksums: mounting, using, checking and repairing
// them never ends in anything but an answer; what fsck calls sound mounts and passes every check;
// what it has repaired is sound. The seed is printed.

#include <gtest/gtest.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "blobstore/store_state.h"
#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/memory_medium.h"
#include "fs/filesystem_state.h"
#include "tests/fuzz/mutation.h"
#include "tools/fsck/check_device.h"

namespace blobfs::fuzz {
namespace {

using blobstore::Blobstore;
using blobstore::PageHeader;
using blobstore::PagePointer;
using blobstore::Superblock;
using driver::Suspend;
using fs::Filesystem;
using fs::InodeNumber;

template <class T>
T must(Result<T> result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
    return std::move(*result);
}
inline void must(const Result<void>& result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
}

class ImageFuzz : public testing::Test {
  protected:
    static constexpr std::uint64_t kBytes = std::uint64_t{16} << 20;
    static constexpr std::size_t kPageBytes = 4096;
    static constexpr fs::Caller kRoot{.uid = 0, .gid = 0, .pid = 1, .umask = 0};

    void SetUp() override {
        must(driver::start_environment({.memory_bytes = std::size_t{512} << 20}));
        reactor_.block_on([&](Suspend& suspend) {
            auto medium = must(driver::MemoryMedium::create({.bytes = kBytes}));
            memory_ = medium->data();
            device_ = must(driver::Device::open(suspend, std::move(medium)));
            buffer_ = must(driver::DmaBuffer::allocate(64 * 1024));
            must(Filesystem::format(suspend, *device_, {.store = {.page_bytes = kPageBytes}}));
            fill(suspend);
        });
    }
    void TearDown() override {
        reactor_.block_on([&](Suspend& suspend) { must(device_->close(suspend)); });
    }

    // Files of all kinds; the clean image, and one whose last changes are in the log.
    void fill(Suspend& suspend) {
        auto filesystem = must(Filesystem::open(suspend, *device_));
        const auto keep = [&](const fs::Attributes& made) {
            filesystem->forget(made.inode, 1);
            return made.inode;
        };
        const InodeNumber directory =
            keep(must(filesystem->mkdir(suspend, kRoot, fs::kRootInode, "dir", 0755)));
        const InodeNumber inner =
            keep(must(filesystem->mkdir(suspend, kRoot, directory, "inner", 0755)));
        for (int i = 0; i < 60; ++i) {
            const InodeNumber file =
                keep(must(filesystem->create(suspend, kRoot, i % 2 == 0 ? directory : inner,
                                             "file" + std::to_string(i), 0644, true)));
            const std::size_t bytes = i % 5 == 0 ? 20'000 : 50;
            std::memset(buffer_.data(), 'a' + i % 20, bytes);
            must(filesystem->write(suspend, file, 0, buffer_.span().first(bytes), {}));
            if (i % 10 == 0) {
                must(filesystem->setxattr(suspend, file, "user.x", std::string(700, 'x'),
                                          fs::XattrMode::kAny));
            }
        }
        keep(must(filesystem->symlink(suspend, kRoot, directory, "long", std::string(900, 't'))));
        keep(must(filesystem->symlink(suspend, kRoot, directory, "short", "t")));
        must(filesystem->close(suspend));
        clean_ = image();

        filesystem = must(Filesystem::open(suspend, *device_));
        for (int i = 0; i < 12; ++i) {
            const InodeNumber file = keep(must(filesystem->create(
                suspend, kRoot, fs::kRootInode, "late" + std::to_string(i), 0644, true)));
            must(filesystem->write(suspend, file, 0, buffer_.span().first(9000), {}));
            must(filesystem->sync(suspend));
        }
        must(filesystem->unlink(suspend, directory, "file0"));
        must(filesystem->sync(suspend));
        filesystem->abandon(suspend);
        unclean_ = image();
    }
    [[nodiscard]] std::string image() const {
        return {reinterpret_cast<const char*>(memory_), static_cast<std::size_t>(kBytes)};
    }
    void restore(const std::string& image) { std::memcpy(memory_, image.data(), image.size()); }

    // Structures of an image.
    // ----------------------------------------------------------------------
    static Superblock superblock_of(const std::string& image) {
        Superblock newest{};
        for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
            const auto superblock =
                blobstore::load<Superblock>(std::string_view(image).substr(block * 4096, 4096));
            if (superblock.generation > newest.generation) newest = superblock;
        }
        return newest;
    }
    static void seal_slots(std::string& image) {
        for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
            seal(image, block * 4096, 4096);
        }
    }
    // A superblock or page, whose checksum is at byte 8 of it.
    static std::uint64_t seal(std::string& image, std::uint64_t offset, std::size_t bytes) {
        const std::uint64_t zero = 0;
        std::memcpy(image.data() + offset + 8, &zero, sizeof(zero));
        const std::uint64_t checksum = XXH3_64bits(image.data() + offset, bytes);
        std::memcpy(image.data() + offset + 8, &checksum, sizeof(checksum));
        return checksum;
    }
    struct Page {
        PagePointer pointer;
        std::vector<std::uint64_t> above;  // offsets of the pages above, the root last
    };
    // All pages below a root, by what the pointers in them look like.
    static void collect(const std::string& image, const PagePointer& pointer,
                        std::vector<std::uint64_t> above, std::vector<Page>& pages) {
        pages.push_back({pointer, above});
        const std::uint64_t offset = pointer.block * 4096;
        const auto header =
            blobstore::load<PageHeader>(std::string_view(image).substr(offset, sizeof(PageHeader)));
        if (header.level == 0) return;
        above.insert(above.begin(), offset);
        for (std::size_t at = sizeof(PageHeader); at + sizeof(PagePointer) <= kPageBytes; ++at) {
            const auto child = blobstore::load<PagePointer>(
                std::string_view(image).substr(offset + at, sizeof(PagePointer)));
            if (child.block < 512 || child.block >= kBytes / 4096) continue;
            const auto below = blobstore::load<PageHeader>(
                std::string_view(image).substr(child.block * 4096, sizeof(PageHeader)));
            if (below.checksum == child.checksum && below.block == child.block &&
                below.generation == child.generation) {
                collect(image, child, above, pages);
            }
        }
    }
    // The page was changed: its checksum, the pointer to it, and so on up to both superblocks.
    static void seal_up(std::string& image, const Page& page) {
        PagePointer old = page.pointer;
        PagePointer fresh = old;
        fresh.checksum = seal(image, old.block * 4096, kPageBytes);
        for (const std::uint64_t offset : page.above) {
            replace(image, offset, kPageBytes, old, fresh);
            const auto header = blobstore::load<PageHeader>(
                std::string_view(image).substr(offset, sizeof(PageHeader)));
            old = fresh = {.block = header.block,
                           .generation = header.generation,
                           .checksum = header.checksum};
            fresh.checksum = seal(image, offset, kPageBytes);
        }
        for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
            replace(image, block * 4096, 4096, old, fresh);
        }
        seal_slots(image);
    }
    static void replace(std::string& image, std::uint64_t offset, std::size_t bytes,
                        const PagePointer& old, const PagePointer& fresh) {
        const std::string_view from = blobstore::bytes_of(old);
        const std::size_t at = std::string_view(image).substr(offset, bytes).find(from);
        if (at != std::string_view::npos) {
            std::memcpy(image.data() + offset + at, &fresh, sizeof(fresh));
        }
    }

    static void damage_part(std::string& image, std::uint64_t offset, std::size_t bytes,
                            Mutation& mutation) {
        std::string part = image.substr(offset, bytes);
        mutation.damage(part, true);
        image.replace(offset, bytes, part);
    }
    static void damage_superblock(std::string& image, Mutation& mutation) {
        // The same damage in both, where it is not of one slot alone.
        std::string part = image.substr(blobstore::kSuperblockBlocks[0] * 4096, 320);
        const std::string before = part;
        mutation.damage(part, true);
        const bool both = mutation.below(2) == 0;
        for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
            for (std::size_t i = 0; i < part.size(); ++i) {
                if (part[i] != before[i]) image[block * 4096 + i] = part[i];
            }
            if (!both) break;
        }
        seal_slots(image);
    }
    static void damage_page(std::string& image, Mutation& mutation, bool of_the_map) {
        const Superblock superblock = superblock_of(image);
        std::vector<Page> pages;
        collect(image, of_the_map ? superblock.map_root : superblock.tree_root, {}, pages);
        const Page& page = pages[mutation.below(pages.size())];
        damage_part(image, page.pointer.block * 4096, kPageBytes, mutation);
        seal_up(image, page);
    }
    // A value of a leaf, so that the page stays a good one.
    static void damage_value(std::string& image, Mutation& mutation) {
        const Superblock superblock = superblock_of(image);
        std::vector<Page> pages;
        collect(image, superblock.tree_root, {}, pages);
        const Page& page = pages[mutation.below(pages.size())];
        const blobstore::PageView view(reinterpret_cast<const std::byte*>(image.data()) +
                                       page.pointer.block * 4096);
        if (!view.leaf()) return;
        const std::size_t entry = mutation.below(view.size());
        const blobstore::ValueView value =
            mutation.below(4) == 0 ? view.key(entry) : view.value(entry);
        if (value.empty()) return;
        damage_part(image, static_cast<std::uint64_t>(value.data() - image.data()), value.size(),
                    mutation);
        seal_up(image, page);
    }
    static void damage_log(std::string& image, Mutation& mutation) {
        const Superblock superblock = superblock_of(image);
        std::vector<std::uint64_t> batches;
        for (std::uint64_t block = 0; block < superblock.log_blocks; ++block) {
            const std::uint64_t offset = (superblock.log_start + block) * 4096;
            const auto header = blobstore::load<blobstore::LogBatchHeader>(
                std::string_view(image).substr(offset, 64));
            if (header.magic == blobstore::kLogMagic && header.epoch == superblock.epoch) {
                batches.push_back(offset);
            }
        }
        if (batches.empty()) return;
        const std::uint64_t offset = batches[mutation.below(batches.size())];
        auto header =
            blobstore::load<blobstore::LogBatchHeader>(std::string_view(image).substr(offset, 64));
        const std::size_t bytes = 64 + std::min<std::size_t>(header.payload_bytes, 60'000);
        damage_part(image, offset + (mutation.below(4) == 0 ? 0 : 64), bytes - 64, mutation);
        header =
            blobstore::load<blobstore::LogBatchHeader>(std::string_view(image).substr(offset, 64));
        // The checksum is of the header with it zero, and the payload: as for a page.
        seal(image, offset, 64 + std::min<std::size_t>(header.payload_bytes, 60'000));
    }

    // What is done with an image.
    // -------------------------------------------------------------------- Everything that can be
    // read; an error is an answer.
    void read_all(Suspend& suspend, Filesystem& filesystem) {
        std::vector<InodeNumber> to_visit = {fs::kRootInode};
        for (std::size_t i = 0; i < to_visit.size() && i < 200; ++i) {
            const InodeNumber inode = to_visit[i];
            const auto ignore = [](const auto&) {};
            ignore(filesystem.getattr(suspend, inode));
            ignore(filesystem.read(suspend, inode, 0, buffer_.span()));
            ignore(filesystem.readlink(suspend, inode));
            ignore(filesystem.seek(suspend, inode, 0, fs::SeekFor::kHole));
            if (const auto names = filesystem.listxattr(suspend, inode)) {
                for (const std::string& name : *names) {
                    ignore(filesystem.getxattr(suspend, inode, name));
                }
            }
            ignore(
                filesystem.readdir(suspend, inode, 2, false, [&](const fs::DirectoryEntry& entry) {
                    to_visit.push_back(entry.inode);
                    return to_visit.size() < 500;
                }));
        }
    }
    void change_some(Suspend& suspend, Filesystem& filesystem, Mutation& mutation) {
        const auto ignore = [](const auto&) {};
        for (int i = 0; i < 6; ++i) {
            const InodeNumber inode{1 + mutation.below(70)};
            const std::string name = "file" + std::to_string(mutation.below(60));
            ignore(filesystem.write(suspend, inode, mutation.below(30'000),
                                    buffer_.span().first(5000), {}));
            ignore(filesystem.setattr(suspend, kRoot, inode, {.size = mutation.below(30'000)}));
            ignore(filesystem.unlink(suspend, inode, name));
            ignore(filesystem.rename(suspend, InodeNumber{2}, name, fs::kRootInode, name,
                                     fs::RenameMode::kReplace));
            if (const auto made = filesystem.create(suspend, kRoot, inode, "new", 0600, true)) {
                filesystem.forget(made->inode, 1);
            }
        }
        ignore(filesystem.sync(suspend));
    }
    // Mounts it, uses it, unmounts it. With `sound` all of that has to succeed.
    void mount(Suspend& suspend, bool read_only, bool sound, Mutation& mutation) {
        const auto opened =
            Filesystem::open(suspend, *device_, {.store = {.read_only = read_only}});
        if (!opened) {
            // A feature that allows reading only is no damage.
            EXPECT_TRUE(!sound || opened.error().code == Errc::kReadOnly)
                << opened.error().message();
            return;
        }
        Filesystem& filesystem = **opened;
        read_all(suspend, filesystem);
        const auto names = filesystem.check(suspend);
        const auto store = filesystem.store().check(suspend);
        if (sound) {
            for (const std::string& finding : must(names)) {
                ADD_FAILURE() << (read_only ? "read-only: " : "") << finding;
            }
            for (const std::string& finding : must(store)) ADD_FAILURE() << "store: " << finding;
        }
        if (!read_only) change_some(suspend, filesystem, mutation);
        const auto closed = filesystem.close(suspend);
        EXPECT_TRUE(closed || !sound);
    }
    std::optional<fsck::CheckReport> check(Suspend& suspend, fsck::RepairMode mode) {
        fsck::CheckRequest request;
        request.device = "memory";
        request.mode = mode;
        request.force = true;
        auto report = fsck::check_opened(suspend, *device_, request);
        if (!report) return std::nullopt;
        return std::move(*report);
    }
    void try_image(Suspend& suspend, const std::string& damaged, std::uint64_t seed) {
        const testing::ScopedTrace trace(__FILE__, __LINE__, "BLOBFS_SEED=" + std::to_string(seed));
        Mutation mutation(seed);
        restore(damaged);
        const auto found = check(suspend, fsck::RepairMode::kNone);
        EXPECT_EQ(std::memcmp(memory_, damaged.data(), damaged.size()), 0)
            << "a check has changed the image";
        const bool sound = found && found->left == 0;
        ++(!found ? refused_ : sound ? sound_ : unsound_);
        mount(suspend, true, sound, mutation);
        EXPECT_EQ(std::memcmp(memory_, damaged.data(), damaged.size()), 0)
            << "a read-only mount has changed the image";
        mount(suspend, false, sound, mutation);
        if (sound) {
            const auto after = check(suspend, fsck::RepairMode::kNone);
            ASSERT_TRUE(after);
            EXPECT_EQ(after->left, 0u) << after->problems.front().text;
        }
        restore(damaged);
        const auto repaired = check(suspend, fsck::RepairMode::kAll);
        if (!repaired) return;
        EXPECT_EQ(repaired->left, 0u)
            << (repaired->problems.empty() ? "" : repaired->problems.back().text);
        if (repaired->left == 0) mount(suspend, false, true, mutation);
    }
    template <class Damage>
    void run(const std::string& sound, int rounds, Damage damage) {
        reactor_.block_on([&](Suspend& suspend) {
            const std::uint64_t first = chosen_seed(1000);
            rounds = std::getenv("BLOBFS_SEED") != nullptr ? 1 : chosen_rounds(rounds);
            for (int i = 0; i < rounds && !HasFailure(); ++i) {
                const std::uint64_t seed = first + static_cast<std::uint64_t>(i);
                Mutation mutation(seed);
                std::string image = sound;
                damage(image, mutation);
                try_image(suspend, image, seed);
            }
            std::cout << sound_ << " images sound, " << unsound_ << " not, " << refused_
                      << " refused" << std::endl;
        });
    }

    driver::Reactor reactor_{driver::ReactorOptions{.fiber_stack_bytes = std::size_t{256} << 10}};
    std::unique_ptr<driver::Device> device_;
    std::byte* memory_ = nullptr;
    driver::DmaBuffer buffer_;
    std::string clean_, unclean_;
    int sound_ = 0, unsound_ = 0, refused_ = 0;
};

TEST_F(ImageFuzz, SoundImagesAreSound) {
    run(clean_, 1, [](std::string&, Mutation&) {});
    run(unclean_, 1, [](std::string&, Mutation&) {});
}
TEST_F(ImageFuzz, Superblocks) {
    run(unclean_, 15, [](std::string& image, Mutation& m) { damage_superblock(image, m); });
}
TEST_F(ImageFuzz, TreePages) {
    run(clean_, 40, [](std::string& image, Mutation& m) { damage_page(image, m, false); });
}
TEST_F(ImageFuzz, MapPages) {
    run(unclean_, 20, [](std::string& image, Mutation& m) { damage_page(image, m, true); });
}
TEST_F(ImageFuzz, KeysAndValues) {
    run(clean_, 60, [](std::string& image, Mutation& m) { damage_value(image, m); });
}
TEST_F(ImageFuzz, Log) {
    run(unclean_, 40, [](std::string& image, Mutation& m) { damage_log(image, m); });
}
TEST_F(ImageFuzz, ManyThingsAtOnce) {
    run(unclean_, 20, [](std::string& image, Mutation& m) {
        for (int i = 0; i < 4; ++i) damage_value(image, m);
        damage_log(image, m);
        damage_page(image, m, true);
    });
}

}  // namespace
}  // namespace blobfs::fuzz
