#pragma once

// The command line of blobfs-fuse, and of mount.fuse.blobfs, which is the same program under the
// name that mount(8) looks for.

namespace blobfs::fs::fuse {

// Returns the exit status.
int run_blobfs_fuse(int argc, char** argv);

}  // namespace blobfs::fs::fuse
