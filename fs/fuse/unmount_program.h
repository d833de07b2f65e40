#pragma once

// umount.fuse.blobfs: the helper that umount(8) calls for a blobfs. It unmounts, and returns only
// when the daemon has let go of the device, so that what follows (mkfs, fsck, a mount, the removal
// of the file) finds it free.

namespace blobfs::fs::fuse {

// MOUNTPOINT [-lfnrv] [-t TYPE] [-N NAMESPACE]. Returns the exit status.
int run_unmount(int argc, char** argv);

}  // namespace blobfs::fs::fuse
