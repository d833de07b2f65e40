#pragma once

// A mounted blobfs from the first check to the clean end, as one call: what the program
// blobfs-fuse does once its command line is understood.

#include <cstdint>
#include <string>

#include "fs/fuse/mount_options.h"

namespace blobfs::fs::fuse {

struct DaemonOptions {
    std::string device;  // as written by the user
    std::string mountpoint;
    MountOptions mount;
    bool foreground = false;  // stay, and log to standard error
    bool verbose = false;
    bool trace = false;  // each FUSE request to the log
};

// Opens the device, mounts, serves until the filesystem is unmounted or the process is asked to
// end (SIGTERM, SIGINT, SIGHUP), makes everything durable and lets go of the device. SIGUSR1 logs
// statistics. In the background by default: then only the child returns. What goes wrong before the
// mount works is printed to standard error, and leaves nothing mounted. Returns the exit status.
int run_daemon(const DaemonOptions& options);

// Metadata cache by default: a sixteenth of the machine's memory, 32 MiB to 512 MiB. In bytes.
std::uint64_t default_cache_bytes();

}  // namespace blobfs::fs::fuse
