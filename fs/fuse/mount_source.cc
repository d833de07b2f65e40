#include "fs/fuse/mount_source.h"

#include <filesystem>
#include <system_error>

namespace blobfs::fs::fuse {

namespace {

// Without symbolic links where it exists.
std::string absolute_path(const std::string& path) {
    std::error_code error;
    std::filesystem::path real = std::filesystem::canonical(path, error);
    if (!error) return real.string();
    real = std::filesystem::absolute(path, error);
    return error ? path : real.lexically_normal().string();
}

}  // namespace

Result<MountSource> parse_mount_source(const std::string& argument) {
    MountSource source;
    TRY_ASSIGN(source.device, driver::parse_device_name(argument));
    source.name = argument;
    if (source.device.kind == driver::DeviceName::Kind::kFile) {
        source.device.path = absolute_path(source.device.path);
        source.name = source.device.path;
    }
    return source;
}

}  // namespace blobfs::fs::fuse
