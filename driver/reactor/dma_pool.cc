#include "driver/reactor/dma_pool.h"

#include <limits>
#include <utility>

namespace blobfs::driver {

DmaPool::Buffer::Buffer(Buffer&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), data_(std::exchange(other.data_, nullptr)) {}

DmaPool::Buffer& DmaPool::Buffer::operator=(Buffer&& other) noexcept {
    if (this != &other) {
        release();
        pool_ = std::exchange(other.pool_, nullptr);
        data_ = std::exchange(other.data_, nullptr);
    }
    return *this;
}

DmaSpan DmaPool::Buffer::span() const {
    return {data_, pool_ == nullptr ? 0 : pool_->buffer_bytes()};
}

void DmaPool::Buffer::release() {
    if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(std::exchange(data_, nullptr));
}

Result<std::unique_ptr<DmaPool>> DmaPool::create(std::size_t count, std::size_t bytes) {
    constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max();
    if (count == 0 || bytes == 0 || bytes > kMost - DmaBuffer::kPageSize) {
        return fail(Errc::kInvalidArgument, "making a pool of DMA buffers");
    }
    const std::size_t pages = (bytes + DmaBuffer::kPageSize - 1) / DmaBuffer::kPageSize;
    const std::size_t stride = pages * DmaBuffer::kPageSize;
    if (stride > kMost / count) return fail(Errc::kNoMemory, "making a pool of DMA buffers");
    TRY_ASSIGN(DmaBuffer memory, DmaBuffer::allocate(stride * count));
    return std::unique_ptr<DmaPool>(new DmaPool(std::move(memory), count, bytes, stride));
}

DmaPool::DmaPool(DmaBuffer memory, std::size_t count, std::size_t bytes, std::size_t stride)
    : memory_(std::move(memory)), count_(count), bytes_(bytes) {
    free_.reserve(count);
    for (std::size_t i = count; i-- > 0;) free_.push_back(memory_.data() + i * stride);
}

DmaPool::~DmaPool() { CHECK(free_.size() == count_ && promised_ == 0); }

DmaPool::Buffer DmaPool::try_acquire() { return free() > 0 ? take() : Buffer(); }

DmaPool::Buffer DmaPool::acquire(Suspend& suspend) {
    if (free() == 0) {
        waiters_.wait(suspend);
        CHECK(promised_ > 0);
        --promised_;
    }
    return take();
}

DmaPool::Buffer DmaPool::take() {
    std::byte* data = free_.back();
    free_.pop_back();
    return {*this, data};
}

void DmaPool::give_back(std::byte* data) {
    free_.push_back(data);
    if (waiters_.wake_one()) ++promised_;
}

}  // namespace blobfs::driver
