#include "driver/memory/dma_buffer.h"

#include <rte_malloc.h>

#include <bit>
#include <utility>

#include "driver/base/check.h"

namespace blobfs::driver {

namespace {
constexpr std::size_t kMaxAlignment = std::size_t{1} << 30;  // rte_zmalloc takes an unsigned
}

Result<DmaBuffer> DmaBuffer::allocate(std::size_t bytes, std::size_t alignment) {
    if (bytes == 0 || !std::has_single_bit(alignment) || alignment < kPageSize ||
        alignment > kMaxAlignment) {
        return fail(Errc::kInvalidArgument, "allocating DMA memory");
    }
    void* memory = rte_zmalloc("blobfs", bytes, static_cast<unsigned>(alignment));
    if (memory == nullptr) return fail(Errc::kNoMemory, "allocating DMA memory");
    DmaBuffer buffer;
    buffer.data_ = static_cast<std::byte*>(memory);
    buffer.size_ = bytes;
    return buffer;
}

DmaBuffer::DmaBuffer(DmaBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

DmaBuffer& DmaBuffer::operator=(DmaBuffer&& other) noexcept {
    if (this != &other) {
        rte_free(data_);
        data_ = std::exchange(other.data_, nullptr);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

DmaBuffer::~DmaBuffer() { rte_free(data_); }

}  // namespace blobfs::driver
