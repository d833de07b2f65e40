#pragma once

// A log on a memory device whose volatile cache can be lost, and what a replay of it shows.

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "blobstore/write_ahead_log.h"
#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {

using driver::Suspend;

inline constexpr std::uint64_t kRingStart = 256;
inline constexpr std::array<std::uint8_t, 16> kUuid{1, 2, 3};

inline std::string describe(const LogOperation& operation) {
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
inline std::string record(const std::string& text, std::size_t bytes = 0) {
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
    // The same, under way to the device.
    UnflushedData::Note begin_data(std::uint64_t address, const std::string& bytes) {
        WrittenData data(log_->copy_limit());
        data.add(address, std::as_bytes(std::span(bytes)));
        return log_->begin_data(std::move(data));
    }
    UnflushedData::Note begin_small_data(std::uint64_t address, char fill) {
        return begin_data(address, std::string(512, fill));
    }
    UnflushedData::Note begin_large_data() {
        return begin_data(8u << 20, std::string(UnflushedData::kMaxTakenBytes + 4096, 'l'));
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

}  // namespace blobfs::blobstore
