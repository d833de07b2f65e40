// WRITEs and copies that were answered early, and of which the device then says that it has not
// written them: who hears of it, and what nobody may see.

#include <linux/falloc.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

#include "tests/fs/early_answer_fixture.h"

namespace blobfs::fs::fuse {
namespace {

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

}  // namespace
}  // namespace blobfs::fs::fuse
