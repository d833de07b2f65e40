#pragma once

// The ioctls that a mounted filesystem answers on any of its files and directories: between the
// daemon and the tools of the same version. Root's (administrator.h). The kernel passes them on as
// they are, so sizes and directions stand in the numbers. Any thread.

#include <sys/ioctl.h>

#include <cstdint>

namespace blobfs::fs::fuse {

// FS_IOC_SHUTDOWN, which XFS calls XFS_IOC_GOINGDOWN and ext4 EXT4_IOC_SHUTDOWN. Its flags are data
// that the kernel does not pass on, as the number says that they come from us.
inline constexpr std::uint32_t kIoctlShutdown = _IOR('X', 125, std::uint32_t);

// The online check (fs/fsck/online_check.h). Texts end with a zero, cut to their room.
struct CheckStart {
    std::uint64_t bytes_per_second;  // in; 0: no limit
    std::uint64_t run;               // out: its number
};
struct CheckStatus {
    std::uint64_t run;
    std::uint32_t outcome;  // OnlineCheck::Outcome
    std::uint32_t phase;    // Phase
    std::uint64_t done, total;
    std::uint64_t pages, page_bytes;
    std::uint64_t elapsed_ms;
    std::uint64_t found;
    std::uint64_t told;  // that can be asked for, when it does not run
    std::uint64_t inodes;
    std::uint32_t names_checked;
    std::uint32_t reserved;
    char error[256];
};
struct CheckProblem {
    std::uint64_t run, index;  // in
    std::uint64_t inode, block;
    char code[32];
    char remedy[160];
    char text[1024];
    char path[2048];
};

inline constexpr std::uint32_t kIoctlCheckStart = _IOWR(0xb1, 1, CheckStart);
inline constexpr std::uint32_t kIoctlCheckStatus = _IOR(0xb1, 2, CheckStatus);
inline constexpr std::uint32_t kIoctlCheckProblem = _IOWR(0xb1, 3, CheckProblem);
inline constexpr std::uint32_t kIoctlCheckCancel = _IO(0xb1, 4);

}  // namespace blobfs::fs::fuse
