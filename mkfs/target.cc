#include "mkfs/target.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "blobstore/format.h"
#include "mkfs/device_use.h"

namespace blobfs::mkfs {

namespace {

constexpr std::uint64_t kFirstBytes = blobstore::kLogStartBlock * blobstore::kBlockBytes;

tl::unexpected<std::string> refuse(const std::string& text) {
    return tl::unexpected<std::string>(text);
}

bool is_hex(std::string_view text) {
    return !text.empty() &&
           text.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
}

// DDDD:BB:DD.F
bool is_pci_address(std::string_view text) {
    return text.size() >= 12 && text[text.size() - 2] == '.' && text[text.size() - 5] == ':' &&
           text[text.size() - 8] == ':' && is_hex(text.substr(0, text.size() - 8)) &&
           is_hex(text.substr(text.size() - 7, 2)) && is_hex(text.substr(text.size() - 4, 2)) &&
           is_hex(text.substr(text.size() - 1));
}

tl::expected<Target, std::string> survey_new_file(Target target, const SurveyOptions& options) {
    const std::string& path = target.path;
    if (!options.may_create) {
        return refuse(path + " does not exist; --size SIZE makes it, for example --size 8G");
    }
    std::string folder = std::filesystem::path(path).parent_path().string();
    if (folder.empty()) folder = ".";
    if (access(folder.c_str(), W_OK | X_OK) != 0) {
        return refuse("cannot make " + path + ": " + folder + ": " + std::strerror(errno));
    }
    target.kind = Target::Kind::kNewFile;
    return target;
}

// What can be told from the descriptor.
tl::expected<Target, std::string> survey_content(Target target, int descriptor) {
    if (target.kind == Target::Kind::kBlockDevice) {
        if (ioctl(descriptor, BLKGETSIZE64, &target.bytes) != 0) {
            return refuse("cannot tell the size of " + target.path + ": " + std::strerror(errno));
        }
    } else {
        struct stat status {};
        if (fstat(descriptor, &status) != 0) {
            return refuse("cannot tell the size of " + target.path + ": " + std::strerror(errno));
        }
        target.bytes = static_cast<std::uint64_t>(status.st_size);
    }
    if (target.bytes == 0) return target;
    auto signatures = find_signatures(descriptor);
    if (!signatures) return refuse(target.path + ": " + signatures.error());
    target.signatures = std::move(*signatures);
    if (target.kind == Target::Kind::kFile && target.signatures.empty()) {
        auto empty = starts_with_zeroes(descriptor, kFirstBytes);
        if (!empty) return refuse(target.path + ": " + empty.error());
        target.unknown_data = !*empty;
    }
    return target;
}

}  // namespace

tl::expected<Target, std::string> survey(const std::string& device, const SurveyOptions& options) {
    if (device.empty()) return refuse("the name of the device is empty");
    Target target;
    target.name = device;
    if (device.starts_with("pcie:") || device.starts_with("mem:") || is_pci_address(device)) {
        return target;
    }
    target.path = device.starts_with("file:") ? device.substr(5) : device;
    const std::string& path = target.path;

    struct stat status {};
    if (stat(path.c_str(), &status) != 0) {
        if (errno == ENOENT) return survey_new_file(std::move(target), options);
        return refuse("cannot look at " + path + ": " + std::strerror(errno));
    }
    if (S_ISDIR(status.st_mode)) {
        return refuse(path + " is a directory; name a file or a block device");
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        return refuse(path + " is neither a file nor a block device");
    }
    target.kind = S_ISREG(status.st_mode) ? Target::Kind::kFile : Target::Kind::kBlockDevice;

    if (auto use = find_device_use(path, options.lock_wait_ms)) {
        return refuse(path + " is " + *use + "; nothing was changed. Unmount or detach it first");
    }
    const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) {
        return refuse("cannot open " + path + " for writing: " + std::strerror(errno));
    }
    auto result = survey_content(std::move(target), descriptor);
    close(descriptor);
    return result;
}

}  // namespace blobfs::mkfs
