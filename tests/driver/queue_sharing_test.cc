// One controller, several threads, a queue pair for each.

#include <gtest/gtest.h>
#include <time.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/nvme_device.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/memory_medium.h"
#include "driver/soft/software_controller.h"

namespace blobfs::driver {
namespace {

constexpr std::uint32_t kThreads = 3;
constexpr std::size_t kBlock = 4096;
constexpr std::uint64_t kShare = 64;  // blocks of each thread

class QueueSharing : public testing::Test {
  protected:
    static void SetUpTestSuite() { ASSERT_TRUE(start_environment({})); }

    void open(std::uint32_t queues, nvme::ControllerOptions wanted = {}) {
        reactor.block_on([&](Suspend& suspend) {
            auto owned = std::make_unique<FaultyMedium>(
                MemoryMedium::create(
                    {.bytes = kThreads * kShare * kBlock, .volatile_write_cache = true})
                    .value());
            medium = owned.get();
            auto transport = std::make_unique<SoftwareTransport>(
                reactor, std::move(owned),
                SoftwareControllerOptions{.max_io_queues = static_cast<std::uint16_t>(kThreads + 1),
                                          .doorbell_stride_exponent = 4,
                                          .aborts = false});
            DeviceOptions options;
            options.io_queues = static_cast<std::uint16_t>(queues);
            options.queue_depth = 16;
            if (wanted.io_timeout_ms != 0) options.io_timeout_ms = wanted.io_timeout_ms;
            device = NvmeDevice::open(suspend, std::move(transport), options, wanted).value();
        });
    }
    Result<void> close() {
        return reactor.block_on([&](Suspend& suspend) { return device->close(suspend); });
    }
    nvme::Controller& controller() { return static_cast<NvmeDevice&>(*device).controller(); }

    // Each on a thread and a reactor of its own, with a device that has joined; meanwhile the first
    // reactor runs `during` and goes on until all have ended.
    using Body = std::function<void(Suspend&, Device&, std::uint32_t index)>;
    void on_threads(const Body& body, const std::function<void(Suspend&)>& during = {},
                    const ReactorOptions& own_options = {}) {
        std::atomic<std::uint32_t> left = kThreads;
        std::vector<std::thread> threads;
        for (std::uint32_t i = 0; i < kThreads; ++i) {
            threads.emplace_back([&, i] {
                Reactor own(own_options);
                own.block_on([&](Suspend& suspend) {
                    Result<std::unique_ptr<Device>> joined = device->join(suspend);
                    ASSERT_TRUE(joined) << joined.error().message();
                    body(suspend, **joined, i);
                    EXPECT_TRUE((*joined)->close(suspend));
                });
                --left;
            });
        }
        reactor.block_on([&](Suspend& suspend) {
            if (during) during(suspend);
            while (left != 0) suspend.sleep_us(1000);
        });
        for (std::thread& thread : threads) thread.join();
    }

    Reactor reactor;
    FaultyMedium* medium = nullptr;
    std::unique_ptr<Device> device;
};

// Eight fibers write and read back a thread's share; the outcome of each.
std::vector<Result<void>> work(Suspend& suspend, Device& device, std::uint32_t index, int rounds) {
    std::vector<Result<void>> results(8);
    WaitGroup group;
    for (std::size_t fiber = 0; fiber < results.size(); ++fiber) {
        group.add();
        suspend.reactor().spawn([&, fiber](Suspend& own) {
            results[fiber] = [&]() -> Result<void> {
                TRY_ASSIGN(const DmaBuffer memory, DmaBuffer::allocate(2 * kBlock));
                const DmaSpan out = memory.span().first(kBlock), in = memory.span().last(kBlock);
                for (int round = 0; round < rounds; ++round) {
                    const std::uint64_t block =
                        index * kShare + fiber * 8 + static_cast<std::uint64_t>(round) % 8;
                    std::memset(out.data(), static_cast<int>(block * 7 + fiber) + round, kBlock);
                    TRY(device.write(own, block * kBlock, out));
                    TRY(device.read(own, block * kBlock, in));
                    if (std::memcmp(in.data(), out.data(), kBlock) != 0) {
                        return fail(Errc::kCorrupt, "comparing", block);
                    }
                }
                return {};
            }();
            group.done();
        });
    }
    group.wait(suspend);
    return results;
}

TEST_F(QueueSharing, EachThreadHasItsOwnQueueAndItsData) {
    open(kThreads + 1);
    EXPECT_EQ(device->properties().io_queues, kThreads + 1);
    on_threads(
        [](Suspend& suspend, Device& joined, std::uint32_t index) {
            for (const Result<void>& result : work(suspend, joined, index, 200)) {
                EXPECT_TRUE(result) << result.error().message();
            }
            EXPECT_TRUE(joined.flush(suspend));
            EXPECT_EQ(joined.statistics().writes, 8U * 200);
        },
        [&](Suspend& suspend) {
            // The first thread has its own queue meanwhile.
            const DmaBuffer memory = DmaBuffer::allocate(kBlock).value();
            for (int i = 0; i < 100; ++i) EXPECT_TRUE(device->read(suspend, 0, memory.span()));
        });
    // They were given back: others may have them.
    on_threads([](Suspend& suspend, Device& joined, std::uint32_t index) {
        for (const Result<void>& result : work(suspend, joined, index, 5)) EXPECT_TRUE(result);
    });
    EXPECT_TRUE(close());
}

TEST_F(QueueSharing, WhenAllQueuesAreTakenTheNextIsRefused) {
    open(1);
    std::atomic<bool> done = false;
    std::thread thread([&] {
        Reactor own;
        own.block_on([&](Suspend& suspend) {
            const auto joined = device->join(suspend);
            ASSERT_FALSE(joined);
            EXPECT_EQ(joined.error().code, Errc::kBusy);
        });
        done = true;
    });
    reactor.block_on([&](Suspend& suspend) {
        while (!done) suspend.sleep_us(1000);
    });
    thread.join();
    EXPECT_TRUE(close());
}

std::uint64_t thread_cpu_us() {
    timespec used{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return static_cast<std::uint64_t>(used.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(used.tv_nsec) / 1000;
}

TEST_F(QueueSharing, ThreadSleepsWhileASlowDeviceWorksForIt) {
    open(kThreads + 1);
    constexpr int kReads = 10;
    constexpr std::uint64_t kDelayUs = 40'000;
    medium->add({.effect = Fault::Effect::kDelay, .delay_us = kDelayUs});
    on_threads([&](Suspend& suspend, Device& joined, std::uint32_t) {
        const DmaBuffer memory = DmaBuffer::allocate(kBlock).value();
        const std::uint64_t before_us = thread_cpu_us();
        for (int i = 0; i < kReads; ++i) EXPECT_TRUE(joined.read(suspend, 0, memory.span()));
        EXPECT_LT(thread_cpu_us() - before_us, kReads * kDelayUs / 4);
        EXPECT_GE(suspend.reactor().statistics().sleeps, 10U);
    });
    EXPECT_TRUE(close());
}

// A thread that has not been told finds its completion when it looks after timeouts, each 100 ms.
TEST_F(QueueSharing, SleepingThreadIsToldOfEveryCompletion) {
    open(kThreads + 1);
    constexpr int kRounds = 50;
    std::atomic<std::uint64_t> longest_us = 0;
    on_threads(
        [&](Suspend& suspend, Device& joined, std::uint32_t index) {
            const std::uint64_t begin_us = suspend.reactor().now_us();
            for (const Result<void>& result : work(suspend, joined, index, kRounds)) {
                EXPECT_TRUE(result) << result.error().message();
            }
            longest_us = std::max(longest_us.load(), suspend.reactor().now_us() - begin_us);
        },
        {}, {.spin_us = 0, .max_spin_us = 0});
    EXPECT_LT(longest_us, 2 * kRounds * 50'000U);
    EXPECT_TRUE(close());
}

TEST_F(QueueSharing, TimeoutIsNoticedByASleepingThread) {
    nvme::ControllerOptions quick;
    quick.io_timeout_ms = 500;
    quick.abort_grace_ms = 300;
    open(kThreads + 1, quick);
    medium->add({.effect = Fault::Effect::kNeverAnswer, .count = kThreads});
    on_threads([&](Suspend& suspend, Device& joined, std::uint32_t) {
        const DmaBuffer memory = DmaBuffer::allocate(kBlock).value();
        EXPECT_TRUE(joined.read(suspend, 0, memory.span()));
    });
    EXPECT_GE(controller().statistics().resets, 1U);
    EXPECT_TRUE(close());
}

TEST_F(QueueSharing, VanishedControllerEndsTheRequestsOfAllThreads) {
    open(kThreads + 1);
    std::atomic<std::uint32_t> working = 0;
    on_threads(
        [&](Suspend& suspend, Device& joined, std::uint32_t index) {
            ++working;
            for (const Result<void>& result : work(suspend, joined, index, 1 << 30)) {
                ASSERT_FALSE(result);
                EXPECT_EQ(result.error().code, Errc::kDeviceGone) << result.error().message();
            }
        },
        [&](Suspend& suspend) {
            while (working != kThreads) suspend.sleep_us(1000);
            suspend.sleep_us(5000);
            medium->vanish();
        });
    EXPECT_FALSE(close());
}

TEST_F(QueueSharing, ResetSendsTheRequestsOfAllThreadsAgain) {
    nvme::ControllerOptions quick;
    quick.io_timeout_ms = 500;
    quick.abort_grace_ms = 300;
    open(kThreads + 1, quick);
    std::atomic<std::uint32_t> working = 0;
    // Deaf to commands, and to their aborts, until the controller has been reset.
    on_threads(
        [&](Suspend& suspend, Device& joined, std::uint32_t index) {
            ++working;
            // A machine that stands still may make it more than one reset.
            for (const Result<void>& result : work(suspend, joined, index, 100)) {
                EXPECT_TRUE(result) << result.error().message();
            }
        },
        [&](Suspend& suspend) {
            while (working != kThreads) suspend.sleep_us(1000);
            medium->add({.effect = Fault::Effect::kNeverAnswer, .count = 3});
        });
    EXPECT_GE(controller().statistics().resets, 1U);
    EXPECT_TRUE(close());
}

}  // namespace
}  // namespace blobfs::driver
