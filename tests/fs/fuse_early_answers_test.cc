// WRITEs of the kernel's cache and copies that are answered before the device has them: the kernel
// is played, the device is slow, or fails.

#include "fs/fuse/early_answers.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "driver/memory/environment.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/power_cut_medium.h"
#include "fs/filesystem.h"
#include "fs/fuse/channel.h"
#include "fs/fuse/operations.h"
#include "tests/fs/filesystem_fixture.h"
#include "tests/fs/played_kernel.h"

namespace blobfs::fs::fuse {
namespace {

using driver::Fault;
using driver::FaultyMedium;
using Kind = driver::MediumOperation::Kind;

const auto kFull = driver::MediumStatus(driver::nvme::Status::kCapacityExceeded);

// Polls, not time: a busy machine changes nothing.
constexpr std::uint64_t kLatePolls = 300;
constexpr std::size_t kFileBytes = 64 * 1024;
constexpr std::size_t kPage = 4096;

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
    // What cuts leave of a copy and its original: each with all else that the file is to hold.
    std::size_t lost_both(const std::function<void(Suspend&)>& make_durable);

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
void EarlyAnswer::after_power_cut(const Look& look, std::size_t journal) {
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

TEST_F(EarlyAnswer, ComesBeforeTheDevicesAndReadsSeeTheNewData) {
    writes_take_long();
    send_write(1, 0, 'n');
    expect_answer(1, true);
    send_read(2, 0);
    const Answer read = receive();
    EXPECT_EQ(read.header.unique, 2U);
    EXPECT_EQ(read.body, std::string(kPage, 'n'));
}

TEST_F(EarlyAnswer, IsOneAndTheBufferStaysInUseUntilTheWriteIsOver) {
    writes_take_long();
    // All have their answers, and each page what was written to it: no buffer was read into again.
    for (std::uint64_t i = 0; i < 8; ++i) {
        send_write(i + 1, i * kPage, static_cast<char>('a' + i));
        expect_answer(i + 1, true);
    }
    for (std::uint64_t i = 0; i < 8; ++i) {
        send_read(i + 10, i * kPage);
        const Answer read = receive();
        EXPECT_EQ(read.header.unique, i + 10) << "a second answer to a WRITE";
        EXPECT_EQ(read.body, std::string(kPage, static_cast<char>('a' + i)));
    }
}

TEST_F(EarlyAnswer, IsGivenToSixteenAtATime) {
    writes_take_long();
    for (std::uint64_t i = 0; i < EarlyAnswers::kMost + 1; ++i)
        send_write(i + 1, i % 16 * kPage, 'x');
    std::size_t early = 0;
    for (std::uint64_t i = 0; i < EarlyAnswers::kMost; ++i) early += receive().early ? 1 : 0;
    EXPECT_EQ(early, EarlyAnswers::kMost);
    const Answer last = receive();
    EXPECT_EQ(last.header.unique, EarlyAnswers::kMost + 1) << "when it is done";
}

// Else a batch of the log would wait for all that the kernel sends.
TEST_F(EarlyAnswer, BeyondSixteenTheDataComesBeforeItsRecord) {
    medium_->add(
        {.effect = Fault::Effect::kDelay, .kind = Kind::kWrite, .delay_polls = 4 * kLatePolls});
    for (std::uint64_t i = 0; i < EarlyAnswers::kMost; ++i) {
        send_write(i + 1, i % 16 * kPage, 'x');
        expect_answer(i + 1, true);
    }
    send_write(100, kFileBytes, 'n');
    reactor_.block_on([](Suspend& suspend) {
        for (std::uint64_t i = 0; i < kLatePolls / 10; ++i) suspend.yield();
    });
    send(FUSE_GETATTR, 101, file_, bytes_of(fuse_getattr_in{}));
    const Answer answer = receive();
    EXPECT_EQ(answer.header.unique, 101U);
    EXPECT_EQ(head_of<fuse_attr_out>(answer).attr.size, kFileBytes);
    expect_answer(100, false);
}

TEST_F(EarlyAnswer, FsyncWaitsForTheWriteAndMakesItDurable) {
    writes_take_long();
    send_write(1, kPage, 'n');
    expect_answer(1, true);
    send_fsync(2);
    expect_answer(2, false);
    after_power_cut([&](Suspend& suspend, Filesystem& after) {
        auto buffer = must(driver::DmaBuffer::allocate(kPage));
        EXPECT_EQ(must(after.read(suspend, file_, kPage, buffer.span())), kPage);
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(buffer.data()), kPage),
                  std::string(kPage, 'n'));
    });
}

TEST_F(EarlyAnswer, TheLogHasSmallDataBeforeTheDeviceHasItInItsPlace) {
    next_writes_take_long(1);
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    const std::size_t before = disk().journal().size();
    send_fsync(2);
    reactor_.block_on([&](Suspend& suspend) {
        while (medium_->in_flight() != 0 && disk().journal().size() == before) suspend.yield();
    });
    EXPECT_NE(medium_->in_flight(), 0U);
    const std::size_t logged = disk().journal().size();
    EXPECT_EQ(logged, before + 1);
    expect_answer(2, false);  // it may fail
    const auto look = [&](Suspend& suspend, Filesystem& after) {
        auto buffer = must(driver::DmaBuffer::allocate(kPage));
        EXPECT_EQ(must(after.read(suspend, file_, kFileBytes, buffer.span())), kPage);
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(buffer.data()), kPage),
                  std::string(kPage, 'n'));
    };
    after_power_cut(look, logged);
    after_power_cut(look);
}

// The log has the data, and its place on the device is bad.
TEST_F(EarlyAnswer, WhatFailsBehindTheLogIsToldAndUndone) {
    next_writes_take_long(1);
    failing_->add({.kind = Kind::kWrite,
                   .skip = 1,  // the log's
                   .count = 1,
                   .status = driver::MediumStatus(driver::nvme::Status::kWriteFault)});
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    const std::size_t before = disk().journal().size();
    send_fsync(2);
    expect_answer(2, false, EIO);
    const auto look = [&](const std::string& expected) {
        return [this, expected](Suspend& suspend, Filesystem& fs) {
            auto buffer = must(driver::DmaBuffer::allocate(kPage));
            EXPECT_EQ(must(fs.read(suspend, file_, kFileBytes, buffer.span())), kPage);
            EXPECT_EQ(std::string(reinterpret_cast<const char*>(buffer.data()), kPage), expected);
        };
    };
    const std::string zeroes(kPage, '\0');
    reactor_.block_on([&](Suspend& suspend) { look(zeroes)(suspend, *fs_); });
    after_power_cut(look(std::string(kPage, 'n')), before + 1);  // a replay tries again
    send_fsync(3);
    EXPECT_EQ(receive().header.error, -EIO);
    after_power_cut(look(zeroes));
}

TEST_F(EarlyAnswer, AttributesAreThoseAfterTheWrite) {
    writes_take_long();
    send_write(1, kFileBytes, 'n');  // a new cluster
    expect_answer(1, true);
    send(FUSE_GETATTR, 2, file_, bytes_of(fuse_getattr_in{}));
    Answer answer = receive();
    EXPECT_EQ(answer.header.unique, 2U);
    EXPECT_EQ(head_of<fuse_attr_out>(answer).attr.size, kFileBytes + kPage);
    EXPECT_EQ(head_of<fuse_attr_out>(answer).attr.blocks, (kFileBytes + kPage) / 512);
    // A name that leads there.
    send_write(3, kFileBytes + kPage, 'n');
    expect_answer(3, true);
    send(FUSE_LOOKUP, 4, kRootInode, std::string("file\0", 5));
    answer = receive();
    EXPECT_EQ(answer.header.unique, 4U);
    EXPECT_EQ(head_of<fuse_entry_out>(answer).attr.size, kFileBytes + 2 * kPage);
    EXPECT_EQ(head_of<fuse_entry_out>(answer).attr.blocks, (kFileBytes + 2 * kPage) / 512);
    // Reading before a new end, where nothing is.
    send_write(5, 1 << 20, 'n');
    expect_answer(5, true);
    send_read(6, 512 * 1024);
    answer = receive();
    EXPECT_EQ(answer.header.unique, 6U);
    EXPECT_EQ(answer.body, std::string(kPage, '\0'));
}

TEST_F(EarlyAnswer, AttributesAndNamesOfTheFileNeedNotWaitForItsData) {
    writes_take_long();
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    fuse_setattr_in mode{};
    mode.valid = FATTR_MODE;
    mode.mode = S_IFREG | 0600;
    send(FUSE_SETATTR, 2, file_, bytes_of(mode));
    expect_answer(2, true);
    fuse_link_in link{};
    link.oldnodeid = value(file_);
    send(FUSE_LINK, 3, kRootInode, bytes_of(link) + std::string("other\0", 6));
    expect_answer(3, true);
    send(FUSE_UNLINK, 4, kRootInode, std::string("file\0", 5));
    expect_answer(4, true);
    send_write(5, kFileBytes + kPage, 'n');
    expect_answer(5, true);
    send_fsync(6);
    expect_answer(6, false);
    after_power_cut([&](Suspend& suspend, Filesystem& after) {
        const Attributes found = must(after.lookup(suspend, kRootInode, "other"));
        after.forget(found.inode, 1);
        EXPECT_EQ(found.size, kFileBytes + 2 * kPage);
        EXPECT_EQ(found.mode & 07777, 0600U);
        EXPECT_EQ(found.nlink, 1U);
    });
}

// The store keeps its ranges to itself until the device is done, whatever becomes of the file.
TEST_F(EarlyAnswer, CuttingAndDeletingWaitForTheDataThatTheyFree) {
    writes_take_long();
    send_write(1, 0, 'n');
    expect_answer(1, true);
    fuse_setattr_in size{};
    size.valid = FATTR_SIZE;
    size.size = 0;
    send(FUSE_SETATTR, 2, file_, bytes_of(size));
    expect_answer(2, false);
    send_write(3, 0, 'm');
    expect_answer(3, true);
    send(FUSE_UNLINK, 4, kRootInode, std::string("file\0", 5));
    expect_answer(4, true);
    send_write(5, 2 * kFileBytes, 'm');  // the kernel has it open still
    expect_answer(5, true);
    const std::uint64_t free_blocks = fs_->statfs().blocks_free;
    send(FUSE_FORGET, 6, file_, bytes_of(fuse_forget_in{.nlookup = 1}));
    reactor_.block_on([&](Suspend& suspend) {
        while (medium_->in_flight() != 0) {
            EXPECT_EQ(fs_->statfs().blocks_free, free_blocks);
            suspend.yield();
        }
        for (std::uint64_t i = 0; i < 2 * kLatePolls; ++i) suspend.yield();
    });
    EXPECT_GT(fs_->statfs().blocks_free, free_blocks);
}

TEST_F(EarlyAnswer, RenameComesBehindTheDataOfTheFile) {
    writes_take_long();
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    fuse_rename_in in{};
    in.newdir = value(kRootInode);
    send(FUSE_RENAME, 2, kRootInode, bytes_of(in) + std::string("file\0other\0", 11));
    expect_answer(2, false);
}

// The file grows, an answer is given, and "old" is removed, while the device is at work. How many
// cuts at any time since then leave neither, or a file that holds what was never written to it.
std::size_t EarlyAnswer::lost_both(const std::function<void(Suspend&)>& make_durable) {
    reactor_.block_on([&](Suspend& suspend) {
        must(fs_->create(suspend, kRootUser, kRootInode, "old", 0644, true));
        must(fs_->sync(suspend));
    });
    const std::size_t begin = disk().journal().size();
    medium_->add({.effect = Fault::Effect::kDelay,
                  .kind = Kind::kWrite,
                  .count = 1,  // the data
                  .delay_polls = 4 * kLatePolls});
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    send(FUSE_UNLINK, 2, kRootInode, std::string("old\0", 4));
    expect_answer(2, true);  // it waits for nothing
    reactor_.block_on(make_durable);
    std::size_t lost = 0, gone = 0;
    for (std::size_t cut = begin; cut <= disk().journal().size(); ++cut) {
        after_power_cut(
            [&](Suspend& suspend, Filesystem& after) {
                auto buffer = must(driver::DmaBuffer::allocate(kPage));
                const std::size_t bytes =
                    must(after.read(suspend, file_, kFileBytes, buffer.span()));
                const std::string text(reinterpret_cast<const char*>(buffer.data()), bytes);
                const auto old = after.lookup(suspend, kRootInode, "old");
                if (old) after.forget(old->inode, 1);
                gone += old ? 0 : 1;
                const bool whole = text == std::string(kPage, 'n');
                lost += whole || (old && text.empty()) ? 0 : 1;
            },
            cut);
    }
    EXPECT_GT(gone, 0U);
    return lost;
}

TEST_F(EarlyAnswer, NamesNeedNotWaitForTheDataBeforeThem) {
    EXPECT_EQ(lost_both([&](Suspend& suspend) { must(fs_->sync(suspend)); }), 0U);
}

TEST_F(EarlyAnswer, ACheckpointWaitsForTheDataThatItMaps) {
    EXPECT_EQ(lost_both([&](Suspend& suspend) { must(fs_->store().checkpoint(suspend)); }), 0U);
}

class EarlyAnswerThatNobodyWaitsFor : public EarlyAnswer {
  protected:
    EarlyAnswerThatNobodyWaitsFor()
        : EarlyAnswer(std::uint64_t{256} << 20, blobstore::OrderRule::kDataUnderWay) {}
};

TEST_F(EarlyAnswerThatNobodyWaitsFor, IsFoundOutInTheLog) {
    EXPECT_GT(lost_both([&](Suspend& suspend) { must(fs_->sync(suspend)); }), 0U);
}

TEST_F(EarlyAnswerThatNobodyWaitsFor, IsFoundOutInACheckpoint) {
    EXPECT_GT(lost_both([&](Suspend& suspend) { must(fs_->store().checkpoint(suspend)); }), 0U);
}

TEST_F(EarlyAnswer, WhatTheDeviceDidNotTakeReadsAsZeroes) {
    medium_->add({.kind = Kind::kWrite,
                  .count = 1,
                  .status = driver::MediumStatus(driver::nvme::Status::kWriteFault)});
    send_write(1, kFileBytes, 'n');
    EXPECT_EQ(receive().header.error, 0);
    send_fsync(2);
    EXPECT_EQ(receive().header.error, -EIO);
    const auto look = [&](Suspend& suspend, Filesystem& fs) {
        EXPECT_EQ(must(fs.getattr(suspend, file_)).size, kFileBytes + kPage);
        EXPECT_FALSE(fs.seek(suspend, file_, kFileBytes, SeekFor::kData)) << "it is mapped";
    };
    reactor_.block_on([&](Suspend& suspend) { look(suspend, *fs_); });
    after_power_cut(look);
    send_write(3, kFileBytes + kPage, 'm');  // and the store goes on
    EXPECT_EQ(receive().header.error, -EIO) << "of the one before";
    send_fsync(4);
    EXPECT_EQ(receive().header.error, 0);
}

// A checkpoint is under way, so nothing can be taken back: the store is read-only after the first,
// and what the second mapped belonged to another file once.
TEST_F(EarlyAnswer, WhatTheDeviceDidNotTakeShowsNothingOfOtherFilesWhenTheStoreHasFailed) {
    reactor_.block_on([&](Suspend& suspend) {
        const auto secret =
            must(fs_->create(suspend, kRootUser, kRootInode, "secret", 0600, true)).inode;
        auto buffer = must(driver::DmaBuffer::allocate(kFileBytes));
        std::memset(buffer.data(), 'S', kFileBytes);
        for (std::uint64_t at = 0; at < 64 * kFileBytes; at += kFileBytes)
            must(fs_->write(suspend, secret, at, buffer.span(), {}));
        must(fs_->fallocate(suspend, secret, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                            64 * kFileBytes));
        must(fs_->store().checkpoint(suspend));
    });
    medium_->add({.effect = Fault::Effect::kDelay,
                  .kind = Kind::kWrite,
                  .count = 1,
                  .delay_polls = kLatePolls});
    medium_->add({.effect = Fault::Effect::kDelay,
                  .kind = Kind::kWrite,
                  .count = 1,
                  .delay_polls = 4 * kLatePolls});
    failing_->add(
        {.kind = Kind::kWrite, .status = driver::MediumStatus(driver::nvme::Status::kWriteFault)});
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    send_write(2, kFileBytes + kPage, 'n');
    expect_answer(2, true);
    reactor_.block_on([&](Suspend& suspend) { EXPECT_FALSE(fs_->store().checkpoint(suspend)); });
    for (std::uint64_t i = 0; i < 2; ++i) {
        send_read(3 + i, kFileBytes + i * kPage);
        const Answer read = receive();
        EXPECT_EQ(read.body.find('S'), std::string::npos) << "page " << i;
    }
    send_read(5, 0);
    EXPECT_EQ(receive().header.unique, 5U);
}

// cp a b; rm a: when a is gone, b is whole.
TEST_F(EarlyAnswer, WhatChangesNamesOrSizesComesBehindTheData) {
    InodeNumber other{};
    reactor_.block_on([&](Suspend& suspend) {
        other = must(fs_->create(suspend, kRootUser, kRootInode, "other", 0644, true)).inode;
        must(fs_->create(suspend, kRootUser, kRootInode, "old", 0644, true));
        must(fs_->sync(suspend));
    });
    writes_take_long();
    std::uint64_t size = kFileBytes;
    std::uint64_t unique = 0;
    const auto behind = [&](const char* what, std::uint32_t opcode, InodeNumber inode,
                            const std::string& body) {
        SCOPED_TRACE(what);
        send_write(++unique, size, 'n');
        expect_answer(unique, true);
        size += kPage;
        send(opcode, ++unique, inode, body);
        EXPECT_EQ(receive().header.error, 0);
        reactor_.block_on([&](Suspend& suspend) { must(fs_->sync(suspend)); });
        after_power_cut([&](Suspend& suspend, Filesystem& after) {
            EXPECT_EQ(must(after.getattr(suspend, file_)).size, size);
        });
    };
    behind("unlink", FUSE_UNLINK, kRootInode, std::string("old\0", 4));
    behind("mkdir", FUSE_MKDIR, kRootInode,
           bytes_of(fuse_mkdir_in{.mode = 0755, .umask = 0}) + std::string("new\0", 4));
    behind("rmdir", FUSE_RMDIR, kRootInode, std::string("new\0", 4));
    fuse_create_in create{};
    create.mode = 0644;
    behind("create", FUSE_CREATE, kRootInode, bytes_of(create) + std::string("made\0", 5));
    fuse_setattr_in cut{};
    cut.valid = FATTR_SIZE;
    behind("truncate", FUSE_SETATTR, other, bytes_of(cut));
}

TEST_F(EarlyAnswer, FsyncOfAnyFileHoldsWhatWasAnsweredBefore) {
    InodeNumber other{};
    reactor_.block_on([&](Suspend& suspend) {
        other = must(fs_->create(suspend, kRootUser, kRootInode, "other", 0644, true)).inode;
    });
    writes_take_long();
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    send(FUSE_FSYNC, 2, other, bytes_of(fuse_fsync_in{}));
    EXPECT_EQ(receive().header.error, 0);
    after_power_cut([&](Suspend& suspend, Filesystem& after) {
        EXPECT_EQ(must(after.getattr(suspend, file_)).size, kFileBytes + kPage);
    });
}

// Its close(2) did not hear of the error, so nobody would spare the file in whose place it comes.
TEST_F(EarlyAnswer, AFileWhoseDataWasLostReplacesNoOther) {
    InodeNumber old{};
    reactor_.block_on([&](Suspend& suspend) {
        old = must(fs_->create(suspend, kRootUser, kRootInode, "old", 0644, true)).inode;
    });
    medium_->add({.kind = Kind::kWrite,
                  .count = 1,
                  .status = driver::MediumStatus(driver::nvme::Status::kWriteFault)});
    send_write(1, kFileBytes, 'n');
    EXPECT_EQ(receive().header.error, 0);
    fuse_rename_in in{};
    in.newdir = value(kRootInode);
    send(FUSE_RENAME, 2, kRootInode, bytes_of(in) + std::string("file\0old\0", 9));
    EXPECT_EQ(receive().header.error, -EIO);
    reactor_.block_on([&](Suspend& suspend) {
        EXPECT_EQ(must(fs_->lookup(suspend, kRootInode, "old")).inode, old);
        fs_->forget(old, 1);
    });
    // Known to fsync(2) still; written again it may take the place.
    send_fsync(3);
    EXPECT_EQ(receive().header.error, -EIO);
    send_write(4, kFileBytes, 'm');
    EXPECT_EQ(receive().header.error, -EIO);
    send(FUSE_RENAME, 5, kRootInode, bytes_of(in) + std::string("file\0old\0", 9));
    EXPECT_EQ(receive().header.error, 0);
}

TEST_F(EarlyAnswer, WhatFailsLaterIsToldByFsyncUntilTheFileIsWrittenAgain) {
    medium_->add({.kind = Kind::kWrite,
                  .count = 1,
                  .status = driver::MediumStatus(driver::nvme::Status::kWriteFault)});
    send_write(1, 0, 'n');
    EXPECT_EQ(receive().header.error, 0);
    send_fsync(2);
    EXPECT_EQ(receive().header.error, -EIO);
    send_fsync(3);  // by another descriptor
    EXPECT_EQ(receive().header.error, -EIO);
    // Well, but the kernel hears of it, for who closes the file without an fsync.
    send_write(4, 0, 'm');
    EXPECT_EQ(receive().header.error, -EIO);
    send_fsync(5);
    EXPECT_EQ(receive().header.error, 0);
    send_read(6, 0);
    EXPECT_EQ(receive().body, std::string(kPage, 'm'));
}

TEST_F(EarlyAnswer, IsGivenToCopies) {
    constexpr std::size_t kBytes = kMaxTransferBytes + 3 * kPage + 100;  // two pieces
    const InodeNumber source = make_source(kBytes, 's');
    writes_take_long();
    send_copy(1, source, kFileBytes, std::uint64_t{1} << 40);
    const Answer copied = receive();
    EXPECT_TRUE(copied.early);
    EXPECT_EQ(copied.header.error, 0);
    EXPECT_EQ(head_of<fuse_write_out>(copied).size, kBytes);
    send_fsync(2);
    expect_answer(2, false);
    after_power_cut([&](Suspend& suspend, Filesystem& fs) {
        EXPECT_EQ(must(fs.getattr(suspend, file_)).size, kFileBytes + kBytes);
        auto buffer = must(driver::DmaBuffer::allocate(kBytes));
        EXPECT_EQ(must(fs.read(suspend, file_, kFileBytes, buffer.span().first(kBytes))), kBytes);
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(buffer.data()), kBytes),
                  std::string(kBytes, 's'));
    });
}

TEST_F(EarlyAnswer, CopiesSeeWhatIsBeingWrittenOrCopied) {
    writes_take_long();
    send_write(1, kPage, 'n');
    expect_answer(1, true);
    send_copy(2, file_, kFileBytes, 2 * kPage);  // from the beginning, within the file
    expect_answer(2, true);
    send_copy(3, file_, kFileBytes + 2 * kPage, kFileBytes + 2 * kPage);
    expect_answer(3, true);
    send_read(4, 2 * kFileBytes + 3 * kPage);
    EXPECT_EQ(receive().body, std::string(kPage, 'n'));
}

TEST_F(EarlyAnswer, OfACopyThatFailsLaterIsToldByFsync) {
    const InodeNumber source = make_source(2 * kPage, 's');
    medium_->add({.kind = Kind::kWrite,
                  .count = 1,
                  .status = driver::MediumStatus(driver::nvme::Status::kWriteFault)});
    send_copy(1, source, kFileBytes, 2 * kPage);
    EXPECT_EQ(receive().header.error, 0);
    send_fsync(2);
    EXPECT_EQ(receive().header.error, -EIO);
    send_copy(3, source, kFileBytes, 2 * kPage);  // not early, and told
    EXPECT_EQ(receive().header.error, -EIO);
    send_copy(4, source, kFileBytes, 2 * kPage);
    EXPECT_EQ(receive().header.error, 0);
    send_fsync(5);
    EXPECT_EQ(receive().header.error, 0);
    send_read(6, kFileBytes);
    EXPECT_EQ(receive().body, std::string(kPage, 's'));
}

// The host's filesystem, or thin storage, is full: a part of it may fit, but all was answered.
TEST_F(EarlyAnswer, OfACopyIsNotForAPartOfIt) {
    const InodeNumber source = make_source(2 * kPage, 's');
    for (const std::uint64_t skip : {0U, 1U}) {
        medium_->add({.kind = Kind::kWrite, .skip = skip, .count = 1, .status = kFull});
    }
    send_copy(1, source, kFileBytes, 2 * kPage);
    EXPECT_EQ(head_of<fuse_write_out>(receive()).size, 2 * kPage);
    reactor_.block_on([](Suspend& suspend) {
        for (int turns = 0; turns < 100; ++turns) suspend.yield();
    });
    medium_->clear_faults();
    send_fsync(2);
    EXPECT_EQ(receive().header.error, -EIO);
}

// It would come over what was written, or cut, meanwhile.
TEST_F(EarlyAnswer, WhatTheDeviceHadNoSpaceForIsNotWrittenLater) {
    next_writes_take_long(1);
    failing_->add({.kind = Kind::kWrite, .count = 1, .status = kFull});
    fuse_write_in in{};
    in.offset = kFileBytes;
    in.size = 2 * kPage;
    in.write_flags = FUSE_WRITE_CACHE;
    send(FUSE_WRITE, 1, file_, bytes_of(in) + std::string(2 * kPage, 'a'));
    expect_answer(1, true);
    send_write(2, kFileBytes, 'b');
    EXPECT_EQ(receive().header.unique, 2U);
    send_fsync(3);
    receive();
    send_read(4, kFileBytes);
    EXPECT_EQ(receive().body, std::string(kPage, 'b'));
    send_read(5, kFileBytes + kPage);
    EXPECT_EQ(receive().body, std::string(kPage, '\0'));
}

TEST_F(EarlyAnswer, CopiesOfWhatWasLostFail) {
    const InodeNumber to = make_source(kPage, 't');
    next_writes_take_long(1);
    failing_->add({.kind = Kind::kWrite,
                   .count = 1,
                   .status = driver::MediumStatus(driver::nvme::Status::kWriteFault)});
    send_write(1, kFileBytes, 'n');
    expect_answer(1, true);
    fuse_copy_file_range_in in{};
    in.off_in = kFileBytes;
    in.nodeid_out = value(to);
    in.len = kPage;
    send(FUSE_COPY_FILE_RANGE, 2, file_, bytes_of(in));
    expect_answer(2, false, EIO);
}

TEST_F(EarlyAnswer, IsNotForDirectAndSynchronousWrites) {
    writes_take_long();
    send_write(1, 0, 'd', 0);
    expect_answer(1, false);
    fuse_write_in in{};
    in.size = kPage;
    in.write_flags = FUSE_WRITE_CACHE;
    in.flags = O_DSYNC;
    send(FUSE_WRITE, 2, file_, bytes_of(in) + std::string(kPage, 's'));
    expect_answer(2, false);
}

// Its space is found, and all that it changes is committed before.
TEST_F(EarlyAnswer, IsNotGivenWhereThereIsNoSpace) {
    reactor_.block_on([&](Suspend& suspend) {
        const auto filler =
            must(fs_->create(suspend, kRootUser, kRootInode, "filler", 0644, true)).inode;
        std::uint64_t filled = 0;
        for (std::uint64_t step = device_bytes_; step >= kPage; step /= 2) {
            while (fs_->fallocate(suspend, filler, 0, filled, step)) filled += step;
        }
    });
    writes_take_long();
    send_write(1, kFileBytes, 'n');
    expect_answer(1, false, ENOSPC);
}

TEST(EarlyAnswers, SettlingAnInodeWaitsForItsOwnOnly) {
    driver::Reactor reactor;
    EarlyAnswers early;
    reactor.block_on([&](Suspend& suspend) {
        const auto other = early.begin(InodeNumber{1});
        const auto own = early.begin(InodeNumber{2});
        bool over = false;
        suspend.reactor().spawn([&](Suspend& waiting) {
            early.settle(waiting, InodeNumber{2});
            over = true;
        });
        suspend.yield();
        EXPECT_FALSE(over);
        const auto later = early.begin(InodeNumber{2});
        early.end(own, std::nullopt);
        suspend.yield();
        suspend.yield();
        EXPECT_TRUE(over);
        early.end(other, std::nullopt);
        early.end(later, std::nullopt);
        suspend.yield();
    });
}

TEST(EarlyAnswers, SettlingWaitsForWhatBeganBeforeOnly) {
    driver::Reactor reactor;
    EarlyAnswers early;
    const InodeNumber one{1};
    const InodeNumber two{2};
    std::string order;
    reactor.block_on([&](Suspend& suspend) {
        const auto first = early.begin(one);
        const auto second = early.begin(two);
        reactor.spawn([&](Suspend& other) {
            early.settle_all(other);
            order += "settled ";
        });
        suspend.yield();
        const auto third = early.begin(one);
        early.end(second, std::nullopt);
        suspend.yield();
        order += "second ";
        early.end(first, std::nullopt);
        suspend.yield();
        order += "first ";
        EXPECT_TRUE(early.any(one));
        EXPECT_FALSE(early.any(two));
        early.end(third, std::nullopt);
        suspend.yield();
    });
    EXPECT_EQ(order, "second settled first ");
}

}  // namespace
}  // namespace blobfs::fs::fuse
