#include "blobstore/unflushed_data.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "driver/base/check.h"

namespace blobfs::blobstore {

void WrittenData::add(std::uint64_t address, driver::ConstDmaSpan bytes) {
    const ByteRange range{.first = address, .end = address + bytes.size()};
    if (!ranges_.empty() && ranges_.back().end == range.first) {
        ranges_.back().end = range.end;
    } else {
        ranges_.push_back(range);
    }
    bytes_ += bytes.size();
    if (bytes_ > limit_) {
        copies_.clear();
        return;
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (!copies_.empty() && copies_.back().address + copies_.back().bytes.size() == address) {
        copies_.back().bytes.append(text);
    } else {
        copies_.push_back({.address = address, .bytes = std::string(text)});
    }
}

void WrittenData::drop_copies() {
    limit_ = 0;
    copies_.clear();
}

std::size_t UnflushedData::copy_limit() const {
    return copied_bytes_ < kMaxCopiedBytes
               ? std::min(kMaxTakenBytes, kMaxCopiedBytes - copied_bytes_)
               : 0;
}

UnflushedData::Note UnflushedData::note(WrittenData written, bool loggable, bool over_logged) {
    Entry& entry = entries_.emplace_back();
    entry.ranges = std::move(written.ranges_);
    entry.copied = written.bytes_ <= written.limit_;
    if (entry.copied) {
        entry.copies = std::move(written.copies_);
        entry.bytes = written.bytes_;
        copied_bytes_ += entry.bytes;
    }
    entry.loggable = loggable;
    entry.over_logged = over_logged;
    ++noted_;
    if (entries_.size() > kMaxEntries) drop_front();
    return noted_;
}

UnflushedData::Note UnflushedData::begin(WrittenData written, bool over_logged) {
    under_way_.push_back(note(std::move(written), true, over_logged));
    return under_way_.back();
}

void UnflushedData::end(Note note, bool written) {
    const auto found = std::ranges::lower_bound(under_way_, note);
    CHECK(found != under_way_.end() && *found == note);
    under_way_.erase(found);
    if (written || note <= dropped_ || note <= taken_) return;
    Entry& entry = entries_[note - dropped_ - 1];
    copied_bytes_ -= std::exchange(entry.bytes, 0);
    entry.copies.clear();
    entry.copied = false;
}

void UnflushedData::make_loggable(Note note) {
    if (note > dropped_) entries_[note - dropped_ - 1].loggable = true;
}

void UnflushedData::drop_front() {
    const Entry& entry = entries_.front();
    ++dropped_;
    if (dropped_ > safe_) dropped_over_logged_ = dropped_over_logged_ || entry.over_logged;
    copied_bytes_ -= entry.bytes;
    entries_.pop_front();
}

UnflushedData::Takeable UnflushedData::takeable(Note target) const {
    Takeable what{.end = safe_};
    if (dropped_ > safe_) return {};
    for (; what.end < noted_; ++what.end) {
        const Entry& entry = entries_[what.end - dropped_];
        const bool fits = what.bytes + entry.bytes <= kMaxTakenBytes;
        if (!entry.copied || !entry.loggable || !fits) break;
        what.bytes += entry.bytes;
        what.copies += entry.copies.size();
    }
    return what.end >= target ? what : Takeable{};
}

std::vector<DataCopy> UnflushedData::take(const Takeable& what) {
    std::vector<DataCopy> taken;
    for (Note next = safe_; next < what.end; ++next) {
        Entry& entry = entries_[next - dropped_];
        std::ranges::move(entry.copies, std::back_inserter(taken));
        copied_bytes_ -= std::exchange(entry.bytes, 0);
        entry.copies.clear();
    }
    taken_ = std::max(taken_, what.end);
    // What was written meanwhile is newer than what the log has from now on.
    for (std::size_t later = what.end - dropped_; later < entries_.size(); ++later) {
        Entry& entry = entries_[later];
        entry.over_logged =
            entry.over_logged || std::ranges::any_of(taken, [&](const DataCopy& copy) {
                const ByteRange logged{copy.address, copy.address + copy.bytes.size()};
                return std::ranges::any_of(
                    entry.ranges, [&](const ByteRange& range) { return range.overlaps(logged); });
            });
    }
    return taken;
}

bool UnflushedData::overwrites_logged() const {
    const auto unsafe =
        entries_.begin() + static_cast<std::ptrdiff_t>(std::max(safe_, dropped_) - dropped_);
    return dropped_over_logged_ || std::any_of(unsafe, entries_.end(), [](const Entry& entry) {
               return entry.over_logged;
           });
}

bool UnflushedData::flushed(Note covered) {
    while (dropped_ < covered) drop_front();
    safe_ = std::max(safe_, covered);
    if (dropped_ > covered) return dropped_over_logged_;
    return std::exchange(dropped_over_logged_, false);
}

}  // namespace blobfs::blobstore
