#include "driver/base/result.h"

#include <cerrno>
#include <cstring>

#include "driver/base/check.h"

namespace blobfs {

std::string_view to_string(Errc code) {
    switch (code) {
        case Errc::kInvalidArgument: return "invalid argument";
        case Errc::kIo: return "input/output error";
        case Errc::kDeviceGone: return "the device is gone";
        case Errc::kCorrupt: return "damaged";
        case Errc::kNoSpace: return "no space left on the device";
        case Errc::kNotFound: return "not found";
        case Errc::kNoAttribute: return "no such attribute";
        case Errc::kExists: return "exists already";
        case Errc::kReadOnly: return "read-only";
        case Errc::kBusy: return "in use";
        case Errc::kTooLarge: return "too large";
        case Errc::kTooLong: return "name too long";
        case Errc::kRange: return "out of range";
        case Errc::kNotDirectory: return "not a directory";
        case Errc::kIsDirectory: return "is a directory";
        case Errc::kNotEmpty: return "directory not empty";
        case Errc::kTooManyLinks: return "too many links";
        case Errc::kLoop: return "would make a directory its own ancestor";
        case Errc::kPermission: return "not permitted";
        case Errc::kAccess: return "permission denied";
        case Errc::kNotSupported: return "not supported";
        case Errc::kNoMemory: return "out of memory";
        case Errc::kWrongFormat: return "not a blobfs format that this program knows";
        case Errc::kSystem: return "system error";
    }
    return "unknown error";
}

std::string Error::message() const {
    std::string text = what;
    if (address != 0) text += " at " + std::to_string(address);
    text += ": ";
    text += sys_errno != 0 ? std::strerror(sys_errno) : to_string(code);
    if (nvme_status != 0) {
        text += " (NVMe status type " + std::to_string(nvme_status >> 8) + ", code " +
                std::to_string(nvme_status & 0xff) + ")";
    }
    return text;
}

int to_errno(const Error& error) {
    switch (error.code) {
        case Errc::kInvalidArgument: return EINVAL;
        case Errc::kIo: return EIO;
        case Errc::kDeviceGone: return EIO;
        case Errc::kCorrupt: return EUCLEAN;
        case Errc::kNoSpace: return ENOSPC;
        case Errc::kNotFound: return ENOENT;
        case Errc::kNoAttribute: return ENODATA;
        case Errc::kExists: return EEXIST;
        case Errc::kReadOnly: return EROFS;
        case Errc::kBusy: return EBUSY;
        case Errc::kTooLarge: return EFBIG;
        case Errc::kTooLong: return ENAMETOOLONG;
        case Errc::kRange: return ERANGE;
        case Errc::kNotDirectory: return ENOTDIR;
        case Errc::kIsDirectory: return EISDIR;
        case Errc::kNotEmpty: return ENOTEMPTY;
        case Errc::kTooManyLinks: return EMLINK;
        case Errc::kLoop: return EINVAL;
        case Errc::kPermission: return EPERM;
        case Errc::kAccess: return EACCES;
        case Errc::kNotSupported: return EOPNOTSUPP;
        case Errc::kNoMemory: return ENOMEM;
        case Errc::kWrongFormat: return EINVAL;
        case Errc::kSystem: return error.sys_errno > 0 ? error.sys_errno : EIO;
    }
    return EIO;
}

Error errno_error(int sys_errno, const char* what) {
    CHECK(sys_errno > 0);
    Error error{.code = Errc::kSystem, .sys_errno = sys_errno, .what = what};
    switch (sys_errno) {
        case EIO: error.code = Errc::kIo; break;
        case ENODEV:
        case ENXIO: error.code = Errc::kDeviceGone; break;
        case ENOSPC:
        case EDQUOT: error.code = Errc::kNoSpace; break;
        case EBUSY: error.code = Errc::kBusy; break;
        case ENOENT: error.code = Errc::kNotFound; break;
        case EINVAL: error.code = Errc::kInvalidArgument; break;
        case EROFS: error.code = Errc::kReadOnly; break;
        case EACCES: error.code = Errc::kAccess; break;
        case EPERM: error.code = Errc::kPermission; break;
        case ENOMEM: error.code = Errc::kNoMemory; break;
        default: break;
    }
    return error;
}

}  // namespace blobfs
