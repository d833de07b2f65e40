#include "fs/fuse/program.h"

#include <sys/mount.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "driver/base/command_line.h"
#include "fs/fuse/daemon.h"

namespace blobfs::fs::fuse {

namespace {

constexpr int kUsageError = 2;

constexpr const char* kOptionHelp =
    "Mount options (-o):\n"
    "  ro, rw                read-only, read and write (default)\n"
    "  allow_other           everybody may use the mount (default when root mounts)\n"
    "  allow_root            root may, besides the owner\n"
    "  noallow_other         nobody but the owner (default for others than root)\n"
    "  default_permissions   the kernel checks permissions (always on)\n"
    "  fsname=NAME           the source that is shown in /proc/mounts (default: DEVICE)\n"
    "  subtype=NAME          the type is fuse.NAME (default: fuse.blobfs)\n"
    "  [no]suid, [no]dev, [no]exec, sync, dirsync\n"
    "                        as in mount(8); suid and dev are the default for root\n"
    "  relatime, noatime, strictatime\n"
    "                        when reading changes access times (default: relatime)\n"
    "  commit=SECONDS        make changes durable at least that often (1 to 300, default 1)\n"
    "  cache_size=SIZE       memory for metadata, as --cache-size\n"
    "  io_uring              talk to the kernel by io_uring, where it offers that\n"
    "  poll=always           as --poll\n"
    "  auto_unmount          unmount when the daemon dies\n"
    "  x-..., _netdev, nofail, noauto, user, users, ...\n"
    "                        for /etc/fstab: accepted\n";

int usage_error(const std::string& message) {
    std::fprintf(stderr, "blobfs-fuse: %s\n", message.c_str());
    return kUsageError;
}

// Changes the flags of a mount that is there: what the kernel can do without the daemon.
int remount(const DaemonOptions& options) {
    unsigned long flags = MS_REMOUNT;
    if (options.mount.read_only) flags |= MS_RDONLY;
    struct Flag {
        std::string_view on, off;
        unsigned long bit;
    };
    static constexpr std::array<Flag, 6> kFlags = {{{"nosuid", "suid", MS_NOSUID},
                                                    {"nodev", "dev", MS_NODEV},
                                                    {"noexec", "exec", MS_NOEXEC},
                                                    {"sync", "async", MS_SYNCHRONOUS},
                                                    {"noatime", "atime", MS_NOATIME},
                                                    {"dirsync", "dirsync", MS_DIRSYNC}}};
    for (const Flag& flag : kFlags) {
        if (options.mount.last_of({flag.on, flag.off}) == flag.on) flags |= flag.bit;
    }
    if (::mount(options.device.c_str(), options.mountpoint.c_str(), "fuse.blobfs", flags,
                nullptr) == 0) {
        return EXIT_SUCCESS;
    }
    std::fprintf(stderr, "blobfs-fuse: remounting %s: %s\n", options.mountpoint.c_str(),
                 std::strerror(errno));
    return EXIT_FAILURE;
}

int run(DaemonOptions& options, const std::vector<std::string>& option_lists) {
    for (const std::string& list : option_lists) {
        if (const auto wrong = options.mount.add(list)) return usage_error(*wrong);
    }
    if (options.mount.workers.value_or(0) != 0) {
        return usage_error(
            "workers: only 0 is supported, the reactor then serves the kernel by itself");
    }
    if (options.mount.remount) return remount(options);
    return run_daemon(options);
}

// As mount(8) calls it: DEVICE DIR [-sfnvrw] [-N NAMESPACE] [-o OPTIONS] [-t TYPE].
int run_as_mount_helper(int argc, char** argv) {
    DaemonOptions options;
    std::vector<std::string> lists, positional;
    bool fake = false;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.size() < 2 || argument[0] != '-') {
            positional.push_back(argument);
            continue;
        }
        for (std::size_t letter = 1; letter < argument.size(); ++letter) {
            switch (argument[letter]) {
                case 's':  // tolerate unknown options: there are none that matter
                case 'n':
                    break;  // there is no mtab
                case 'f':
                    fake = true;
                    break;
                case 'v':
                    break;
                case 'r':
                    lists.emplace_back("ro");
                    break;
                case 'w':
                    lists.emplace_back("rw");
                    break;
                case 'o':
                case 't':
                case 'N': {
                    std::string value = argument.substr(letter + 1);
                    if (value.empty() && i + 1 < argc) value = argv[++i];
                    if (argument[letter] == 'o') lists.push_back(value);
                    letter = argument.size();
                    break;
                }
                default:
                    return usage_error("unknown option " + argument);
            }
        }
    }
    if (positional.size() != 2) {
        return usage_error("usage: mount.fuse.blobfs DEVICE MOUNTPOINT [-o OPTIONS]");
    }
    options.device = positional[0];
    options.mountpoint = positional[1];
    if (fake) return EXIT_SUCCESS;
    return run(options, lists);
}

}  // namespace

int run_blobfs_fuse(int argc, char** argv) {
    const std::string called = std::filesystem::path(argv[0]).filename().string();
    if (called.starts_with("mount.")) return run_as_mount_helper(argc, argv);

    DaemonOptions options;
    std::vector<std::string> lists;
    std::string cache_size, poll = "auto";
    unsigned workers = 0;
    command_line::Parser parser(
        "Mounts a blobfs filesystem.\n\n"
        "DEVICE is a file or block device that mkfs.blobfs made a filesystem on, the PCI\n"
        "address of an NVMe SSD (0000:03:00.0), or mem:SIZE, a new and empty filesystem in\n"
        "memory. Unmount with umount or fusermount3 -u.",
        "blobfs-fuse");
    parser.footer(kOptionHelp);
    parser.help("Print this help and exit");
    parser.version("blobfs-fuse " BLOBFS_VERSION, "Print the version and exit");
    parser.option("DEVICE", options.device, "What to mount").required();
    parser.option("MOUNTPOINT", options.mountpoint, "The directory to mount it on").required();
    parser.option("-o", lists, "Mount options, separated by commas; see below")
        .shown_as("OPT,...")
        .each_time();
    parser.flag("-f,--foreground", options.foreground,
                "Stay in the foreground, log to standard error");
    parser.flag("-d,--debug", options.trace, "Log each request of the kernel (implies -f)");
    parser.flag("-v,--verbose", options.verbose, "Log more");
    parser
        .option("--cache-size", cache_size,
                "Memory for metadata, such as 64MiB (default: 1/16 of the machine's)")
        .shown_as("SIZE");
    parser.option("--poll", poll, "always: never sleep, for the last microsecond")
        .one_of({"auto", "always"});
    parser.option("--workers", workers, "Threads that serve the kernel besides the reactor: 0")
        .shown_as("N");
    const command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict == command_line::Parsed::Verdict::kAnswered) {
        std::fputs(parsed.text.c_str(), stdout);
        return EXIT_SUCCESS;
    }
    if (parsed.verdict == command_line::Parsed::Verdict::kWrong) {
        return usage_error(parsed.complaint + "; see blobfs-fuse --help");
    }
    options.foreground |= options.trace;
    if (!cache_size.empty()) {
        if (const auto wrong = options.mount.add("cache_size=" + cache_size)) {
            return usage_error(*wrong);
        }
    }
    if (poll == "always") options.mount.poll_always = true;
    if (workers != 0) options.mount.workers = workers;
    return run(options, lists);
}

}  // namespace blobfs::fs::fuse
