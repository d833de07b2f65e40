// Data and the log: it is flushed before the batch that maps it, or goes into that.

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/blobstore/write_ahead_log_fixture.h"

namespace blobfs::blobstore {
namespace {

TEST_F(WriteAheadLogTest, DataIsFlushedBeforeTheRecordThatMapsIt) {
    log_->append(record("without data"));
    ASSERT_TRUE(commit(log_->last_appended()));
    EXPECT_EQ(device_->events, "U");
    note_large_data();
    ASSERT_TRUE(commit(log_->append(record("with data"))));
    EXPECT_EQ(device_->events, "UFU");
    ASSERT_TRUE(commit(log_->append(record("without data"))));
    EXPECT_EQ(device_->events, "UFUU");
    ASSERT_TRUE(run([&](Suspend& s) { return log_->flush_data(s); }));
    EXPECT_EQ(device_->events, "UFUU");
    note_large_data();
    ASSERT_TRUE(run([&](Suspend& s) { return log_->flush_data(s); }));
    EXPECT_EQ(device_->events, "UFUUF");
}

TEST_F(WriteAheadLogTest, SmallDataIsInTheBatchInsteadOfAFlush) {
    note_small_data(8u << 20, 'a');
    note_small_data(9u << 20, 'b');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    ASSERT_TRUE(flush_data());
    note_small_data(8u << 20, 'c');
    ASSERT_TRUE(commit(log_->append(record("second"))));
    EXPECT_EQ(device_->events, "UU");
    const ReplayedData replayed = replay_data();
    EXPECT_EQ(replayed.texts,
              (Texts{"1: data 8388608=a*512", "1: data 9437184=b*512", "2: data 8388608=c*512"}));
    EXPECT_EQ(replayed.from, 1u);
    EXPECT_FALSE(log_->must_settle());
}

TEST_F(WriteAheadLogTest, DataOfWhatIsNotCommittedIsFlushed) {
    note_small_data(8u << 20, 'a', false);
    ASSERT_TRUE(commit(log_->append(record("somebody else's"))));
    EXPECT_EQ(device_->events, "FU");
    const auto note = note_small_data(8u << 20, 'b', false);
    const Sequence own = log_->append(record("own"));
    log_->make_loggable(note);
    ASSERT_TRUE(commit(own));
    EXPECT_EQ(device_->events, "FUU");
    EXPECT_EQ(replay_data().texts, Texts{"2: data 8388608=b*512"});
}

TEST_F(WriteAheadLogTest, WhatAFlushSettledCountsNoMore) {
    note_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    note_large_data();
    ASSERT_TRUE(commit(log_->append(record("second"))));
    EXPECT_EQ(device_->events, "UFU");
    EXPECT_EQ(replay_data().from, 2u);
    note_small_data(8u << 20, 'b');
    ASSERT_TRUE(commit(log_->append(record("third"))));
    EXPECT_EQ(replay_data().from, 3u);
    ASSERT_TRUE(commit(log_->append(record("fourth"))));
    EXPECT_EQ(replay_data().from, 3u);
}

// What is overwritten and durable by a flush alone would be undone by a replay.
TEST_F(WriteAheadLogTest, FlushedDataOverLoggedDataMustBeSettled) {
    note_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    note_small_data(9u << 20, 'b');
    ASSERT_TRUE(flush_data());
    EXPECT_FALSE(log_->must_settle());
    note_small_data(8u << 20, 'c');
    ASSERT_TRUE(flush_data());
    EXPECT_TRUE(log_->must_settle());
    EXPECT_EQ(replay_data().from, 1u);
    EXPECT_EQ(log_->batches_written(), 1u);
    ASSERT_TRUE(commit(log_->append(record("second"))));
    EXPECT_EQ(log_->batches_written(), 2u);
    EXPECT_FALSE(log_->must_settle());
    EXPECT_EQ(replay_data().from, 2u);
}

// What comes between the record and the batch that carries its data is newer than that.
TEST_F(WriteAheadLogTest, DataThatIsOverwrittenBeforeItIsLoggedMustBeSettled) {
    note_small_data(8u << 20, 'a');
    const Sequence first = log_->append(record("first"));
    note_large_data();  // over it, and not in the log
    ASSERT_TRUE(commit(first));
    EXPECT_EQ(device_->events, "U");
    EXPECT_EQ(replay_data().texts, Texts{"1: data 8388608=a*512"});
    ASSERT_TRUE(flush_data());
    EXPECT_TRUE(log_->must_settle());
}

// What a flush under way covers is not put into the log any more: it may have been overwritten by
// what the same flush covers.
TEST_F(WriteAheadLogTest, NothingIsLoggedWhileAFlushOrACheckpointIsUnderWay) {
    note_small_data(8u << 20, 'a');
    log_->append(record("first"));
    run([&](Suspend& suspend) {
        driver::WaitGroup group;
        group.add();
        bool begun = false;
        suspend.reactor().spawn([&](Suspend& inner) {
            begun = true;
            EXPECT_TRUE(log_->flush_data(inner));
            group.done();
        });
        while (!begun) suspend.yield();
        EXPECT_TRUE(log_->commit(suspend, log_->last_appended()));
        group.wait(suspend);
    });
    EXPECT_EQ(device_->events, "FU");
    const LogPosition mark = log_->mark();
    note_small_data(8u << 20, 'b');
    ASSERT_TRUE(commit(log_->append(record("second"))));
    EXPECT_EQ(device_->events, "FUFU");
    log_->trim(mark);
    note_small_data(8u << 20, 'c');
    ASSERT_TRUE(commit(log_->append(record("third"))));
    EXPECT_EQ(device_->events, "FUFUU");
}

// Data that is in a batch on its way is not durable yet for somebody else who asks.
TEST_F(WriteAheadLogTest, DataInABatchIsDurableWhenTheBatchIs) {
    run([&](Suspend& suspend) {
        note_small_data(8u << 20, 'a');
        const Sequence first = log_->append(record("first"));
        driver::WaitGroup group;
        group.add();
        bool begun = false;
        suspend.reactor().spawn([&](Suspend& inner) {
            begun = true;
            EXPECT_TRUE(log_->commit(inner, first));
            group.done();
        });
        while (!begun) suspend.yield();
        EXPECT_TRUE(log_->flush_data(suspend));
        EXPECT_TRUE(log_->last_durable() >= first ||
                    device_->events.find('F') != std::string::npos);
        group.wait(suspend);
    });
    EXPECT_EQ(replay_data().texts, Texts{"1: data 8388608=a*512"});
}

// A flush that is faster than the batch that carries the data: until that batch is durable a replay
// would put what is older over it.
TEST_F(WriteAheadLogTest, FlushedDataThatIsOnItsWayIntoTheLogMustBeSettled) {
    note_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    note_small_data(8u << 20, 'b');
    run([&](Suspend& suspend) {
        const Sequence second = log_->append(record("second"));
        device_->write_yields = 20;
        driver::WaitGroup group;
        group.add();
        bool begun = false;
        suspend.reactor().spawn([&](Suspend& inner) {
            begun = true;
            EXPECT_TRUE(log_->commit(inner, second));
            group.done();
        });
        while (!begun) suspend.yield();
        EXPECT_TRUE(log_->flush_data(suspend));
        ASSERT_LT(log_->last_durable(), second);
        EXPECT_TRUE(log_->must_settle());
        group.wait(suspend);
    });
    device_->write_yields = 1;
    ASSERT_TRUE(commit(log_->append(record("third"))));
    EXPECT_FALSE(log_->must_settle());
}

TEST_F(WriteAheadLogTest, ATrimmedLogNeedsNotBeSettled) {
    note_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    note_small_data(8u << 20, 'b', false);
    log_->trim(log_->mark());
    ASSERT_TRUE(flush_data());
    EXPECT_FALSE(log_->must_settle());
    ASSERT_TRUE(commit(log_->append(record("second"))));
    EXPECT_EQ(device_->events, "UU");
}

TEST_F(WriteAheadLogTest, DataThatCountsIsBounded) {
    for (int i = 0; i < 40; ++i) {
        log_->trim(log_->mark());
        note_small_data(8u << 20, 'a');
        ASSERT_TRUE(commit(log_->append(record("one"))));
    }
    EXPECT_EQ(device_->events.find('F'), std::string::npos);
    std::size_t pieces = 0;
    for (int i = 0; i < 10; ++i) {
        for (int k = 0; k < 30; ++k) {
            note_small_data((9u << 20) + static_cast<std::uint64_t>(k) * 4096, 'b');
            ++pieces;
        }
        ASSERT_TRUE(commit(log_->append(record("many"))));
    }
    EXPECT_GT(pieces, 256u);
    EXPECT_NE(device_->events.find('F'), std::string::npos);
}

// A record that joins the next batch while a flush is under way: its data may have been written
// after that flush began, so another one is due before its batch.
TEST_F(WriteAheadLogTest, FlushUnderWayDoesNotCoverLaterData) {
    run([&](Suspend& suspend) {
        driver::WaitGroup group;
        group.add(2);
        note_large_data();
        const Sequence first = log_->append(record("first"));
        suspend.reactor().spawn([&](Suspend& inner) {
            device_->fail_flush = [&] {  // the flush is under way
                device_->fail_flush = nullptr;
                note_large_data();
                log_->append(record("second"));
                return false;
            };
            EXPECT_TRUE(log_->commit(inner, first));
            group.done();
        });
        suspend.reactor().spawn([&](Suspend& inner) {
            while (log_->last_durable() < first) inner.yield();
            EXPECT_TRUE(log_->commit(inner, log_->last_appended()));
            group.done();
        });
        group.wait(suspend);
    });
    EXPECT_EQ(device_->events, "FUFU");
}

// Runs it in a fiber: it is over after some turns, or when `then` was done.
void expect_over(Suspend& suspend, bool before, const std::function<void(Suspend&)>& what,
                 const std::function<void()>& then) {
    bool over = false;
    suspend.reactor().spawn([&](Suspend& inner) {
        what(inner);
        over = true;
    });
    for (int turns = 0; turns < 100; ++turns) suspend.yield();
    EXPECT_EQ(over, before);
    then();
    for (int turns = 0; turns < 100; ++turns) suspend.yield();
    EXPECT_TRUE(over);
}

TEST_F(WriteAheadLogTest, ABatchDoesNotWaitForSmallDataUnderWay) {
    const auto note = begin_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    ASSERT_TRUE(flush_data());
    EXPECT_EQ(device_->events, "U");
    EXPECT_EQ(replay_data().texts, Texts{"1: data 8388608=a*512"});
    log_->end_data(note, true);
}

TEST_F(WriteAheadLogTest, ABatchWaitsForLargeDataUnderWayAndFlushesIt) {
    run([&](Suspend& suspend) {
        const auto note = begin_large_data();
        const Sequence first = log_->append(record("first"));
        expect_over(
            suspend, false, [&](Suspend& inner) { EXPECT_TRUE(log_->commit(inner, first)); },
            [&] { log_->end_data(note, true); });
    });
    EXPECT_EQ(device_->events, "FU");
}

// After the flush the log's copy counts no more.
TEST_F(WriteAheadLogTest, AFlushWaitsForDataUnderWayThatTheLogHas) {
    const auto note = begin_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    run([&](Suspend& suspend) {
        expect_over(
            suspend, false, [&](Suspend& inner) { EXPECT_TRUE(log_->settle(inner)); },
            [&] {
                EXPECT_EQ(device_->events, "U");
                log_->end_data(note, true);
            });
    });
    EXPECT_EQ(device_->events, "UF");
    ASSERT_TRUE(commit(log_->append(record("second"))));
    EXPECT_EQ(replay_data().from, 2u);
}

// What is under way is not durable by a flush that somebody else needs meanwhile.
TEST_F(WriteAheadLogTest, AFlushDoesNotCoverDataUnderWay) {
    run([&](Suspend& suspend) {
        const auto before = note_data(9u << 20, std::string(65536, 'b'), true);
        const auto note = begin_large_data();
        EXPECT_TRUE(log_->flush_data(suspend, before));
        EXPECT_EQ(device_->events, "F");
        expect_over(
            suspend, false, [&](Suspend& inner) { EXPECT_TRUE(log_->flush_data(inner)); },
            [&] {
                EXPECT_EQ(device_->events, "F");
                log_->end_data(note, true);
            });
    });
    EXPECT_EQ(device_->events, "FF");
}

TEST_F(WriteAheadLogTest, WithoutVolatileCacheDataUnderWayIsWaitedFor) {
    make(false);
    run([&](Suspend& suspend) {
        const auto note = begin_small_data(8u << 20, 'a');
        const Sequence first = log_->append(record("first"));
        expect_over(
            suspend, false, [&](Suspend& inner) { EXPECT_TRUE(log_->commit(inner, first)); },
            [&] { log_->end_data(note, true); });
        const auto overwrite = begin_small_data(8u << 20, 'b');
        expect_over(
            suspend, false, [&](Suspend& inner) { EXPECT_TRUE(log_->flush_data(inner)); },
            [&] { log_->end_data(overwrite, true); });
    });
    EXPECT_EQ(device_->events, "W");
}

TEST_F(WriteAheadLogTest, DataThatIsNotThereIsNotLogged) {
    const auto note = begin_small_data(8u << 20, 'a');
    const Sequence first = log_->append(record("first"));
    log_->end_data(note, false);
    EXPECT_TRUE(log_->undone(note, first, log_->append(record("undo"))));
    ASSERT_TRUE(commit(log_->last_appended()));
    EXPECT_EQ(device_->events, "FU");
    EXPECT_EQ(replay_data().texts, Texts{});
}

// The log has the data, until a checkpoint drops it.
TEST_F(WriteAheadLogTest, DataThatIsNotThereButInTheLogIsUndoneInALaterBatch) {
    const auto note = begin_small_data(8u << 20, 'a');
    const Sequence first = log_->append(record("first"));
    ASSERT_TRUE(commit(first));
    EXPECT_TRUE(log_->undone(note, first, log_->append(record("undo"))));
    log_->mark();
    EXPECT_FALSE(log_->undone(note, first, log_->append(record("too late"))));
    log_->end_data(note, false);
    const auto lost = begin_large_data();
    const Sequence second = log_->append(record("second"));
    log_->mark();
    EXPECT_FALSE(log_->undone(lost, second, log_->append(record("too late"))));
    log_->give_up(Error{.code = Errc::kIo});
    log_->end_data(lost, false);
    EXPECT_FALSE(commit(second));
}

// A flush would settle the data, and the batch between the two be the last that a crash leaves.
TEST_F(WriteAheadLogTest, DataInTheLogIsNotUndoneBehindAnotherBatch) {
    const auto note = begin_small_data(8u << 20, 'a');
    const Sequence first = log_->append(record("first"));
    ASSERT_TRUE(commit(first));
    log_->append(record("second", 40000));
    const Sequence undo = log_->append(record("undo", 40000));  // the second batch is full
    EXPECT_FALSE(log_->undone(note, first, undo));
    log_->end_data(note, false);
}

TEST_F(WriteAheadLogTest, ABatchDoesNotWaitForDataThatTheLogHas) {
    const auto note = begin_small_data(8u << 20, 'a');
    ASSERT_TRUE(commit(log_->append(record("first"))));
    const Sequence second = log_->append(record("second"));
    run([&](Suspend& suspend) {
        expect_over(
            suspend, true, [&](Suspend& inner) { EXPECT_TRUE(log_->commit(inner, second)); },
            [&] { log_->end_data(note, true); });
    });
    EXPECT_EQ(device_->events, "UU");
    EXPECT_EQ(replay_data().from, 1u);
}

// One piece of data begins before the other ends, each with a record, for ever. The first batch is
// closed already, so that the second, which is asked for, has its turn after many waits only.
TEST_F(WriteAheadLogTest, DataThatKeepsBeginningDelaysACommitForSoLongOnly) {
    run([&](Suspend& suspend) {
        const auto first = begin_large_data();
        log_->append(record("first"));
        log_->mark();
        auto under_way = begin_large_data();
        const Sequence wanted = log_->append(record("wanted"));
        bool durable = false;
        suspend.reactor().spawn([&, wanted](Suspend& other) {
            EXPECT_TRUE(log_->commit(other, wanted));
            durable = true;
        });
        int pieces = 0;
        for (; !durable && pieces < 300; ++pieces) {
            const auto next = begin_large_data();
            log_->append(record("more"));
            log_->end_data(std::exchange(under_way, next), true);
            if (pieces == 50) log_->end_data(first, true);
            suspend.yield();
        }
        EXPECT_TRUE(durable) << "after " << pieces;
        log_->end_data(under_way, true);
        while (!durable) suspend.yield();
    });
}

TEST_F(WriteAheadLogTest, WithoutVolatileCacheNothingIsFlushed) {
    make(false);
    note_large_data();
    ASSERT_TRUE(commit(log_->append(record("a"))));
    ASSERT_TRUE(run([&](Suspend& s) { return log_->flush_data(s); }));
    EXPECT_EQ(device_->events, "W");
}

}  // namespace
}  // namespace blobfs::blobstore
