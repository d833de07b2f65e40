#include "fs/fuse/administrator.h"

#include <linux/capability.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace blobfs::fs::fuse {

namespace {

// The effective capabilities; none when the process cannot be seen.
std::uint64_t capabilities(std::uint32_t process) {
    static constexpr std::string_view kLine = "CapEff:";
    std::ifstream status("/proc/" + std::to_string(process) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with(kLine)) return std::strtoull(line.c_str() + kLine.size(), nullptr, 16);
    }
    return 0;
}

}  // namespace

bool may_administrate(const fuse_in_header& request) {
    const uid_t ours = ::geteuid();
    if (ours != 0 && request.uid == ours) return true;
    return request.uid == 0 && request.pid != 0 &&
           (capabilities(request.pid) >> CAP_SYS_ADMIN & 1) != 0;
}

}  // namespace blobfs::fs::fuse
