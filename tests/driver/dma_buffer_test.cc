#include "driver/memory/dma_buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "driver/memory/environment.h"

namespace blobfs::driver {
namespace {

constexpr std::size_t kMemory = std::size_t{64} << 20;

class DmaBufferTest : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        const auto started = start_environment({.memory_bytes = kMemory, .hugepages = false});
        ASSERT_TRUE(started) << started.error().message();
    }
};

TEST_F(DmaBufferTest, MemoryIsZeroedAndAligned) {
    for (int round = 0; round < 2; ++round) {
        for (const std::size_t alignment : {std::size_t{4096}, std::size_t{65536}}) {
            auto buffer = DmaBuffer::allocate(10'000, alignment);
            ASSERT_TRUE(buffer);
            EXPECT_EQ(buffer->size(), 10'000U);
            EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % alignment, 0U);
            EXPECT_TRUE(std::all_of(buffer->span().begin(), buffer->span().end(),
                                    [](std::byte b) { return b == std::byte{0}; }));
            std::memset(buffer->data(), 0xa5, buffer->size());  // the next round finds zeroes
        }
    }
}

TEST_F(DmaBufferTest, ArgumentsThatMakeNoSenseAreRefused) {
    EXPECT_EQ(DmaBuffer::allocate(0).error().code, Errc::kInvalidArgument);
    EXPECT_EQ(DmaBuffer::allocate(1, 512).error().code, Errc::kInvalidArgument);
    EXPECT_EQ(DmaBuffer::allocate(1, 12'288).error().code, Errc::kInvalidArgument);
    EXPECT_EQ(DmaBuffer::allocate(SIZE_MAX).error().code, Errc::kNoMemory);
    EXPECT_EQ(DmaBuffer::allocate(1, std::size_t{1} << 40).error().code, Errc::kInvalidArgument);
}

TEST_F(DmaBufferTest, ExhaustionIsAnErrorAndWhatIsFreedComesBack) {
    std::size_t first_count = 0;
    for (int round = 0; round < 2; ++round) {
        std::vector<DmaBuffer> buffers;
        for (;;) {
            auto buffer = DmaBuffer::allocate(std::size_t{1} << 20);
            if (!buffer) {
                EXPECT_EQ(buffer.error().code, Errc::kNoMemory);
                break;
            }
            buffers.push_back(std::move(*buffer));
            ASSERT_LT(buffers.size(), 1000U);
        }
        EXPECT_GE(buffers.size(), kMemory >> 20);  // all that was asked for can be had
        if (round == 0) first_count = buffers.size();
        EXPECT_EQ(buffers.size(), first_count);
    }
}

TEST_F(DmaBufferTest, AllOfItCanBeOneBuffer) { EXPECT_TRUE(DmaBuffer::allocate(kMemory)); }

TEST_F(DmaBufferTest, MovingLeavesNothingBehind) {
    auto first = DmaBuffer::allocate(4096);
    ASSERT_TRUE(first);
    std::byte* data = first->data();
    DmaBuffer second = std::move(*first);
    EXPECT_FALSE(*first);
    EXPECT_EQ(second.data(), data);
    DmaBuffer third;
    third = std::move(second);
    EXPECT_EQ(third.data(), data);
    EXPECT_EQ(second.size(), 0U);
}

}  // namespace
}  // namespace blobfs::driver
