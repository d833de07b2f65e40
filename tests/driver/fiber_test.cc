#include "driver/reactor/fiber.h"

#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "driver/reactor/gate.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver {
namespace {

using Log = std::vector<std::string>;

TEST(Fiber, SpawnedFibersRunInOrder) {
    Reactor reactor;
    Log log;
    reactor.block_on([&](Suspend& suspend) {
        for (const char* name : {"a", "b", "c"}) {
            reactor.spawn([&log, name](Suspend&) { log.emplace_back(name); });
        }
        EXPECT_TRUE(log.empty());
        suspend.yield();
    });
    EXPECT_EQ(log, (Log{"a", "b", "c"}));
    EXPECT_EQ(reactor.live_fibers(), 0U);
}

TEST(Fiber, BlockOnReturnsTheValue) {
    Reactor reactor;
    EXPECT_EQ(reactor.block_on([](Suspend& suspend) {
        suspend.yield();
        return std::string("value");
    }),
              "value");
}

TEST(Fiber, SpawnNowRunsUpToTheFirstSuspensionAndNests) {
    Reactor reactor;
    Log log;
    reactor.block_on([&](Suspend& suspend) {
        log.emplace_back("outer 1");
        reactor.spawn_now([&](Suspend& middle) {
            log.emplace_back("middle 1");
            reactor.spawn_now([&](Suspend& inner) {
                log.emplace_back("inner 1");
                inner.yield();
                log.emplace_back("inner 2");
            });
            log.emplace_back("middle 2");
            middle.yield();
            log.emplace_back("middle 3");
        });
        log.emplace_back("outer 2");
        while (reactor.live_fibers() > 1) suspend.yield();
        log.emplace_back("outer 3");
    });
    EXPECT_EQ(log, (Log{"outer 1", "middle 1", "inner 1", "middle 2", "outer 2", "inner 2",
                        "middle 3", "outer 3"}));
}

TEST(Fiber, SpawnNowOutsideTheLoopRunsAtOnce) {
    Reactor reactor;
    bool ran = false;
    reactor.spawn_now([&](Suspend&) { ran = true; });
    EXPECT_TRUE(ran);
    EXPECT_EQ(reactor.live_fibers(), 0U);
}

TEST(Fiber, WakeBeforeParkIsNotLostAndWakesDoNotAddUp) {
    Reactor reactor;
    int parks = 0;
    reactor.block_on([&](Suspend& suspend) {
        suspend.current().wake();
        suspend.current().wake();
        suspend.park();
        ++parks;
        Fiber* fiber = &suspend.current();
        reactor.spawn([&, fiber](Suspend&) {
            EXPECT_EQ(parks, 1);
            fiber->wake();
        });
        suspend.park();
        ++parks;
    });
    EXPECT_EQ(parks, 2);
}

TEST(Fiber, WakeDoesNotDisturbOtherWaits) {
    Reactor reactor;
    reactor.block_on([&](Suspend& suspend) {
        WaitQueue queue;
        int step = 0;
        Fiber* waiter = nullptr;
        reactor.spawn_now([&](Suspend& inner) {
            waiter = &inner.current();
            queue.wait(inner);
            step = 1;
            inner.park();  // the wake that came during the wait
            step = 2;
        });
        waiter->wake();
        suspend.yield();
        suspend.yield();
        EXPECT_EQ(step, 0);
        EXPECT_TRUE(queue.wake_one());
        suspend.yield();
        EXPECT_EQ(step, 2);
        EXPECT_FALSE(queue.wake_one());
    });
}

TEST(Fiber, PooledFiberDoesNotInheritAWake) {
    Reactor reactor;
    reactor.block_on([&](Suspend& suspend) {
        reactor.spawn_now([](Suspend& inner) { inner.current().wake(); });
        Fiber* second = nullptr;
        bool woken = false;
        reactor.spawn_now([&](Suspend& inner) {
            second = &inner.current();
            inner.park();
            woken = true;
        });
        suspend.yield();
        EXPECT_FALSE(woken);
        second->wake();
        suspend.yield();
        EXPECT_TRUE(woken);
    });
}

TEST(Fiber, YieldLetsEveryReadyFiberRunOnce) {
    Reactor reactor;
    Log log;
    reactor.block_on([&](Suspend& suspend) {
        for (const char* name : {"a", "b"}) {
            reactor.spawn([&log, name](Suspend& inner) {
                for (int i = 0; i < 3; ++i) {
                    log.emplace_back(name);
                    inner.yield();
                }
            });
        }
        while (reactor.live_fibers() > 1) suspend.yield();
    });
    EXPECT_EQ(log, (Log{"a", "b", "a", "b", "a", "b"}));
}

TEST(Fiber, ShuffleRunsReadyFibersInAnotherOrderThatTheSeedDecides) {
    const auto order = [](std::optional<std::uint64_t> seed) {
        Reactor reactor(ReactorOptions{.shuffle_seed = seed});
        std::vector<int> ran;
        reactor.block_on([&](Suspend& suspend) {
            WaitGroup group;
            for (int i = 0; i < 40; ++i) {
                group.add();
                reactor.spawn([&ran, &group, i](Suspend&) {
                    ran.push_back(i);
                    group.done();
                });
            }
            group.wait(suspend);
        });
        EXPECT_EQ(ran.size(), 40U);
        return ran;
    };
    const auto straight = order(std::nullopt);
    EXPECT_TRUE(std::is_sorted(straight.begin(), straight.end()));
    EXPECT_EQ(order(7), order(7));
    EXPECT_NE(order(7), straight);
    EXPECT_NE(order(7), order(8));
}

TEST(Fiber, DeepStacksAndManyFibersKeepTheirFrames) {
    Reactor reactor;
    constexpr int kFibers = 1000;
    int sum = 0;
    reactor.block_on([&](Suspend& suspend) {
        WaitGroup group;
        for (int i = 0; i < kFibers; ++i) {
            group.add();
            reactor.spawn([&, i](Suspend& inner) {
                volatile char frame[16 * 1024];
                frame[0] = static_cast<char>(i);
                frame[sizeof frame - 1] = static_cast<char>(i + 1);
                inner.yield();
                inner.sleep_us(static_cast<std::uint64_t>(i % 7));
                EXPECT_EQ(frame[0], static_cast<char>(i));
                EXPECT_EQ(frame[sizeof frame - 1], static_cast<char>(i + 1));
                sum += i;
                group.done();
            });
        }
        group.wait(suspend);
    });
    EXPECT_EQ(sum, kFibers * (kFibers - 1) / 2);
    EXPECT_EQ(reactor.live_fibers(), 0U);
}

TEST(FiberMutex, ServesWaitersInTheirOrderWithoutBarging) {
    Reactor reactor;
    std::vector<int> order;
    reactor.block_on([&](Suspend& suspend) {
        FiberMutex mutex;
        mutex.lock(suspend);
        for (int i = 0; i < 5; ++i) {
            reactor.spawn_now([&, i](Suspend& inner) {
                const FiberMutex::Guard guard(inner, mutex);
                order.push_back(i);
                inner.yield();
            });
        }
        mutex.unlock();
        EXPECT_TRUE(mutex.held());  // handed over
        EXPECT_FALSE(mutex.try_lock());
        mutex.lock(suspend);
        order.push_back(5);
        mutex.unlock();
        EXPECT_FALSE(mutex.held());
    });
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

TEST(FiberSharedMutex, ReadersShareAndAWaitingWriterIsNotOvertaken) {
    Reactor reactor;
    Log log;
    reactor.block_on([&](Suspend& suspend) {
        FiberSharedMutex mutex;
        const auto reader = [&](const char* name) {
            reactor.spawn_now([&, name](Suspend& inner) {
                const FiberSharedMutex::SharedGuard guard(inner, mutex);
                log.push_back(std::string(name) + " in");
                inner.yield();
                log.push_back(std::string(name) + " out");
            });
        };
        reader("r1");
        reader("r2");
        reactor.spawn_now([&](Suspend& inner) {
            const FiberSharedMutex::Guard guard(inner, mutex);
            log.emplace_back("w in");
            inner.yield();
            log.emplace_back("w out");
        });
        reader("r3");
        reader("r4");
        EXPECT_FALSE(mutex.idle());
        while (reactor.live_fibers() > 1) suspend.yield();
        EXPECT_TRUE(mutex.idle());
        EXPECT_TRUE(mutex.try_lock());
        EXPECT_FALSE(mutex.try_lock_shared());
        mutex.unlock();
    });
    EXPECT_EQ(log, (Log{"r1 in", "r2 in", "r1 out", "r2 out", "w in", "w out", "r3 in", "r4 in",
                        "r3 out", "r4 out"}));
}

TEST(FiberSharedMutex, RandomUseNeverMixesWritersWithOthers) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        Reactor reactor(ReactorOptions{.shuffle_seed = seed});
        FiberSharedMutex mutex;
        int readers = 0;
        int writers = 0;
        int finished = 0;
        reactor.block_on([&](Suspend& suspend) {
            std::mt19937_64 random(seed);
            for (int i = 0; i < 200; ++i) {
                const bool exclusive = random() % 4 == 0;
                const auto yields = random() % 4;
                reactor.spawn([&, exclusive, yields](Suspend& inner) {
                    exclusive ? mutex.lock(inner) : mutex.lock_shared(inner);
                    ++(exclusive ? writers : readers);
                    for (std::uint64_t n = 0; n < yields; ++n) {
                        EXPECT_TRUE(writers == 0 || (writers == 1 && readers == 0));
                        inner.yield();
                    }
                    --(exclusive ? writers : readers);
                    exclusive ? mutex.unlock() : mutex.unlock_shared();
                    ++finished;
                });
            }
            while (reactor.live_fibers() > 1) suspend.yield();
        });
        EXPECT_EQ(finished, 200) << "seed " << seed;
        EXPECT_TRUE(mutex.idle());
    }
}

TEST(WaitGroup, WaitsUntilAllAreDone) {
    Reactor reactor;
    int done = 0;
    reactor.block_on([&](Suspend& suspend) {
        WaitGroup group;
        group.wait(suspend);  // of none: at once
        for (std::uint64_t i = 0; i < 3; ++i) {
            group.add();
            reactor.spawn([&, i](Suspend& inner) {
                inner.sleep_us(300 - 100 * i);
                ++done;
                group.done();
            });
        }
        group.wait(suspend);
        EXPECT_EQ(done, 3);
        EXPECT_EQ(group.count(), 0U);
    });
}

TEST(Gate, CloseRefusesAndWaits) {
    Reactor reactor;
    reactor.block_on([&](Suspend& suspend) {
        Gate gate;
        Log log;
        reactor.spawn_now([&](Suspend& inner) {
            const Gate::Pass pass(gate);
            EXPECT_TRUE(static_cast<bool>(pass));
            inner.sleep_us(50'000);
            log.emplace_back("left");
        });
        reactor.spawn([&](Suspend&) {
            const Gate::Pass pass(gate);
            EXPECT_FALSE(static_cast<bool>(pass));
            log.emplace_back("refused");
        });
        EXPECT_EQ(gate.inside(), 1U);
        gate.close(suspend);
        EXPECT_EQ(log, (Log{"refused", "left"}));
        EXPECT_FALSE(gate.enter());
    });
}

using FiberDeathTest = testing::Test;

TEST(FiberDeathTest, SuspendOfAnotherFiberIsRefused) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(
        {
            Reactor reactor;
            reactor.block_on(
                [&](Suspend& outer) { reactor.spawn_now([&](Suspend&) { outer.yield(); }); });
        },
        "internal error");
}

TEST(FiberDeathTest, ReactorWithLiveFibersIsNotDestroyed) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(
        {
            Reactor reactor;
            reactor.spawn_now([](Suspend& suspend) { suspend.park(); });
        },
        "internal error");
}

TEST(FiberDeathTest, OverrunningTheStackHitsTheGuardPage) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(
        {
            Reactor reactor;
            reactor.block_on([&](Suspend&) {
                volatile char* here = static_cast<volatile char*>(__builtin_frame_address(0));
                for (std::size_t depth = 0; depth < (std::size_t{1} << 20); depth += 512) {
                    *(here - depth) = 0;
                }
            });
        },
        "");
}

std::uint64_t thread_cpu_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

// Prints what a switch costs in processor time; the bounds only catch a blunder (a stack mapped or
// a descriptor written each time).
TEST(Fiber, SwitchAndSpawnAreCheap) {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a switch costs microseconds under ThreadSanitizer";
#endif
    Reactor reactor;
    const auto nanoseconds = [](std::uint64_t start, int count) {
        return static_cast<double>(thread_cpu_ns() - start) / count;
    };
    reactor.block_on([&](Suspend& suspend) {
        constexpr int kCount = 100'000;
        Fiber* parked = nullptr;
        bool stop = false;
        WaitQueue queue;
        reactor.spawn_now([&](Suspend& inner) {
            parked = &inner.current();
            while (!stop) inner.park();
        });
        for (int round = 0; round < 2; ++round) {
            auto start = thread_cpu_ns();
            for (int i = 0; i < kCount; ++i) reactor.spawn_now([](Suspend&) {});
            const double spawn = nanoseconds(start, kCount);
            start = thread_cpu_ns();
            for (int i = 0; i < kCount; ++i) {
                parked->wake();
                suspend.yield();
            }
            const double turn = nanoseconds(start, kCount);
            if (round == 1) {
                std::printf("spawn, run, drop: %.0f ns; wake and a turn of the loop: %.0f ns\n",
                            spawn, turn);
                EXPECT_LT(spawn, 2'000);
                EXPECT_LT(turn, 2'000);
            }
        }
        stop = true;
        parked->wake();
        suspend.yield();
    });
}

}  // namespace
}  // namespace blobfs::driver
