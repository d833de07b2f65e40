#pragma once

// Reads pages of the metadata, several at a time, each verified against the pointer that names it.
// Reactor thread.

#include <array>
#include <cstdint>
#include <span>

#include "blobstore/page_io.h"
#include "driver/memory/dma_buffer.h"
#include "fs/fsck/pace.h"

namespace blobfs::fsck {

class PageReader {
  public:
    static constexpr std::size_t kMostPages = 32;

    // kNoMemory. The device outlives the reader, and so does the pace, if there is one.
    static Result<PageReader> create(driver::Device& device,
                                     const blobstore::PageIo::Geometry& geometry,
                                     Pace* pace = nullptr);

    // Reads at most kMostPages pages. What became of each is status(), its bytes are good until the
    // next call. The error is the pace's. Suspends.
    Result<void> read(driver::Suspend& suspend, std::span<const blobstore::PagePointer> pointers);
    [[nodiscard]] const Result<void>& status(std::size_t index) const { return status_[index]; }
    [[nodiscard]] driver::ConstDmaSpan bytes(std::size_t index) const {
        return memory_.span().subspan(index * io_.geometry().page_bytes, io_.geometry().page_bytes);
    }
    [[nodiscard]] const blobstore::PageIo& io() const { return io_; }
    [[nodiscard]] std::uint64_t pages_read() const { return pages_read_; }

  private:
    PageReader(driver::Device& device, const blobstore::PageIo::Geometry& geometry, Pace* pace,
               driver::DmaBuffer memory)
        : io_(device, geometry), pace_(pace), memory_(std::move(memory)) {}

    blobstore::PageIo io_;
    Pace* pace_;
    driver::DmaBuffer memory_;
    std::array<Result<void>, kMostPages> status_;
    std::uint64_t pages_read_ = 0;
};

}  // namespace blobfs::fsck
