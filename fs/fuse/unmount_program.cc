#include "fs/fuse/unmount_program.h"

#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fs/fuse/device_use.h"
#include "fs/fuse/mount_source.h"
#include "fs/fuse/mount_table.h"

extern char** environ;  // NOLINT: declared by POSIX

namespace blobfs::fs::fuse {

namespace {

constexpr int kWrongUsage = 1;
constexpr int kUnmountFailed = 32;  // as umount(8) has it
constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kStep = std::chrono::milliseconds(5);

struct UnmountOptions {
    std::string mountpoint;
    bool lazy = false, force = false, read_only_if_busy = false, verbose = false;
};

int complain(int status, const std::string& message) {
    std::fprintf(stderr, "umount.fuse.blobfs: %s\n", message.c_str());
    return status;
}

bool parse(int argc, char** argv, UnmountOptions& options) {
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.size() < 2 || argument[0] != '-') {
            if (!options.mountpoint.empty()) return false;
            options.mountpoint = argument;
            continue;
        }
        for (std::size_t letter = 1; letter < argument.size(); ++letter) {
            switch (argument[letter]) {
                case 'l':
                    options.lazy = true;
                    break;
                case 'f':
                    options.force = true;
                    break;
                case 'r':
                    options.read_only_if_busy = true;
                    break;
                case 'v':
                    options.verbose = true;
                    break;
                case 'n':
                    break;
                case 't':
                case 'N':
                    if (letter + 1 == argument.size()) ++i;
                    letter = argument.size();
                    break;
                default:
                    return false;
            }
        }
    }
    return !options.mountpoint.empty();
}

// The mount at the path as given, which needs no answer from its daemon, or else at what it leads
// to.
std::optional<MountEntry> resolve(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    if (auto found = find_mount(path)) return found;
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                           &std::free);
    return real ? find_mount(real.get()) : std::nullopt;
}

int unmount_as_user(const UnmountOptions& options, const std::string& path) {
    std::vector<const char*> arguments = {"fusermount3", "-u"};
    if (options.lazy) arguments.push_back("-z");
    arguments.push_back("--");
    arguments.push_back(path.c_str());
    arguments.push_back(nullptr);
    pid_t child = 0;
    if (::posix_spawnp(&child, arguments[0], nullptr, nullptr,
                       const_cast<char* const*>(arguments.data()), environ) != 0) {
        return complain(kUnmountFailed, "fusermount3 cannot be started; install the package fuse3");
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : kUnmountFailed;
}

int unmount(const UnmountOptions& options, const std::string& path) {
    if (::geteuid() != 0) return unmount_as_user(options, path);
    const int flags = (options.lazy ? MNT_DETACH : 0) | (options.force ? MNT_FORCE : 0);
    if (::umount2(path.c_str(), flags) == 0) return 0;
    const int reason = errno;
    if (reason == EBUSY && options.read_only_if_busy &&
        ::mount(nullptr, path.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0) {
        return complain(0, path + " is busy: remounted read-only");
    }
    if (reason == EBUSY) {
        return complain(kUnmountFailed,
                        path + ": target is busy; find out by whom with: fuser -vm " + path);
    }
    return complain(kUnmountFailed, path + ": " + std::strerror(reason));
}

}  // namespace

int run_unmount(int argc, char** argv) {
    UnmountOptions options;
    if (!parse(argc, argv, options)) {
        return complain(kWrongUsage, "usage: umount.fuse.blobfs MOUNTPOINT [-lfrnv]");
    }
    const auto mount = resolve(options.mountpoint);
    if (!mount) return complain(kUnmountFailed, options.mountpoint + " is not mounted");
    if (!mount->type.starts_with("fuse")) {
        return complain(kUnmountFailed,
                        options.mountpoint + " is a " + mount->type + ", no blobfs");
    }
    const Result<MountSource> source = parse_mount_source(mount->source);
    if (const int status = unmount(options, mount->mountpoint); status != 0) return status;
    if (options.verbose) std::printf("%s unmounted\n", mount->mountpoint.c_str());
    // Detached, it lives on as long as files are open; remounted, it is still there.
    if (options.lazy || find_mount(mount->mountpoint) || !source) return 0;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (device_use(source->device) == DeviceUse::kInUse) {
        if (std::chrono::steady_clock::now() > deadline) {
            return complain(kUnmountFailed,
                            mount->mountpoint + " is unmounted, but " + source->name +
                                " is still in use after 60 seconds: its daemon is still writing, "
                                "or the filesystem is mounted in another namespace");
        }
        std::this_thread::sleep_for(kStep);
    }
    return 0;
}

}  // namespace blobfs::fs::fuse
