#include "driver/reactor/reactor.h"
#include "driver/reactor/courtesy.h"
#include "driver/reactor/spin_window.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace blobfs::driver {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

double thread_cpu_ms() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

double ms_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// A reactor on a thread of its own, as a daemon has it.
class RunningReactor {
  public:
    explicit RunningReactor(const ReactorOptions& options = {})
        : reactor_(options), thread_([this] { reactor_.run(); }) {}
    ~RunningReactor() {
        while (!reactor_.post([this] { reactor_.stop(); })) std::this_thread::yield();
        thread_.join();
    }
    Reactor* operator->() { return &reactor_; }

  private:
    Reactor reactor_;
    std::thread thread_;
};

TEST(Reactor, SleepLastsAtLeastThatLong) {
    Reactor reactor;
    reactor.block_on([](Suspend& suspend) {
        for (const std::uint64_t us : {0U, 1U, 30U, 200U, 3000U}) {
            const auto start = Clock::now();
            suspend.sleep_us(us);
            const auto slept =
                std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
            EXPECT_GE(slept.count(), static_cast<std::int64_t>(us) * 1000);
        }
    });
}

TEST(Reactor, CountedTimeGoesOnToTheNextTimerAtOnce) {
    Reactor reactor({.virtual_turn_us = 3});
    const auto start = Clock::now();
    constexpr std::uint64_t kHourUs = 3'600'000'000;
    reactor.block_on([&](Suspend& suspend) {
        const std::uint64_t before = reactor.now_us();
        suspend.sleep_us(kHourUs);
        EXPECT_GE(reactor.now_us() - before, kHourUs);
        EXPECT_LE(reactor.now_us() - before, kHourUs + 30);
    });
    EXPECT_LT(ms_since(start), 60'000);
}

TEST(Reactor, TimersExpireInOrderOfTheirTime) {
    Reactor reactor;
    std::vector<int> order;
    reactor.block_on([&](Suspend& suspend) {
        // Far enough apart for a thread that waits for its processor between two of these lines.
        reactor.run_after(150'000, [&] {
            order.push_back(3);
            suspend.current().wake();
        });
        reactor.run_after(1000, [&] {
            order.push_back(1);
            reactor.run_after(500, [&] { order.push_back(2); });
        });
        suspend.park();
    });
    EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(Reactor, CancelledTimersStaySilent) {
    Reactor reactor;
    std::vector<int> expired;
    reactor.block_on([&](Suspend& suspend) {
        const auto early = reactor.run_after(100, [&] { expired.push_back(0); });
        const auto late = reactor.run_after(200'000, [&] { expired.push_back(1); });
        EXPECT_NE(early, 0U);
        reactor.run_after(200, [&] { reactor.cancel(late); });
        suspend.sleep_us(1000);
        reactor.cancel(early);  // expired: nothing happens
        // A new timer may use the place of the old one; the old name does not reach it.
        reactor.run_after(100, [&] { expired.push_back(2); });
        reactor.cancel(early);
        reactor.cancel(late);
        reactor.cancel(0);
        suspend.sleep_us(250'000);
    });
    EXPECT_EQ(expired, (std::vector<int>{0, 2}));
}

TEST(Reactor, HundredThousandTimersExpireSortedAndAreCheap) {
    Reactor reactor;
    constexpr std::size_t kCount = 100'000;
    std::mt19937_64 random(1);
    std::vector<std::size_t> expired;
    std::vector<std::uint64_t> delays(kCount);
    std::vector<Reactor::TimerId> timers(kCount);
    expired.reserve(kCount);
    const auto start = Clock::now();
    for (std::size_t i = 0; i < kCount; ++i) {
        delays[i] = 20'000'000 + (random() % 1000) * 100'000;
        timers[i] = reactor.run_after(delays[i], [] { FAIL() << "cancelled"; });
    }
    std::shuffle(timers.begin(), timers.end(), random);
    for (const auto timer : timers) reactor.cancel(timer);
    std::printf("adding and cancelling a timer among %zu: %.0f ns\n", kCount,
                ms_since(start) * 1e6 / static_cast<double>(kCount));
    for (std::size_t i = 0; i < kCount; ++i) {
        delays[i] = (random() % 20) * 1000;
        reactor.run_after(delays[i], [&expired, i] { expired.push_back(i); });
    }
    reactor.block_on([&](Suspend& suspend) {
        while (expired.size() < kCount) suspend.sleep_us(1000);
    });
    // They were added during some milliseconds, so that only distant ones have a certain order;
    // equal delays keep theirs.
    std::vector<std::size_t> last(20, 0);
    for (const std::size_t i : expired) {
        std::size_t& previous = last[delays[i] / 1000];
        EXPECT_LE(previous, i);
        previous = i;
    }
}

TEST(Reactor, EndlessDelayDoesNotOverflow) {
    Reactor reactor;
    reactor.run_after(UINT64_MAX, [] { FAIL(); });
    reactor.block_on([](Suspend& suspend) { suspend.sleep_us(100); });
}

TEST(Reactor, StopEndsRunAfterTheTurnAndBeforeItAtOnce) {
    Reactor reactor;
    int turns = 0;
    reactor.stop();
    reactor.run();
    reactor.run_after(100, [&] {
        ++turns;
        reactor.stop();
    });
    reactor.run();
    EXPECT_EQ(turns, 1);
    EXPECT_EQ(reactor.block_on([](Suspend&) { return 7; }), 7);
}

TEST(Reactor, PostedFunctionsRunOnTheReactorInOrder) {
    std::vector<int> ran;
    std::atomic<bool> all{false};
    {
        RunningReactor reactor;
        std::thread::id reactor_thread;
        for (int i = 0; i < 1000; ++i) {
            ASSERT_TRUE(reactor->post([&, i] {
                if (i == 0) reactor_thread = std::this_thread::get_id();
                EXPECT_EQ(std::this_thread::get_id(), reactor_thread);
                ran.push_back(i);
                if (i == 999) all = true;
            }));
        }
        while (!all) std::this_thread::yield();
        EXPECT_NE(reactor_thread, std::this_thread::get_id());
    }
    EXPECT_EQ(ran.size(), 1000U);
    EXPECT_TRUE(std::is_sorted(ran.begin(), ran.end()));
}

TEST(Reactor, FullRingRefusesAndDropsTheFunction) {
    Reactor reactor;
    int ran = 0;
    const auto token = std::make_shared<int>();
    int accepted = 0;
    while (accepted < 100'000 && reactor.post([&ran, token] { ++ran; })) ++accepted;
    EXPECT_EQ(accepted, 2047);
    EXPECT_EQ(token.use_count(), accepted + 1);
    reactor.block_on([&](Suspend& suspend) {
        while (ran < accepted) suspend.yield();
    });
    EXPECT_EQ(token.use_count(), 1);
    EXPECT_TRUE(reactor.post([] {}));
}

// Each thread posts, waits for its answer, and pauses for about as long as it takes the reactor to
// fall asleep, so that posts meet it in every state. A lost wake-up hangs here.
TEST(Reactor, NoWakeUpIsLost) {
    std::atomic<int> answered{0};
    constexpr int kThreads = 3;
    constexpr int kRounds = 3000;
    {
        RunningReactor reactor(ReactorOptions{.spin_us = 2, .max_spin_us = 2});
        std::vector<std::thread> threads;
        for (int t = 0; t < kThreads; ++t) {
            threads.emplace_back([&, t] {
                std::mt19937 random(static_cast<unsigned>(t));
                for (int i = 0; i < kRounds; ++i) {
                    std::atomic<bool> done{false};
                    EXPECT_TRUE(reactor->post([&] { done = true; }));
                    const auto start = Clock::now();
                    while (!done) {
                        std::this_thread::yield();
                        if (Clock::now() - start > 10s) {
                            std::fprintf(stderr, "a wake-up was lost\n");
                            std::abort();
                        }
                    }
                    ++answered;
                    const auto pause = std::chrono::nanoseconds(random() % 8000);
                    for (const auto from = Clock::now(); Clock::now() - from < pause;) {
                    }
                }
            });
        }
        for (auto& thread : threads) thread.join();
    }
    EXPECT_EQ(answered, kThreads * kRounds);
}

TEST(Reactor, PostsFromManyThreadsAllArriveOnce) {
    constexpr int kThreads = 4;
    constexpr int kEach = 5000;
    std::vector<int> counts(kThreads, 0);
    {
        RunningReactor reactor;
        std::vector<std::thread> threads;
        for (int t = 0; t < kThreads; ++t) {
            threads.emplace_back([&, t] {
                for (int i = 0; i < kEach; ++i) {
                    while (
                        !reactor->post([&counts, t] { ++counts[static_cast<std::size_t>(t)]; })) {
                        std::this_thread::yield();
                    }
                }
            });
        }
        for (auto& thread : threads) thread.join();
    }  // stop comes behind all of them in the ring
    EXPECT_EQ(counts, std::vector<int>(kThreads, kEach));
}

// A poller that is fed by another thread through an atomic and says so by notify().
class MailPoller final : public Poller {
  public:
    bool poll() override {
        const int now = published.load(std::memory_order_relaxed);
        return std::exchange(seen_, now) != now && (taken.store(now), true);
    }
    [[nodiscard]] bool needs_polling() const override { return false; }
    std::atomic<int> published{0};
    std::atomic<int> taken{0};

  private:
    int seen_ = 0;
};

TEST(Reactor, NotifyMakesASleepingReactorAskItsPollers) {
    MailPoller poller;
    Reactor reactor(ReactorOptions{.spin_us = 1});
    reactor.add_poller(poller);
    std::thread thread([&] { reactor.run(); });
    std::mt19937 random(1);
    for (int i = 1; i <= 2000; ++i) {
        // For about as long as it takes the reactor to fall asleep.
        const auto pause = std::chrono::nanoseconds(random() % 8000);
        for (const auto from = Clock::now(); Clock::now() - from < pause;) {
        }
        poller.published.store(i, std::memory_order_relaxed);
        reactor.notify();
        const auto start = Clock::now();
        while (poller.taken != i) {
            std::this_thread::yield();
            ASSERT_LT(ms_since(start), 10'000) << "a wake-up was lost";
        }
    }
    ASSERT_TRUE(reactor.post([&] { reactor.stop(); }));
    thread.join();
    reactor.remove_poller(poller);
}

TEST(Reactor, IdleReactorCostsNoProcessorTime) {
    double cpu_ms = 0;
    Reactor reactor;
    reactor.block_on([&](Suspend& suspend) {
        const double before = thread_cpu_ms();
        suspend.sleep_us(300'000);
        cpu_ms = thread_cpu_ms() - before;
    });
    EXPECT_LT(cpu_ms, 5);
    EXPECT_GE(reactor.statistics().sleeps, 1U);
    EXPECT_LT(reactor.statistics().sleeps, 10U);
}

TEST(Reactor, WakeUpIsUsedUp) {
    Reactor reactor;
    reactor.block_on([&](Suspend& suspend) {
        Fiber* fiber = &suspend.current();
        std::thread thread([&] {
            std::this_thread::sleep_for(10ms);
            EXPECT_TRUE(reactor.post([fiber] { fiber->wake(); }));
        });
        suspend.park();
        thread.join();
        const auto before = reactor.statistics().sleeps;
        suspend.sleep_us(20'000);
        EXPECT_LE(reactor.statistics().sleeps - before, 3U);
    });
}

TEST(Reactor, PollAlwaysNeverSleeps) {
    Reactor reactor(ReactorOptions{.poll_always = true});
    reactor.block_on([](Suspend& suspend) { suspend.sleep_us(20'000); });
    EXPECT_EQ(reactor.statistics().sleeps, 0U);
    EXPECT_GT(reactor.statistics().turns, 100U);
}

// Completes after a number of polls, as a queue pair does.
class CountingPoller final : public Poller {
  public:
    bool poll() override {
        ++polls;
        if (left == 0 || --left > 0) return false;
        waiter->wake();
        return true;
    }
    [[nodiscard]] bool needs_polling() const override { return left > 0; }
    int polls = 0;
    int left = 0;
    Fiber* waiter = nullptr;
};

TEST(Reactor, PollerWithWorkInFlightKeepsTheReactorAwake) {
    Reactor reactor(ReactorOptions{.spin_us = 0});
    CountingPoller poller;
    reactor.add_poller(poller);
    reactor.block_on([&](Suspend& suspend) {
        poller.waiter = &suspend.current();
        poller.left = 20'000;
        suspend.park();
    });
    EXPECT_GE(poller.polls, 20'000);
    EXPECT_EQ(reactor.statistics().sleeps, 0U);
    reactor.remove_poller(poller);
}

TEST(SpinWindow, GrowsWithShortSleepsAndShrinksWithLongOnes) {
    SpinWindow window(50'000, 300'000);
    EXPECT_EQ(window.ns(), 50'000U);
    window.slept(10'000);
    EXPECT_EQ(window.ns(), 100'000U);
    for (int i = 0; i < 3; ++i) window.slept(200'000);
    EXPECT_EQ(window.ns(), 300'000U);
    window.slept(300'000);
    EXPECT_EQ(window.ns(), 150'000U);
    for (int i = 0; i < 3; ++i) window.slept(500'000'000);
    EXPECT_EQ(window.ns(), 50'000U);
    SpinWindow none(0, 0);
    none.slept(0);
    EXPECT_EQ(none.ns(), 0U);
    SpinWindow from_zero(0, 100'000);
    from_zero.slept(0);
    EXPECT_EQ(from_zero.ns(), 2'000U);
}

class DescriptorPoller final : public Poller {
  public:
    DescriptorPoller() : descriptor_(::eventfd(0, EFD_NONBLOCK)) {}
    ~DescriptorPoller() override { ::close(descriptor_); }
    bool poll() override {
        std::uint64_t count = 0;
        if (::read(descriptor_, &count, sizeof count) != sizeof count) return false;
        on_event();
        return true;
    }
    [[nodiscard]] bool needs_polling() const override { return false; }
    [[nodiscard]] int wake_descriptor() const override { return descriptor_; }
    void signal() const {
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(descriptor_, &one, sizeof one), static_cast<ssize_t>(sizeof one));
    }
    std::function<void()> on_event;

  private:
    int descriptor_;
};

TEST(Reactor, DescriptorWakesASleepingReactor) {
    Reactor reactor;
    DescriptorPoller poller;
    reactor.add_poller(poller);
    reactor.block_on([&](Suspend& suspend) {
        Fiber* fiber = &suspend.current();
        poller.on_event = [fiber] { fiber->wake(); };
        std::thread thread([&] {
            std::this_thread::sleep_for(20ms);
            poller.signal();
        });
        const double before = thread_cpu_ms();
        const auto start = Clock::now();
        suspend.park();
        EXPECT_GE(ms_since(start), 15);
        EXPECT_LT(thread_cpu_ms() - before, 5);
        thread.join();
    });
    EXPECT_GE(reactor.statistics().sleeps, 1U);
    reactor.remove_poller(poller);
}

TEST(Reactor, PollersMayStartFibersAndBeRemovedWhileTheyAreAsked) {
    Reactor reactor;
    DescriptorPoller first;
    DescriptorPoller second;
    reactor.add_poller(first);
    reactor.add_poller(second);
    std::vector<std::string> log;
    reactor.block_on([&](Suspend& suspend) {
        first.on_event = [&] {
            reactor.spawn_now([&](Suspend& inner) {
                log.emplace_back("started");
                reactor.remove_poller(second);
                inner.yield();
                log.emplace_back("resumed");
            });
            log.emplace_back("poller goes on");
        };
        second.on_event = [] { FAIL() << "removed before its turn"; };
        first.signal();
        second.signal();
        while (log.size() < 3) suspend.yield();
        suspend.yield();
    });
    EXPECT_EQ(log, (std::vector<std::string>{"started", "poller goes on", "resumed"}));
    reactor.remove_poller(first);
}

TEST(Reactor, PingPongOfFibersDoesNotStarvePollers) {
    Reactor reactor;
    CountingPoller poller;
    reactor.add_poller(poller);
    bool stop = false;
    reactor.block_on([&](Suspend& suspend) {
        WaitQueue left;
        WaitQueue right;
        const auto player = [&](WaitQueue& mine, WaitQueue& other) {
            reactor.spawn([&](Suspend& inner) {
                while (!stop) {
                    other.wake_one();
                    mine.wait(inner);
                }
                other.wake_one();
            });
        };
        player(left, right);
        player(right, left);
        poller.waiter = &suspend.current();
        poller.left = 10;
        suspend.park();
        stop = true;
        while (reactor.live_fibers() > 1) suspend.yield();
    });
    reactor.remove_poller(poller);
}

TEST(Reactor, ClockStandsStillWithinATurnAndAdvancesBetween) {
    Reactor reactor;
    reactor.block_on([&](Suspend& suspend) {
        suspend.yield();
        const auto before = reactor.now_us();
        std::this_thread::sleep_for(1ms);
        EXPECT_EQ(reactor.now_us(), before);
        suspend.yield();
        EXPECT_GE(reactor.now_us(), before + 1000);
    });
}

TEST(Reactor, DroppedFunctionsAreDestroyedWithTheReactor) {
    const auto token = std::make_shared<int>();
    {
        Reactor reactor;
        reactor.run_after(1'000'000, [token] {});
        EXPECT_TRUE(reactor.post([token] {}));
        EXPECT_EQ(token.use_count(), 3);
    }
    EXPECT_EQ(token.use_count(), 1);
}

TEST(ReactorDeathTest, BlockOnWithinTheLoopIsRefused) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(
        {
            Reactor reactor;
            reactor.block_on([&](Suspend&) { reactor.block_on([](Suspend&) {}); });
        },
        "internal error");
}

TEST(Courtesy, YieldsUntilSomebodyKeepsTheProcessorAndAgainLater) {
    Courtesy courtesy;
    EXPECT_TRUE(courtesy.yields(1'000));
    courtesy.yielded(1'000, 5'000);  // a kernel thread had something to do
    EXPECT_TRUE(courtesy.yields(6'000));
    courtesy.yielded(6'000, 3'000'000);  // a time slice
    EXPECT_FALSE(courtesy.yields(3'006'000));
    EXPECT_FALSE(courtesy.yields(103'006'000));
    EXPECT_TRUE(courtesy.yields(1'003'006'000));
}

}  // namespace
}  // namespace blobfs::driver
