#pragma once

// A filesystem behind a played kernel and a device that is slow, or fails: what is answered before
// the device has it.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "driver/memory/environment.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/power_cut_medium.h"
#include "fs/filesystem.h"
#include "fs/fuse/channel.h"
#include "fs/fuse/early_answers.h"
#include "fs/fuse/operations.h"
#include "tests/fs/filesystem_fixture.h"
#include "tests/fs/played_kernel.h"

namespace blobfs::fs::fuse {

using driver::Fault;
using driver::FaultyMedium;
using Kind = driver::MediumOperation::Kind;

inline const auto kFull = driver::MediumStatus(driver::nvme::Status::kCapacityExceeded);

// Polls, not time: a busy machine changes nothing.
inline constexpr std::uint64_t kLatePolls = 300;
inline constexpr std::size_t kFileBytes = 64 * 1024;
inline constexpr std::size_t kPage = 4096;

class EarlyAnswer : public testing::Test {
  protected:
    explicit EarlyAnswer(std::uint64_t device_bytes = std::uint64_t{256} << 20,
                         std::optional<blobstore::OrderRule> broken_rule = {})
        : device_bytes_(device_bytes), broken_rule_(broken_rule) {}

    void SetUp() override {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
        auto failing = std::make_unique<FaultyMedium>(
            driver::PowerCutMedium::create({.bytes = device_bytes_}));
        failing_ = failing.get();
        auto owned = std::make_unique<FaultyMedium>(std::move(failing));
        medium_ = owned.get();
        reactor_.block_on([&](Suspend& suspend) {
            device_ = must(Device::open(suspend, std::move(owned), {}));
            must(Filesystem::format(suspend, *device_, {}));
            OpenOptions options;
            options.store.commit_interval_ms = 0;  // nothing happens that the test does not ask for
            options.store.broken_rule = broken_rule_;
            options.write_back_ms = 1'000'000;
            fs_ = must(Filesystem::open(suspend, *device_, std::move(options)));
            file_ = must(fs_->create(suspend, kRootUser, kRootInode, "file", 0644, true)).inode;
            auto buffer = must(driver::DmaBuffer::allocate(kFileBytes));
            std::memset(buffer.data(), 'o', kFileBytes);
            must(fs_->write(suspend, file_, 0, buffer.span(), {}));
            must(fs_->sync(suspend));
        });
        operations_ = std::make_unique<Operations>(*fs_);
        channel_ =
            must(Channel::create(reactor_, *operations_, kernel_.daemons_end(), {.requests = 40}));
        reactor_.add_poller(*channel_);
    }
    void TearDown() override {
        reactor_.block_on([&](Suspend& suspend) {
            channel_->stop_reading();
            channel_->drain(suspend);
            if (fs_->read_only()) {
                EXPECT_FALSE(fs_->close(suspend));
            } else {
                for (const std::string& finding : must(fs_->check(suspend)))
                    ADD_FAILURE() << finding;
                must(fs_->close(suspend));
            }
            fs_.reset();
            (void)device_->close(suspend);
        });
        reactor_.remove_poller(*channel_);
        channel_.reset();
    }

    void writes_take_long() { next_writes_take_long(std::numeric_limits<std::uint64_t>::max()); }
    void next_writes_take_long(std::uint64_t count) {
        medium_->add({.effect = Fault::Effect::kDelay,
                      .kind = Kind::kWrite,
                      .count = count,
                      .delay_polls = kLatePolls});
    }

    template <class T>
    static std::string bytes_of(const T& value) {
        return PlayedKernel::bytes_of(value);
    }
    void send(std::uint32_t opcode, std::uint64_t unique, InodeNumber inode,
              const std::string& body) {
        kernel_.send(opcode, unique, {.inode = inode}, body);
    }
    void send_write(std::uint64_t unique, std::uint64_t offset, char letter,
                    std::uint32_t flags = FUSE_WRITE_CACHE) {
        fuse_write_in in{};
        in.offset = offset;
        in.size = kPage;
        in.write_flags = flags;
        send(FUSE_WRITE, unique, file_, bytes_of(in) + std::string(kPage, letter));
    }
    void send_read(std::uint64_t unique, std::uint64_t offset) {
        fuse_read_in in{};
        in.offset = offset;
        in.size = kPage;
        send(FUSE_READ, unique, file_, bytes_of(in));
    }
    void send_copy(std::uint64_t unique, InodeNumber from, std::uint64_t offset,
                   std::uint64_t bytes) {
        fuse_copy_file_range_in in{};
        in.nodeid_out = value(file_);
        in.off_out = offset;
        in.len = bytes;
        send(FUSE_COPY_FILE_RANGE, unique, from, bytes_of(in));
    }
    InodeNumber make_source(std::size_t bytes, char letter) {
        InodeNumber source{};
        reactor_.block_on([&](Suspend& suspend) {
            source = must(fs_->create(suspend, kRootUser, kRootInode, "source", 0644, true)).inode;
            auto buffer = must(driver::DmaBuffer::allocate(bytes));
            std::memset(buffer.data(), letter, bytes);
            must(fs_->write(suspend, source, 0, buffer.span().first(bytes), {}));
            must(fs_->sync(suspend));
        });
        return source;
    }
    void send_fsync(std::uint64_t unique) {
        send(FUSE_FSYNC, unique, file_, bytes_of(fuse_fsync_in{}));
    }

    struct Answer : PlayedKernel::Answer {
        // The device was still at work on a write when the answer came.
        bool early = false;
    };
    // The next answer; notices are passed over.
    Answer receive() {
        Answer answer;
        reactor_.block_on([&](Suspend& suspend) {
            for (std::uint64_t tries = 0; tries < 10'000 * kLatePolls; ++tries) {
                const auto received = kernel_.receive();
                if (!received) {
                    suspend.yield();
                } else if (received->header.unique != 0) {
                    answer = {*received, medium_->in_flight() != 0};
                    return;
                }
            }
            ADD_FAILURE() << "no answer";
        });
        return answer;
    }
    void expect_answer(std::uint64_t unique, bool early, int error = 0) {
        const Answer answer = receive();
        EXPECT_EQ(answer.header.unique, unique);
        EXPECT_EQ(answer.header.error, -error) << "answer " << unique;
        EXPECT_EQ(answer.early, early) << "answer " << unique;
    }
    template <class T>
    static T head_of(const Answer& answer) {
        T head{};
        EXPECT_GE(answer.body.size(), sizeof(head));
        std::memcpy(&head, answer.body.data(), std::min(sizeof(head), answer.body.size()));
        return head;
    }

    using Look = std::function<void(Suspend&, Filesystem&)>;
    void after_power_cut(const Look& look) { after_power_cut(look, disk().journal().size()); }
    void after_power_cut(const Look& look, std::size_t journal);

    driver::PowerCutMedium& disk() {
        return static_cast<driver::PowerCutMedium&>(failing_->inner());
    }

    const std::uint64_t device_bytes_;
    const std::optional<blobstore::OrderRule> broken_rule_;
    PlayedKernel kernel_;
    driver::Reactor reactor_;
    FaultyMedium* medium_ = nullptr;
    FaultyMedium* failing_ = nullptr;  // behind it: what the other delays may fail at last
    std::unique_ptr<Device> device_;
    std::unique_ptr<Filesystem> fs_;
    std::unique_ptr<Operations> operations_;
    std::unique_ptr<Channel> channel_;
    InodeNumber file_{};
};

// What a power cut leaves when so much was written, whatever it takes of what was not flushed.
inline void EarlyAnswer::after_power_cut(const Look& look, std::size_t journal) {
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        reactor_.block_on([&](Suspend& suspend) {
            auto left = driver::PowerCutMedium::create({.bytes = device_bytes_},
                                                       disk().image(journal, seed));
            auto device = must(Device::open(suspend, std::move(left), {}));
            auto after = must(Filesystem::open(suspend, *device, {}));
            look(suspend, *after);
            must(after->close(suspend));
            (void)device->close(suspend);
        });
    }
}

}  // namespace blobfs::fs::fuse
