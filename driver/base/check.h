#pragma once

// CHECK(condition) guards what we ourselves promised: it is on in release builds and ends the
// process with the place and the condition. What comes from a device, a file or a user is never
// checked this way; it is answered with an Error (driver/base/result.h). Any thread.

namespace blobfs {

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace blobfs

#define CHECK(condition)                                               \
    do {                                                               \
        if (!(condition)) [[unlikely]]                                 \
            ::blobfs::check_failed(#condition, __FILE__, __LINE__);    \
    } while (false)
