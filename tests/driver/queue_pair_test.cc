// The queue pair against a controller that does what the test says.

#include "driver/nvme/queue_pair.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <set>

#include "driver/memory/environment.h"
#include "tests/driver/scripted_controller.h"

namespace blobfs::driver::nvme {
namespace {

struct Ended {
    int times = 0;
    bool failed = false;
    Error error{};
};

void on_end(void* context, const Error* error, std::uint32_t) {
    auto* ended = static_cast<Ended*>(context);
    ++ended->times;
    ended->failed = error != nullptr;
    if (error != nullptr) ended->error = *error;
}

class QueuePairTest : public testing::Test, protected QueueSupervisor {
  protected:
    static void SetUpTestSuite() { ASSERT_TRUE(start_environment({})); }

    void open(QueuePairOptions options = {}) {
        options.queue_id = 1;
        if (options.entries == 256) options.entries = 8;
        queue = QueuePair::create(transport, *this, options).value();
        transport.attach(1, queue->submission_address(), queue->completion_address(),
                         queue->entries());
        memory = DmaBuffer::allocate(4 << 20).value();
    }
    // While the requests' contexts, on the test's stack, are still there.
    void end_all() { queue->fail_all({.code = Errc::kDeviceGone, .what = "end of test"}); }

    void read(Ended& ended, std::uint64_t offset = 0, std::uint64_t bytes = 512) {
        const DmaSegment segment{.data = memory.data(), .bytes = bytes};
        queue->submit(
            space,
            {.opcode = Opcode::kRead, .offset = offset, .bytes = bytes, .memory = {&segment, 1}},
            on_end, &ended);
    }
    void poll() { queue->poll(now += 1000); }

    void command_timed_out(QueuePair&, std::uint16_t id, bool aborted) override {
        timeouts.emplace_back(id, aborted);
    }
    void protocol_broken(QueuePair&, const CompletionEntry&, const char*) override { ++broken; }

    ScriptedTransport transport;
    std::unique_ptr<QueuePair> queue;
    DmaBuffer memory;
    Namespace space{.id = 1, .lba_shift = 9, .blocks = 1 << 20};
    std::uint64_t now = 1'000'000;
    std::vector<std::pair<std::uint16_t, bool>> timeouts;
    int broken = 0;
};

TEST_F(QueuePairTest, WrapsAndFlipsItsPhaseManyTimes) {
    open();
    for (std::uint64_t i = 0; i < 100; ++i) {
        Ended ended[3];
        for (std::size_t k = 0; k < 3; ++k) read(ended[k], (i * 3 + k) * 512);
        EXPECT_TRUE(transport.fetch(1).empty()) << "no doorbell before ring()";
        queue->ring();
        const std::vector<SubmissionEntry> commands = transport.fetch(1);
        ASSERT_EQ(commands.size(), 3U);
        // Answered in another order than sent.
        for (const std::size_t k : {2U, 0U, 1U}) {
            EXPECT_EQ(commands[k].dword10, i * 3 + k);
            transport.post(1, commands[k].command_id);
        }
        poll();
        for (const Ended& one : ended) {
            EXPECT_EQ(one.times, 1);
            EXPECT_FALSE(one.failed);
        }
        EXPECT_EQ(transport.bells[3], (i + 1) * 3 % 8) << "completion queue head doorbell";
    }
    EXPECT_EQ(queue->statistics().doorbells, 100U) << "one per batch";
    EXPECT_EQ(broken, 0);
}

TEST_F(QueuePairTest, EntryWithTheOldPhaseIsNotACompletion) {
    open();
    Ended ended;
    read(ended);
    queue->ring();
    const SubmissionEntry command = transport.fetch(1).at(0);
    transport.post(1, command.command_id, 0, 0, true);
    poll();
    EXPECT_EQ(ended.times, 0);
    transport.post(1, command.command_id);
    poll();
    EXPECT_EQ(ended.times, 1);
}

TEST_F(QueuePairTest, WhatDoesNotFitWaitsInOrder) {
    open();
    constexpr std::size_t kMany = 500;
    std::vector<Ended> ended(kMany);
    for (std::size_t i = 0; i < kMany; ++i) read(ended[i], i * 512);
    EXPECT_EQ(queue->in_hardware(), 7U);
    EXPECT_EQ(queue->in_flight(), kMany);
    queue->ring();
    std::uint64_t next = 0;
    while (next < kMany) {
        const std::vector<SubmissionEntry> commands = transport.fetch(1);
        ASSERT_FALSE(commands.empty());
        ASSERT_LE(commands.size(), 7U);
        for (const SubmissionEntry& command : commands) {
            EXPECT_EQ(command.dword10, next++);
            transport.post(1, command.command_id);
        }
        poll();
    }
    for (const Ended& one : ended) EXPECT_EQ(one.times, 1);
    EXPECT_EQ(queue->in_flight(), 0U);
}

TEST_F(QueuePairTest, CommandIdsInUseAreDifferentAndDoNotComeBackAtOnce) {
    open();
    std::set<std::uint16_t> last;
    for (int round = 0; round < 50; ++round) {
        std::vector<Ended> ended(7);
        for (Ended& one : ended) read(one);
        queue->ring();
        std::set<std::uint16_t> ids;
        for (const SubmissionEntry& command : transport.fetch(1)) {
            EXPECT_TRUE(ids.insert(command.command_id).second);
            EXPECT_FALSE(last.contains(command.command_id));
            EXPECT_NE(command.command_id, 0xffff);
            transport.post(1, command.command_id);
        }
        poll();
        last = ids;
    }
}

TEST_F(QueuePairTest, BadAndDuplicateCompletionsAreReportedAndHarmless) {
    open();
    Ended first, second;
    read(first);
    queue->ring();
    const std::uint16_t id = transport.fetch(1).at(0).command_id;
    transport.post(1, 7);                                   // a slot that does not exist
    transport.post(1, 5);                                   // one that is free
    transport.post(1, static_cast<std::uint16_t>(id + 8));  // the right slot, another generation
    poll();
    EXPECT_EQ(broken, 3);
    EXPECT_EQ(first.times, 0);
    transport.post(1, id);
    transport.post(1, id);
    poll();
    EXPECT_EQ(broken, 4);
    EXPECT_EQ(first.times, 1);
    // The slot is in use again when the duplicate comes.
    read(second);
    queue->ring();
    const std::uint16_t fresh = transport.fetch(1).at(0).command_id;
    transport.post(1, id);
    poll();
    EXPECT_EQ(broken, 5);
    EXPECT_EQ(second.times, 0);
    transport.post(1, fresh);
    poll();
    EXPECT_EQ(second.times, 1);
    EXPECT_EQ(queue->in_flight(), 0U);
}

TEST_F(QueuePairTest, RetriesAreBoundedAndObeyDoNotRetry) {
    open({.max_retries = 3});
    const std::uint16_t soft =
        status_field(static_cast<std::uint16_t>(Status::kInternalError), false);
    Ended ended;
    read(ended);
    queue->ring();
    int sent = 0;
    for (int i = 0; i < 10; ++i) {
        for (const SubmissionEntry& command : transport.fetch(1)) {
            ++sent;
            transport.post(1, command.command_id, soft);
        }
        poll();
    }
    EXPECT_EQ(sent, 4);
    EXPECT_EQ(ended.times, 1);
    EXPECT_EQ(ended.error.nvme_status, 6);

    Ended final;
    read(final, 1024);
    queue->ring();
    const std::vector<SubmissionEntry> commands = transport.fetch(1);
    transport.post(1, commands.at(0).command_id,
                   status_field(static_cast<std::uint16_t>(Status::kUnrecoveredReadError), true));
    poll();
    EXPECT_TRUE(transport.fetch(1).empty());
    EXPECT_EQ(final.times, 1);
    EXPECT_EQ(final.error.code, Errc::kIo);
    EXPECT_EQ(final.error.nvme_status, 0x281);
    EXPECT_EQ(final.error.address, 1024U);
}

TEST_F(QueuePairTest, RetryDelayIsWaitedFor) {
    open({.retry_delay_100ms = {3, 0, 0}});
    Ended ended;
    read(ended);
    queue->ring();
    const std::uint16_t delayed = static_cast<std::uint16_t>(
        status_field(static_cast<std::uint16_t>(Status::kNamespaceNotReady), false) | 1U << 12);
    transport.post(1, transport.fetch(1).at(0).command_id, delayed);
    poll();
    now += 290'000;
    poll();
    EXPECT_TRUE(transport.fetch(1).empty());
    now += 10'000;
    poll();
    const std::vector<SubmissionEntry> again = transport.fetch(1);
    ASSERT_EQ(again.size(), 1U);
    transport.post(1, again[0].command_id);
    poll();
    EXPECT_EQ(ended.times, 1);
    EXPECT_FALSE(ended.failed);
}

TEST_F(QueuePairTest, SplitRequestEndsOnceAfterAllItsParts) {
    open({.max_transfer_bytes = 8192});
    Ended ended;
    read(ended, 4096, 100 * 1024);
    queue->ring();
    std::uint64_t blocks = 0;
    int parts = 0;
    for (int i = 0; i < 20; ++i) {
        for (const SubmissionEntry& command : transport.fetch(1)) {
            EXPECT_EQ(ended.times, 0);
            EXPECT_EQ(command.dword10, 8 + blocks);
            EXPECT_EQ(command.prp1, reinterpret_cast<std::uintptr_t>(memory.data()) + blocks * 512);
            blocks += command.dword12 + 1;
            ++parts;
            const bool bad = parts == 3 || parts == 5;
            transport.post(1, command.command_id,
                           bad ? status_field(static_cast<std::uint16_t>(0x280 + parts), true) : 0);
        }
        poll();
    }
    EXPECT_EQ(parts, 13);
    EXPECT_EQ(blocks, 200U);
    EXPECT_EQ(ended.times, 1);
    EXPECT_EQ(ended.error.nvme_status, 0x283) << "the first of the two errors";
    EXPECT_EQ(queue->in_flight(), 0U);
}

TEST_F(QueuePairTest, TimeoutIsReportedOnceThenAgainAfterTheGrace) {
    open({.timeout_us = 200'000, .abort_grace_us = 100'000});
    Ended ended;
    read(ended);
    for (int i = 0; i < 4; ++i) queue->poll(now += 50'000);
    EXPECT_TRUE(timeouts.empty());
    for (int i = 0; i < 2; ++i) queue->poll(now += 50'000);
    ASSERT_EQ(timeouts.size(), 1U);
    EXPECT_FALSE(timeouts[0].second);
    queue->poll(now += 40'000);
    EXPECT_EQ(timeouts.size(), 1U);
    queue->poll(now += 60'000);
    ASSERT_EQ(timeouts.size(), 2U);
    EXPECT_TRUE(timeouts[1].second);
    EXPECT_EQ(ended.times, 0) << "whoever supervises decides";
    end_all();
}

TEST_F(QueuePairTest, TimeInWhichNobodyPolledDoesNotCount) {
    open({.timeout_us = 1'000'000});
    Ended ended;
    read(ended);
    for (int i = 0; i < 3; ++i) queue->poll(now += 60'000);
    queue->poll(now += 3'600'000'000);  // the laptop's lid was closed
    EXPECT_TRUE(timeouts.empty());
    for (int i = 0; i < 30; ++i) queue->poll(now += 60'000);
    EXPECT_FALSE(timeouts.empty());
    end_all();
}

TEST_F(QueuePairTest, ResetSendsAgainInOrderAndFailAllEndsEachOnce) {
    open();
    std::vector<Ended> ended(20);
    for (std::size_t i = 0; i < ended.size(); ++i) read(ended[i], i * 512);
    queue->ring();
    const std::vector<SubmissionEntry> before = transport.fetch(1);
    transport.post(1, before.at(2).command_id);
    poll();
    EXPECT_EQ(ended[2].times, 1);
    queue->freeze();
    transport.post(1, before.at(0).command_id);
    poll();
    EXPECT_EQ(ended[0].times, 0) << "a frozen queue is not looked at";
    queue->reset();
    transport.attach(1, queue->submission_address(), queue->completion_address(), queue->entries());
    transport.bells.fill(0);
    queue->thaw();
    const std::vector<SubmissionEntry> after = transport.fetch(1);
    ASSERT_EQ(after.size(), 7U);
    const std::uint32_t order[] = {0, 1, 3, 4, 5, 6, 7};
    for (std::size_t i = 0; i < after.size(); ++i) EXPECT_EQ(after[i].dword10, order[i]);
    transport.post(1, after[1].command_id);
    poll();
    EXPECT_EQ(ended[1].times, 1);
    queue->fail_all({.code = Errc::kDeviceGone, .what = "test"});
    for (std::size_t i = 0; i < ended.size(); ++i) {
        EXPECT_EQ(ended[i].times, 1) << i;
        EXPECT_EQ(ended[i].failed, i != 1 && i != 2) << i;
    }
    Ended late;
    read(late);
    EXPECT_EQ(late.times, 1);
    EXPECT_EQ(late.error.code, Errc::kDeviceGone);
    EXPECT_EQ(queue->in_flight(), 0U);
}

TEST_F(QueuePairTest, DatasetRangeAndFlagsAreOnTheWire) {
    open();
    space.write_zeroes_deallocates = true;
    Ended ended[4];
    queue->submit(space, {.opcode = Opcode::kDatasetManagement, .offset = 1024, .bytes = 5 * 512},
                  on_end, &ended[0]);
    queue->submit(space, {.opcode = Opcode::kWriteZeroes, .offset = 512, .bytes = 512}, on_end,
                  &ended[1]);
    queue->submit(space, {.opcode = Opcode::kFlush}, on_end, &ended[2]);
    const DmaSegment segment{.data = memory.data(), .bytes = 1024};
    queue->submit(space,
                  {.opcode = Opcode::kWrite,
                   .force_unit_access = true,
                   .offset = std::uint64_t{512} << 10,
                   .bytes = 1024,
                   .memory = {&segment, 1}},
                  on_end, &ended[3]);
    queue->ring();
    const std::vector<SubmissionEntry> commands = transport.fetch(1);
    ASSERT_EQ(commands.size(), 4U);
    EXPECT_EQ(commands[0].dword10, 0U);
    EXPECT_EQ(commands[0].dword11, kDatasetDeallocate);
    DatasetRange range{};
    std::memcpy(&range, reinterpret_cast<const void*>(commands[0].prp1), sizeof range);
    EXPECT_EQ(range.start_lba, 2U);
    EXPECT_EQ(range.blocks, 5U);
    EXPECT_EQ(commands[1].dword12, kWriteZeroesDeallocate);
    EXPECT_EQ(commands[2].opcode, 0);
    EXPECT_EQ(commands[2].prp1, 0U);
    EXPECT_EQ(commands[3].dword10, 1024U);
    EXPECT_EQ(commands[3].dword12, kForceUnitAccess | 1U);
    for (const SubmissionEntry& command : commands) transport.post(1, command.command_id);
    poll();
    for (const Ended& one : ended) EXPECT_EQ(one.times, 1);
}

}  // namespace
}  // namespace blobfs::driver::nvme
