#include "mkfs/device_use.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

namespace blobfs::mkfs {

namespace {

namespace stdfs = std::filesystem;

constexpr auto kLockPollInterval = std::chrono::milliseconds(20);

std::string device_numbers(dev_t device) {
    return std::to_string(major(device)) + ":" + std::to_string(minor(device));
}

// The kernel writes space, tab, newline and backslash as \ooo in mountinfo and swaps.
std::string unescape(const std::string& text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size()) {
            result += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                        (text[i + 3] - '0'));
            i += 3;
        } else {
            result += text[i];
        }
    }
    return result;
}

bool same_file(const std::string& path, const struct stat& status) {
    struct stat other {};
    if (stat(path.c_str(), &other) != 0) return false;
    if (S_ISBLK(status.st_mode)) return S_ISBLK(other.st_mode) && other.st_rdev == status.st_rdev;
    return other.st_dev == status.st_dev && other.st_ino == status.st_ino;
}

// Calls visit(numbers, mount point, type, source) for each mount of this namespace.
template <class Visit>
void for_each_mount(Visit visit) {
    std::ifstream mounts("/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) {
        std::istringstream fields(line);
        std::string id, parent, numbers, root, point, word, type, source;
        fields >> id >> parent >> numbers >> root >> point;
        while (fields >> word && word != "-") {
        }
        fields >> type >> source;
        visit(numbers, unescape(point), type, unescape(source));
    }
}

std::optional<std::string> mounted_block_device(dev_t device) {
    std::optional<std::string> use;
    const std::string wanted = device_numbers(device);
    for_each_mount([&](const std::string& numbers, const std::string& point,
                       const std::string& type, const std::string&) {
        if (!use && numbers == wanted) use = "mounted on " + point + " (" + type + ")";
    });
    return use;
}

std::optional<std::string> mounted_by_blobfs(const struct stat& status) {
    std::optional<std::string> use;
    for_each_mount([&](const std::string&, const std::string& point, const std::string& type,
                       const std::string& source) {
        if (!use && type == "fuse.blobfs" && source.starts_with('/') && same_file(source, status)) {
            use = "mounted on " + point + " (blobfs)";
        }
    });
    return use;
}

std::optional<std::string> swap_area(const struct stat& status) {
    std::ifstream swaps("/proc/swaps");
    std::string line;
    std::getline(swaps, line);  // headings
    while (std::getline(swaps, line)) {
        const std::string path = unescape(line.substr(0, line.find_first_of(" \t")));
        if (same_file(path, status)) return "used as swap space";
    }
    return std::nullopt;
}

std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code error;
    for (stdfs::directory_iterator it(folder, error), end; !error && it != end;
         it.increment(error)) {
        names.push_back(it->path().filename().string());
    }
    return names;
}

std::optional<std::string> block_device_use(dev_t device) {
    if (auto use = mounted_block_device(device)) return use;
    const std::string folder = "/sys/dev/block/" + device_numbers(device);
    for (const std::string& holder : names_in(folder + "/holders")) {
        return "part of the block device " + holder;
    }
    for (const std::string& name : names_in(folder)) {
        std::ifstream numbers(folder + "/" + name + "/dev");
        unsigned part_major = 0;
        unsigned part_minor = 0;
        char colon = 0;
        if (!stdfs::exists(folder + "/" + name + "/partition")) continue;
        if (!(numbers >> part_major >> colon >> part_minor)) continue;
        if (auto use = mounted_block_device(makedev(part_major, part_minor))) {
            return "in use: its partition " + name + " is " + *use;
        }
    }
    return std::nullopt;
}

// A loop device whose backing file this is.
std::optional<std::string> loop_device(const struct stat& status) {
    for (const std::string& name : names_in("/sys/block")) {
        if (!name.starts_with("loop")) continue;
        std::ifstream file("/sys/block/" + name + "/loop/backing_file");
        std::string backing;
        if (!std::getline(file, backing) || !same_file(backing, status)) continue;
        struct stat loop {};
        const std::string node = "/dev/" + name;
        std::string use = "attached to the loop device " + node;
        if (stat(node.c_str(), &loop) == 0) {
            if (auto upper = block_device_use(loop.st_rdev)) use += ", which is " + *upper;
        }
        return use;
    }
    return std::nullopt;
}

bool is_locked(int descriptor) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

std::optional<std::string> lock_holder(const std::string& path, const struct stat& status,
                                       std::uint32_t wait_ms) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return std::nullopt;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(wait_ms);
    bool locked = is_locked(descriptor);
    std::optional<std::string> mount = locked ? mounted_by_blobfs(status) : std::nullopt;
    while (locked && !mount && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::sleep_for(kLockPollInterval);
        locked = is_locked(descriptor);
        if (locked) mount = mounted_by_blobfs(status);
    }
    close(descriptor);
    if (!locked) return std::nullopt;
    return mount ? mount : "locked by another process";
}

// The kernel's own answer for block devices, which covers other mount namespaces too.
bool is_claimed(const std::string& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
    if (descriptor < 0) return errno == EBUSY;
    close(descriptor);
    return false;
}

}  // namespace

std::optional<std::string> find_device_use(const std::string& path, std::uint32_t wait_ms) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) return std::nullopt;
    if (auto use = swap_area(status)) return use;
    if (S_ISBLK(status.st_mode)) {
        if (auto use = block_device_use(status.st_rdev)) return use;
    } else if (auto use = loop_device(status)) {
        return use;
    }
    if (auto use = lock_holder(path, status, wait_ms)) return use;
    if (S_ISBLK(status.st_mode) && is_claimed(path)) return "in use (the kernel says so)";
    return std::nullopt;
}

}  // namespace blobfs::mkfs
