#include "driver/soft/flush_thread.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>

namespace blobfs::driver {
namespace {

class FlushThreadTest : public testing::Test {
  protected:
    FlushThreadTest() {
        std::string pattern = testing::TempDir() + "blobfs-flush-XXXXXX";
        file = mkstemp(pattern.data());
        EXPECT_GE(file, 0);
        unlink(pattern.c_str());
    }
    ~FlushThreadTest() override { close(file); }

    int file = -1;
    std::atomic<int> ended{0};
};

TEST_F(FlushThreadTest, EachFlushEndsOnceAndIsToldOf) {
    auto flusher = FlushThread::create(file, [this] { ++ended; }).value();
    for (int i = 1; i <= 100; ++i) {
        int result = -1;
        EXPECT_FALSE(flusher->take(result)) << "nothing was started";
        flusher->start(i % 2 == 0);
        EXPECT_TRUE(flusher->running());
        flusher->wait();
        ASSERT_TRUE(flusher->take(result));
        EXPECT_EQ(result, 0);
        EXPECT_FALSE(flusher->running());
        while (ended != i) sched_yield();
    }
}

TEST_F(FlushThreadTest, AnErrorIsItsResult) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
    {
        auto flusher = FlushThread::create(pipe[1], [] {}).value();
        for (int i = 0; i < 2; ++i) {
            flusher->start(true);
            flusher->wait();
            int result = 0;
            ASSERT_TRUE(flusher->take(result));
            EXPECT_EQ(result, -EINVAL) << "pipes cannot be flushed";
        }
    }
    close(pipe[0]);
    close(pipe[1]);
}

TEST_F(FlushThreadTest, EndsWithAFlushUnderWay) {
    for (int i = 0; i < 100; ++i) {
        auto flusher = FlushThread::create(file, [this] { ++ended; }).value();
        flusher->start(false);
    }
    EXPECT_EQ(ended, 100) << "destroyed before the flush was over";
}

}  // namespace
}  // namespace blobfs::driver
