#include "fs/fuse/connection.h"

#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace blobfs::fs::fuse {

namespace {

// The system calls themselves: libc's functions are places where a thread may be cancelled, and in
// a process of several threads say so with two locked instructions each.
ssize_t read_from(int descriptor, std::span<std::byte> into) {
    return ::syscall(SYS_read, descriptor, into.data(), into.size());
}
ssize_t write_to(int descriptor, const void* data, std::size_t bytes) {
    return ::syscall(SYS_write, descriptor, data, bytes);
}

// The kernel answers ENOENT when the caller was killed meanwhile, and the errors of a connection
// that has ended; anything else says that a reply of ours was malformed.
bool is_sent(ssize_t written, const Request& request) {
    if (written >= 0) return true;
    if (errno != ENOENT && errno != ENODEV && errno != ECONNABORTED && errno != ENOTCONN) {
        spdlog::error("answering {} of inode {}: the kernel refused the reply: {}",
                      opcode_name(request.header().opcode), request.header().nodeid,
                      std::strerror(errno));
    }
    return false;
}

}  // namespace

Result<Received> Connection::receive(Request& request) const {
    const std::span<std::byte> area = request.receive_area();
    while (true) {
        const ssize_t bytes = read_from(descriptor_, area);
        if (bytes > 0) {
            if (request.received(static_cast<std::size_t>(bytes))) return Received::kRequest;
            return fail(Errc::kIo, "reading a request of the kernel: it is not whole");
        }
        if (bytes == 0) return Received::kUnmounted;
        switch (errno) {
            case EAGAIN:
                return Received::kNothing;
            case ENOENT:  // the request was taken back while it was being read
            case EINTR:
                continue;
            case ENODEV:
                return Received::kUnmounted;
            case ECONNABORTED:
                return Received::kAborted;
            default:
                return fail(errno_error(errno, "reading a request of the kernel"));
        }
    }
}

bool Connection::reply(const Request& request, const Reply& reply) const {
    const std::size_t head_bytes = sizeof(fuse_out_header) + reply.head_bytes;
    const fuse_out_header header{
        .len = static_cast<std::uint32_t>(head_bytes + reply.data.size()),
        .error = 0,
        .unique = request.header().unique,
    };
    if (reply.head_bytes == 0 && reply.data.data() == request.data().data()) {
        // Right before the data, where the arguments were, so that both are one piece.
        std::byte* const begin = request.data().data() - sizeof(header);
        std::memcpy(begin, &header, sizeof(header));
        return is_sent(write_to(descriptor_, begin, header.len), request);
    }
    std::memcpy(request.reply_area(), &header, sizeof(header));
    if (reply.data.empty()) {
        return is_sent(write_to(descriptor_, request.reply_area(), head_bytes), request);
    }
    const std::array<iovec, 2> parts{
        iovec{.iov_base = request.reply_area(), .iov_len = head_bytes},
        iovec{.iov_base = const_cast<std::byte*>(reply.data.data()), .iov_len = reply.data.size()}};
    return is_sent(::syscall(SYS_writev, descriptor_, parts.data(), parts.size()), request);
}

void Connection::invalidate(InodeNumber inode, std::int64_t offset) const {
    struct {
        fuse_out_header header;
        fuse_notify_inval_inode_out out;
    } message{};
    message.header.len = sizeof(message);
    message.header.error = FUSE_NOTIFY_INVAL_INODE;
    message.out.ino = value(inode);
    message.out.off = offset;
    message.out.len = 0;  // to the end
    // ENOENT: the kernel knows nothing of the inode, so all is well.
    [[maybe_unused]] const ssize_t written = ::write(descriptor_, &message, sizeof(message));
}

void Connection::forget_attributes(InodeNumber inode) const {
    invalidate(inode, -1);  // no pages
}

void Connection::write_out_and_forget(InodeNumber inode, std::uint64_t offset) const {
    invalidate(inode, static_cast<std::int64_t>(offset));
}

bool Connection::reply_error(const Request& request, int error_number) const {
    const fuse_out_header header{
        .len = sizeof(fuse_out_header),
        .error = -error_number,
        .unique = request.header().unique,
    };
    return is_sent(write_to(descriptor_, &header, sizeof(header)), request);
}

}  // namespace blobfs::fs::fuse
