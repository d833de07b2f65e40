// Batches in the ring: what is replayed of them, and room for them.

#include "blobstore/write_ahead_log.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/blobstore/write_ahead_log_fixture.h"

namespace blobfs::blobstore {
namespace {

TEST_F(WriteAheadLogTest, OperationsComeBackAsTheyWere) {
    LogRecord r;
    r.put("key number 1", "value");
    r.put("key number 2", "");
    r.erase("key number 3");
    r.allocate({BlockIndex{700}, 5});
    r.free({BlockIndex{800}, 6});
    r.next_blob_id(BlobId{77});
    ASSERT_TRUE(commit(log_->append(r.finish())));
    std::vector<std::string> seen;
    const auto end = run([&](Suspend& suspend) {
        return new_log()->replay(suspend, 1, {}, Sequence{0},
                                 [&](Suspend&, Sequence number, const LogOperation& operation) {
                                     EXPECT_EQ(number, Sequence{1});
                                     seen.push_back(describe(operation));
                                     return Result<void>();
                                 });
    });
    ASSERT_TRUE(end) << end.error().message();
    EXPECT_EQ(seen, (Texts{"put key number 1=value", "put key number 2=", "erase key number 3",
                           "allocate 700+5", "free 800+6", "next 77"}));
    EXPECT_EQ(end->last_transaction, Sequence{1});
    EXPECT_EQ(end->position.block, 1u);
    EXPECT_EQ(end->position.batch, 2u);
}

TEST_F(WriteAheadLogTest, EmptyRingEndsAtOnce) {
    const auto replayed = replay({.block = 3, .batch = 8}, Sequence{5});
    ASSERT_TRUE(replayed.end);
    EXPECT_TRUE(replayed.texts.empty());
    EXPECT_EQ(replayed.end->position.block, 3u);
    EXPECT_EQ(replayed.end->position.batch, 8u);
    EXPECT_EQ(replayed.end->last_transaction, Sequence{5});
}

TEST_F(WriteAheadLogTest, CommittedSurvivesLossOfTheCache) {
    write("a");
    write("b", 30000);
    device_->lose_cache();
    EXPECT_EQ(replay().texts, (Texts{"a", "b"}));
}

TEST_F(WriteAheadLogTest, BatchLongerThanOneCommandSurvivesLossOfTheCache) {
    WriteAheadLog log(*device_, {.uuid = kUuid, .start = kRingStart, .blocks = 1024});
    ASSERT_TRUE(log.open(1, {}, Sequence{0}));
    const Sequence last = log.append(record("long", 300000));
    ASSERT_TRUE(run([&](Suspend& s) { return log.commit(s, last); }));
    EXPECT_EQ(device_->events, "WF");
    device_->lose_cache();
    EXPECT_EQ(replay().texts.size(), 0u);  // this reader's ring is shorter: not a batch of it
    const auto end = run([&](Suspend& s) {
        return log.replay(s, 1, {}, Sequence{0},
                          [](Suspend&, Sequence, const LogOperation&) { return Result<void>(); });
    });
    EXPECT_EQ(end->last_transaction, Sequence{1});
}

TEST_F(WriteAheadLogTest, TornLastBatchEndsReplayBeforeItAtEveryCut) {
    write("a");
    write("b", 5000);
    const auto before = device_->image();
    write("torn", 9000);
    const auto after = device_->image();
    LogBatchHeader header;
    std::memcpy(&header, device_->at(ring_offset(3)), sizeof(header));
    ASSERT_EQ(header.batch, 3u);
    const std::size_t used = sizeof(header) + header.payload_bytes;
    // Written are the bytes before the cut, or only those behind it.
    for (const bool head_written : {true, false}) {
        for (std::size_t cut = 0; cut <= header.blocks * kBlockBytes; cut += 512) {
            auto torn = before;
            for (std::size_t at = 0; at < header.blocks * kBlockBytes; at += 512) {
                if ((at < cut) != head_written) continue;
                const std::uint64_t block = kRingStart + 3 + at / kBlockBytes;
                torn[block].resize(kBlockBytes);
                std::copy_n(after.at(block).begin() + static_cast<std::ptrdiff_t>(at % kBlockBytes),
                            512,
                            torn[block].begin() + static_cast<std::ptrdiff_t>(at % kBlockBytes));
            }
            device_->set_image(torn);
            const bool whole = head_written ? cut >= used : cut == 0;
            const auto replayed = replay();
            ASSERT_TRUE(replayed.end);
            EXPECT_EQ(replayed.texts, whole ? (Texts{"a", "b", "torn"}) : (Texts{"a", "b"}))
                << head_written << " " << cut;
        }
    }
}

TEST_F(WriteAheadLogTest, FlippedBitEndsReplayBeforeTheBatch) {
    write("a");
    write("b");
    const auto image = device_->image();
    LogBatchHeader header;
    std::memcpy(&header, device_->at(ring_offset(1)), sizeof(header));
    for (std::size_t i = 0; i < sizeof(header) + header.payload_bytes; ++i) {
        device_->set_image(image);
        *device_->at(ring_offset(1) + i) ^= std::byte{4};
        const auto replayed = replay();
        ASSERT_TRUE(replayed.end);
        EXPECT_EQ(replayed.texts, Texts{"a"}) << i;
    }
}

TEST_F(WriteAheadLogTest, OtherEpochNumberAndFilesystemAreTheEnd) {
    write("a");
    EXPECT_EQ(replay({}, {}, 2).texts, Texts{});
    EXPECT_EQ(replay({.block = 0, .batch = 2}).texts, Texts{});
    forge(0, [](LogBatchHeader& header, char*) { header.uuid[0] ^= 1; });
    EXPECT_EQ(replay().texts, Texts{});
}

TEST_F(WriteAheadLogTest, LeftoversBeyondTheTailAreNotReplayedInANewEpoch) {
    for (const char* text : {"a", "b", "c", "d"}) write(text);
    // After a crash recovery found the end behind "b", and goes on in a new epoch.
    log_ = new_log();
    ASSERT_TRUE(log_->open(2, {.block = 2, .batch = 3}, Sequence{2}));
    EXPECT_EQ(replay({.block = 2, .batch = 3}, Sequence{2}, 2).texts, Texts{});
    write("x");
    EXPECT_EQ(replay({.block = 2, .batch = 3}, Sequence{2}, 2).texts, Texts{"x"});
}

TEST_F(WriteAheadLogTest, BatchThatDoesNotFitBeforeTheEndStartsAtTheBeginning) {
    ASSERT_TRUE(log_->open(1, {.block = 62, .batch = 5}, Sequence{9}));
    write("a");            // block 62
    write("b", 3 * 4096);  // does not fit into block 63
    write("c");
    EXPECT_EQ(device_->writes[1].offset, ring_offset(0));
    const auto replayed = replay({.block = 62, .batch = 5}, Sequence{9});
    EXPECT_EQ(replayed.texts, (Texts{"a", "b", "c"}));
    EXPECT_EQ(replayed.end->last_transaction, Sequence{12});
    EXPECT_EQ(log_->used_blocks(), replayed.end->position.block + 2);
}

TEST_F(WriteAheadLogTest, RingFillsAndTrimmingMakesRoom) {
    const auto r = record("x", 3000);
    std::vector<LogPosition> marks;
    int written = 0;
    while (log_->has_room(r.size())) {
        ASSERT_TRUE(commit(log_->append(r)));
        marks.push_back(log_->mark());
        ASSERT_LE(++written, 64);
    }
    EXPECT_GE(written, 60);
    EXPECT_EQ(replay().texts.size(), static_cast<std::size_t>(written));
    const std::uint64_t used = log_->used_blocks();
    log_->trim(marks[9]);
    EXPECT_EQ(log_->used_blocks(), used - 10);
    EXPECT_TRUE(log_->has_room(r.size()));
    EXPECT_EQ(replay(marks[9], Sequence{10}).texts.size(), static_cast<std::size_t>(written - 10));
    log_->trim(log_->mark());
    EXPECT_EQ(log_->used_blocks(), 0u);
    EXPECT_TRUE(log_->has_room(log_->max_record_bytes()));
}

TEST_F(WriteAheadLogTest, LargestRecordFitsIntoAnEmptyRingWhereverItStarts) {
    const auto r = record("x", log_->max_record_bytes() - 64);
    for (std::uint64_t block = 0; block < ring_blocks_; ++block) {
        ASSERT_TRUE(log_->open(1, {.block = block, .batch = 1}, Sequence{0}));
        ASSERT_TRUE(log_->has_room(log_->max_record_bytes()));
        ASSERT_TRUE(commit(log_->append(r)));
        EXPECT_EQ(replay({.block = block, .batch = 1}).texts, Texts{"x"});
        log_->trim(log_->mark());
    }
}

// Whatever is appended while has_room() says so: everything since the mark that was last trimmed to
// is in the ring, in order.
TEST_F(WriteAheadLogTest, NothingUntrimmedIsOverwrittenModel) {
    for (unsigned seed = 1; seed <= 20; ++seed) {
        std::mt19937 random(seed);
        device_->set_image({});
        log_ = new_log();
        LogPosition position{.block = random() % ring_blocks_, .batch = 1};
        ASSERT_TRUE(log_->open(1, position, Sequence{0}));
        Sequence trimmed{};
        struct Mark {
            LogPosition position;
            Sequence last;
        };
        std::vector<Mark> marks;
        Texts texts;  // of all transactions, the first is number 1
        for (int step = 0; step < 400; ++step) {
            switch (random() % 8) {
                case 0:
                    ASSERT_TRUE(commit(log_->last_appended()));
                    break;
                case 1:
                    marks.push_back({log_->mark(), log_->last_appended()});
                    break;
                case 2:
                    if (marks.empty() || random() % 3 != 0) break;
                    position = marks.front().position;
                    trimmed = marks.front().last;
                    marks.erase(marks.begin());
                    log_->trim(position);
                    break;
                case 3: {
                    ASSERT_TRUE(commit(log_->last_appended()));
                    const auto replayed = replay(position, trimmed);
                    ASSERT_TRUE(replayed.end);
                    ASSERT_EQ(replayed.texts,
                              Texts(texts.begin() + static_cast<std::ptrdiff_t>(value(trimmed)),
                                    texts.end()))
                        << "seed " << seed << " step " << step;
                    break;
                }
                default: {
                    // Several records on one has_room(), as a transaction may ask for its sum.
                    std::vector<std::string> records;
                    std::size_t bytes = 0;
                    const std::size_t scale = random() % 4 == 0 ? 30000 : 3000;
                    for (std::size_t n = random() % 4 + 1; n > 0; --n) {
                        records.push_back(record(std::to_string(texts.size() + records.size()),
                                                 random() % scale));
                        bytes += records.back().size();
                    }
                    if (!log_->has_room(bytes)) break;
                    for (std::size_t i = 0; i < records.size(); ++i) {
                        texts.push_back(std::to_string(texts.size()));
                        const Sequence number = log_->append(records[i]);
                        ASSERT_EQ(value(number), texts.size());
                    }
                    ASSERT_LE(log_->used_blocks(), ring_blocks_);
                }
            }
        }
        ASSERT_TRUE(commit(log_->last_appended()));
    }
}

TEST_F(WriteAheadLogTest, FibersShareBatches) {
    int done = 0;
    run([&](Suspend& suspend) {
        driver::WaitGroup group;
        for (int i = 0; i < 40; ++i) {
            group.add();
            suspend.reactor().spawn([&, i](Suspend& inner) {
                const auto result = log_->commit(inner, log_->append(record(std::to_string(i))));
                EXPECT_TRUE(result);
                ++done;
                group.done();
            });
        }
        group.wait(suspend);
    });
    EXPECT_EQ(done, 40);
    EXPECT_LE(device_->statistics().writes, 4u);
    device_->lose_cache();
    EXPECT_EQ(replay().texts.size(), 40u);
}

TEST_F(WriteAheadLogTest, MarkSplitsWhatIsReplayed) {
    log_->append(record("before"));
    const LogPosition mark = log_->mark();
    log_->append(record("after"));
    ASSERT_TRUE(commit(log_->last_appended()));
    EXPECT_EQ(replay(mark, Sequence{1}).texts, Texts{"after"});
    EXPECT_EQ(replay().texts, (Texts{"before", "after"}));
}

TEST_F(WriteAheadLogTest, CheckpointMakesQueuedRecordsDurableUnwritten) {
    log_->append(record("before"));
    const LogPosition mark = log_->mark();
    const Sequence covered = log_->last_appended();
    log_->append(record("after"));
    log_->note_durable(covered);
    EXPECT_TRUE(commit(covered));
    log_->trim(mark);
    EXPECT_TRUE(device_->writes.empty());
    ASSERT_TRUE(commit(log_->last_appended()));
    EXPECT_EQ(device_->writes.size(), 1u);
    EXPECT_EQ(replay(mark, Sequence{1}).texts, Texts{"after"});
}

}  // namespace
}  // namespace blobfs::blobstore
