#include "driver/reactor/dma_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver {
namespace {

class DmaPoolTest : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        const auto started =
            start_environment({.memory_bytes = std::size_t{32} << 20, .hugepages = false});
        ASSERT_TRUE(started) << started.error().message();
    }
};

TEST_F(DmaPoolTest, BuffersAreDistinctAlignedAndComeBack) {
    auto pool = DmaPool::create(8, 5000);
    ASSERT_TRUE(pool);
    for (int round = 0; round < 2; ++round) {
        std::vector<DmaPool::Buffer> held;
        std::set<std::uintptr_t> pages;
        for (int i = 0; i < 8; ++i) {
            held.push_back((*pool)->try_acquire());
            ASSERT_TRUE(held.back());
            EXPECT_EQ(held.back().span().size(), 5000U);
            const auto address = reinterpret_cast<std::uintptr_t>(held.back().data());
            EXPECT_EQ(address % DmaBuffer::kPageSize, 0U);
            EXPECT_TRUE(pages.insert(address).second && pages.insert(address + 4096).second);
        }
        EXPECT_EQ((*pool)->free(), 0U);
        EXPECT_FALSE((*pool)->try_acquire());
    }
    EXPECT_EQ((*pool)->free(), 8U);
}

TEST_F(DmaPoolTest, ImpossiblePoolsAreErrors) {
    EXPECT_EQ(DmaPool::create(0, 4096).error().code, Errc::kInvalidArgument);
    EXPECT_EQ(DmaPool::create(1, 0).error().code, Errc::kInvalidArgument);
    EXPECT_EQ(DmaPool::create(SIZE_MAX / 2, 4096).error().code, Errc::kNoMemory);
    EXPECT_EQ(DmaPool::create(1, SIZE_MAX).error().code, Errc::kInvalidArgument);
    EXPECT_EQ(DmaPool::create(1000, 1 << 20).error().code, Errc::kNoMemory);
}

TEST_F(DmaPoolTest, WaitersAreServedInTheirOrderAndNobodyBargesIn) {
    Reactor reactor;
    auto pool = DmaPool::create(2, 4096);
    ASSERT_TRUE(pool);
    std::vector<int> order;
    reactor.block_on([&](Suspend& suspend) {
        DmaPool::Buffer first = (*pool)->try_acquire();
        DmaPool::Buffer second = (*pool)->try_acquire();
        for (int i = 0; i < 6; ++i) {
            reactor.spawn_now([&, i](Suspend& inner) {
                const DmaPool::Buffer mine = (*pool)->acquire(inner);
                EXPECT_TRUE(mine);
                order.push_back(i);
                inner.yield();
            });
        }
        suspend.yield();
        EXPECT_TRUE(order.empty());
        first.release();
        EXPECT_FALSE(first);
        // It is promised to the first waiter, which has not run yet.
        EXPECT_FALSE((*pool)->try_acquire());
        const DmaPool::Buffer mine = (*pool)->acquire(suspend);
        order.push_back(6);
    });
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
    EXPECT_EQ((*pool)->free(), 2U);
}

TEST_F(DmaPoolTest, ManyRequestsNeverHoldMoreThanThePoolHas) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        Reactor reactor(ReactorOptions{.shuffle_seed = seed});
        auto pool = DmaPool::create(3, 4096);
        ASSERT_TRUE(pool);
        int holding = 0;
        int served = 0;
        reactor.block_on([&](Suspend& suspend) {
            WaitGroup group;
            for (int i = 0; i < 300; ++i) {
                group.add();
                reactor.spawn([&, i](Suspend& inner) {
                    const DmaPool::Buffer mine = (*pool)->acquire(inner);
                    EXPECT_LE(++holding, 3);
                    *mine.data() = static_cast<std::byte>(i);
                    inner.yield();
                    EXPECT_EQ(*mine.data(), static_cast<std::byte>(i));
                    --holding;
                    ++served;
                    group.done();
                });
            }
            group.wait(suspend);
        });
        EXPECT_EQ(served, 300) << "seed " << seed;
        EXPECT_EQ((*pool)->free(), 3U);
    }
}

TEST_F(DmaPoolTest, MovedHandleReleasesOnce) {
    auto pool = DmaPool::create(2, 4096);
    ASSERT_TRUE(pool);
    DmaPool::Buffer first = (*pool)->try_acquire();
    DmaPool::Buffer second = (*pool)->try_acquire();
    first = std::move(second);  // gives its own back
    EXPECT_EQ((*pool)->free(), 1U);
    EXPECT_FALSE(second);
    EXPECT_TRUE(second.span().empty());
    DmaPool::Buffer third(std::move(first));
    third.release();
    third.release();
    EXPECT_EQ((*pool)->free(), 2U);
}

}  // namespace
}  // namespace blobfs::driver
