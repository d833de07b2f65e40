#pragma once

// Data that recovery found in the log (FORMAT.md, "Data in the log"), as blocks of the device: put
// in their places, or held for who only reads. Private to the blobstore and fsck. Reactor thread.

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>

#include "blobstore/log_record.h"
#include "blobstore/superblock.h"
#include "driver/device.h"

namespace blobfs::blobstore {

class ReplayedData {
  public:
    // A kData operation of a batch that counts; later ones win. kCorrupt when it is not within the
    // filesystem behind the log, or more than kMaxLoggedDataBytes in all. What surrounds it in its
    // block is read; where that fails the block stays as it is on the device, which is logged.
    // Suspends.
    Result<void> add(driver::Suspend& suspend, driver::Device& device, const Superblock& superblock,
                     const LogOperation& operation);
    [[nodiscard]] bool empty() const { return blocks_.empty(); }
    // Makes what was read at that byte of the device what it is with this data.
    void patch(std::uint64_t address, driver::DmaSpan bytes) const;
    // Writes the blocks for which `wanted` is true to their places, without a flush. Suspends.
    template <class Wanted>
    Result<void> write(driver::Suspend& suspend, driver::Device& device, Wanted wanted) const {
        for (const auto& [block, bytes] : blocks_) {
            if (wanted(block)) TRY(device.write(suspend, block * kBlockBytes, bytes.span()));
        }
        return {};
    }

  private:
    std::uint64_t total_bytes_ = 0;  // of the operations
    absl::flat_hash_map<std::uint64_t, driver::DmaBuffer> blocks_;
};

}  // namespace blobfs::blobstore
