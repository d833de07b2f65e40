#include "blobstore/blob_lock.h"

#include <algorithm>
#include <utility>

namespace blobfs::blobstore {

using blob_lock_internal::Blob;
using blob_lock_internal::Range;

BlobLock& BlobLock::operator=(BlobLock&& other) noexcept {
    if (this == &other) return *this;
    release();
    locks_ = std::exchange(other.locks_, nullptr);
    blob_ = other.blob_;
    entry_ = std::exchange(other.entry_, nullptr);
    range_ = other.range_;
    mapping_ = std::exchange(other.mapping_, false);
    return *this;
}

void BlobLock::lock_mapping(driver::Suspend& suspend) {
    CHECK(entry_ != nullptr && !mapping_);
    entry_->mapping.lock(suspend);
    mapping_ = true;
}

bool BlobLock::try_lock_mapping() {
    CHECK(entry_ != nullptr && !mapping_);
    return mapping_ = entry_->mapping.try_lock();
}

void BlobLock::unlock_mapping() {
    CHECK(mapping_);
    entry_->mapping.unlock();
    mapping_ = false;
}

void BlobLock::release() {
    if (locks_ == nullptr) return;
    if (mapping_) entry_->mapping.unlock();
    if (range_->exclusive) --entry_->exclusives;
    entry_->ranges.erase(entry_->ranges.iterator_to(*range_));
    locks_->spare_.push_back(range_);
    BlobLocks::grant(*entry_);
    locks_->leave(blob_, *entry_);
    locks_ = nullptr;
    entry_ = nullptr;
    mapping_ = false;
}

Blob& BlobLocks::entry(BlobId blob) {
    if (last_ != nullptr && last_id_ == blob) return *last_;
    if (last_ != nullptr && last_->users == 0) blobs_.erase(value(last_id_));
    auto& slot = blobs_[value(blob)];
    if (slot == nullptr) slot = std::make_unique<Blob>();
    last_id_ = blob;
    last_ = slot.get();
    return *last_;
}

void BlobLocks::leave(BlobId blob, Blob& entry) {
    if (--entry.users == 0 && &entry != last_) blobs_.erase(value(blob));
}

BlobLock BlobLocks::lock(driver::Suspend& suspend, BlobId blob, std::uint64_t first,
                         std::uint64_t end, Mode mode) {
    Blob& entry = this->entry(blob);
    ++entry.users;
    if (spare_.empty()) spare_.push_back(made_.emplace_back(std::make_unique<Range>()).get());
    Range* const range = spare_.back();
    spare_.pop_back();
    range->first = first;
    range->end = end;
    range->exclusive = mode == Mode::kExclusive;
    entry.ranges.push_back(*range);
    if (range->exclusive) ++entry.exclusives;
    range->granted = !conflicts(entry, *range);
    if (!range->granted) {
        ++entry.waiting;
        range->waiter = &suspend.current();
        while (!range->granted) suspend.park();
    }
    BlobLock held;
    held.locks_ = this;
    held.blob_ = blob;
    held.entry_ = &entry;
    held.range_ = range;
    return held;
}

// Whether the range has to wait for one that came before it.
bool BlobLocks::conflicts(const Blob& blob, const Range& range) {
    if (blob.exclusives == 0) return false;
    return std::any_of(blob.ranges.begin(), blob.ranges.iterator_to(range),
                       [&](const Range& before) {
                           return before.first < range.end && range.first < before.end &&
                                  (before.exclusive || range.exclusive);
                       });
}

void BlobLocks::grant(Blob& blob) {
    if (blob.waiting == 0) return;
    for (Range& range : blob.ranges) {
        if (range.granted || conflicts(blob, range)) continue;
        range.granted = true;
        --blob.waiting;
        range.waiter->wake();
    }
}

}  // namespace blobfs::blobstore
