#pragma once

// The first message of a connection, FUSE_INIT: what the kernel offers, and what of it we take.
// libfuse 3.14 cannot express it all (it tells the kernel neither of parallel directory operations
// nor of who removes set-id bits), so we speak for ourselves. Any thread.

#include <cstdint>

#include "driver/base/result.h"
#include "fs/fuse/wire.h"

namespace blobfs::fs::fuse {

struct Offer {
    std::uint32_t max_write_bytes;
    std::uint32_t max_readahead_bytes;
    std::uint16_t max_background;
    bool io_uring = false;  // take it when it is offered: it must be started then
};

// The answer to the kernel's greeting; kNotSupported when the kernel is too old to work with
// (before protocol 7.34, Linux 5.14), saying so.
Result<fuse_init_out> answer_greeting(const fuse_init_in& greeting, const Offer& offer);

}  // namespace blobfs::fs::fuse
