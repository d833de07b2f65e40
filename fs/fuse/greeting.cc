#include "fs/fuse/greeting.h"

#include <algorithm>

namespace blobfs::fs::fuse {

namespace {

constexpr std::uint32_t kOldestMinor = 34;
constexpr std::uint32_t kPageBytes = 4096;

// What we take when it is offered, and why.
constexpr std::uint64_t kWanted =
    // Many requests at once: read-ahead, direct I/O, lookups and listings of one directory.
    FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
    // Large requests.
    FUSE_BIG_WRITES | FUSE_MAX_PAGES |
    // The kernel's page cache takes writes and owns size and times of cached files.
    FUSE_WRITEBACK_CACHE |
    // A listing brings the attributes along when the caller seems to want them.
    FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_CACHE_SYMLINKS |
    // OPEN and OPENDIR are answered with ENOSYS and never sent again. FUSE_ATOMIC_O_TRUNC is left
    // out on purpose: without OPEN nobody would tell us of the truncation.
    FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT |
    // File handles: lookups of "." and ".." by inode number.
    FUSE_EXPORT_SUPPORT |
    // The kernel checks permissions and ACLs; the umask gives way to a directory's default ACL, so
    // the filesystem applies it.
    FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT |
    // Who makes a setgid program in a setgid directory must be in its group.
    kCreateSupplementaryGroup |
    // Set-id bits and security.capability go when somebody writes, truncates or changes the owner:
    // the kernel tells us with the request, and need not ask for security.capability each time.
    FUSE_HANDLE_KILLPRIV_V2 |
    // After an abort we are told so, and not that the filesystem was unmounted.
    FUSE_ABORT_ERROR | FUSE_INIT_EXT;

}  // namespace

Result<fuse_init_out> answer_greeting(const fuse_init_in& greeting, const Offer& offer) {
    if (greeting.major < FUSE_KERNEL_VERSION ||
        (greeting.major == FUSE_KERNEL_VERSION && greeting.minor < kOldestMinor)) {
        return fail(Errc::kNotSupported,
                    "greeting the kernel: its FUSE is too old, Linux 5.14 or newer is needed");
    }
    fuse_init_out answer{};
    answer.major = FUSE_KERNEL_VERSION;
    answer.minor = FUSE_KERNEL_MINOR_VERSION;
    // A newer major version: it will greet again with ours.
    if (greeting.major > FUSE_KERNEL_VERSION) return answer;

    std::uint64_t offered = greeting.flags;
    if ((offered & FUSE_INIT_EXT) != 0) {
        offered |= static_cast<std::uint64_t>(greeting.flags2) << 32;
    }
    const std::uint64_t taken = offered & (kWanted | (offer.io_uring ? kOverIoUring : 0));
    answer.flags = static_cast<std::uint32_t>(taken);
    answer.flags2 = static_cast<std::uint32_t>(taken >> 32);
    answer.max_readahead = std::min(greeting.max_readahead, offer.max_readahead_bytes);
    answer.max_background = offer.max_background;
    answer.congestion_threshold = static_cast<std::uint16_t>(offer.max_background * 3 / 4);
    answer.max_write = offer.max_write_bytes;
    answer.max_pages = static_cast<std::uint16_t>(offer.max_write_bytes / kPageBytes);
    answer.time_gran = 1;
    return answer;
}

}  // namespace blobfs::fs::fuse
