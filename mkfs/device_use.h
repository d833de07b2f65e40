#pragma once

// Who uses a file or block device at the moment: a mount, a loop device, swap, another block device
// on top of it, a process that holds a lock on it (a blobfs daemon, a virtual machine). Any thread.

#include <cstdint>
#include <optional>
#include <string>

namespace blobfs::mkfs {

// The use in words, to be put after "is": "mounted on /mnt", "locked by another process";
// nothing when no use can be seen. What was unmounted a moment ago may be locked a little longer:
// such a lock is waited for up to wait_ms. Needs no right but to read the device.
[[nodiscard]] std::optional<std::string> find_device_use(const std::string& path,
                                                         std::uint32_t wait_ms);

}  // namespace blobfs::mkfs
