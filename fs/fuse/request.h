#pragma once

// A request of the kernel in its buffer, and what is answered. Reactor thread (or the worker that
// serves the channel, one thread per request).
//
// A request buffer is DMA memory of one page and kMaxTransferBytes:
//
//     0                                4016                 4096
//     | reply: fuse_out_header, head |  request header, args | data ...
//
// A reply that is data only, in the data area, has its fuse_out_header right before that.
//
// The request is read to 80 bytes before the second page, so that a WRITE's payload begins on a
// page boundary: the NVMe command points straight at it. A READ's arguments end there, so that the
// device fills the data area of the same buffer and the kernel copies the reply out of it.
//
// A request that comes through a ring (request_ring.h) comes in parts: header and first argument,
// whatever its length, are put before the second page, and what follows is there already.

#include <absl/functional/any_invocable.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "driver/base/check.h"
#include "driver/memory/dma_buffer.h"
#include "fs/fuse/wire.h"
#include "fs/inode_format.h"

namespace blobfs::fs::fuse {

inline constexpr std::size_t kMaxTransferBytes = std::size_t{1} << 20;
inline constexpr std::size_t kDataOffset = driver::DmaBuffer::kPageSize;
inline constexpr std::size_t kRequestOffset = kDataOffset - kWriteHeadBytes;
inline constexpr std::size_t kRequestBufferBytes = kDataOffset + kMaxTransferBytes;
// What a request may measure: the kernel insists on room for the largest WRITE.
inline constexpr std::size_t kMaxRequestBytes = kRequestBufferBytes - kRequestOffset;

// A successful answer: the head that was filled in with Request::head<T>(), then data from
// anywhere that lives as long as the request.
struct Reply {
    std::size_t head_bytes = 0;
    std::span<const std::byte> data{};
};

class Request {
  public:
    // buffer: kRequestBufferBytes of DMA memory, page-aligned; outlives the request.
    explicit Request(driver::DmaSpan buffer) : buffer_(buffer) {
        CHECK(buffer.size() == kRequestBufferBytes);
    }

    // Where the next request is to be read to.
    [[nodiscard]] std::span<std::byte> receive_area() const {
        return buffer_.subspan(kRequestOffset, kMaxRequestBytes);
    }
    // A request of that many bytes was read. False when they are no whole request.
    bool received(std::size_t bytes) {
        if (bytes < sizeof(header_)) return false;
        std::memcpy(&header_, buffer_.data() + kRequestOffset, sizeof(header_));
        begin_ = kRequestOffset;
        bytes_ = bytes;
        stale_inode_ = InodeNumber{};
        answered_ = false;
        return header_.len == bytes;
    }
    // The same in parts. first: room with the first argument, whose length the header's tells;
    // payload_bytes: of the others, in the data area. False when that is no whole request.
    bool received(const fuse_in_header& header, std::span<const std::byte> first,
                  std::size_t payload_bytes) {
        if (payload_bytes > kMaxTransferBytes || header.len < sizeof(header_) + payload_bytes) {
            return false;
        }
        const std::size_t first_bytes = header.len - sizeof(header_) - payload_bytes;
        if (first_bytes > first.size()) return false;
        header_ = header;
        begin_ = kDataOffset - first_bytes - sizeof(header_);
        bytes_ = header.len;
        stale_inode_ = InodeNumber{};
        answered_ = false;
        std::memcpy(buffer_.data() + begin_, &header_, sizeof(header_));
        std::memcpy(buffer_.data() + begin_ + sizeof(header_), first.data(), first_bytes);
        return true;
    }

    [[nodiscard]] const fuse_in_header& header() const { return header_; }
    [[nodiscard]] InodeNumber inode() const { return InodeNumber{header_.nodeid}; }
    [[nodiscard]] ArgumentReader arguments() const {
        return ArgumentReader(
            buffer_.subspan(begin_ + sizeof(fuse_in_header), bytes_ - sizeof(fuse_in_header)));
    }
    // What the kernel appended to the arguments; empty when there is nothing or it does not fit.
    [[nodiscard]] std::span<const std::byte> extensions() const {
        const std::size_t extension_bytes = std::size_t{header_.total_extlen} * 8;
        if (extension_bytes > bytes_ - sizeof(fuse_in_header)) return {};
        return buffer_.subspan(begin_ + bytes_ - extension_bytes, extension_bytes);
    }
    // The kernel must ask for this inode's attributes anew: it is told before it gets the answer.
    // REQUIRES that the kernel is not about to drop the inode: telling it would wait for that, and
    // that waits for WRITEs of ours to be answered. Whoever waits for the answer with the file open
    // keeps the inode; writing the cache out keeps it as long as the inode has a name.
    void make_stale(InodeNumber inode) { stale_inode_ = inode; }
    [[nodiscard]] InodeNumber stale_inode() const { return stale_inode_; }

    // Answers while the request is still being carried out and its data is in use: what is
    // returned for it afterwards is not sent. Where the kernel takes the buffer back with the
    // answer (io_uring) that cannot be.
    [[nodiscard]] bool can_be_answered_early() const { return answer_ != nullptr && !answered_; }
    void answer_early(const Reply& reply) {
        CHECK(can_be_answered_early());
        answered_ = true;
        answer_(reply);
    }
    [[nodiscard]] bool answered() const { return answered_; }
    // The channel's: how that is done, for all requests of this buffer; null: not at all.
    void set_answer(absl::AnyInvocable<void(const Reply&)> answer) { answer_ = std::move(answer); }

    // The data area: page-aligned DMA memory. Holds a WRITE's payload, and the tail of arguments
    // that are longer than a WRITE's: a reply may be put there when these are no longer needed.
    [[nodiscard]] driver::DmaSpan data() const { return buffer_.subspan(kDataOffset); }

    // The fixed part of the reply, zeroed, in the buffer.
    template <class T>
    [[nodiscard]] T& head() const {
        static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8);
        static_assert(sizeof(fuse_out_header) + sizeof(T) <= kRequestOffset);
        return *new (buffer_.data() + sizeof(fuse_out_header)) T{};
    }
    [[nodiscard]] std::byte* reply_area() const { return buffer_.data(); }

  private:
    driver::DmaSpan buffer_;
    std::size_t begin_ = kRequestOffset;
    std::size_t bytes_ = 0;
    fuse_in_header header_{};
    InodeNumber stale_inode_{};
    bool answered_ = false;
    absl::AnyInvocable<void(const Reply&)> answer_;
};

}  // namespace blobfs::fs::fuse
