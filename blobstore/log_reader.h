#pragma once

// Reads the log's ring for recovery: finds the batches that are the expected ones, checks each
// whole and visits its transactions. Takes any bytes whatever. Private to the log. Reactor thread.

#include <cstdint>
#include <optional>
#include <string_view>

#include "blobstore/write_ahead_log.h"

namespace blobfs::blobstore {

class LogReader {
  public:
    LogReader(driver::Device& device, const WriteAheadLog::Geometry& geometry, std::uint64_t epoch)
        : device_(device), geometry_(geometry), epoch_(epoch) {}

    // As WriteAheadLog::replay.
    Result<WriteAheadLog::End> replay(driver::Suspend& suspend, const LogPosition& from,
                                      Sequence last_transaction, WriteAheadLog::Visit visit);
    // As WriteAheadLog::batches_beyond.
    Result<WriteAheadLog::Beyond> batches_beyond(driver::Suspend& suspend, const LogPosition& end);

  private:
    struct FoundBatch {
        LogBatchHeader header;
        std::string_view payload;  // in the window
        std::uint64_t block;       // within the ring
    };

    // The batch of that number at a block of the ring, if it is there, whole.
    Result<std::optional<FoundBatch>> find_batch(driver::Suspend& suspend, std::uint64_t block,
                                                 std::uint64_t number);
    // A batch of any number that is not below `lowest`.
    Result<std::optional<FoundBatch>> find_any(driver::Suspend& suspend, std::uint64_t block,
                                               std::uint64_t lowest);
    [[nodiscard]] bool is_whole(const FoundBatch& batch) const;
    Result<void> make_window();
    // Makes blocks of the ring resident and answers their bytes; they do not cross the ring's end.
    Result<std::string_view> load_blocks(driver::Suspend& suspend, std::uint64_t block,
                                         std::uint64_t blocks);
    [[nodiscard]] bool is_expected(const LogBatchHeader& header, std::uint64_t block,
                                   std::uint64_t number) const;
    // kCorrupt unless the batch is well-formed throughout and continues after the transaction.
    Result<void> check_content(const FoundBatch& batch, Sequence last_transaction) const;
    [[nodiscard]] std::uint64_t byte_offset(std::uint64_t block) const {
        return (geometry_.start + block) * kBlockBytes;
    }

    driver::Device& device_;
    const WriteAheadLog::Geometry geometry_;
    const std::uint64_t epoch_;
    driver::DmaBuffer window_;
    std::uint64_t window_block_ = 0;   // of the ring
    std::uint64_t window_blocks_ = 0;  // valid ones
};

}  // namespace blobfs::blobstore
