#pragma once

// /proc/self/mountinfo. Reading it touches no filesystem, so that a daemon may look for its own
// mount without asking itself. Any thread.

#include <optional>
#include <string>

namespace blobfs::fs::fuse {

struct MountEntry {
    unsigned major = 0, minor = 0;  // of its files' st_dev
    std::string mountpoint, type, source;
};

// What is mounted last at the absolute path, without trailing slash.
std::optional<MountEntry> find_mount(const std::string& mountpoint);

}  // namespace blobfs::fs::fuse
