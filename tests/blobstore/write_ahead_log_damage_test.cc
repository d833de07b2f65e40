// A log that cannot be written, or is damaged.

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/blobstore/write_ahead_log_fixture.h"

namespace blobfs::blobstore {
namespace {

TEST_F(WriteAheadLogTest, WriteErrorSticks) {
    write("a");
    device_->fail_write = [](std::uint64_t, std::size_t) { return true; };
    const Sequence failed = log_->append(record("b"));
    EXPECT_EQ(commit(failed).error().code, Errc::kIo);
    device_->fail_write = nullptr;
    EXPECT_EQ(commit(failed).error().code, Errc::kIo);
    EXPECT_EQ(commit(log_->append(record("c"))).error().code, Errc::kIo);
    EXPECT_FALSE(log_->status());
    EXPECT_EQ(log_->last_durable(), Sequence{1});
    EXPECT_TRUE(commit(Sequence{1}));
    EXPECT_EQ(replay().texts, Texts{"a"});
}

TEST_F(WriteAheadLogTest, WriteErrorReachesEveryWaitingFiber) {
    int failed = 0;
    device_->fail_write = [](std::uint64_t, std::size_t) { return true; };
    run([&](Suspend& suspend) {
        driver::WaitGroup group;
        for (int i = 0; i < 10; ++i) {
            group.add();
            suspend.reactor().spawn([&](Suspend& inner) {
                if (!log_->commit(inner, log_->append(record("x")))) ++failed;
                group.done();
            });
        }
        group.wait(suspend);
    });
    EXPECT_EQ(failed, 10);
}

TEST_F(WriteAheadLogTest, FailedFlushSticks) {
    device_->fail_flush = [] { return true; };
    note_large_data();
    EXPECT_FALSE(run([&](Suspend& s) { return log_->flush_data(s); }));
    device_->fail_flush = nullptr;
    EXPECT_FALSE(run([&](Suspend& s) { return log_->flush_data(s); }));
    EXPECT_FALSE(commit(log_->append(record("a"))));
    EXPECT_TRUE(device_->writes.empty());
}

TEST_F(WriteAheadLogTest, RightChecksumOverWrongContentIsDamage) {
    struct Case {
        const char* what;
        std::function<void(LogBatchHeader&, char*)> change;
    };
    const auto set32 = [](char* at, std::uint32_t v) { std::memcpy(at, &v, sizeof(v)); };
    const Case cases[] = {
        {"first transaction", [](auto& h, char*) { h.first_transaction = 7; }},
        {"too many transactions", [](auto& h, char*) { h.transactions = 0xffffffff; }},
        {"no transactions", [](auto& h, char*) { h.transactions = 0; }},
        {"bytes behind", [](auto& h, char*) { h.payload_bytes += 16; }},
        {"cut payload", [](auto& h, char*) { h.payload_bytes -= 8; }},
        {"transaction length", [&](auto&, char* p) { set32(p, 0xfffffff8); }},
        {"transaction length 0", [&](auto&, char* p) { set32(p, 0); }},
        {"odd transaction length", [&](auto&, char* p) { set32(p, 39); }},
        {"operations", [&](auto&, char* p) { set32(p + 4, 0x10000000); }},
        {"fewer operations", [&](auto&, char* p) { set32(p + 4, 0); }},
        {"type", [](auto&, char* p) { p[8] = 0; }},
        {"type of the future", [](auto&, char* p) { p[8] = 99; }},
        {"reserved byte", [](auto&, char* p) { p[9] = 1; }},
        {"key length", [](auto&, char* p) { p[11] = 0x7f; }},
        {"short key", [](auto&, char* p) { p[10] = 8; }},
        {"value length", [&](auto&, char* p) { set32(p + 12, 0xffffffff); }},
        {"put as run", [](auto&, char* p) { p[8] = 3; }},
        {"put as erase", [](auto&, char* p) { p[8] = 2; }},
        {"put as blob id", [](auto&, char* p) { p[8] = 5; }},
    };
    write("0123456789");
    const auto image = device_->image();
    for (const auto& c : cases) {
        device_->set_image(image);
        forge(0, c.change);
        const auto replayed = replay();
        ASSERT_FALSE(replayed.end) << c.what;
        EXPECT_EQ(replayed.end.error().code, Errc::kCorrupt) << c.what;
        EXPECT_EQ(replayed.end.error().address, ring_offset(0)) << c.what;
        EXPECT_TRUE(replayed.texts.empty()) << c.what;
    }
}

TEST_F(WriteAheadLogTest, RunBeyondEveryDeviceIsDamage) {
    LogRecord r;
    r.allocate({BlockIndex{~0ull - 2}, 8});
    ASSERT_TRUE(commit(log_->append(r.finish())));
    EXPECT_EQ(replay().end.error().code, Errc::kCorrupt);
}

TEST_F(WriteAheadLogTest, RandomBytesWithTheRightHeaderNeverCrash) {
    write(std::string(2000, 'x'));
    const auto image = device_->image();
    std::mt19937 random(5);
    for (int i = 0; i < 3000; ++i) {
        device_->set_image(image);
        forge(0, [&](LogBatchHeader& header, char* payload) {
            for (int n = 0; n < 3; ++n) payload[random() % 40] = static_cast<char>(random());
            if (random() % 4 == 0) header.transactions = static_cast<std::uint32_t>(random());
        });
        (void)replay();
    }
}

TEST_F(WriteAheadLogTest, VisitErrorEndsReplay) {
    write("a");
    write("b");
    int visited = 0;
    const auto end = run([&](Suspend& suspend) {
        return new_log()->replay(suspend, 1, {}, Sequence{0},
                                 [&](Suspend&, Sequence, const LogOperation&) -> Result<void> {
                                     ++visited;
                                     return fail(Errc::kCorrupt, "no");
                                 });
    });
    EXPECT_FALSE(end);
    EXPECT_EQ(visited, 1);
}

TEST_F(WriteAheadLogTest, LaterBatchesShowThatABatchIsDamagedAndNotTheEnd) {
    const auto beyond = [&](LogPosition from = {}, Sequence last = {}) {
        const auto end = replay(from, last).end;
        return run([&](Suspend& s) { return new_log()->batches_beyond(s, 1, end->position); })
            ->batches;
    };
    // Once around the ring, so that some of what is looked for lies before the end, and older
    // batches everywhere.
    std::vector<LogPosition> marks;
    for (int i = 0; i < 70; ++i) {
        if (!log_->has_room(log_->max_record_bytes())) log_->trim(marks.back());
        marks.push_back(log_->mark());
        write(std::to_string(i), i % 7 == 0 ? 9000 : 0);
    }
    const std::size_t first = 48;
    const LogPosition from = marks[first];
    const Sequence last{first};
    EXPECT_EQ(replay(from, last).texts.size(), 70 - first);
    EXPECT_EQ(beyond(from, last), 0u);
    const auto image = device_->image();
    for (std::size_t damaged = first; damaged < 70; ++damaged) {
        for (const std::uint64_t byte : {40u, 70u}) {  // of the header, of the payload
            device_->set_image(image);
            *device_->at(ring_offset(marks[damaged].block) + byte) ^= std::byte{1};
            const std::size_t whole = replay(from, last).texts.size();
            if (whole == 70 - first) continue;  // did not fit there, and was put at the start
            EXPECT_EQ(whole, damaged - first);
            EXPECT_EQ(beyond(from, last), 69 - damaged);
        }
    }
    // Where nothing can be read there is no proof, and no error.
    device_->set_image(image);
    const auto end = replay(from, last).end;
    device_->fail_read = [](std::uint64_t, std::size_t) { return true; };
    EXPECT_EQ(
        run([&](Suspend& s) { return new_log()->batches_beyond(s, 1, end->position); })->batches,
        0u);
}

// Data that was settled stays so when the batch that says it is behind a damaged one.
TEST_F(WriteAheadLogTest, BatchesBehindADamagedOneTellWhichDataCounts) {
    note_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    write("damaged");
    note_large_data();
    write("third");
    note_small_data(9u << 20, 'b');
    write("fourth");
    *device_->at(ring_offset(1) + 70) ^= std::byte{1};
    const auto end = replay().end;
    EXPECT_EQ(end->position.batch, 2u);
    EXPECT_EQ(end->data_from, 1u);
    const auto beyond =
        run([&](Suspend& s) { return new_log()->batches_beyond(s, 1, end->position); });
    EXPECT_EQ(beyond->batches, 2u);
    EXPECT_EQ(beyond->data_from, 4u);
}

TEST_F(WriteAheadLogTest, UnreadableBlockBeyondTheEndDoesNotMatter) {
    write("a");
    device_->fail_read = [&](std::uint64_t offset, std::size_t bytes) {
        return offset + bytes > ring_offset(2);
    };
    const auto replayed = replay();
    ASSERT_TRUE(replayed.end);
    EXPECT_EQ(replayed.texts, Texts{"a"});
    device_->fail_read = [&](std::uint64_t offset, std::size_t bytes) {
        return offset + bytes > ring_offset(1);
    };
    EXPECT_EQ(replay().end.error().code, Errc::kIo);
}

}  // namespace
}  // namespace blobfs::blobstore
