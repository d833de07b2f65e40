#include "fs/fuse/mount_options.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "driver/device_name.h"

namespace blobfs::fs::fuse {

namespace {

// Options that the kernel's mount call takes.
constexpr std::array<std::string_view, 12> kKernelOptions = {
    "suid", "nosuid", "dev",     "nodev", "exec",    "noexec",
    "sync", "async",  "dirsync", "atime", "noatime", "diratime"};

// Options that mean something to mount(8), systemd or nobody.
constexpr std::array<std::string_view, 17> kIgnoredOptions = {"defaults",
                                                              "auto",
                                                              "noauto",
                                                              "user",
                                                              "nouser",
                                                              "users",
                                                              "owner",
                                                              "group",
                                                              "nofail",
                                                              "_netdev",
                                                              "silent",
                                                              "loud",
                                                              "nodiratime",
                                                              "mand",
                                                              "nomand",
                                                              "nonempty",
                                                              "default_permissions"};

std::optional<std::uint32_t> parse_number(std::string_view text, std::uint32_t most) {
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size() || number > most) return {};
    return number;
}

template <std::size_t kCount>
bool is_one_of(std::string_view name, const std::array<std::string_view, kCount>& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::optional<std::string> MountOptions::add(std::string_view list) {
    std::string option;
    for (std::size_t i = 0; i <= list.size(); ++i) {
        if (i == list.size() || list[i] == ',') {
            if (!option.empty()) {
                if (auto wrong = add_one(option)) return wrong;
            }
            option.clear();
        } else {
            if (list[i] == '\\' && i + 1 < list.size()) ++i;
            option += list[i];
        }
    }
    return std::nullopt;
}

std::optional<std::string> MountOptions::add_one(const std::string& option) {
    const std::size_t equals = option.find('=');
    const std::string name = option.substr(0, equals);
    const bool has_value = equals != std::string::npos;
    const std::string text = has_value ? option.substr(equals + 1) : std::string();
    const auto wrong = [&](const std::string& expected) {
        return "mount option '" + option + "': " + expected;
    };

    if (name.starts_with("x-") || name == "user" || name == "comment" || name == "uhelper" ||
        name == "helper" || name == "user_id" || name == "group_id" || name == "rootmode") {
        // The last three are what a remount finds in /proc/mounts.
        return std::nullopt;
    }
    if (has_value) {
        if (name == "fsname") {
            source_name = text;
        } else if (name == "subtype") {
            subtype = text;
        } else if (name == "commit") {
            constexpr std::uint32_t kLongest = 300;
            const auto seconds = parse_number(text, kLongest);
            if (!seconds) return wrong("a number of seconds from 0 (default) to 300 is needed");
            if (*seconds != 0) commit_seconds = *seconds;
        } else if (name == "cache_size") {
            const Result<std::uint64_t> bytes = driver::parse_size(text);
            if (!bytes || *bytes == 0) return wrong("a size such as 64MiB is needed");
            cache_bytes = *bytes;
        } else if (name == "poll") {
            if (text != "always" && text != "auto") return wrong("'always' or 'auto' is needed");
            poll_always = text == "always";
        } else if (name == "workers") {
            workers = parse_number(text, 1024);
            if (!workers) return wrong("a number is needed");
        } else {
            return "unknown mount option '" + option + "'; see blobfs-fuse --help";
        }
        return std::nullopt;
    }
    if (name == "ro") {
        read_only = true;
    } else if (name == "rw") {
        read_only = false;
    } else if (name == "remount") {
        remount = true;
    } else if (name == "io_uring" || name == "noio_uring") {
        io_uring = name == "io_uring";
    } else if (name == "auto_unmount") {
        auto_unmount = true;
    } else if (name == "allow_other") {
        access = Access::kEverybody;
    } else if (name == "allow_root") {
        access = Access::kOwnerAndRoot;
    } else if (name == "noallow_other") {
        access = Access::kOwner;
    } else if (name == "relatime") {
        atime = AtimePolicy::kRelative;
    } else if (name == "strictatime" || name == "norelatime") {
        atime = AtimePolicy::kStrict;
    } else if (name == "lazytime" || name == "nolazytime" || name == "nostrictatime" ||
               name == "iversion" || name == "noiversion") {
        // Times are kept lazily by the filesystem itself.
    } else if (is_one_of(name, kKernelOptions)) {
        if (name == "noatime") atime = AtimePolicy::kNever;
        if (name == "atime" && atime == AtimePolicy::kNever) atime.reset();
        if (name != "diratime") kernel.push_back(name);
    } else if (!is_one_of(name, kIgnoredOptions)) {
        return "unknown mount option '" + option + "'; see blobfs-fuse --help";
    }
    return std::nullopt;
}

std::optional<std::string> MountOptions::last_of(
    std::initializer_list<std::string_view> names) const {
    for (auto option = kernel.rbegin(); option != kernel.rend(); ++option) {
        if (std::find(names.begin(), names.end(), *option) != names.end()) return *option;
    }
    return std::nullopt;
}

}  // namespace blobfs::fs::fuse
