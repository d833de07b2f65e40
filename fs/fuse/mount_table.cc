#include "fs/fuse/mount_table.h"

#include <cstdio>
#include <fstream>
#include <sstream>

namespace blobfs::fs::fuse {

namespace {

// The kernel writes blanks, tabs, newlines, backslashes and hashes as \ooo.
std::string unescape(const std::string& text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size()) {
            int code = 0;
            for (std::size_t digit = 1; digit <= 3; ++digit)
                code = code * 8 + (text[i + digit] - '0');
            plain += static_cast<char>(code);
            i += 3;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

}  // namespace

std::optional<MountEntry> find_mount(const std::string& mountpoint) {
    std::ifstream table("/proc/self/mountinfo");
    std::optional<MountEntry> found;
    std::string line;
    while (std::getline(table, line)) {
        // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS...] - TYPE SOURCE OPTIONS
        std::istringstream fields(line);
        std::string id, parent, device, root, place, field;
        fields >> id >> parent >> device >> root >> place;
        if (!fields || unescape(place) != mountpoint) continue;
        while (fields >> field && field != "-") {
        }
        MountEntry entry;
        std::string source;
        if (!(fields >> entry.type >> source)) continue;
        if (std::sscanf(device.c_str(), "%u:%u", &entry.major, &entry.minor) != 2) continue;
        entry.mountpoint = mountpoint;
        entry.source = unescape(source);
        found = entry;
    }
    return found;
}

}  // namespace blobfs::fs::fuse
