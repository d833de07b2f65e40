#pragma once

// FUSE over io_uring (Linux 6.14, Documentation/filesystems/fuse/fuse-io-uring.rst): entries wait in
// the kernel, each with a request's buffer, in a queue for each processor. A completion says that
// a request is in the buffer; the answer goes back from the same buffer, and the entry waits again.
// Many answers and requests share one system call, and to see that there is none takes none at all.
// FORGET and INTERRUPT go on coming through the descriptor. Reactor thread.

#include <absl/functional/function_ref.h>
#include <liburing.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "driver/base/result.h"
#include "fs/fuse/request.h"

namespace blobfs::fs::fuse {

class RequestRing {
  public:
    // How many queues the kernel wants, one for each processor that it could have.
    static Result<std::size_t> queue_count();
    // For a connection whose greeting took kOverIoUring; nothing is served before this. Divides the
    // requests among the queues; REQUIRES at least one for each. They, and the descriptor, outlive
    // the ring. kSystem when there is no io_uring of the kind needed.
    static Result<std::unique_ptr<RequestRing>> create(int descriptor,
                                                       std::span<Request* const> requests);
    // Waits until the kernel has let go of the requests' memory. The buffers may be freed then.
    ~RequestRing();
    RequestRing(const RequestRing&) = delete;
    RequestRing& operator=(const RequestRing&) = delete;

    // Sends the answers, and visits up to `most` requests that have come, by their place in the
    // span. Never blocks. Whether there was anything; an error when the kernel refuses an entry:
    // the mount is of no use then.
    Result<bool> poll(std::size_t most, absl::FunctionRef<void(std::size_t)> take);
    // Sends the answers only.
    void submit();
    // Answers a visited request. The buffer is the kernel's with the next poll() or submit().
    void reply(std::size_t place, const Reply& reply);
    void reply_error(std::size_t place, int error_number);

    // Whether something was to be read from the connection's descriptor, the end of the
    // connection included, since this was last asked.
    [[nodiscard]] bool take_readable();
    // Readable when poll() would find work.
    [[nodiscard]] int descriptor() const { return ring_.ring_fd; }

  private:
    // struct fuse_uring_req_header and what is in it, as newer <linux/fuse.h> have it.
    struct Header {
        std::array<std::byte, 128> in_out;  // fuse_in_header, fuse_out_header
        std::array<std::byte, 128> first_argument;
        std::uint64_t flags;
        std::uint64_t commit_id;
        std::uint32_t payload_bytes;
        std::uint32_t padding;
        std::uint64_t reserved;
    };
    static_assert(sizeof(Header) == 288);
    struct Entry {
        Header header{};
        std::array<iovec, 2> memory{};
        Request* request = nullptr;
        std::uint16_t queue = 0;
        bool registered = false;
    };

    explicit RequestRing(int connection) : connection_(connection) {}
    Result<void> start(std::span<Request* const> requests);
    io_uring_sqe* next_submission();
    Result<void> watch_release();
    void watch_connection();
    void command(std::size_t place, std::uint32_t operation);
    void answer(std::size_t place, const fuse_out_header& header, std::size_t payload_bytes);

    const int connection_;
    io_uring ring_{};
    bool ring_ready_ = false;
    int released_ = -1;  // read end of a pipe that ends when the kernel has taken the ring apart
    bool queued_ = false;
    bool readable_ = true;
    std::vector<Entry> entries_;
};

}  // namespace blobfs::fs::fuse
