#pragma once

// The descriptor through which the kernel sends requests and takes replies: /dev/fuse, opened by
// the mount, non-blocking. Receiving and replying are system calls without state of ours, so that
// the reactor or a worker (with a cloned descriptor) can do them. Does not own the descriptor.

#include <cstdint>
#include <span>

#include "driver/base/result.h"
#include "fs/fuse/request.h"

namespace blobfs::fs::fuse {

enum class Received : std::uint8_t {
    kRequest,    // one request is in the buffer
    kNothing,    // none waits
    kUnmounted,  // the filesystem is no longer mounted anywhere: nothing will come any more
    kAborted,    // somebody aborted the connection: the mount is there, but dead
};

class Connection {
  public:
    explicit Connection(int descriptor) : descriptor_(descriptor) {}

    // Takes one request if there is one; never blocks. An error that is none of the above is
    // returned: the connection cannot be used any more.
    Result<Received> receive(Request& request) const;

    // Sends the answer to a request, whose arguments are not to be looked at any more. False when
    // the kernel did not take it: the request was interrupted or the connection is gone, so that
    // nobody has what the reply says.
    bool reply(const Request& request, const Reply& reply) const;
    bool reply_error(const Request& request, int error_number) const;

    // Makes the kernel forget the attributes of an inode; its pages stay.
    void forget_attributes(InodeNumber inode) const;

    // Makes the kernel write out what its cache holds of the file from the offset on, and forget
    // it, with the attributes. Blocks until the kernel's WRITEs are answered: not for the thread
    // that answers them.
    void write_out_and_forget(InodeNumber inode, std::uint64_t offset) const;

    [[nodiscard]] int descriptor() const { return descriptor_; }

  private:
    void invalidate(InodeNumber inode, std::int64_t offset) const;
    int descriptor_;
};

}  // namespace blobfs::fs::fuse
