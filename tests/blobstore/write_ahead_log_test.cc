#include "blobstore/write_ahead_log.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {
namespace {

using driver::Suspend;

constexpr std::uint64_t kRingStart = 256;
constexpr std::array<std::uint8_t, 16> kUuid{1, 2, 3};

std::string describe(const LogOperation& operation) {
    switch (operation.type) {
        case LogOperationType::kPut:
            return "put " + std::string(operation.key) + "=" + std::string(operation.value);
        case LogOperationType::kErase:
            return "erase " + std::string(operation.key);
        case LogOperationType::kAllocate:
            return "allocate " + std::to_string(operation.run.first()) + "+" +
                   std::to_string(operation.run.blocks);
        case LogOperationType::kFree:
            return "free " + std::to_string(operation.run.first()) + "+" +
                   std::to_string(operation.run.blocks);
        case LogOperationType::kNextBlobId:
            return "next " + std::to_string(value(operation.next_blob_id));
        case LogOperationType::kData:
            return "data " + std::to_string(operation.address) + "=" +
                   std::string(operation.value.substr(0, 1)) + "*" +
                   std::to_string(operation.value.size());
        default:
            return "?";
    }
}

// A record whose one put says `text`, filled up to about `bytes` bytes.
std::string record(const std::string& text, std::size_t bytes = 0) {
    LogRecord r;
    r.put("key-bytes", text);
    while (r.bytes() + 32 < bytes) {
        r.put("filling-up", std::string(std::min<std::size_t>(bytes - r.bytes() - 24, 16000), 'f'));
    }
    return std::string(r.finish());
}

class WriteAheadLogTest : public BlobstorePartTest {
  protected:
    explicit WriteAheadLogTest(std::uint64_t ring_blocks = 64) : ring_blocks_(ring_blocks) {
        make();
    }
    void make(bool volatile_cache = true) {
        log_.reset();
        device_ = std::make_unique<MemoryDevice>(16u << 20, volatile_cache);
        log_ = new_log();
        ASSERT_TRUE(log_->open(1, {}, Sequence{0}));
    }
    std::unique_ptr<WriteAheadLog> new_log() {
        return std::make_unique<WriteAheadLog>(
            *device_,
            WriteAheadLog::Geometry{.uuid = kUuid, .start = kRingStart, .blocks = ring_blocks_});
    }
    Result<void> commit(Sequence transaction) {
        return run([&](Suspend& suspend) { return log_->commit(suspend, transaction); });
    }
    // Data that is too much for the log was written.
    void note_large_data() {
        note_data(8u << 20, std::string(UnflushedData::kMaxTakenBytes + 4096, 'l'), true);
    }
    UnflushedData::Note note_data(std::uint64_t address, const std::string& bytes, bool loggable) {
        WrittenData written(log_->copy_limit());
        written.add(address, std::as_bytes(std::span(bytes)));
        return log_->note_data_written(std::move(written), loggable);
    }
    // Data of one sector was written there.
    UnflushedData::Note note_small_data(std::uint64_t address, char fill, bool loggable = true) {
        return note_data(address, std::string(512, fill), loggable);
    }
    Result<void> flush_data() {
        return run([&](Suspend& suspend) { return log_->flush_data(suspend); });
    }
    // Each kData operation with its batch, and the number of the first that counts.
    struct ReplayedData {
        std::vector<std::string> texts;
        std::uint64_t from = 0;
    };
    ReplayedData replay_data() {
        ReplayedData replayed;
        const auto end = run([&](Suspend& suspend) {
            return new_log()->replay(
                suspend, 1, {}, Sequence{0},
                [&](Suspend&, Sequence, const LogOperation& operation) {
                    if (operation.type == LogOperationType::kData) {
                        replayed.texts.push_back(std::to_string(operation.batch) + ": " +
                                                 describe(operation));
                    }
                    return Result<void>();
                });
        });
        EXPECT_TRUE(end);
        if (end) replayed.from = end->data_from;
        return replayed;
    }
    // Appends one transaction and makes it durable.
    void write(const std::string& text, std::size_t bytes = 0) {
        const auto r = record(text, bytes);
        ASSERT_TRUE(log_->has_room(r.size()));
        const auto written = commit(log_->append(r));
        ASSERT_TRUE(written) << written.error().message();
    }
    struct Replayed {
        std::vector<std::string> texts;  // of the first put of each transaction
        Result<WriteAheadLog::End> end;
    };
    Replayed replay(LogPosition from = {}, Sequence last = {}, std::uint64_t epoch = 1) {
        Replayed replayed{.texts = {}, .end = WriteAheadLog::End{}};
        auto reader = new_log();
        Sequence seen = last;
        replayed.end = run([&](Suspend& suspend) {
            return reader->replay(
                suspend, epoch, from, last,
                [&](Suspend& inner, Sequence number, const LogOperation& operation) {
                    inner.yield();
                    if (number != seen) {
                        EXPECT_EQ(value(number), value(seen) + 1);
                        seen = number;
                        replayed.texts.emplace_back(operation.value);
                    }
                    return Result<void>();
                });
        });
        return replayed;
    }
    [[nodiscard]] std::uint64_t ring_offset(std::uint64_t block) const {
        return (kRingStart + block) * kBlockBytes;
    }
    // Changes the batch at a ring block and makes its checksum right again.
    void forge(std::uint64_t block, const std::function<void(LogBatchHeader&, char*)>& change) {
        std::byte* bytes = device_->at(ring_offset(block));
        LogBatchHeader header;
        std::memcpy(&header, bytes, sizeof(header));
        ASSERT_EQ(header.blocks, 1u);
        change(header, reinterpret_cast<char*>(bytes) + sizeof(header));
        header.checksum = 0;
        std::memcpy(bytes, &header, sizeof(header));
        header.checksum = XXH3_64bits(bytes, sizeof(header) + header.payload_bytes);
        std::memcpy(bytes, &header, sizeof(header));
    }

    const std::uint64_t ring_blocks_;
    std::unique_ptr<MemoryDevice> device_;
    std::unique_ptr<WriteAheadLog> log_;
};

using Texts = std::vector<std::string>;

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
    EXPECT_EQ(replayed.texts, (Texts{"1: data 8388608=a*512", "1: data 9437184=b*512",
                                     "2: data 8388608=c*512"}));
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

// What a flush under way covers is not put into the log any more: it may have been overwritten by what
// the same flush covers.
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

// One piece of data begins before the other ends, each with a record, for ever. The first batch is
// closed already, so that the second, which is asked for, has its turn after many waits only.
TEST_F(WriteAheadLogTest, DataThatKeepsBeginningDelaysACommitForSoLongOnly) {
    run([&](Suspend& suspend) {
        const auto first = log_->begin_data();
        log_->append(record("first"));
        log_->mark();
        auto under_way = log_->begin_data();
        const Sequence wanted = log_->append(record("wanted"));
        bool durable = false;
        suspend.reactor().spawn([&, wanted](Suspend& other) {
            EXPECT_TRUE(log_->commit(other, wanted));
            durable = true;
        });
        int pieces = 0;
        for (; !durable && pieces < 300; ++pieces) {
            const auto next = log_->begin_data();
            log_->append(record("more"));
            log_->end_data(std::exchange(under_way, next), 0);
            if (pieces == 50) log_->end_data(first, 0);
            suspend.yield();
        }
        EXPECT_TRUE(durable) << "after " << pieces;
        log_->end_data(under_way, 0);
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
