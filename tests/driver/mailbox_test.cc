#include "driver/reactor/mailbox.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

namespace blobfs::driver {
namespace {

bool readable(int descriptor) {
    pollfd wait{.fd = descriptor, .events = POLLIN, .revents = 0};
    return ::poll(&wait, 1, 0) == 1;
}

TEST(Mailbox, OnlyAnnouncedSleepCostsAnEvent) {
    Mailbox mailbox;
    int ran = 0;
    EXPECT_TRUE(mailbox.deliver([&] { ++ran; }));
    EXPECT_FALSE(readable(mailbox.descriptor()));
    EXPECT_TRUE(mailbox.drain());
    mailbox.announce_sleep();
    EXPECT_FALSE(mailbox.drain());
    EXPECT_TRUE(mailbox.deliver([&] { ++ran; }));
    EXPECT_TRUE(readable(mailbox.descriptor()));
    mailbox.retract_sleep();
    mailbox.clear_event();
    EXPECT_FALSE(readable(mailbox.descriptor()));
    EXPECT_TRUE(mailbox.drain());
    EXPECT_EQ(ran, 2);
    EXPECT_TRUE(mailbox.deliver([&] { ++ran; }));
    EXPECT_FALSE(readable(mailbox.descriptor()));
}

// Two threads set off together, again and again: one publishes and notifies, the other announces
// its sleep and looks once more. One of the two has to notice the other, or a wake-up is lost.
// Without either of the two fences in the mailbox a processor delays its store past its load now
// and then, and this fails.
TEST(Mailbox, PublisherOrSleeperNoticesTheOther) {
#if defined(__SANITIZE_THREAD__)
    constexpr int kRounds = 5'000;
#else
    constexpr int kRounds = 300'000;
#endif
    Mailbox mailbox;
    alignas(64) std::atomic<int> go{0};
    alignas(64) std::atomic<int> published{0};
    alignas(64) std::atomic<int> finished{0};
    const auto wait_for = [](const std::atomic<int>& value, int wanted) {
        for (int spins = 0; value.load(std::memory_order_acquire) < wanted; ++spins) {
            if (spins > 10'000) std::this_thread::yield();
        }
    };
    std::thread publisher([&] {
        for (int round = 1; round <= kRounds; ++round) {
            wait_for(go, round);
            published.store(round, std::memory_order_relaxed);
            mailbox.notify();
            finished.store(round, std::memory_order_release);
        }
    });
    int seen = 0;
    int woken = 0;
    int missed = 0;
    for (int round = 1; round <= kRounds; ++round) {
        go.store(round, std::memory_order_release);
        for (int i = 0; i < round % 1024; ++i) asm volatile("" ::: "memory");
        mailbox.announce_sleep();
        const bool noticed = published.load(std::memory_order_relaxed) == round;
        wait_for(finished, round);
        // Looked at only when needed: the system call would part the threads.
        if (noticed) {
            ++seen;
        } else if (readable(mailbox.descriptor())) {
            ++woken;
        } else {
            ++missed;
        }
        mailbox.retract_sleep();
        mailbox.clear_event();
    }
    publisher.join();
    std::printf("noticed by the sleeper %d, by the publisher %d\n", seen, woken);
    EXPECT_EQ(missed, 0);
}

TEST(Mailbox, UndeliveredFunctionsAreDestroyed) {
    const auto token = std::make_shared<int>();
    {
        Mailbox mailbox;
        EXPECT_TRUE(mailbox.deliver([token] {}));
        EXPECT_EQ(token.use_count(), 2);
    }
    EXPECT_EQ(token.use_count(), 1);
}

}  // namespace
}  // namespace blobfs::driver
