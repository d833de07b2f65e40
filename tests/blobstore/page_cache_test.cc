#include "blobstore/page_cache.h"

#include <gtest/gtest.h>

#include "tests/blobstore/tree_world.h"

namespace blobfs::blobstore {
namespace {

class PageCacheTest : public TreeTest {
  protected:
    // Pages on the device at blocks 1000 and following, each a leaf with one entry.
    PageCacheTest() {
        auto memory = driver::DmaBuffer::allocate(4096);
        world_.reactor.block_on([&](Suspend& suspend) {
            for (std::uint64_t i = 0; i < 600; ++i) {
                Page page(memory->span());
                page.format(0);
                EXPECT_TRUE(page.insert(0, "key", "value"));
                const std::uint64_t block = 1000 + i;
                pointers_.push_back(
                    world_.io.seal(page_span(*memory), BlockIndex{block}, Generation{1}));
                EXPECT_TRUE(world_.device
                                .write(suspend, block * kBlockBytes, memory->span(),
                                       driver::WriteFlags::kNone)
                                .has_value());
            }
        });
    }
    static DmaSpan page_span(const driver::DmaBuffer& memory) { return memory.span(); }
    Result<void> load(Suspend& suspend, const PagePointer& pointer) {
        TRY(cache().load(suspend, world_.io, pointer,
                         [](ConstDmaSpan) -> const char* { return nullptr; }));
        EXPECT_NE(cache().find(pointer.block), nullptr);
        return {};
    }
    PageCache& cache() { return *world_.cache; }

    TreeWorld world_{{}};
    std::vector<PagePointer> pointers_;
};

TEST_F(PageCacheTest, KeepsAsManyPagesAsItHasFrames) {
    world_.reactor.block_on([&](Suspend& suspend) {
        for (const PagePointer& pointer : pointers_) {
            ASSERT_TRUE(load(suspend, pointer).has_value());
        }
    });
    const auto statistics = cache().statistics();
    EXPECT_EQ(statistics.frames, PageCache::kMinFrames);
    EXPECT_EQ(statistics.used, PageCache::kMinFrames);
    EXPECT_EQ(statistics.misses, pointers_.size());
    EXPECT_EQ(statistics.evictions, pointers_.size() - PageCache::kMinFrames);
    EXPECT_NE(cache().find(pointers_.back().block), nullptr);
}

TEST_F(PageCacheTest, PagesInUseOutliveThoseThatAreNot) {
    world_.reactor.block_on([&](Suspend& suspend) {
        for (std::size_t i = 0; i < pointers_.size(); ++i) {
            ASSERT_TRUE(load(suspend, pointers_[i]).has_value());
            for (std::size_t wanted = 0; wanted < std::min<std::size_t>(i, 20); ++wanted) {
                ASSERT_NE(cache().find(pointers_[wanted].block), nullptr) << i;
            }
        }
    });
}

TEST_F(PageCacheTest, PinnedAndDirtyPagesStay) {
    world_.reactor.block_on([&](Suspend& suspend) {
        ASSERT_TRUE(load(suspend, pointers_[0]).has_value());
        PageCache::Frame& pinned = *cache().find(pointers_[0].block);
        cache().pin(pinned);
        ASSERT_TRUE(load(suspend, pointers_[1]).has_value());
        cache().readdress(*cache().find(pointers_[1].block), 5000);
        // Often enough that the clock's hand comes by twice and finds them unused.
        for (int round = 0; round < 3; ++round) {
            for (const PagePointer& pointer : std::span(pointers_).subspan(2)) {
                if (cache().find(pointer.block) != nullptr) continue;
                ASSERT_TRUE(load(suspend, pointer).has_value());
            }
        }
        EXPECT_EQ(cache().find(pointers_[0].block), &pinned);
        EXPECT_EQ(cache().find(pointers_[1].block), nullptr);
        EXPECT_NE(cache().find(5000), nullptr);
        EXPECT_EQ(cache().dirty_pages(), 1u);
        cache().unpin(pinned);
    });
}

TEST_F(PageCacheTest, GrowsForDirtyPagesAndShrinksAfterThaw) {
    world_.reactor.block_on([&](Suspend& suspend) {
        constexpr std::size_t kDirty = 700;
        for (std::uint64_t i = 0; i < kDirty; ++i) cache().make(3000 + i);
        EXPECT_EQ(cache().statistics().frames, kDirty);
        EXPECT_EQ(cache().statistics().extra, kDirty - PageCache::kMinFrames);
        // Reading still works: the next page has a frame of its own.
        ASSERT_TRUE(load(suspend, pointers_[0]).has_value());
        EXPECT_NE(cache().find(pointers_[0].block), nullptr);
        for (std::uint64_t i = 0; i < kDirty; ++i) cache().freeze(*cache().find(3000 + i));
        EXPECT_EQ(cache().dirty_pages(), 0u);
        EXPECT_EQ(cache().statistics().frozen, kDirty);
        EXPECT_NE(cache().find(3000), nullptr);
        cache().thaw();
        EXPECT_EQ(cache().statistics().frames, PageCache::kMinFrames);
        EXPECT_EQ(cache().statistics().extra, 0u);
        for (const PagePointer& pointer : pointers_) {
            ASSERT_TRUE(load(suspend, pointer).has_value());
        }
        EXPECT_EQ(cache().statistics().frames, PageCache::kMinFrames);
        // And a second time, with what is left of the first.
        for (std::uint64_t i = 0; i < kDirty; ++i) cache().make(3000 + i);
        EXPECT_EQ(cache().statistics().frames, kDirty);
    });
}

TEST_F(PageCacheTest, ObsoleteFrozenPageIsThereUntilThaw) {
    world_.reactor.block_on([&](Suspend&) {
        PageCache::Frame& frame = cache().make(3000);
        frame.data[100] = std::byte{42};
        cache().freeze(frame);
        cache().drop(frame);
        EXPECT_EQ(frame.data[100], std::byte{42});
        EXPECT_EQ(cache().statistics().used, 1u);
        cache().thaw();
        EXPECT_EQ(cache().find(3000), nullptr);
        EXPECT_EQ(cache().statistics().used, 0u);
    });
}

TEST_F(PageCacheTest, BadPageIsNotKeptAndIsAnErrorForAllWhoWait) {
    world_.reactor.block_on([&](Suspend& suspend) {
        driver::WaitGroup fibers;
        fibers.add(10);
        for (int i = 0; i < 10; ++i) {
            world_.reactor.spawn([&](Suspend& own) {
                auto loaded = cache().load(own, world_.io, pointers_[3],
                                           [](ConstDmaSpan) { return "no good"; });
                ASSERT_FALSE(loaded.has_value());
                EXPECT_EQ(loaded.error().code, Errc::kCorrupt);
                EXPECT_STREQ(loaded.error().what, "no good");
                EXPECT_EQ(loaded.error().address, pointers_[3].block * kBlockBytes);
                fibers.done();
            });
        }
        fibers.wait(suspend);
        EXPECT_EQ(cache().statistics().misses, 1u);
        EXPECT_EQ(cache().find(pointers_[3].block), nullptr);
        EXPECT_EQ(cache().statistics().used, 0u);
        EXPECT_TRUE(load(suspend, pointers_[3]).has_value());
    });
}

TEST_F(PageCacheTest, DroppedPinnedPageIsFreeWhenUnpinned) {
    PageCache::Frame& frame = cache().make(3000);
    cache().pin(frame);
    cache().drop(frame);
    EXPECT_EQ(cache().find(3000), nullptr);
    EXPECT_EQ(cache().statistics().used, 1u);
    cache().unpin(frame);
    EXPECT_EQ(cache().statistics().used, 0u);
}

}  // namespace
}  // namespace blobfs::blobstore
