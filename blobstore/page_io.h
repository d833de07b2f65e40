#pragma once

// Reads and seals metadata pages: the one place where a page's magic, kind, address, generation,
// filesystem and checksum are set and checked. Reactor thread.

#include <absl/container/flat_hash_set.h>

#include <array>
#include <cstdint>

#include "blobstore/format.h"
#include "blobstore/units.h"
#include "driver/device.h"

namespace blobfs::blobstore {

using driver::ConstDmaSpan;
using driver::Device;
using driver::DmaSpan;
using driver::Suspend;

class PageIo {
  public:
    struct Geometry {
        std::array<std::uint8_t, 16> uuid{};
        std::uint32_t page_bytes = kDefaultPageBytes;
        std::uint64_t block_count = 0;  // of the device: addresses beyond are damage
    };
    PageIo(Device& device, const Geometry& geometry) : device_(device), geometry_(geometry) {}

    // Reads the page that the pointer names and verifies that it is just that one: bounds, magic,
    // own address, UUID, generation and checksum equal to the pointer's. kCorrupt with the page's
    // byte offset otherwise. What follows the header, and kind and level, are for the caller to
    // check: validate_page() for the tree. Suspends.
    Result<void> read(Suspend& suspend, const PagePointer& pointer, DmaSpan into);

    // The checks of read() on bytes that are in memory already. Any bytes whatever. Does not
    // suspend.
    [[nodiscard]] Result<void> verify(const PagePointer& pointer, ConstDmaSpan page) const;
    // One line in the log for a page that was needed and is damaged; each page once.
    void report(const Error& error);
    // What the page says of itself, when it is a whole page of this filesystem that was written for
    // that place: for finding pages that nothing points to any more. kCorrupt otherwise.
    [[nodiscard]] Result<PagePointer> identify(BlockIndex block, ConstDmaSpan page) const;

    // Fills magic, address, UUID, generation and checksum into the header of a page about to be
    // written, and returns the pointer to it. Does not suspend.
    PagePointer seal(DmaSpan page, BlockIndex block, Generation generation) const;

    [[nodiscard]] const Geometry& geometry() const { return geometry_; }
    [[nodiscard]] Device& device() const { return device_; }
    [[nodiscard]] std::uint32_t blocks_per_page() const {
        return geometry_.page_bytes / kBlockBytes;
    }

  private:
    Device& device_;
    Geometry geometry_;
    absl::flat_hash_set<std::uint64_t> reported_;
};

}  // namespace blobfs::blobstore
