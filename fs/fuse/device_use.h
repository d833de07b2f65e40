#pragma once

// Whether a daemon holds a device, asked from outside without disturbing it. Any thread.

#include <cstdint>

#include "driver/device_name.h"

namespace blobfs::fs::fuse {

enum class DeviceUse : std::uint8_t { kFree, kInUse, kUnknown };

// kFile: whether somebody holds the lock that a daemon takes on it; kPcie: whether somebody has its
// VFIO group open. kUnknown when it cannot be told (memory, no permission, no such device).
DeviceUse device_use(const driver::DeviceName& device);

}  // namespace blobfs::fs::fuse
