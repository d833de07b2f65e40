#pragma once

// Memory that a controller may read and write (DPDK memory: hugepages where the system has them,
// plain memory otherwise). Every buffer handed to a Device comes from here. The environment
// (driver/memory/environment.h) must have been started. Allocation is for set-up and pools, not
// for the I/O path. Reactor thread, or before the reactor runs.

#include <cstddef>
#include <cstdint>
#include <span>

#include "driver/base/result.h"

namespace blobfs::driver {

// Bytes of DMA memory. At least dword-aligned when used for I/O.
using DmaSpan = std::span<std::byte>;
using ConstDmaSpan = std::span<const std::byte>;

// The sole owner of one contiguous piece of DMA memory; frees it on destruction.
class DmaBuffer {
  public:
    static constexpr std::size_t kPageSize = 4096;  // controller memory page: CC.MPS = 0

    DmaBuffer() = default;
    // Zeroed memory; alignment is a power of two from kPageSize to 1 GiB (else, or
    // when bytes is 0, kInvalidArgument). kNoMemory when exhausted.
    static Result<DmaBuffer> allocate(std::size_t bytes, std::size_t alignment = kPageSize);

    DmaBuffer(DmaBuffer&& other) noexcept;
    DmaBuffer& operator=(DmaBuffer&& other) noexcept;
    DmaBuffer(const DmaBuffer&) = delete;
    DmaBuffer& operator=(const DmaBuffer&) = delete;
    ~DmaBuffer();

    [[nodiscard]] DmaSpan span() const { return {data_, size_}; }
    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    explicit operator bool() const { return data_ != nullptr; }

  private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace blobfs::driver
