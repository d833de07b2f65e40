#include "driver/soft/bounce_memory.h"

#include <cstring>
#include <span>

namespace blobfs::driver {

std::unique_ptr<BounceMemory> BounceMemory::replace(MediumOperation& operation) {
    std::unique_ptr<BounceMemory> bounce(new BounceMemory);
    const std::size_t bytes = (operation.bytes + kAlignment - 1) / kAlignment * kAlignment;
    bounce->memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes)));
    if (bounce->memory_ == nullptr) return nullptr;
    if (operation.kind == MediumOperation::Kind::kWrite) {
        std::byte* to = bounce->memory_.get();
        for (const iovec& piece : std::span(operation.memory, operation.memory_count)) {
            std::memcpy(to, piece.iov_base, piece.iov_len);
            to += piece.iov_len;
        }
    }
    bounce->original_ = operation.memory;
    bounce->original_count_ = operation.memory_count;
    bounce->piece_ = {.iov_base = bounce->memory_.get(), .iov_len = operation.bytes};
    operation.memory = &bounce->piece_;
    operation.memory_count = 1;
    return bounce;
}

void BounceMemory::copy_back() {
    const std::byte* from = memory_.get();
    for (const iovec& piece : std::span(original_, original_count_)) {
        std::memcpy(piece.iov_base, from, piece.iov_len);
        from += piece.iov_len;
    }
}

}  // namespace blobfs::driver
