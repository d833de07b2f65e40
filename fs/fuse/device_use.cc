#include "fs/fuse/device_use.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

namespace blobfs::fs::fuse {

namespace {

DeviceUse path_use(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return DeviceUse::kUnknown;
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    const bool asked = ::fcntl(file, F_OFD_GETLK, &lock) == 0;
    ::close(file);
    if (!asked) return DeviceUse::kUnknown;
    return lock.l_type == F_UNLCK ? DeviceUse::kFree : DeviceUse::kInUse;
}

DeviceUse pcie_use(const std::string& address) {
    std::error_code error;
    const auto group =
        std::filesystem::read_symlink("/sys/bus/pci/devices/" + address + "/iommu_group", error);
    if (error) return DeviceUse::kUnknown;
    for (const char* prefix : {"/dev/vfio/", "/dev/vfio/noiommu-"}) {
        const int file = ::open((prefix + group.filename().string()).c_str(), O_RDWR | O_CLOEXEC);
        if (file >= 0) {
            ::close(file);
            return DeviceUse::kFree;
        }
        if (errno == EBUSY) return DeviceUse::kInUse;
    }
    return DeviceUse::kUnknown;
}

}  // namespace

DeviceUse device_use(const driver::DeviceName& device) {
    using Kind = driver::DeviceName::Kind;
    switch (device.kind) {
        case Kind::kFile:
            return path_use(device.path);
        case Kind::kPcie:
            return pcie_use(device.address);
        case Kind::kMemory:
            return DeviceUse::kUnknown;
    }
    return DeviceUse::kUnknown;
}

}  // namespace blobfs::fs::fuse
