#include "blobstore/write_ahead_log.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "blobstore/log_reader.h"

namespace blobfs::blobstore {

using driver::ConstDmaSpan;
using driver::Device;
using driver::DmaBuffer;
using driver::Suspend;
using driver::WaitQueue;
using driver::WriteFlags;

namespace {

constexpr std::uint64_t kMinRingBlocks = 16;
constexpr std::size_t kMaxLoggedPieces = 256;
// Of a piece of data in the log, and of the transaction that they are in.
constexpr std::size_t kDataOperationBytes =
    sizeof(LogOperationHeader) + sizeof(LogData) + sizeof(LogTransactionHeader);
constexpr std::uint64_t kMaxDataBatches = 0xffff;
// As often one who waits for data under way sees some of it end before the batch is closed.
constexpr std::size_t kWaitsForData = 32;

constexpr std::uint64_t batch_blocks(std::size_t payload_bytes) {
    return round_up(sizeof(LogBatchHeader) + payload_bytes, kBlockBytes) / kBlockBytes;
}

// Of what a batch carries, in it.
constexpr std::size_t data_record_bound(const UnflushedData::Takeable& what) {
    return what.bytes + (what.copies + what.bytes / kMaxLogDataBytes + 1) * kDataOperationBytes;
}

// A batch that waits to be written.
struct Batch {
    std::string payload;
    Sequence first_transaction{};
    std::uint32_t transactions = 0;
    UnflushedData::Note data_noted = 0;   // must be durable before it is written, or be in it
    UnflushedData::Note data_logged = 0;  // up to here what was not durable is in it
    bool sealed = false;
    std::uint64_t place = 0;      // sealed: where it starts, counted on without wrapping
    std::uint64_t number = 0;     // sealed
    std::uint64_t data_from = 0;  // being written: number of the first batch whose data counts

    [[nodiscard]] Sequence last_transaction() const {
        return Sequence{value(first_transaction) + transactions - 1};
    }
};

}  // namespace

// Data that a replay puts in its place, as far as is known now.
struct LoggedData {
    ByteRange range;
    std::uint64_t batch = 0;
};

// Places in the ring are counted on and on: place p is ring block p % ring. The blocks between the
// last place that fits and the ring's end, which no batch may cross, count as used until trimmed.
struct WriteAheadLog::State {
    State(Device& device_in, const Geometry& geometry_in, const LeftOut& left_out_in)
        : device(device_in),
          geometry(geometry_in),
          left_out(left_out_in),
          max_batch_blocks(std::min<std::uint64_t>(kMaxBatchBlocks, geometry.blocks / 4)) {
        CHECK(geometry.blocks >= kMinRingBlocks);
    }

    [[nodiscard]] std::size_t max_payload() const {
        return max_batch_blocks * kBlockBytes - sizeof(LogBatchHeader);
    }
    [[nodiscard]] Batch* filling() {
        return queue.empty() || queue.back().sealed ? nullptr : &queue.back();
    }
    [[nodiscard]] const Batch* filling() const { return const_cast<State*>(this)->filling(); }

    // Where a batch of that length goes when it is sealed next.
    [[nodiscard]] std::uint64_t place_for(std::uint64_t blocks) const {
        const std::uint64_t within = head % geometry.blocks;
        return within + blocks <= geometry.blocks ? head : head + geometry.blocks - within;
    }

    void seal(Batch& batch) {
        const std::uint64_t blocks = batch_blocks(batch.payload.size());
        batch.place = place_for(blocks);
        batch.number = next_number++;
        batch.sealed = true;
        head = batch.place + blocks;
        CHECK(head - tail <= geometry.blocks);
    }

    void set_error(const Error& e) {
        if (!error) error = e;
    }

    // What can go into the batch instead of being made durable before; end is 0 if it must be.
    [[nodiscard]] UnflushedData::Takeable carriable(const Batch& batch) const;
    void add_data(Batch& batch);
    // The first batch before (and with) that one whose data counts, by what is flushed.
    [[nodiscard]] std::uint64_t data_from(std::uint64_t batch) const;
    void forget_logged_before(std::uint64_t batch);
    [[nodiscard]] bool overwrites_logged(std::span<const ByteRange> ranges) const;
    void fill_buffer(const Batch& batch);
    Result<void> write_batch(Suspend& suspend, Batch& batch);
    void write_first(Suspend& suspend);
    Result<void> make_data_durable(Suspend& suspend, UnflushedData::Note target);
    Result<void> flush(Suspend& suspend);

    Device& device;
    const Geometry geometry;
    const LeftOut left_out;
    const std::uint64_t max_batch_blocks;
    DmaBuffer buffer;  // of the batch in flight

    std::uint64_t epoch = 0;
    std::uint64_t head = 0;  // place behind the last sealed batch
    std::uint64_t tail = 0;  // place of the last trim
    std::uint64_t next_number = 1;
    std::uint64_t batches_written = 0;
    std::deque<Batch> queue;  // sealed ones, then at most one that is being filled
    Sequence appended{};
    Sequence durable{};

    WaitQueue data_ended;  // that was under way

    bool writing = false;  // a batch taken off the queue, by one of the fibers in commit()
    WaitQueue batch_written;
    UnflushedData data;
    std::deque<LoggedData> logged;   // by batch: what a replay would put in its place
    std::uint64_t logged_bytes = 0;  // of it
    std::uint64_t settled = 0;       // the data of batches before this one is in its place
    std::uint64_t to_settle = 0;     // and that of those before this one may have been overwritten
    UnflushedData::Note data_at_mark = 0;
    bool marked = false;  // and not trimmed yet
    bool flushing = false;
    WaitQueue flushed;
    std::optional<Error> error;
};

WriteAheadLog::WriteAheadLog(Device& device, const Geometry& geometry, const LeftOut& left_out)
    : state_(std::make_unique<State>(device, geometry, left_out)) {}

WriteAheadLog::~WriteAheadLog() { CHECK(!state_->writing && !state_->flushing); }

std::size_t WriteAheadLog::max_record_bytes() const { return state_->max_payload(); }

Result<void> WriteAheadLog::open(std::uint64_t epoch, const LogPosition& position,
                                 Sequence last_transaction) {
    State& s = *state_;
    CHECK(s.queue.empty() && !s.writing);
    CHECK(position.block < s.geometry.blocks && position.batch > 0 && epoch > 0);
    if (!s.buffer) {
        TRY_ASSIGN(s.buffer, DmaBuffer::allocate(s.max_batch_blocks * kBlockBytes));
    }
    s.epoch = epoch;
    s.head = s.tail = position.block;
    s.next_number = position.batch;
    s.appended = s.durable = last_transaction;
    return {};
}

Sequence WriteAheadLog::append(std::string_view record) {
    State& s = *state_;
    CHECK(s.buffer);
    CHECK(record.size() <= s.max_payload() && record.size() % 8 == 0);
    Batch* batch = s.filling();
    if (batch != nullptr && batch->payload.size() + record.size() > s.max_payload()) {
        s.seal(*batch);
        batch = nullptr;
    }
    s.appended = Sequence{value(s.appended) + 1};
    if (batch == nullptr) {
        batch = &s.queue.emplace_back();
        batch->first_transaction = s.appended;
    }
    batch->payload.append(record);
    ++batch->transactions;
    batch->data_noted = s.data.noted();
    CHECK(used_blocks() <= s.geometry.blocks);
    return s.appended;
}

bool WriteAheadLog::has_room(std::size_t record_bytes) const {
    const State& s = *state_;
    // Two batches in a row hold more than one full payload, or else they would have been one. Each
    // may take a block more than its share of the bytes for its header, and one for its last bytes.
    const std::uint64_t batches = record_bytes / (s.max_payload() / 2) + 1;
    const std::uint64_t added = batch_blocks(record_bytes) + (batches - 1) * 2;
    const Batch* filling = s.filling();
    const std::uint64_t wanted =
        added + (filling == nullptr ? 0 : batch_blocks(filling->payload.size()));
    // Where all of it fits before the ring's end nothing is lost there, however it is cut; else
    // less than the batch that does not fit, and that once only, as all of it is shorter than the
    // ring.
    const std::uint64_t lost = s.head % s.geometry.blocks + wanted <= s.geometry.blocks
                                   ? 0
                                   : std::min(wanted, s.max_batch_blocks) - 1;
    return s.head - s.tail + wanted + lost <= s.geometry.blocks;
}

Result<void> WriteAheadLog::commit(Suspend& suspend, Sequence transaction) {
    State& s = *state_;
    CHECK(transaction <= s.appended);
    std::size_t waits = 0;
    while (s.durable < transaction) {
        if (s.error) return fail(*s.error);
        if (s.writing) {
            s.batch_written.wait(suspend);
        } else if (std::max(s.data.complete(), s.data.safe()) < s.queue.front().data_noted &&
                   s.carriable(s.queue.front()).end == 0) {
            // Not for ever for what others append meanwhile.
            if (++waits >= kWaitsForData && !s.queue.front().sealed) s.seal(s.queue.front());
            s.data_ended.wait(suspend);
        } else {
            s.write_first(suspend);
        }
    }
    return {};
}

// Writes the first batch of the queue, and makes the fibers ready that wait for it.
void WriteAheadLog::State::write_first(Suspend& suspend) {
    CHECK(!queue.empty());
    writing = true;
    if (!queue.front().sealed) {
        add_data(queue.front());
        seal(queue.front());
    }
    Batch batch = std::move(queue.front());
    queue.pop_front();
    if (auto result = write_batch(suspend, batch); result) {
        ++batches_written;
        durable = std::max(durable, batch.last_transaction());
        data.logged(batch.data_logged);
        forget_logged_before(batch.data_from);
    } else {
        set_error(result.error());
    }
    writing = false;
    batch_written.wake_all();
}

UnflushedData::Takeable WriteAheadLog::State::carriable(const Batch& batch) const {
    if (!device.properties().volatile_write_cache || left_out.data_before_log) return {};
    // Not while something makes older data durable: what is newer than this, and what comes first
    // in a replay, could not be told apart when that is over.
    if (batch.sealed || flushing || marked) return {};
    if (data.safe() >= batch.data_noted || logged.size() >= kMaxLoggedPieces) return {};
    const UnflushedData::Takeable what = data.takeable(batch.data_noted);
    if (what.end == 0 || logged_bytes + what.bytes > kMaxLoggedDataBytes) return {};
    const std::size_t bytes = batch.payload.size() + data_record_bound(what);
    if (bytes > max_payload()) return {};
    const std::uint64_t blocks = batch_blocks(bytes);
    if (place_for(blocks) + blocks - tail > geometry.blocks) return {};
    return what;
}

// Puts the data that would have to be flushed first into the batch, which is about to be sealed, if
// it is little and there is room.
void WriteAheadLog::State::add_data(Batch& batch) {
    const UnflushedData::Takeable what = carriable(batch);
    if (what.end == 0) return;
    batch.data_logged = what.end;
    LogRecord record;
    for (const DataCopy& copy : data.take(what)) {
        record.data(copy.address, copy.bytes);
        logged.push_back({.range = {.first = copy.address, .end = copy.address + copy.bytes.size()},
                          .batch = next_number});
        logged_bytes += copy.bytes.size();
    }
    const std::string_view bytes = record.finish();
    CHECK(bytes.size() <= data_record_bound(what));
    batch.payload.append(bytes);
    ++batch.transactions;
    appended = Sequence{value(appended) + 1};
}

std::uint64_t WriteAheadLog::State::data_from(std::uint64_t batch) const {
    for (const LoggedData& piece : logged) {
        if (piece.batch >= settled) return std::min(piece.batch, batch);
    }
    return batch;
}

void WriteAheadLog::State::forget_logged_before(std::uint64_t batch) {
    while (!logged.empty() && logged.front().batch < batch) {
        logged_bytes -= logged.front().range.end - logged.front().range.first;
        logged.pop_front();
    }
}

bool WriteAheadLog::State::overwrites_logged(std::span<const ByteRange> ranges) const {
    return std::ranges::any_of(logged, [&](const LoggedData& piece) {
        return std::ranges::any_of(
            ranges, [&](const ByteRange& range) { return piece.range.overlaps(range); });
    });
}

void WriteAheadLog::State::fill_buffer(const Batch& batch) {
    const std::size_t used = sizeof(LogBatchHeader) + batch.payload.size();
    const std::uint64_t blocks = batch_blocks(batch.payload.size());
    LogBatchHeader header{
        .magic = kLogMagic,
        .blocks = static_cast<std::uint16_t>(blocks),
        .data_batches = static_cast<std::uint16_t>(batch.number - batch.data_from),
        .checksum = 0,
        .uuid = geometry.uuid,
        .epoch = epoch,
        .batch = batch.number,
        .first_transaction = value(batch.first_transaction),
        .transactions = batch.transactions,
        .payload_bytes = static_cast<std::uint32_t>(batch.payload.size())};
    std::memcpy(buffer.data(), &header, sizeof(header));
    std::memcpy(buffer.data() + sizeof(header), batch.payload.data(), batch.payload.size());
    std::memset(buffer.data() + used, 0, blocks * kBlockBytes - used);
    header.checksum = XXH3_64bits(buffer.data(), used);
    std::memcpy(buffer.data(), &header, sizeof(header));
}

Result<void> WriteAheadLog::State::write_batch(Suspend& suspend, Batch& batch) {
    // A mapping must not be durable before the data that it maps: the data goes first.
    if (!left_out.data_before_log) {
        if (batch.data_logged < batch.data_noted) {
            TRY(make_data_durable(suspend, batch.data_noted));
        }
        if (batch.number - data_from(batch.number) > kMaxDataBatches) TRY(flush(suspend));
    }
    batch.data_from = data_from(batch.number);
    fill_buffer(batch);
    const ConstDmaSpan bytes(buffer.data(), batch_blocks(batch.payload.size()) * kBlockBytes);
    const std::uint64_t offset =
        (geometry.start + batch.place % geometry.blocks) * std::uint64_t{kBlockBytes};
    const auto& properties = device.properties();
    if (!properties.volatile_write_cache || left_out.log_before_answer) {
        return device.write(suspend, offset, bytes);
    }
    if (bytes.size() <= properties.max_transfer_bytes) {
        return device.write(suspend, offset, bytes, WriteFlags::kForceUnitAccess);
    }
    // FUA on each of several commands would wait for the medium several times.
    TRY(device.write(suspend, offset, bytes));
    return flush(suspend);
}

// One flush of what was written and logged before it began.
Result<void> WriteAheadLog::State::flush(Suspend& suspend) {
    while (flushing) flushed.wait(suspend);
    if (error) return fail(*error);
    flushing = true;
    // What the log has is settled by this: it must be in its place. Nothing is put into it
    // meanwhile.
    while (data.complete() < data.taken() && !left_out.end_before_flush) data_ended.wait(suspend);
    if (error) {
        flushing = false;
        flushed.wake_all();
        return fail(*error);
    }
    const UnflushedData::Note covered = left_out.end_before_flush ? data.noted() : data.complete();
    const std::uint64_t batches = next_number;
    const Result<void> result = device.flush(suspend);
    flushing = false;
    if (result) {
        const bool over_logged = data.flushed(covered);
        if (!left_out.settle_before_answer) {
            settled = std::max(settled, batches);
            if (over_logged) to_settle = settled;
        }
    } else {
        set_error(result.error());
    }
    flushed.wake_all();
    return result;
}

Result<void> WriteAheadLog::State::make_data_durable(Suspend& suspend, UnflushedData::Note target) {
    for (;;) {
        if (!device.properties().volatile_write_cache) data.flushed(data.complete());
        if (data.safe() >= target) return {};
        if (error) return fail(*error);
        // One that is under way may have begun before our data was written: look again when it is
        // over.
        if (flushing) {
            flushed.wait(suspend);
        } else if (data.complete() < target && !left_out.end_before_flush) {
            data_ended.wait(suspend);
        } else {
            TRY(flush(suspend));
        }
    }
}

UnflushedData::Note WriteAheadLog::note_data_written(WrittenData written, bool loggable) {
    State& s = *state_;
    // Without a cache that may lose it all is durable when it is written, and the log carries none.
    if (!s.device.properties().volatile_write_cache) return s.data.noted();
    const bool over_logged = s.overwrites_logged(written.ranges());
    return s.data.note(std::move(written), loggable, over_logged);
}

UnflushedData::Note WriteAheadLog::begin_data(WrittenData data) {
    State& s = *state_;
    const bool over_logged = s.overwrites_logged(data.ranges());
    if (s.left_out.data_under_way) {
        data.drop_copies();
        return s.data.note(std::move(data), true, over_logged);
    }
    return s.data.begin(std::move(data), over_logged);
}

void WriteAheadLog::end_data(UnflushedData::Note note, bool written) {
    if (!state_->left_out.data_under_way) state_->data.end(note, written);
    state_->data_ended.wake_all();
}

bool WriteAheadLog::undone(UnflushedData::Note data, Sequence transaction, Sequence undo) const {
    const auto& queue = state_->queue;
    const auto has = [](const Batch& batch, Sequence wanted) {
        return batch.first_transaction <= wanted && wanted <= batch.last_transaction();
    };
    // A checkpoint under way maps the data, and drops the log that has it; and a batch between the
    // two may be the first whose data counts.
    const bool logged = data <= state_->data.taken() && !state_->marked;
    if (logged && !queue.empty() && has(queue.front(), undo)) return true;
    return std::ranges::any_of(
        queue, [&](const Batch& batch) { return has(batch, transaction) && has(batch, undo); });
}

void WriteAheadLog::give_up(const Error& error) {
    state_->set_error(error);
    state_->data_ended.wake_all();
}

void WriteAheadLog::wait_for_data(Suspend& suspend) {
    State& s = *state_;
    const UnflushedData::Note end = s.data.noted();
    while (s.data.complete() < end) s.data_ended.wait(suspend);
}

void WriteAheadLog::make_loggable(UnflushedData::Note note) { state_->data.make_loggable(note); }

std::size_t WriteAheadLog::copy_limit() const {
    return state_->device.properties().volatile_write_cache ? state_->data.copy_limit() : 0;
}

UnflushedData::Note WriteAheadLog::data_noted() const { return state_->data.noted(); }

Result<void> WriteAheadLog::flush_data(Suspend& suspend, UnflushedData::Note up_to) {
    return state_->make_data_durable(suspend, up_to);
}

bool WriteAheadLog::must_settle() const {
    const State& s = *state_;
    return !s.logged.empty() && s.logged.front().batch < s.to_settle;
}

bool WriteAheadLog::flush_must_settle() const {
    const State& s = *state_;
    return !s.logged.empty() && !s.left_out.settle_before_answer && s.data.overwrites_logged();
}

Result<void> WriteAheadLog::settle(Suspend& suspend) {
    State& s = *state_;
    if (s.logged.empty() || s.logged.back().batch < s.settled) return {};
    return s.flush(suspend);
}

Sequence WriteAheadLog::last_appended() const { return state_->appended; }
Sequence WriteAheadLog::last_durable() const { return state_->durable; }
std::uint64_t WriteAheadLog::epoch() const { return state_->epoch; }
std::uint64_t WriteAheadLog::batches_written() const { return state_->batches_written; }

void WriteAheadLog::note_durable(Sequence transaction) {
    CHECK(transaction <= state_->appended);
    state_->durable = std::max(state_->durable, transaction);
    state_->batch_written.wake_all();
    state_->data_ended.wake_all();
}

Result<void> WriteAheadLog::status() const {
    if (state_->error) return fail(*state_->error);
    return {};
}

LogPosition WriteAheadLog::mark() {
    State& s = *state_;
    if (Batch* batch = s.filling()) s.seal(*batch);
    s.data_at_mark = s.data.noted();
    s.marked = true;
    return {.block = s.head % s.geometry.blocks, .batch = s.next_number};
}

void WriteAheadLog::trim(const LogPosition& mark) {
    State& s = *state_;
    const std::uint64_t ring = s.geometry.blocks;
    CHECK(mark.block < ring && mark.batch <= s.next_number);
    // The place of the mark: the last one before the head at that block of the ring. A full ring
    // behind the head when as much was written since.
    std::uint64_t behind = (s.head % ring + ring - mark.block) % ring;
    if (behind == 0 && mark.batch != s.next_number) behind = ring;
    CHECK(behind <= s.head - s.tail);
    s.tail = s.head - behind;
    // What the checkpoint made durable need not be written any more.
    while (!s.queue.empty() && s.queue.front().sealed && s.queue.front().number < mark.batch) {
        s.durable = std::max(s.durable, s.queue.front().last_transaction());
        s.queue.pop_front();
    }
    s.data.flushed(s.data_at_mark);
    s.marked = false;
    s.forget_logged_before(mark.batch);
    s.batch_written.wake_all();
    s.data_ended.wake_all();
}

std::uint64_t WriteAheadLog::used_blocks() const {
    const State& s = *state_;
    const Batch* filling = s.filling();
    if (filling == nullptr) return s.head - s.tail;
    const std::uint64_t blocks = batch_blocks(filling->payload.size());
    return s.place_for(blocks) + blocks - s.tail;
}

Result<WriteAheadLog::End> WriteAheadLog::replay(Suspend& suspend, std::uint64_t epoch,
                                                 const LogPosition& from, Sequence last_transaction,
                                                 Visit visit) {
    LogReader reader(state_->device, state_->geometry, epoch);
    return reader.replay(suspend, from, last_transaction, visit);
}

Result<WriteAheadLog::Beyond> WriteAheadLog::batches_beyond(Suspend& suspend, std::uint64_t epoch,
                                                            const LogPosition& end) {
    LogReader reader(state_->device, state_->geometry, epoch);
    return reader.batches_beyond(suspend, end);
}

}  // namespace blobfs::blobstore
