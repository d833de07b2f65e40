// The media that tests of every layer stand on do what they promise: faults, power cuts.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/file_medium.h"
#include "driver/soft/memory_medium.h"
#include "driver/soft/power_cut_medium.h"
#include "driver/soft/sparse_image.h"

namespace blobfs::driver {
namespace {

using Kind = MediumOperation::Kind;

// One operation at a time, straight on a medium.
struct Operation : MediumOperation {
    bool ended = false;
    MediumStatus status;
    iovec piece{};

    static void on_done(MediumOperation& operation, MediumStatus status) {
        auto& self = static_cast<Operation&>(operation);
        self.ended = true;
        self.status = status;
    }
};

MediumStatus run(Medium& medium, Kind kind, std::uint64_t offset, std::span<std::byte> memory,
                 bool fua = false) {
    Operation operation;
    operation.kind = kind;
    operation.offset = offset;
    operation.bytes = memory.size();
    operation.force_unit_access = fua;
    operation.piece = {.iov_base = memory.data(), .iov_len = memory.size()};
    operation.memory = &operation.piece;
    operation.memory_count = 1;
    operation.done = Operation::on_done;
    medium.start(operation);
    medium.submit();
    while (!operation.ended) medium.poll();
    return operation.status;
}

std::vector<std::byte> filled(std::size_t bytes, int value) {
    return std::vector<std::byte>(bytes, static_cast<std::byte>(value));
}

void write(Medium& medium, std::uint64_t offset, std::size_t bytes, int value, bool fua = false) {
    std::vector<std::byte> memory = filled(bytes, value);
    EXPECT_EQ(run(medium, Kind::kWrite, offset, memory, fua).code, 0);
}

void flush(Medium& medium) { EXPECT_EQ(run(medium, Kind::kFlush, 0, {}).code, 0); }

// The one value that a range of an image holds, or -1 when it is mixed.
int value_at(const SparseImage& image, std::uint64_t offset, std::size_t bytes) {
    std::vector<std::byte> memory(bytes);
    image.read(offset, memory);
    for (const std::byte b : memory) {
        if (b != memory[0]) return -1;
    }
    return static_cast<int>(memory[0]);
}

TEST(SparseImage, CopiesAreIndependent) {
    SparseImage first;
    first.write(100, filled(9000, 1));
    SparseImage second = first;
    EXPECT_TRUE(first == second);
    second.write(4096, filled(10, 2));
    EXPECT_FALSE(first == second);
    EXPECT_EQ(value_at(first, 4096, 10), 1);
    EXPECT_EQ(value_at(second, 4096, 10), 2);
    second.clear(50, 9100);
    EXPECT_TRUE(second == SparseImage());
    EXPECT_EQ(value_at(first, 100, 9000), 1);
    first.clear(200, 100);
    EXPECT_EQ(value_at(first, 200, 100), 0);
    EXPECT_EQ(value_at(first, 300, 8800), 1);
    EXPECT_EQ(value_at(first, 100, 100), 1);
}

TEST(PowerCutMedium, UnflushedWritesMayBeLostAndReadsSeeTheCache) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 0, 4096, 1);
    std::vector<std::byte> memory(4096);
    ASSERT_EQ(run(*medium, Kind::kRead, 0, memory).code, 0);
    EXPECT_EQ(memory, filled(4096, 1));
    ASSERT_EQ(medium->journal().size(), 1U);
    EXPECT_EQ(value_at(medium->image(1, 0), 0, 4096), 0);
    EXPECT_EQ(value_at(medium->image(1, 1), 0, 4096), 1);
    bool torn = false;
    for (std::uint64_t seed = 2; seed < 40; ++seed) {
        const SparseImage image = medium->image(1, seed);
        EXPECT_TRUE(image == medium->image(1, seed)) << "an image is made by its seed alone";
        if (value_at(image, 0, 4096) != -1) continue;
        torn = true;
        for (std::uint64_t at = 0; at < 4096; at += 512) EXPECT_NE(value_at(image, at, 512), -1);
    }
    EXPECT_TRUE(torn);
}

TEST(PowerCutMedium, FlushedAndForcedWritesAlwaysSurvive) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 0, 4096, 1);
    write(*medium, 8192, 4096, 2, true);
    flush(*medium);
    write(*medium, 16384, 4096, 3);
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
        const SparseImage after_forced = medium->image(2, seed);
        EXPECT_EQ(value_at(after_forced, 8192, 4096), 2);
        const SparseImage after_flush = medium->image(3, seed);
        EXPECT_EQ(value_at(after_flush, 0, 4096), 1);
        EXPECT_EQ(value_at(after_flush, 8192, 4096), 2);
    }
    // The forced write does not carry the one before it.
    EXPECT_EQ(value_at(medium->image(2, 0), 0, 4096), 0);
}

TEST(PowerCutMedium, OldVersionNeverCoversDurableOne) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 0, 512, 1);
    write(*medium, 0, 512, 2, true);
    write(*medium, 0, 512, 3);
    std::set<int> seen;
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        seen.insert(value_at(medium->image(3, seed), 0, 512));
    }
    EXPECT_EQ(seen, (std::set<int>{2, 3}));
}

TEST(PowerCutMedium, WriteUnderWayMayBeThereBeforeItIsAcknowledged) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 0, 512, 1, true);
    write(*medium, 512, 512, 2);
    EXPECT_EQ(value_at(medium->image(0, 0), 0, 512), 0);
    EXPECT_EQ(value_at(medium->image(0, 1), 0, 512), 1);
    // The second was sent after the first had been acknowledged.
    EXPECT_EQ(value_at(medium->image(0, 1), 512, 512), 0);
}

TEST(PowerCutMedium, UndecidedEventsEnumerateEveryImage) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 0, 512, 1);
    flush(*medium);
    write(*medium, 512, 512, 2);
    write(*medium, 1024, 512, 3, true);
    write(*medium, 1536, 512, 4);
    const std::vector<std::size_t> undecided = medium->undecided(4);
    EXPECT_EQ(undecided, (std::vector<std::size_t>{2, 4}));
    const std::size_t first[] = {2};
    const SparseImage image = medium->image_with(4, first);
    EXPECT_EQ(value_at(image, 0, 512), 1);
    EXPECT_EQ(value_at(image, 512, 512), 2);
    EXPECT_EQ(value_at(image, 1024, 512), 3);
    EXPECT_EQ(value_at(image, 1536, 512), 0);
}

TEST(PowerCutMedium, ImageBecomesTheNextDevice) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 4096, 4096, 7, true);
    auto next = PowerCutMedium::create({.bytes = 1 << 20}, medium->image(1, 0));
    std::vector<std::byte> memory(4096);
    ASSERT_EQ(run(*next, Kind::kRead, 4096, memory).code, 0);
    EXPECT_EQ(memory, filled(4096, 7));
    EXPECT_EQ(value_at(next->image(0, 0), 4096, 4096), 7);
}

TEST(PowerCutMedium, FlushDoesNotCoverWhatEndedAfterItBegan) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20, .shuffle_seed = 5});
    // Sent together: whichever ends first, the flush promises nothing about the write.
    std::vector<std::byte> memory = filled(512, 9);
    Operation operations[2];
    for (Operation& operation : operations) operation.done = Operation::on_done;
    operations[0].kind = Kind::kWrite;
    operations[0].bytes = 512;
    operations[0].piece = {.iov_base = memory.data(), .iov_len = memory.size()};
    operations[0].memory = &operations[0].piece;
    operations[0].memory_count = 1;
    operations[1].kind = Kind::kFlush;
    medium->start(operations[0]);
    medium->start(operations[1]);
    medium->submit();
    while (medium->in_flight() != 0) medium->poll();
    EXPECT_TRUE(operations[0].ended && operations[1].ended);
    EXPECT_EQ(value_at(medium->image(2, 0), 0, 512), 0);
    flush(*medium);
    EXPECT_EQ(value_at(medium->image(3, 0), 0, 512), 9);
}

// Those who go on meanwhile may be cut with it.
TEST(PowerCutMedium, SlowWriteIsUnderWayWhileOthersEnd) {
    auto medium = PowerCutMedium::create(
        {.bytes = 1 << 20, .shuffle_seed = 5, .slow_one_in = 1, .slow_polls = 1000});
    std::vector<std::byte> memory = filled(4096, 9);
    Operation slow;
    slow.done = Operation::on_done;
    slow.kind = Kind::kWrite;
    slow.bytes = memory.size();
    slow.piece = {.iov_base = memory.data(), .iov_len = memory.size()};
    slow.memory = &slow.piece;
    slow.memory_count = 1;
    medium->start(slow);
    flush(*medium);
    flush(*medium);
    ASSERT_FALSE(slow.ended);
    while (!slow.ended) medium->poll();
    ASSERT_EQ(medium->journal().size(), 3U);
    for (std::size_t cut = 0; cut <= 2; ++cut) {
        EXPECT_EQ(medium->undecided(cut), std::vector<std::size_t>{2}) << "cut " << cut;
        EXPECT_EQ(value_at(medium->image(cut, 1), 0, 4096), 9);
        EXPECT_EQ(value_at(medium->image(cut, 0), 0, 4096), 0);
    }
}

TEST(PowerCutMedium, FailedWriteLeavesAnyOfItsSectorsAndNoneDurable) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 0, 8192, 1, true);
    medium->set_fails([](const MediumOperation& operation) -> std::optional<MediumStatus> {
        if (operation.offset != 0) return std::nullopt;
        return MediumStatus(nvme::Status::kWriteFault);
    });
    std::vector<std::byte> memory = filled(8192, 2);
    EXPECT_NE(run(*medium, Kind::kWrite, 0, memory, true).code, 0);
    write(*medium, 8192, 512, 3);
    memory.assign(8192, {});
    ASSERT_EQ(run(*medium, Kind::kRead, 0, memory).code, 0);
    std::set<int> read;
    for (std::size_t at = 0; at < memory.size(); at += 512) {
        read.insert(static_cast<int>(memory[at]));
    }
    EXPECT_EQ(read, (std::set<int>{1, 2}));
    EXPECT_EQ(value_at(medium->image(3, 0), 0, 8192), 1);
    EXPECT_EQ(value_at(medium->image(3, 1), 8192, 512), 3);
    std::set<int> left;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        left.insert(value_at(medium->image(3, seed), 0, 512));
        left.insert(value_at(medium->image(3, seed), 512, 512));
    }
    EXPECT_EQ(left, (std::set<int>{1, 2}));
}

TEST(PowerCutMedium, FailedFlushMakesNothingDurable) {
    auto medium = PowerCutMedium::create({.bytes = 1 << 20});
    write(*medium, 0, 512, 1);
    medium->set_fails([](const MediumOperation&) {
        return std::optional(MediumStatus(nvme::Status::kInternalError));
    });
    std::vector<std::byte> none;
    EXPECT_NE(run(*medium, Kind::kFlush, 0, none).code, 0);
    EXPECT_EQ(value_at(medium->image(medium->journal().size(), 0), 0, 512), 0);
}

class FileMediumTest : public testing::Test {
  protected:
    FileMediumTest() {
        std::string pattern = testing::TempDir() + "blobfs-medium-XXXXXX";
        const int descriptor = mkstemp(pattern.data());
        EXPECT_GE(descriptor, 0);
        if (descriptor >= 0) close(descriptor);
        path = pattern;
    }
    ~FileMediumTest() override { unlink(path.c_str()); }
    std::unique_ptr<FileMedium> open(const FileMediumOptions& options) {
        return reactor
            .block_on([&](Suspend& suspend) { return FileMedium::open(suspend, path, options); })
            .value();
    }
    // Pages of the file that are in the page cache.
    [[nodiscard]] std::size_t cached_pages(std::size_t bytes) const {
        const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        void* mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
        std::vector<unsigned char> resident(bytes / 4096);
        EXPECT_EQ(mincore(mapped, bytes, resident.data()), 0);
        munmap(mapped, bytes);
        close(descriptor);
        return static_cast<std::size_t>(
            std::ranges::count_if(resident, [](unsigned char page) { return (page & 1) != 0; }));
    }

    std::string path;
    Reactor reactor;
};

TEST_F(FileMediumTest, MemoryThatIsNotAlignedDoesNotLeadIntoThePageCache) {
    constexpr std::size_t kBytes = 64 * 1024;
    for (const bool io_uring : {true, false}) {
        auto medium = open({.create_size = kBytes, .io_uring = io_uring});
        if (!medium->direct()) GTEST_SKIP() << "no direct I/O in " << testing::TempDir();
        std::vector<std::byte> buffer(kBytes + 64);
        for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = static_cast<std::byte>(i * 7);
        // Two pieces, dword-aligned as PRPs may be, the first one of an odd number of sectors.
        Operation operation;
        iovec pieces[2] = {{.iov_base = buffer.data() + 4, .iov_len = 1020},
                           {.iov_base = buffer.data() + 4 + 1020, .iov_len = kBytes - 1020}};
        operation.kind = Kind::kWrite;
        operation.bytes = kBytes;
        operation.memory = pieces;
        operation.memory_count = 2;
        operation.done = Operation::on_done;
        medium->start(operation);
        medium->submit();
        while (!operation.ended) medium->poll();
        ASSERT_EQ(operation.status.code, 0);

        std::vector<std::byte> back(kBytes + 64);
        const std::span<std::byte> unaligned(back.data() + 12, kBytes);
        ASSERT_EQ(run(*medium, Kind::kRead, 0, unaligned).code, 0);
        EXPECT_TRUE(std::ranges::equal(unaligned, std::span(buffer).subspan(4, kBytes)));
        // Zeroes are written, too, where the file cannot be told to have them.
        Operation zero;
        zero.kind = Kind::kWriteZeroes;
        zero.offset = 4096;
        zero.bytes = 8192;
        zero.done = Operation::on_done;
        medium->start(zero);
        medium->submit();
        while (!zero.ended) medium->poll();
        ASSERT_EQ(zero.status.code, 0);
        ASSERT_EQ(run(*medium, Kind::kRead, 0, unaligned).code, 0);
        EXPECT_EQ(
            std::count(unaligned.begin() + 4096, unaligned.begin() + 4096 + 8192, std::byte{0}),
            8192);
        EXPECT_EQ(cached_pages(kBytes), 0U);
    }
}

TEST_F(FileMediumTest, FlushesAtTheSameTimeAllEnd) {
    for (const bool io_uring : {true, false}) {
        auto medium = open({.create_size = 1 << 20, .io_uring = io_uring});
        std::vector<std::byte> memory = filled(4096, 5);
        ASSERT_EQ(run(*medium, Kind::kWrite, 0, memory).code, 0);
        std::array<Operation, 8> flushes;
        for (Operation& flush : flushes) {
            flush.kind = Kind::kFlush;
            flush.done = Operation::on_done;
            medium->start(flush);
            medium->submit();
        }
        while (medium->in_flight() != 0) medium->poll();
        for (const Operation& flush : flushes) {
            EXPECT_TRUE(flush.ended);
            EXPECT_EQ(flush.status.code, 0);
        }
    }
}

TEST_F(FileMediumTest, TheEndOfAFlushWakesTheReactor) {
    class Asking final : public Poller {
      public:
        bool poll() override { return medium != nullptr && medium->poll(); }
        [[nodiscard]] bool needs_polling() const override { return false; }
        std::unique_ptr<FileMedium> medium;
    };
    struct Flush : Operation {
        WaitGroup* flushed = nullptr;
    };
    Reactor sleepy({.spin_us = 0, .max_spin_us = 0});
    Asking poller;
    sleepy.add_poller(poller);
    sleepy.block_on([&](Suspend& suspend) {
        poller.medium = FileMedium::open(suspend, path, {.create_size = 1 << 20}).value();
        for (int i = 0; i < 200; ++i) {
            WaitGroup flushed;
            flushed.add();
            Flush flush;
            flush.flushed = &flushed;
            flush.kind = Kind::kFlush;
            flush.done = [](MediumOperation& operation, MediumStatus /*status*/) {
                static_cast<Flush&>(operation).flushed->done();
            };
            poller.medium->start(flush);
            flushed.wait(suspend);  // for ever, if nobody wakes the reactor
        }
        poller.medium.reset();
    });
    sleepy.remove_poller(poller);
    EXPECT_GT(sleepy.statistics().sleeps, 0U);
}

class FaultyMediumTest : public testing::Test {
  protected:
    FaultyMediumTest() : medium(MemoryMedium::create({.bytes = 1 << 20}).value()) {}
    std::byte* contents() { return static_cast<MemoryMedium&>(medium.inner()).data(); }
    FaultyMedium medium;
};

TEST_F(FaultyMediumTest, FailsTheNthOfOneKindOnce) {
    medium.add({.kind = Kind::kWrite,
                .skip = 1,
                .count = 1,
                .status = MediumStatus(nvme::Status::kCapacityExceeded)});
    std::vector<std::byte> memory = filled(512, 1);
    EXPECT_EQ(run(medium, Kind::kWrite, 0, memory).code, 0);
    EXPECT_EQ(run(medium, Kind::kRead, 0, memory).code, 0);
    EXPECT_EQ(run(medium, Kind::kWrite, 0, memory).code,
              static_cast<std::uint16_t>(nvme::Status::kCapacityExceeded));
    EXPECT_EQ(run(medium, Kind::kWrite, 0, memory).code, 0);
    EXPECT_EQ(medium.hits(), 1U);
}

TEST_F(FaultyMediumTest, FailsARangeUntilCleared) {
    medium.add({.first_byte = 4096, .bytes = 512});
    std::vector<std::byte> memory = filled(1024, 1);
    EXPECT_EQ(run(medium, Kind::kRead, 3072, memory).code, 0);
    EXPECT_NE(run(medium, Kind::kRead, 3584, memory).code, 0);
    EXPECT_NE(run(medium, Kind::kRead, 4096, memory).code, 0);
    EXPECT_EQ(run(medium, Kind::kRead, 4608, memory).code, 0);
    medium.clear_faults();
    EXPECT_EQ(run(medium, Kind::kRead, 4096, memory).code, 0);
}

TEST_F(FaultyMediumTest, LosesAndMisdirectsWrites) {
    medium.add({.effect = Fault::Effect::kLoseWrite, .kind = Kind::kWrite, .count = 1});
    medium.add({.effect = Fault::Effect::kMisdirectWrite,
                .kind = Kind::kWrite,
                .count = 1,
                .misdirect_to = 8192});
    write(medium, 0, 512, 1);
    EXPECT_EQ(contents()[0], std::byte{0});
    write(medium, 0, 512, 2);
    EXPECT_EQ(contents()[0], std::byte{0});
    EXPECT_EQ(contents()[8192], std::byte{2});
    write(medium, 0, 512, 3);
    EXPECT_EQ(contents()[0], std::byte{3});
}

TEST_F(FaultyMediumTest, FlipsOneBit) {
    write(medium, 0, 1024, 0);
    medium.add({.effect = Fault::Effect::kFlipBit, .kind = Kind::kRead, .count = 1, .bit = 4099});
    std::vector<std::byte> memory = filled(1024, 0xff);
    ASSERT_EQ(run(medium, Kind::kRead, 0, memory).code, 0);
    EXPECT_EQ(memory[512], std::byte{8});
    EXPECT_EQ(std::count(memory.begin(), memory.end(), std::byte{0}), 1023);
    medium.add({.effect = Fault::Effect::kFlipBit, .kind = Kind::kWrite, .count = 1, .bit = 1});
    memory = filled(1024, 0);
    ASSERT_EQ(run(medium, Kind::kWrite, 0, memory).code, 0);
    EXPECT_EQ(memory, filled(1024, 0)) << "the host's memory is not touched";
    EXPECT_EQ(contents()[0], std::byte{2});
}

TEST_F(FaultyMediumTest, DelaysAndHolds) {
    medium.add({.effect = Fault::Effect::kDelay, .count = 1, .delay_us = 2000});
    const auto before = std::chrono::steady_clock::now();
    write(medium, 0, 512, 1);
    EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::microseconds(2000));

    medium.add({.effect = Fault::Effect::kDelay, .count = 1, .delay_polls = 3});
    Operation late;
    late.kind = Kind::kFlush;
    late.done = Operation::on_done;
    medium.start(late);
    for (int i = 0; i < 3; ++i) medium.poll();
    EXPECT_EQ(medium.in_flight(), 1U);
    EXPECT_FALSE(late.ended);
    medium.poll();
    while (!late.ended && medium.in_flight() != 0) medium.poll();
    EXPECT_TRUE(late.ended);

    medium.add({.effect = Fault::Effect::kNeverAnswer, .count = 1});
    Operation operation;
    operation.kind = Kind::kFlush;
    operation.done = Operation::on_done;
    medium.start(operation);
    for (int i = 0; i < 100; ++i) medium.poll();
    EXPECT_FALSE(operation.ended);
    EXPECT_EQ(medium.in_flight(), 1U);
    EXPECT_TRUE(medium.cancel(operation));
    EXPECT_TRUE(operation.ended);
    EXPECT_EQ(operation.status.code, static_cast<std::uint16_t>(nvme::Status::kAbortRequested));
    EXPECT_FALSE(medium.cancel(operation));
}

// Counts how often it is told to send what it was given.
class CountingMedium final : public Medium {
  public:
    explicit CountingMedium(std::unique_ptr<Medium> inner) : inner_(std::move(inner)) {}
    [[nodiscard]] const MediumProperties& properties() const override {
        return inner_->properties();
    }
    void start(MediumOperation& operation) override { inner_->start(operation); }
    void submit() override { ++submits; }
    [[nodiscard]] std::size_t in_flight() const override { return inner_->in_flight(); }

    int submits = 0;

  private:
    std::unique_ptr<Medium> inner_;
};

TEST(DeviceOverMedium, WhatIsReadInATurnGoesToTheMediumTogether) {
    ASSERT_TRUE(start_environment({}));
    Reactor reactor;
    reactor.block_on([](Suspend& suspend) {
        auto owned =
            std::make_unique<CountingMedium>(MemoryMedium::create({.bytes = 1 << 20}).value());
        CountingMedium& medium = *owned;
        std::unique_ptr<Device> device = Device::open(suspend, std::move(owned)).value();
        DmaBuffer memory = DmaBuffer::allocate(64 << 10).value();
        const int before = medium.submits;
        WaitGroup ended;
        for (std::size_t at = 0; at < memory.size(); at += 4096) {
            ended.add();
            suspend.reactor().spawn_now([&, at](Suspend& other) {
                EXPECT_TRUE(device->read(other, at, memory.span().subspan(at, 4096)));
                ended.done();
            });
        }
        ended.wait(suspend);
        EXPECT_EQ(medium.submits - before, 1);
        ASSERT_TRUE(device->close(suspend));
    });
}

TEST(DeviceOverPowerCut, GroupOfWritesAndFlushIsDurableOnlyTogether) {
    ASSERT_TRUE(start_environment({}));
    Reactor reactor;
    reactor.block_on([](Suspend& suspend) {
        auto owned = PowerCutMedium::create({.bytes = 1 << 20, .shuffle_seed = 11});
        PowerCutMedium& medium = *owned;
        std::unique_ptr<Device> device = Device::open(suspend, std::move(owned)).value();
        ASSERT_TRUE(device->properties().volatile_write_cache);
        DmaBuffer memory = DmaBuffer::allocate(64 << 10).value();
        std::fill(memory.span().begin(), memory.span().end(), std::byte{1});
        Device::Batch batch(*device);
        for (std::size_t at = 0; at < memory.size(); at += 4096) {
            batch.write(at, memory.span().subspan(at, 4096));
        }
        ASSERT_TRUE(batch.wait(suspend));
        const std::size_t written = medium.journal().size();
        EXPECT_EQ(written, 16U);
        EXPECT_EQ(value_at(medium.image(written, 0), 0, 64 << 10), 0);
        ASSERT_TRUE(device->flush(suspend));
        EXPECT_EQ(value_at(medium.image(medium.journal().size(), 0), 0, 64 << 10), 1);
        ASSERT_TRUE(device->close(suspend));
    });
}

}  // namespace
}  // namespace blobfs::driver
