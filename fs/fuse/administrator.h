#pragma once

// Who may do what concerns the filesystem as a whole (ioctls on a mount). Reactor thread.

#include <linux/fuse.h>

namespace blobfs::fs::fuse {

// Whether the process that sent the request is the superuser with CAP_SYS_ADMIN, as XFS asks for,
// or the user who runs this daemon and could kill it as well. The kernel tells us user and process;
// the capability is read from /proc. A process that cannot be seen there, or the superuser of a
// user namespace only, may not.
[[nodiscard]] bool may_administrate(const fuse_in_header& request);

}  // namespace blobfs::fs::fuse
