// The check beside other work: it finds nothing where nothing is wrong, whatever changes meanwhile,
// and what is wrong; it ends when it is told to, and when the device needs what it keeps.

#include <string>

#include "blobstore/pinned_root.h"
#include "blobstore/store_state.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/memory_medium.h"
#include "fs/fsck/image_check.h"
#include "fs/fsck/online_check.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

using fsck::OnlineCheck;
using Outcome = OnlineCheck::Outcome;

constexpr std::uint64_t kDeviceBytes = std::uint64_t{48} << 20;

class OnlineChecks : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    }
    template <class F>
    void run(F&& body) {
        reactor.block_on([&](Suspend& suspend) {
            buffer = must(driver::DmaBuffer::allocate(std::size_t{1} << 20));
            std::memset(buffer.data(), 'x', buffer.size());
            auto owned = std::make_unique<driver::FaultyMedium>(
                must(driver::MemoryMedium::create({.bytes = kDeviceBytes})));
            medium = owned.get();
            device = must(Device::open(suspend, std::move(owned), {.io_queues = 2}));
            MakeOptions make;
            make.store.page_bytes = 4096;
            must(Filesystem::format(suspend, *device, make));
            fs = must(Filesystem::open(suspend, *device));
            check = std::make_unique<OnlineCheck>(reactor, *device, fs->store());
            body(suspend);
            check->stop(suspend);
            check.reset();
            if (fs) must(fs->close(suspend));
            fs.reset();
            must(device->close(suspend));
        });
    }
    void make_file(Suspend& suspend, const std::string& name, std::size_t bytes) {
        const auto made = must(fs->create(suspend, kRootUser, kRootInode, name, 0644, false));
        fs->forget(made.inode, 1);
        must(fs->write(suspend, made.inode, 0, buffer.span().first(bytes), {}));
    }
    void make_files(Suspend& suspend, int count) {
        for (int i = 0; i < count; ++i) {
            make_file(suspend, "a file of those at the beginning " + std::to_string(i),
                      i % 10 == 0 ? 9000 : 100);
        }
    }
    // Changes all over the tree; and checkpoints, so that pages are superseded and used again.
    void change(Suspend& suspend, int round) {
        for (int i = 0; i < 40; ++i) {
            const int number = (i * 37 + round) % 1000;
            const std::string name = "a file of those at the beginning " + std::to_string(number);
            if (i % 3 == 0) {
                static_cast<void>(fs->unlink(suspend, kRootInode, name));
            } else {
                make_file(suspend, name, i % 4 == 0 ? 20'000 : 200);
            }
        }
        must(fs->store().checkpoint(suspend));
    }
    Outcome wait(Suspend& suspend) {
        while (check->status().outcome == Outcome::kRunning) suspend.sleep_us(200);
        return check->status().outcome;
    }
    std::string problems() const {
        std::string text;
        for (const auto& problem : check->problems()) text += problem.text + '\n';
        return text;
    }

    driver::Reactor reactor;
    driver::FaultyMedium* medium = nullptr;
    std::unique_ptr<Device> device;
    std::unique_ptr<Filesystem> fs;
    std::unique_ptr<OnlineCheck> check;
    driver::DmaBuffer buffer;
};

TEST_F(OnlineChecks, FindNothingBesideWork) {
    run([&](Suspend& suspend) {
        make_files(suspend, 1000);
        int rounds = 0;
        for (int i = 0; i < 3; ++i) {
            must(check->start(suspend, i == 0 ? 0 : 4'000'000));
            EXPECT_TRUE(fails_with(check->start(suspend, 0), Errc::kBusy));
            while (check->status().outcome == Outcome::kRunning) change(suspend, rounds++);
            EXPECT_EQ(check->status().outcome, Outcome::kComplete) << check->status().error;
            EXPECT_EQ(check->status().found, 0u) << problems();
            EXPECT_TRUE(check->status().names_checked);
            EXPECT_GT(check->status().pages, 50u);
        }
        EXPECT_GT(rounds, 3);
    });
}

// Not by luck: a root from long ago is whole, and the space comes back afterwards.
TEST_F(OnlineChecks, ThePinnedRootStaysWhole) {
    run([&](Suspend& suspend) {
        make_files(suspend, 1000);
        const auto pinned = must(fs->store().pin_root(suspend));
        EXPECT_TRUE(fails_with(fs->store().pin_root(suspend), Errc::kBusy));
        for (int i = 0; i < 60; ++i) change(suspend, i);
        EXPECT_TRUE(pinned->valid->load());
        fsck::ImageCheck image(*device, pinned->slots, pinned->superblock, {.without_log = true});
        must(image.run(suspend, [](fsck::Phase, std::uint64_t, std::uint64_t) {}));
        EXPECT_EQ(image.findings().total(), 0u)
            << (image.findings().list().empty() ? "" : image.findings().list().front().text);
        EXPECT_GT(fs->store().state().space.pinned_blocks(), 50u);
        must(fs->store().state().space.verify(suspend));
        const std::uint64_t free = fs->statfs().blocks_free;
        fs->store().unpin_root();
        EXPECT_FALSE(pinned->valid->load());
        EXPECT_EQ(fs->store().state().space.pinned_blocks(), 0u);
        EXPECT_EQ(fs->statfs().blocks_free, free);
        must(fs->store().state().space.verify(suspend));
        EXPECT_TRUE(must(fs->store().check(suspend)).empty());
    });
}

TEST_F(OnlineChecks, AFullDeviceTakesThePinnedPagesBack) {
    run([&](Suspend& suspend) {
        make_files(suspend, 1000);
        const auto pinned = must(fs->store().pin_root(suspend));
        for (int i = 0; i < 10; ++i) change(suspend, i);
        ASSERT_TRUE(pinned->valid->load());
        Result<Written> written;
        const auto made = must(fs->create(suspend, kRootUser, kRootInode, "filler", 0644, true));
        for (std::uint64_t at = 0; at < kDeviceBytes; at += buffer.size()) {
            written = fs->write(suspend, made.inode, at, buffer.span(), {.whole = true});
            if (!written) break;
        }
        EXPECT_TRUE(fails_with(written, Errc::kNoSpace));
        EXPECT_FALSE(pinned->valid->load());
        EXPECT_EQ(fs->store().state().space.pinned_blocks(), 0u);
        EXPECT_TRUE(must(fs->store().check(suspend)).empty());
    });
}

TEST_F(OnlineChecks, ARunIsGivenUpWhenTheDeviceIsFull) {
    run([&](Suspend& suspend) {
        make_files(suspend, 1000);
        must(check->start(suspend, 100'000));
        const auto made = must(fs->create(suspend, kRootUser, kRootInode, "filler", 0644, true));
        for (std::uint64_t at = 0; at < kDeviceBytes; at += buffer.size()) {
            if (!fs->write(suspend, made.inode, at, buffer.span(), {.whole = true})) break;
        }
        EXPECT_EQ(wait(suspend), Outcome::kGivenUp) << check->status().error;
        EXPECT_EQ(check->status().found, 0u) << problems();
    });
}

TEST_F(OnlineChecks, FindDamageThatNobodyHasRead) {
    run([&](Suspend& suspend) {
        make_files(suspend, 1000);
        must(fs->store().checkpoint(suspend));
        // Every read of pages from now on has a flipped bit; what the mount needs is in its memory.
        medium->add({.effect = driver::Fault::Effect::kFlipBit,
                     .kind = driver::MediumOperation::Kind::kRead,
                     .first_byte = std::uint64_t{2} << 20,
                     .bit = 20'000});
        must(check->start(suspend, 0));
        EXPECT_EQ(wait(suspend), Outcome::kComplete) << check->status().error;
        EXPECT_GT(check->status().found, 0u);
        EXPECT_NE(problems().find("is damaged"), std::string::npos) << problems();
        medium->clear_faults();
        must(check->start(suspend, 0));
        EXPECT_EQ(wait(suspend), Outcome::kComplete);
        EXPECT_EQ(check->status().found, 0u) << problems();
    });
}

TEST_F(OnlineChecks, EndWhenTheyAreToldTo) {
    run([&](Suspend& suspend) {
        make_files(suspend, 1000);
        must(check->start(suspend, 1000));
        while (check->status().pages == 0) suspend.sleep_us(200);
        check->cancel();
        EXPECT_EQ(wait(suspend), Outcome::kCancelled);
        must(check->start(suspend, 1000));
        check->stop(suspend);
        EXPECT_EQ(check->status().outcome, Outcome::kCancelled);
        EXPECT_TRUE(fails_with(check->start(suspend, 0), Errc::kBusy));
        EXPECT_EQ(fs->store().state().space.pinned_blocks(), 0u);
    });
}

}  // namespace
}  // namespace blobfs::fs
