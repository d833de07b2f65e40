#pragma once

// The log: a ring of blocks that holds batches of transactions (FORMAT.md, "Log"). The writer
// appends one batch at a time; the reader replays from the superblock's position until the first
// batch that is not the expected one (checksum, UUID, epoch, number): that is the end, torn or not.
// What a transaction's operations mean is not known here. Reactor thread.

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blobstore/key.h"
#include "blobstore/page_io.h"

namespace blobfs::blobstore {

// Encodes one transaction: operations in order, as bytes for the log.
class LogRecord {
  public:
    LogRecord();
    void put(KeyView key, ValueView value);
    void erase(KeyView key);
    void allocate(const Run& run);
    void free(const Run& run);
    void next_blob_id(BlobId next);
    [[nodiscard]] bool empty() const { return operations_ == 0; }
    [[nodiscard]] std::size_t bytes() const { return bytes_.size(); }
    // Fills the header; the bytes are then what the log stores.
    std::string_view finish();
    void clear();

  private:
    std::string bytes_;
    std::uint32_t operations_ = 0;
};

struct LogOperation {
    LogOperationType type;
    KeyView key;      // kPut, kErase
    ValueView value;  // kPut
    Run run;          // kAllocate, kFree
    BlobId next_blob_id{};
};

struct LogPosition {
    std::uint64_t block = 0;  // within the ring
    std::uint64_t batch = 1;  // number of the batch written or expected there
};

class WriteAheadLog {
  public:
    struct Geometry {
        std::array<std::uint8_t, 16> uuid{};
        std::uint64_t start = 0;   // first block of the ring on the device
        std::uint64_t blocks = 0;  // of the ring
    };
    WriteAheadLog(Device& device, const Geometry& geometry);
    ~WriteAheadLog();

    // The largest transaction (LogRecord::bytes()) that append() takes.
    [[nodiscard]] std::size_t max_record_bytes() const;

    // Writing. -------------------------------------------------------------------------------
    // Starts a new epoch at a position; everything before it is not needed.
    void open(std::uint64_t epoch, const LogPosition& position, Sequence last_transaction);
    // Queues a finished record behind those before it. REQUIRES has_room(bytes). Does not suspend.
    Sequence append(std::string_view record);
    // Whether the ring has room for that many more record bytes in the worst packing.
    [[nodiscard]] bool has_room(std::size_t record_bytes) const;
    // Writes queued records in batches, one batch in flight at a time, until the given transaction
    // is durable; fibers that come meanwhile share the next batch (group commit). Before a batch is
    // written, data written before its records were appended is made durable (a flush when the
    // device has a volatile cache and `data_written` was noted since the last one), and after it the
    // batch itself. An error is permanent: every later call fails with it. Suspends.
    Result<void> commit(Suspend& suspend, Sequence transaction);
    // File data was written in place or to new blocks: the next commit() flushes it first.
    void note_data_written();
    // Makes all data noted so far durable, with or without records. Suspends.
    Result<void> flush_data(Suspend& suspend);

    [[nodiscard]] Sequence last_appended() const;
    [[nodiscard]] Sequence last_durable() const;
    // A checkpoint that contains everything up to the given transaction has become durable by itself.
    void note_durable(Sequence transaction);

    // The checkpoint protocol: mark() ends the batch being filled and tells where the next one will
    // start: replay from there sees exactly the transactions appended after the call. May suspend
    // for the batch in flight? No: positions are given to batches when they are formed, and mark()
    // forms the one being filled. trim() frees the ring before a mark that a durable superblock names.
    LogPosition mark();
    void trim(const LogPosition& mark);
    [[nodiscard]] std::uint64_t used_blocks() const;
    [[nodiscard]] std::uint64_t epoch() const;

    // Reading (recovery). ----------------------------------------------------------------------
    // Calls visit for each operation of each valid transaction after the position, in order, and
    // at_end with the transaction's number after its last operation. Answers where the log ends.
    // A visit error ends it. kCorrupt for a batch whose checksum is right but whose content is not.
    struct End {
        LogPosition position;
        Sequence last_transaction;
        std::uint64_t batches = 0;
    };
    using Visit = absl::FunctionRef<Result<void>(Suspend&, Sequence, const LogOperation&)>;
    Result<End> replay(Suspend& suspend, std::uint64_t epoch, const LogPosition& from,
                       Sequence last_transaction, Visit visit);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::blobstore
