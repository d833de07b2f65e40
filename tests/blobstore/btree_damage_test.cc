// Damaged and hostile trees: an error for who needs the damaged page, and nobody else.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "blobstore/btree.h"
#include "tests/blobstore/tree_world.h"

namespace blobfs::blobstore {
namespace {

class BtreeDamage : public TreeTest {};

// The pointer to the leaf of a key, and its range.
struct Leaf {
    PagePointer pointer;
    std::string lower, upper;
};
Leaf leaf_of(TreeWorld& world, Suspend& suspend, KeyView key) {
    Leaf leaf;
    EXPECT_TRUE(
        world.tree
            ->walk(suspend,
                   [&](const Btree::WalkedPage& page) {
                       if (page.level == 0 && key >= page.lower &&
                           (page.upper.empty() || key < page.upper)) {
                           leaf = {page.pointer, std::string(page.lower), std::string(page.upper)};
                       }
                       return true;
                   })
            .has_value());
    return leaf;
}

TEST_F(BtreeDamage, DamagedLeafIsAnErrorForItsKeysOnly) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        constexpr std::uint64_t kKeys = 5000;
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, kKeys, 100));
        const Leaf leaf = leaf_of(world, suspend, steady_key(2500));
        const std::uint64_t offset = leaf.pointer.block * kBlockBytes;
        *world.device.at(offset + 3000) ^= std::byte{1};
        world.open_tree();
        std::string value;
        for (int round = 0; round < 2; ++round) {
            std::uint64_t lost = 0;
            for (std::uint64_t i = 0; i < kKeys; ++i) {
                const Key key = steady_key(i);
                const bool in_leaf = key.view() >= leaf.lower && key.view() < leaf.upper;
                auto got = world.tree->get(suspend, key, value);
                ASSERT_EQ(got.has_value(), !in_leaf);
                if (!in_leaf) {
                    ASSERT_TRUE(*got);
                    continue;
                }
                ++lost;
                EXPECT_EQ(got.error().code, Errc::kCorrupt);
                EXPECT_EQ(got.error().address, offset);
                EXPECT_FALSE(world.tree->resident(key));
                EXPECT_EQ(world.tree->fetch(suspend, key).error().code, Errc::kCorrupt);
            }
            EXPECT_GT(lost, 5u);
        }
        std::uint64_t seen = 0;
        auto scanned = world.tree->scan(suspend, {}, {}, [&](KeyView key, ValueView) {
            EXPECT_LT(key, leaf.lower);
            ++seen;
            return true;
        });
        ASSERT_FALSE(scanned.has_value());
        EXPECT_EQ(scanned.error().code, Errc::kCorrupt);
        EXPECT_GT(seen, 1000u);
        // The walk names it and goes on behind it.
        std::size_t bad = 0;
        std::string last;
        ASSERT_TRUE(world.tree
                        ->walk(suspend,
                               [&](const Btree::WalkedPage& page) {
                                   if (page.page == nullptr) {
                                       ++bad;
                                       EXPECT_EQ(page.pointer, leaf.pointer);
                                       EXPECT_EQ(page.error.address, offset);
                                       EXPECT_EQ(page.lower, leaf.lower);
                                   }
                                   last = page.lower;
                                   return true;
                               })
                        .has_value());
        EXPECT_EQ(bad, 1u);
        EXPECT_GT(last, leaf.upper);
        // Changes elsewhere work, the neighbours of the damage included.
        for (std::uint64_t i = 0; i < kKeys; ++i) {
            const Key key = steady_key(i);
            if (key.view() >= leaf.lower && key.view() < leaf.upper) continue;
            ASSERT_TRUE(world.erase(suspend, key).value());
        }
        ASSERT_TRUE(world.checkpoint(suspend).has_value());
    });
}

TEST_F(BtreeDamage, EveryKindOfWrongPageIsNoticed) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, 5000, 100));
        const Key key = steady_key(100);
        const Leaf old_leaf = leaf_of(world, suspend, key);
        const Leaf other = leaf_of(world, suspend, steady_key(4000));
        const auto at = [&](const PagePointer& page) {
            return world.device.at(page.block * kBlockBytes);
        };
        ASSERT_TRUE(world.put(suspend, key, "newer").has_value());
        ASSERT_TRUE(world.checkpoint(suspend).has_value());
        const Leaf leaf = leaf_of(world, suspend, key);
        ASSERT_NE(leaf.pointer.block, old_leaf.pointer.block);
        const std::vector<std::byte> good(at(leaf.pointer), at(leaf.pointer) + 4096);
        const auto error = [&]() -> std::string {
            world.open_tree();
            std::string value;
            auto got = world.tree->get(suspend, key, value);
            return got ? "none" : got.error().what;
        };
        EXPECT_EQ(error(), "none");
        // Misdirected: another page of the same filesystem.
        std::copy_n(at(other.pointer), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: written for another place");
        // Never written: zeroes.
        std::fill_n(at(leaf.pointer), 4096, std::byte{0});
        EXPECT_EQ(error(), "metadata page: magic");
        // A lost write: what was there before, in an older generation.
        auto stale = driver::DmaBuffer::allocate(4096);
        ASSERT_TRUE(stale.has_value());
        std::copy(good.begin(), good.end(), stale->data());
        world.io.seal(stale->span(), BlockIndex{leaf.pointer.block}, Generation{1});
        std::copy_n(stale->data(), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: not the version that is wanted");
        // Of the same generation, but not the same.
        std::copy(good.begin(), good.end(), stale->data());
        stale->data()[4095] ^= std::byte{1};
        world.io.seal(stale->span(), BlockIndex{leaf.pointer.block},
                      Generation{leaf.pointer.generation});
        std::copy_n(stale->data(), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: not the version that is wanted");
        // Of another filesystem.
        PageIo::Geometry geometry = world.io.geometry();
        geometry.uuid[7] = 9;
        PageIo stranger(world.device, geometry);
        std::copy(good.begin(), good.end(), stale->data());
        stranger.seal(stale->span(), BlockIndex{leaf.pointer.block},
                      Generation{leaf.pointer.generation});
        std::copy_n(stale->data(), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: of another filesystem");
        std::copy(good.begin(), good.end(), at(leaf.pointer));
        EXPECT_EQ(error(), "none");
    });
}

// Pages made by hand, with good checksums and bad intentions.
class HostileTree : public TreeTest {
  protected:
    PagePointer write(Suspend& suspend, Page& page, const driver::DmaBuffer& memory,
                      std::uint64_t block) {
        (void)page;
        const PagePointer pointer = world_.io.seal(memory.span(), BlockIndex{block}, Generation{1});
        EXPECT_TRUE(
            world_.device
                .write(suspend, block * kBlockBytes, memory.span(), driver::WriteFlags::kNone)
                .has_value());
        return pointer;
    }
    PagePointer leaf(Suspend& suspend, std::uint64_t block,
                     std::initializer_list<const char*> keys) {
        auto memory = driver::DmaBuffer::allocate(4096);
        Page page(memory->span());
        page.format(0);
        for (const char* key : keys) EXPECT_TRUE(page.insert(page.size(), key, "value"));
        return write(suspend, page, *memory, block);
    }
    PagePointer interior(Suspend& suspend, std::uint64_t block, std::uint32_t level,
                         std::initializer_list<std::pair<const char*, PagePointer>> children) {
        auto memory = driver::DmaBuffer::allocate(4096);
        Page page(memory->span());
        page.format(level);
        for (const auto& [key, child] : children) {
            EXPECT_TRUE(page.insert(page.size(), key, bytes_of(child)));
        }
        return write(suspend, page, *memory, block);
    }
    void open(const PagePointer& root, std::uint32_t height) {
        world_.root = {.page = root, .height = height};
        world_.generation = Generation{2};
        world_.pages.set_current(Generation{2});
        world_.open_tree();
    }
    TreeWorld world_{{}};
};

TEST_F(HostileTree, LeafSharedByTwoParentsIsNotChanged) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer shared = leaf(suspend, 1000, {"b", "c"});
        open(interior(suspend, 1001, 1, {{"", shared}, {"m", shared}}), 2);
        std::string value;
        EXPECT_TRUE(world_.tree->get(suspend, "b", value).value());
        EXPECT_TRUE(world_.tree->fetch(suspend, "b").has_value());
        EXPECT_TRUE(world_.tree->resident("b"));
        EXPECT_EQ(world_.tree->fetch(suspend, "n").error().code, Errc::kCorrupt);
        EXPECT_FALSE(world_.tree->resident("n"));
        world_.open_tree();
        EXPECT_EQ(world_.tree->get(suspend, "n", value).error().code, Errc::kCorrupt);
        std::size_t good = 0;
        std::size_t bad = 0;
        ASSERT_TRUE(world_.tree
                        ->walk(suspend,
                               [&](const Btree::WalkedPage& page) {
                                   ++(page.page != nullptr ? good : bad);
                                   return true;
                               })
                        .has_value());
        EXPECT_EQ(good, 2u);
        EXPECT_EQ(bad, 1u);
    });
}

TEST_F(HostileTree, PageUsedOnTwoLevelsIsDamage) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer low = leaf(suspend, 1000, {"b", "c"});
        const PagePointer middle = interior(suspend, 1001, 1, {{"", low}, {"g", low}});
        open(interior(suspend, 1002, 2, {{"", middle}, {"m", low}}), 3);
        std::string value;
        EXPECT_TRUE(world_.tree->get(suspend, "b", value).value());
        const auto got = world_.tree->get(suspend, "n", value);
        ASSERT_FALSE(got.has_value());
        EXPECT_EQ(got.error().code, Errc::kCorrupt);
        EXPECT_STREQ(got.error().what, "tree page: used twice");
        EXPECT_EQ(got.error().address, low.block * kBlockBytes);
        EXPECT_EQ(world_.tree->fetch(suspend, "n").error().code, Errc::kCorrupt);
        EXPECT_EQ(world_.tree->scan(suspend, {}, {}, [](KeyView, ValueView) { return true; })
                      .error()
                      .code,
                  Errc::kCorrupt);
    });
}

TEST_F(HostileTree, KeysOutsideOfTheirRangeAreDamage) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer low = leaf(suspend, 1000, {"b", "z"});
        const PagePointer high = leaf(suspend, 1001, {"a", "y"});
        open(interior(suspend, 1002, 1, {{"", low}, {"m", high}}), 2);
        std::string value;
        EXPECT_EQ(world_.tree->get(suspend, "b", value).error().code, Errc::kCorrupt);
        EXPECT_EQ(world_.tree->get(suspend, "y", value).error().code, Errc::kCorrupt);
    });
}

TEST_F(HostileTree, RootThatCannotBeIsDamage) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer low = leaf(suspend, 1000, {"b", "z"});
        PagePointer newer = low;
        newer.generation = 2;
        const std::pair<PagePointer, std::uint32_t> roots[] = {
            {low, 0},
            {low, 2},
            {low, kMaxTreeHeight + 1},
            {low, ~0u},
            {PagePointer{}, 1},
            {newer, 1},
            {PagePointer{.block = ~0ull, .generation = 1, .checksum = 1}, 1}};
        for (const auto& [root, height] : roots) {
            open(root, height);
            std::string key, value;
            EXPECT_EQ(world_.tree->get(suspend, "b", value).error().code, Errc::kCorrupt);
            EXPECT_EQ(world_.tree->floor(suspend, "b", "c", key, value).error().code,
                      Errc::kCorrupt);
            EXPECT_EQ(world_.tree->fetch(suspend, "b").error().code, Errc::kCorrupt);
            EXPECT_FALSE(world_.tree->resident("b"));
            std::size_t bad = 0;
            EXPECT_TRUE(world_.tree
                            ->walk(suspend,
                                   [&](const Btree::WalkedPage& page) {
                                       bad += page.page == nullptr;
                                       return true;
                                   })
                            .has_value());
            EXPECT_EQ(bad, 1u);
        }
        open(low, 1);
        std::string value;
        EXPECT_TRUE(world_.tree->get(suspend, "b", value).value());
    });
}

}  // namespace
}  // namespace blobfs::blobstore
