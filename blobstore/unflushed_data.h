#pragma once

// Data that is written to the device and that nothing has made durable yet, with copies of what is
// small: the log may carry those instead of waiting for a flush, or for the writes themselves.
// README.md, "Small data in the log". Private to the blobstore. Reactor thread.

#include <absl/container/inlined_vector.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "driver/device.h"

namespace blobfs::blobstore {

// Bytes of the device.
struct ByteRange {
    std::uint64_t first = 0, end = 0;

    [[nodiscard]] bool overlaps(const ByteRange& other) const {
        return first < other.end && other.first < end;
    }
};

struct DataCopy {
    std::uint64_t address = 0;  // byte on the device
    std::string bytes;
};

// What one caller wrote, and copies of all of it unless it is too much.
class WrittenData {
  public:
    // Copies are made of that many bytes at most; 0: of none.
    explicit WrittenData(std::size_t limit = 0) : limit_(limit) {}
    void add(std::uint64_t address, driver::ConstDmaSpan bytes);
    // It failed, or only a part of it is there.
    void drop_copies();
    [[nodiscard]] std::span<const ByteRange> ranges() const { return ranges_; }

  private:
    friend class UnflushedData;
    std::size_t limit_;
    std::size_t bytes_ = 0;
    absl::InlinedVector<ByteRange, 3> ranges_;
    std::vector<DataCopy> copies_;
};

class UnflushedData {
  public:
    // Numbers of notes, from 1 on, in the order of note().
    using Note = std::uint64_t;
    static constexpr std::size_t kMaxCopiedBytes = std::size_t{64} << 10;  // in memory, in all
    static constexpr std::size_t kMaxTakenBytes = std::size_t{32} << 10;   // by one batch

    // What a copy may have: 0 when there are enough.
    [[nodiscard]] std::size_t copy_limit() const;
    // The writes have completed, or begun (begin()). over_logged: something that the log still holds was overwritten.
    // loggable: whatever becomes of the transaction, the blocks are the blob's own.
    Note note(WrittenData written, bool loggable, bool over_logged);
    // The transaction of a note is committed.
    void make_loggable(Note note);
    // The writes have begun, of a blob's own blocks; end() says that they are over, and whether all
    // of it is there.
    Note begin(WrittenData written, bool over_logged);
    void end(Note note, bool written);

    [[nodiscard]] Note noted() const { return noted_; }
    // Up to here no write is under way.
    [[nodiscard]] Note complete() const {
        return under_way_.empty() ? noted_ : under_way_.front() - 1;
    }
    // Up to here take() gave the copies out.
    [[nodiscard]] Note taken() const { return taken_; }
    // Up to here all is durable, by a flush or in a batch.
    [[nodiscard]] Note safe() const { return safe_; }
    // What a batch could carry of all that is not safe, at least up to `target`: nothing (end is 0)
    // when a flush must make some of it durable.
    struct Takeable {
        Note end = 0;
        std::size_t bytes = 0;
        std::size_t copies = 0;
    };
    [[nodiscard]] Takeable takeable(Note target) const;
    // The copies up to that end, for a batch; logged() says when it is durable. One at a time.
    std::vector<DataCopy> take(const Takeable& what);
    void logged(Note end) { safe_ = std::max(safe_, end); }
    // Whether something that is not safe was written over what the log holds.
    [[nodiscard]] bool overwrites_logged() const;
    // A flush that began when complete() was `covered` is over. Whether something was overwritten
    // that the log still holds.
    bool flushed(Note covered);

  private:
    // Beyond this many between two flushes nothing is logged.
    static constexpr std::size_t kMaxEntries = 4096;

    struct Entry {
        absl::InlinedVector<ByteRange, 3> ranges;
        std::vector<DataCopy> copies;
        std::size_t bytes = 0;  // of the copies
        bool copied = false;    // all of it
        bool loggable = false;
        bool over_logged = false;
    };
    void drop_front();

    Note noted_ = 0;
    Note safe_ = 0;
    Note taken_ = 0;
    std::deque<Note> under_way_;  // ascending
    Note dropped_ = 0;  // entries_ begin behind it
    bool dropped_over_logged_ = false;
    std::size_t copied_bytes_ = 0;
    std::deque<Entry> entries_;
};

}  // namespace blobfs::blobstore
