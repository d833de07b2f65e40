#include "blobstore/blob_lock.h"

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

void BlobLock::release() {
    if (locks_ == nullptr) return;
    if (mapping_) entry_->mapping.unlock();
    entry_->ranges.erase(range_);
    BlobLocks::grant(*entry_);
    if (--entry_->users == 0) locks_->blobs_.erase(value(blob_));
    locks_ = nullptr;
    entry_ = nullptr;
    mapping_ = false;
}

BlobLock BlobLocks::lock(driver::Suspend& suspend, BlobId blob, std::uint64_t first,
                         std::uint64_t end, Mode mode) {
    auto& slot = blobs_[value(blob)];
    if (slot == nullptr) slot = std::make_unique<Blob>();
    Blob& entry = *slot;
    ++entry.users;
    const auto range =
        entry.ranges.insert(entry.ranges.end(), Range{.first = first,
                                                      .end = end,
                                                      .exclusive = mode == Mode::kExclusive,
                                                      .granted = false,
                                                      .waiter = nullptr});
    grant(entry);
    if (!range->granted) {
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

void BlobLocks::grant(Blob& blob) {
    for (auto range = blob.ranges.begin(); range != blob.ranges.end(); ++range) {
        if (range->granted) continue;
        bool conflict = false;
        for (auto before = blob.ranges.begin(); before != range && !conflict; ++before) {
            conflict = before->first < range->end && range->first < before->end &&
                       (before->exclusive || range->exclusive);
        }
        if (conflict) continue;
        range->granted = true;
        if (range->waiter != nullptr) range->waiter->wake();
    }
}

}  // namespace blobfs::blobstore
