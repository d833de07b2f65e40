#include "fs/fuse/attribute_refresh.h"

#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <set>

namespace blobfs::fs::fuse {
namespace {

// The kernel's end of a connection, which keeps what it is told.
class AttributeRefreshTest : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends_.data()), 0);
        cache_.emplace(reactor_, ends_[0]);
        refresh_.emplace(reactor_, *cache_);
    }
    void TearDown() override {
        reactor_.block_on([&](driver::Suspend& suspend) { refresh_->stop(suspend); });
        refresh_.reset();
        cache_.reset();
        for (const int end : ends_) close(end);
    }
    void run_for(std::chrono::microseconds time) {
        reactor_.block_on([&](driver::Suspend& suspend) {
            suspend.sleep_us(static_cast<std::uint64_t>(time.count()));
        });
    }
    // The inodes whose attributes the kernel was told to forget since the last call.
    std::multiset<std::uint64_t> told() {
        struct {
            fuse_out_header header;
            fuse_notify_inval_inode_out out;
        } message{};
        std::multiset<std::uint64_t> inodes;
        while (recv(ends_[1], &message, sizeof(message), MSG_DONTWAIT) == sizeof(message)) {
            EXPECT_EQ(message.header.error, FUSE_NOTIFY_INVAL_INODE);
            EXPECT_EQ(message.out.off, -1);  // the pages stay
            inodes.insert(message.out.ino);
        }
        return inodes;
    }

    // The same, as soon as there are that many.
    std::multiset<std::uint64_t> told_of(std::size_t count) {
        std::multiset<std::uint64_t> inodes;
        for (int tries = 0; tries < 6'000 && inodes.size() < count; ++tries) {
            run_for(std::chrono::milliseconds(10));
            inodes.merge(told());
        }
        return inodes;
    }

    driver::Reactor reactor_;
    std::array<int, 2> ends_{-1, -1};
    std::optional<CacheWriteBack> cache_;
    std::optional<AttributeRefresh> refresh_;
};

constexpr auto kPeriod = AttributeRefresh::kPeriod;

TEST_F(AttributeRefreshTest, EachInodeIsToldOnceAndNotBeforeAPeriodHasPassed) {
    const auto noted = std::chrono::steady_clock::now();
    refresh_->note(InodeNumber{5});
    refresh_->note(InodeNumber{5});
    refresh_->note(InodeNumber{7});
    EXPECT_EQ(told_of(2), (std::multiset<std::uint64_t>{5, 7}));
    EXPECT_GE(std::chrono::steady_clock::now() - noted, kPeriod);
    run_for(kPeriod * 3);
    EXPECT_TRUE(told().empty());
}

TEST_F(AttributeRefreshTest, WhatIsNotedLateInAPeriodIsNotToldAtItsEnd) {
    refresh_->note(InodeNumber{5});  // a period begins
    run_for(kPeriod * 3 / 4);
    const auto noted = std::chrono::steady_clock::now();
    refresh_->note(InodeNumber{7});
    std::multiset<std::uint64_t> inodes;
    for (int tries = 0; tries < 6'000 && inodes.count(7) == 0; ++tries) inodes.merge(told_of(1));
    EXPECT_GE(std::chrono::steady_clock::now() - noted, kPeriod);
    EXPECT_EQ(inodes, (std::multiset<std::uint64_t>{5, 7}));
}

TEST_F(AttributeRefreshTest, WhatIsNotedAgainIsToldAgain) {
    refresh_->note(InodeNumber{5});
    EXPECT_EQ(told_of(1).count(5), 1U);
    refresh_->note(InodeNumber{5});
    EXPECT_EQ(told_of(1).count(5), 1U);
}

TEST_F(AttributeRefreshTest, NothingIsToldAfterTheEnd) {
    refresh_->note(InodeNumber{5});
    reactor_.block_on([&](driver::Suspend& suspend) { refresh_->stop(suspend); });
    refresh_->note(InodeNumber{6});
    run_for(kPeriod * 3);
    EXPECT_TRUE(told().empty());
}

}  // namespace
}  // namespace blobfs::fs::fuse
