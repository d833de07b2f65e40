#pragma once

// Result<T>: a value or an Error. Every call of ours that can fail returns one; nothing throws
// across our interfaces. An Error is a closed code plus small fixed context, trivially copyable.
// NVMe status and errno are translated into it once on the way in; to_errno() translates once on
// the way out. Any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace blobfs {

enum class Errc : std::uint8_t {
    kInvalidArgument,  // the caller's argument makes no sense (EINVAL)
    kIo,               // the device reported an error or did not answer (EIO)
    kDeviceGone,       // the device was removed or its controller died (ENODEV; EIO for files)
    kCorrupt,          // a structure on the device is damaged (EUCLEAN)
    kNoSpace,          // the device is full (ENOSPC)
    kNotFound,         // no such blob, record, attribute or file (ENOENT)
    kNoAttribute,      // no such extended attribute (ENODATA)
    kExists,           // it is there already (EEXIST)
    kReadOnly,         // opened read-only, or made read-only after damage (EROFS)
    kBusy,             // somebody else uses it (EBUSY)
    kTooLarge,         // beyond the largest file size (EFBIG)
    kTooLong,          // a name is too long (ENAMETOOLONG)
    kRange,            // the caller's buffer or a limit is too small (ERANGE)
    kNotDirectory,     // (ENOTDIR)
    kIsDirectory,      // (EISDIR)
    kNotEmpty,         // (ENOTEMPTY)
    kTooManyLinks,     // (EMLINK)
    kLoop,             // a directory would become its own ancestor (EINVAL for rename)
    kPermission,       // (EPERM)
    kAccess,           // (EACCES)
    kNotSupported,     // (EOPNOTSUPP)
    kNoMemory,         // (ENOMEM)
    kWrongFormat,      // not a blobfs device, or a version this program does not know
    kSystem,           // a system call failed: sys_errno says how
};

struct Error {
    Errc code = Errc::kIo;
    std::uint16_t nvme_status = 0;  // SCT << 8 | SC of the completion entry, 0 when none
    std::int32_t sys_errno = 0;     // errno of the system call that failed, 0 when none
    std::uint64_t address = 0;      // byte offset on the device, or blob id: what `what` says
    const char* what = "";          // string literal: what was being done

    // "reading a metadata page at byte 40960: damaged (checksum)": for logs and messages.
    [[nodiscard]] std::string message() const;
};

// The errno for the system call interface; always positive.
[[nodiscard]] int to_errno(const Error& error);

// The name of a code in words, for messages.
[[nodiscard]] std::string_view to_string(Errc code);

// An Error for a system call that failed just now: EIO, ENOSPC, EBUSY, ... get their own codes,
// all others kSystem with sys_errno.
[[nodiscard]] Error errno_error(int sys_errno, const char* what);

template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
  public:
    using tl::expected<T, Error>::expected;
};

inline tl::unexpected<Error> fail(Errc code, const char* what, std::uint64_t address = 0) {
    return tl::unexpected<Error>(Error{.code = code, .address = address, .what = what});
}
inline tl::unexpected<Error> fail(const Error& error) { return tl::unexpected<Error>(error); }

}  // namespace blobfs

#define BLOBFS_CONCAT_(a, b) a##b
#define BLOBFS_CONCAT(a, b) BLOBFS_CONCAT_(a, b)

// Leaves the function with the error when the expression of type Result<void> (or any Result whose
// value is not wanted) failed.
#define TRY(expression)                                                             \
    do {                                                                            \
        if (auto try_result_ = (expression); !try_result_) [[unlikely]]             \
            return ::tl::unexpected<::blobfs::Error>(try_result_.error());          \
    } while (false)

// TRY_ASSIGN(auto value, expression): declares or assigns the value, or leaves with the error.
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are a declaration and a name.
#define TRY_ASSIGN(target, expression) \
    TRY_ASSIGN_(target, expression, BLOBFS_CONCAT(try_result_, __COUNTER__))
#define TRY_ASSIGN_(target, expression, name)                         \
    auto name = (expression);                                         \
    if (!name) [[unlikely]]                                           \
        return ::tl::unexpected<::blobfs::Error>(name.error());       \
    target = std::move(*name)
// NOLINTEND(bugprone-macro-parentheses)
