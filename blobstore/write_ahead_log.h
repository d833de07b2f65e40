#pragma once

// The log: a ring of blocks that holds batches of transactions (FORMAT.md, "Log"). The writer
// appends one batch at a time; the reader replays from the superblock's position until the first
// batch that is not the expected one (checksum, UUID, epoch, number): that is the end, torn or not.
// What a transaction's operations mean is not known here. Reactor thread.
//
// A batch's life:
//     filling --sealed (full, mark(), or its turn to be written)--> sealed: it has its place and
//     number sealed --a fiber in commit() writes it, one at a time, in order--> durable --trim()-->
//     gone filling or sealed --trim() to a mark behind it--> gone: the checkpoint has what it says

#include <absl/functional/function_ref.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "blobstore/format.h"
#include "blobstore/log_record.h"
#include "blobstore/unflushed_data.h"
#include "driver/device.h"

namespace blobfs::blobstore {

struct LogPosition {
    std::uint64_t block = 0;  // within the ring
    std::uint64_t batch = 1;  // number of the batch written or expected there
};

// The largest batch that a reader accepts and a writer makes.
inline constexpr std::uint32_t kMaxBatchBlocks = 256;

class WriteAheadLog {
  public:
    struct Geometry {
        std::array<std::uint8_t, 16> uuid{};
        std::uint64_t start = 0;   // first block of the ring on the device
        std::uint64_t blocks = 0;  // of the ring, at least 16
    };
    // Tests only: what is left out, so that a crash test can be seen to notice.
    struct LeftOut {
        bool data_before_log = false;    // data is not made durable before the batch that maps it
        bool log_before_answer = false;  // nor the batch before it counts as durable
        bool settle_before_answer = false;  // data in the log goes on counting after a flush
        bool data_under_way = false;  // a batch does not wait for data that is under way
        bool end_before_flush = false;  // a flush is taken to make that durable
    };
    // The device must outlive the log.
    WriteAheadLog(driver::Device& device, const Geometry& geometry)
        : WriteAheadLog(device, geometry, LeftOut{}) {}
    WriteAheadLog(driver::Device& device, const Geometry& geometry, const LeftOut& left_out);
    // REQUIRES that no fiber is in a call.
    ~WriteAheadLog();

    // The largest transaction (LogRecord::finish().size()) that append() takes: the payload of a
    // batch of kMaxBatchBlocks, or of a quarter of a smaller ring.
    [[nodiscard]] std::size_t max_record_bytes() const;

    // Writing. -------------------------------------------------------------------------------
    // Starts a new epoch at a position; everything before it is not needed. Nothing may be queued.
    // kNoMemory when there is none for the batch buffer. Does not suspend.
    Result<void> open(std::uint64_t epoch, const LogPosition& position, Sequence last_transaction);
    // Queues a finished record behind those before it. REQUIRES has_room(record.size()) and
    // record.size() <= max_record_bytes(). Does not suspend.
    Sequence append(std::string_view record);
    // Whether the ring has room for that many more record bytes, in one record or in several that
    // are appended without suspending in between, wherever the ring's end falls. True for
    // max_record_bytes() when the ring is empty. What is true stays true until the next append().
    [[nodiscard]] bool has_room(std::size_t record_bytes) const;
    // Writes queued records in batches, one batch in flight at a time, until the given transaction
    // is durable; fibers that come meanwhile share the next batch (group commit). Before a batch is
    // written, data noted before its records were appended is made durable (a flush when the device
    // has a volatile cache), or it goes into the batch, which then waits for no write of it. After
    // an error on the device every call fails with that error whose transaction is not durable
    // already. Suspends.
    Result<void> commit(driver::Suspend& suspend, Sequence transaction);
    // File data was written, to new blocks or in place (the writes have completed): it is durable,
    // or in the same batch, before the records appended from now on are. loggable: the blocks are a
    // blob's own; else make_loggable() says so when the transaction is appended.
    UnflushedData::Note note_data_written(WrittenData written, bool loggable);
    void make_loggable(UnflushedData::Note note);
    // Data that is still under way to the device, of the next record or of none, in a blob's own
    // blocks: a batch with records that are appended from now on carries it, or is not written
    // before end_data(). written: whether all of it is there.
    UnflushedData::Note begin_data(WrittenData data);
    void end_data(UnflushedData::Note note, bool written);
    // What a transaction maps is not there. Whether nobody will ever see that, when another one has
    // undone it: a crash leaves both or neither, or the log has the data and its next batch undoes
    // it. If not, give_up().
    [[nodiscard]] bool undone(UnflushedData::Note data, Sequence transaction, Sequence undo) const;
    // Nothing that is not durable may ever be: commit() fails with it from now on.
    void give_up(const Error& error);
    // Until all that is under way now is over. Suspends.
    void wait_for_data(driver::Suspend& suspend);
    // Copies of so many bytes are of use to note_data_written(); often 0.
    [[nodiscard]] std::size_t copy_limit() const;
    // Data that has been noted: a later note is higher.
    [[nodiscard]] UnflushedData::Note data_noted() const;
    // Makes all data noted so far durable, with or without records, or up to that note. A failed
    // flush is an error for good, as in commit(). Suspends.
    Result<void> flush_data(driver::Suspend& suspend) { return flush_data(suspend, data_noted()); }
    Result<void> flush_data(driver::Suspend& suspend, UnflushedData::Note up_to);
    // Data that is durable in its place was overwritten by a replay after a crash: until another
    // batch is durable. Whoever promises something about that data appends one and commits it.
    [[nodiscard]] bool must_settle() const;
    // Whether that will be so after a flush of what is noted now.
    [[nodiscard]] bool flush_must_settle() const;
    // Flushes if the log holds data that still counts, so that the next batch need not count it.
    Result<void> settle(driver::Suspend& suspend);

    [[nodiscard]] Sequence last_appended() const;
    [[nodiscard]] Sequence last_durable() const;
    // A checkpoint that contains everything up to the given transaction has become durable by
    // itself.
    void note_durable(Sequence transaction);
    // Whether a write or a flush has failed, and how: nothing becomes durable through the log then.
    [[nodiscard]] Result<void> status() const;

    // The checkpoint protocol: mark() seals the batch being filled and tells where the next one
    // will start: replay from there sees exactly the transactions appended after the call. Does not
    // suspend: a batch gets its place when it is sealed, not when it is written. trim() gives the
    // ring before a mark free, when a durable superblock names the mark; marks are trimmed to in
    // the order in which they were made. Batches before it that were never written never will be.
    LogPosition mark();
    void trim(const LogPosition& mark);
    // Blocks of the ring that cannot be overwritten now: from the last trim on, with what is lost
    // at the ring's end and what is queued.
    [[nodiscard]] std::uint64_t used_blocks() const;
    [[nodiscard]] std::uint64_t epoch() const;
    // Since open().
    [[nodiscard]] std::uint64_t batches_written() const;

    // Reading (recovery). ----------------------------------------------------------------------
    // Calls visit for each operation of each valid transaction after the position, in order; the
    // operation's views are valid during the call. Answers where the log ends. A batch is checked
    // whole before any of it is visited. A visit error ends it and is the answer; kCorrupt for a
    // batch whose checksum is right but whose content is not, with its byte offset. Memory: one
    // batch. Suspends.
    struct End {
        LogPosition position;
        Sequence last_transaction{};
        std::uint64_t batches = 0;
        std::uint64_t data_from = 0;  // number of the first batch whose data counts
    };
    using Visit = absl::FunctionRef<Result<void>(driver::Suspend&, Sequence, const LogOperation&)>;
    Result<End> replay(driver::Suspend& suspend, std::uint64_t epoch, const LogPosition& from,
                       Sequence last_transaction, Visit visit);
    // How many whole batches of the epoch lie in the ring that are not before the end which
    // replay() found. Not 0: it is no end, a batch there is damaged that was durable once
    // (FORMAT.md, "Replay"). Reads all of the ring that can be read. Suspends.
    struct Beyond {
        std::uint64_t batches = 0;
        std::uint64_t data_from = 0;  // by the last of them: End::data_from
    };
    Result<Beyond> batches_beyond(driver::Suspend& suspend, std::uint64_t epoch,
                                         const LogPosition& end);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::blobstore
