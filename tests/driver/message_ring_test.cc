#include "driver/reactor/message_ring.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace blobfs::driver {
namespace {

TEST(MessageRing, IsFirstInFirstOutAndHoldsItsCapacity) {
    for (const auto consumers : {MessageRing::Threads::kOne, MessageRing::Threads::kMany}) {
        MessageRing ring({.capacity = 100, .consumers = consumers});
        std::array<int, 100> messages{};
        for (int round = 0; round < 5; ++round) {
            EXPECT_TRUE(ring.empty());
            EXPECT_EQ(ring.pop(), nullptr);
            for (int& message : messages) ASSERT_TRUE(ring.push(&message));
            EXPECT_FALSE(ring.empty());
            std::array<void*, 7> batch{};
            ASSERT_EQ(ring.pop(batch), 7U);
            for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(batch[i], &messages[i]);
            for (std::size_t i = 7; i < 100; ++i) ASSERT_EQ(ring.pop(), &messages[i]);
        }
    }
}

TEST(MessageRing, FullRingRefuses) {
    MessageRing ring({.capacity = 7});
    int message = 0;
    std::size_t held = 0;
    while (held < 100 && ring.push(&message)) ++held;
    EXPECT_EQ(held, 7U);
    EXPECT_EQ(ring.pop(), &message);
    EXPECT_TRUE(ring.push(&message));
    EXPECT_FALSE(ring.push(&message));
}

// Every message arrives once, with what was written to it, and those of one producer in order.
TEST(MessageRing, ManyProducersAndConsumersLoseNothing) {
    struct Message {
        std::size_t producer, number;
        int received;
    };
    constexpr std::size_t kProducers = 3;
    constexpr std::size_t kEach = 3000;
    MessageRing ring({.capacity = 64, .consumers = MessageRing::Threads::kMany});
    std::vector<std::vector<Message>> messages(kProducers, std::vector<Message>(kEach));
    std::atomic<std::size_t> received{0};
    std::vector<std::thread> threads;
    for (std::size_t p = 0; p < kProducers; ++p) {
        threads.emplace_back([&, p] {
            for (std::size_t i = 0; i < kEach; ++i) {
                messages[p][i] = {p, i, 0};
                while (!ring.push(&messages[p][i])) std::this_thread::yield();
            }
        });
    }
    for (int c = 0; c < 2; ++c) {
        threads.emplace_back([&] {
            std::vector<std::size_t> next(kProducers, 0);
            while (received < kProducers * kEach) {
                auto* message = static_cast<Message*>(ring.pop());
                if (message == nullptr) {
                    std::this_thread::yield();
                    continue;
                }
                EXPECT_GE(message->number, next[message->producer]);
                next[message->producer] = message->number + 1;
                ++message->received;
                ++received;
            }
        });
    }
    for (auto& thread : threads) thread.join();
    for (const auto& producer : messages) {
        for (const Message& message : producer) ASSERT_EQ(message.received, 1);
    }
}

}  // namespace
}  // namespace blobfs::driver
