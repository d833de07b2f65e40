// WRITEs of the kernel's cache and copies that are answered before the device has them: the kernel
// is played, the device is slow. fuse_lost_writes_test.cc: it fails.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <vector>

#include "tests/fs/early_answer_fixture.h"

namespace blobfs::fs::fuse {
namespace {

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

// What cuts leave of a copy and its original: each with all else that the file is to hold.
class DataBeforeNames : public EarlyAnswer {
  protected:
    using EarlyAnswer::EarlyAnswer;
    std::size_t lost_both(const std::function<void(Suspend&)>& make_durable);
};

// The file grows, an answer is given, and "old" is removed, while the device is at work. How many
// cuts at any time since then leave neither, or a file that holds what was never written to it.
std::size_t DataBeforeNames::lost_both(const std::function<void(Suspend&)>& make_durable) {
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

TEST_F(DataBeforeNames, NeedNotBeWaitedFor) {
    EXPECT_EQ(lost_both([&](Suspend& suspend) { must(fs_->sync(suspend)); }), 0U);
}

TEST_F(DataBeforeNames, IsThereBeforeACheckpointMapsIt) {
    EXPECT_EQ(lost_both([&](Suspend& suspend) { must(fs_->store().checkpoint(suspend)); }), 0U);
}

class DataThatNobodyWaitsFor : public DataBeforeNames {
  protected:
    DataThatNobodyWaitsFor()
        : DataBeforeNames(std::uint64_t{256} << 20, blobstore::OrderRule::kDataUnderWay) {}
};

TEST_F(DataThatNobodyWaitsFor, IsFoundOutInTheLog) {
    EXPECT_GT(lost_both([&](Suspend& suspend) { must(fs_->sync(suspend)); }), 0U);
}

TEST_F(DataThatNobodyWaitsFor, IsFoundOutInACheckpoint) {
    EXPECT_GT(lost_both([&](Suspend& suspend) { must(fs_->store().checkpoint(suspend)); }), 0U);
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
