#pragma once

// A fixed number of equal DMA buffers. Who needs one when none is free waits its turn: that is the
// back-pressure which bounds the memory of requests in flight. Nothing is allocated after create().
// Reactor thread only. (It lives here, above driver/memory, because waiting takes a fiber.)

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "driver/base/result.h"
#include "driver/memory/dma_buffer.h"
#include "driver/reactor/fiber.h"

namespace blobfs::driver {

class DmaPool {
  public:
    // One buffer of the pool, given back on destruction, which must not outlive the pool. Its
    // contents are those that its last user left.
    class Buffer {
      public:
        Buffer() = default;
        Buffer(Buffer&& other) noexcept;
        Buffer& operator=(Buffer&& other) noexcept;
        Buffer(const Buffer&) = delete;
        Buffer& operator=(const Buffer&) = delete;
        ~Buffer() { release(); }

        [[nodiscard]] DmaSpan span() const;
        [[nodiscard]] std::byte* data() const { return data_; }
        explicit operator bool() const { return pool_ != nullptr; }
        // Gives it back before the end of its scope.
        void release();

      private:
        friend class DmaPool;
        Buffer(DmaPool& pool, std::byte* data) : pool_(&pool), data_(data) {}

        DmaPool* pool_ = nullptr;
        std::byte* data_ = nullptr;
    };

    // Each buffer starts on a page boundary. kInvalidArgument when count or bytes is 0, kNoMemory
    // when the environment has not that much DMA memory left.
    static Result<std::unique_ptr<DmaPool>> create(std::size_t count, std::size_t bytes);
    // All buffers are back.
    ~DmaPool();
    DmaPool(const DmaPool&) = delete;
    DmaPool& operator=(const DmaPool&) = delete;

    // An empty handle when none is free, or when those that are free belong to fibers that waited.
    [[nodiscard]] Buffer try_acquire();
    // Suspends until there is one; first come, first served.
    [[nodiscard]] Buffer acquire(Suspend& suspend);

    [[nodiscard]] std::size_t count() const { return count_; }
    [[nodiscard]] std::size_t free() const { return free_.size() - promised_; }
    [[nodiscard]] std::size_t buffer_bytes() const { return bytes_; }

  private:
    DmaPool(DmaBuffer memory, std::size_t count, std::size_t bytes, std::size_t stride);
    Buffer take();
    void give_back(std::byte* data);

    DmaBuffer memory_;
    std::size_t count_;
    std::size_t bytes_;
    std::vector<std::byte*> free_;  // the one used last, which is in the caches, on top
    std::size_t promised_ = 0;      // of the free ones: to fibers that were woken for them
    WaitQueue waiters_;
};

}  // namespace blobfs::driver
