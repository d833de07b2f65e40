#pragma once

// What follows -o, as ext4, FUSE and /etc/fstab users write it. Any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/filesystem.h"

namespace blobfs::fs::fuse {

// Who may use the mount. By default everybody when root mounts (the permission bits decide, as on
// any filesystem), and only the owner otherwise.
enum class Access : std::uint8_t { kOwner, kOwnerAndRoot, kEverybody };

struct MountOptions {
    bool read_only = false;
    bool remount = false;
    bool auto_unmount = false;
    std::optional<Access> access;
    std::optional<std::string> source_name;  // fsname=
    std::string subtype = "blobfs";
    // Options of the kernel, passed on as they are: nosuid, sync, ...; the later one wins.
    std::vector<std::string> kernel;
    std::optional<AtimePolicy> atime;
    std::optional<std::uint32_t> commit_seconds;
    std::optional<std::uint64_t> cache_bytes;
    std::optional<bool> poll_always;
    std::optional<std::uint32_t> workers;
    std::optional<bool> io_uring;

    // Adds the options of one -o argument, separated by commas (a backslash takes the next
    // character as it is). What is wrong, for a person to read; nothing when all is well.
    std::optional<std::string> add(std::string_view list);
    // The last of the given kernel options that was given, or nothing.
    [[nodiscard]] std::optional<std::string> last_of(
        std::initializer_list<std::string_view> names) const;

  private:
    std::optional<std::string> add_one(const std::string& option);
};

}  // namespace blobfs::fs::fuse
