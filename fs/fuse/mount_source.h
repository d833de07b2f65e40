#pragma once

// The DEVICE argument of a mount: the device, and its name as everybody should see it whatever
// their working directory, in /proc/mounts above all. Any thread.

#include <string>

#include "driver/base/result.h"
#include "driver/device_name.h"

namespace blobfs::fs::fuse {

struct MountSource {
    driver::DeviceName device;
    std::string name;  // to hand to Device::open(); a file's path is absolute
};

// kInvalidArgument when it is no DEVICE (driver/device_name.h).
Result<MountSource> parse_mount_source(const std::string& argument);

}  // namespace blobfs::fs::fuse
