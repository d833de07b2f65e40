#pragma once

// Locks of one blob's data: ranges (shared for reading, exclusive for changing) and the mapping
// (exclusive while extents are read, changed and committed). Ranges are granted first come, first
// served, so nobody starves. Order: ranges before the mapping; a fiber holds those of one blob at a
// time. Reactor thread.

#include <absl/container/flat_hash_map.h>

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <memory>
#include <vector>

#include "blobstore/units.h"
#include "driver/reactor/fiber.h"

namespace blobfs::blobstore {

class BlobLocks;

namespace blob_lock_internal {
struct Range : boost::intrusive::list_base_hook<
                   boost::intrusive::link_mode<boost::intrusive::normal_link>> {
    std::uint64_t first = 0, end = 0;  // bytes
    bool exclusive = false;
    bool granted = false;
    driver::Fiber* waiter = nullptr;
};
using Ranges = boost::intrusive::list<Range, boost::intrusive::constant_time_size<false>>;
struct Blob {
    Ranges ranges;               // in order of arrival
    std::size_t waiting = 0;     // ranges that are not granted
    std::size_t exclusives = 0;  // ranges that are exclusive
    driver::FiberMutex mapping;
    std::size_t users = 0;
};
}  // namespace blob_lock_internal

// Holds one range, and the mapping when asked for; move-only, released on destruction.
class BlobLock {
  public:
    BlobLock() = default;
    BlobLock(BlobLock&& other) noexcept { *this = std::move(other); }
    BlobLock& operator=(BlobLock&& other) noexcept;
    ~BlobLock() { release(); }

    // Also takes the blob's mapping; suspends while another fiber holds it.
    void lock_mapping(driver::Suspend& suspend);
    bool try_lock_mapping();  // false: another has it
    void unlock_mapping();
    [[nodiscard]] bool holds_mapping() const { return mapping_; }
    void release();
    explicit operator bool() const { return locks_ != nullptr; }

  private:
    friend class BlobLocks;
    BlobLocks* locks_ = nullptr;
    BlobId blob_{};
    blob_lock_internal::Blob* entry_ = nullptr;
    blob_lock_internal::Range* range_ = nullptr;
    bool mapping_ = false;
};

class BlobLocks {
  public:
    enum class Mode { kShared, kExclusive };
    static constexpr std::uint64_t kEnd = ~std::uint64_t{0};

    // Bytes [first, end) of the blob. Suspends while an earlier request that overlaps and conflicts
    // is not released.
    BlobLock lock(driver::Suspend& suspend, BlobId blob, std::uint64_t first, std::uint64_t end,
                  Mode mode);
    [[nodiscard]] bool idle() const {
        return blobs_.empty() || (blobs_.size() == 1 && last_ != nullptr && last_->users == 0);
    }

  private:
    friend class BlobLock;
    static bool conflicts(const blob_lock_internal::Blob& blob,
                          const blob_lock_internal::Range& range);
    static void grant(blob_lock_internal::Blob& blob);
    blob_lock_internal::Blob& entry(BlobId blob);
    void leave(BlobId blob, blob_lock_internal::Blob& entry);

    absl::flat_hash_map<std::uint64_t, std::unique_ptr<blob_lock_internal::Blob>> blobs_;
    std::vector<std::unique_ptr<blob_lock_internal::Range>> made_;  // as many as ever at a time
    std::vector<blob_lock_internal::Range*> spare_;                 // of these, not in use
    // The blob that was asked for last; it stays in the map without users, as it is mostly the next
    // one, too.
    BlobId last_id_{};
    blob_lock_internal::Blob* last_ = nullptr;
};

}  // namespace blobfs::blobstore
