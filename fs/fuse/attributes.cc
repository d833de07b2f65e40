#include "fs/fuse/attributes.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace blobfs::fs::fuse {

namespace {

// st_blksize: what a program that does its own buffering should use.
constexpr std::uint32_t kPreferredBytes = 4096;
constexpr std::uint64_t kStatBlockBytes = 512;

StatxTime wire_time(const Timestamp& time) {
    return {.seconds = time.seconds, .nanoseconds = time.nanoseconds, .reserved = 0};
}

Result<Timestamp> timestamp(std::uint64_t seconds, std::uint32_t nanoseconds) {
    if (nanoseconds >= kNanosecondsPerSecond) {
        return fail(Errc::kInvalidArgument, "setting a time");
    }
    return Timestamp{.seconds = static_cast<std::int64_t>(seconds), .nanoseconds = nanoseconds};
}

}  // namespace

void fill(fuse_attr& wire, const Attributes& attributes) {
    wire.ino = value(attributes.inode);
    wire.size = attributes.size;
    wire.blocks = attributes.allocated_bytes / kStatBlockBytes;
    wire.atime = static_cast<std::uint64_t>(attributes.atime.seconds);
    wire.mtime = static_cast<std::uint64_t>(attributes.mtime.seconds);
    wire.ctime = static_cast<std::uint64_t>(attributes.ctime.seconds);
    wire.atimensec = attributes.atime.nanoseconds;
    wire.mtimensec = attributes.mtime.nanoseconds;
    wire.ctimensec = attributes.ctime.nanoseconds;
    wire.mode = attributes.mode;
    wire.nlink = attributes.nlink;
    wire.uid = attributes.uid;
    wire.gid = attributes.gid;
    wire.rdev = encode_device(attributes.rdev);
    wire.blksize = kPreferredBytes;
    wire.flags = 0;
}

void fill(fuse_attr_out& wire, const Attributes& attributes) {
    wire.attr_valid = kForeverSeconds;
    fill(wire.attr, attributes);
}

void fill(fuse_entry_out& wire, const Attributes& attributes) {
    wire.nodeid = value(attributes.inode);
    wire.generation = attributes.generation;
    wire.entry_valid = kForeverSeconds;
    wire.attr_valid = kForeverSeconds;
    fill(wire.attr, attributes);
}

void fill(StatxOut& wire, const Attributes& attributes) {
    wire.attr_valid = kForeverSeconds;
    StatxAttributes& stat = wire.stat;
    stat.mask = STATX_BASIC_STATS | STATX_BTIME;
    stat.blksize = kPreferredBytes;
    stat.nlink = attributes.nlink;
    stat.uid = attributes.uid;
    stat.gid = attributes.gid;
    stat.mode = static_cast<std::uint16_t>(attributes.mode);
    stat.ino = value(attributes.inode);
    stat.size = attributes.size;
    stat.blocks = attributes.allocated_bytes / kStatBlockBytes;
    stat.atime = wire_time(attributes.atime);
    stat.btime = wire_time(attributes.btime);
    stat.ctime = wire_time(attributes.ctime);
    stat.mtime = wire_time(attributes.mtime);
    stat.rdev_major = major(attributes.rdev);
    stat.rdev_minor = minor(attributes.rdev);
}

void fill(fuse_kstatfs& wire, const FilesystemStatus& status) {
    wire.blocks = status.blocks;
    wire.bfree = status.blocks_free;
    wire.bavail = status.blocks_available;
    wire.files = status.files + status.files_free;
    wire.ffree = status.files_free;
    wire.bsize = static_cast<std::uint32_t>(status.block_bytes);
    wire.frsize = static_cast<std::uint32_t>(status.block_bytes);
    wire.namelen = status.name_max;
}

Result<SetAttributes> requested_changes(const fuse_setattr_in& wire) {
    SetAttributes changes;
    const auto asked = [&](std::uint32_t flag) { return (wire.valid & flag) != 0; };
    if (asked(FATTR_MODE)) changes.mode = wire.mode & 07777;
    if (asked(FATTR_UID)) changes.uid = wire.uid;
    if (asked(FATTR_GID)) changes.gid = wire.gid;
    if (asked(FATTR_SIZE)) changes.size = wire.size;
    if (asked(FATTR_ATIME_NOW)) {
        changes.atime_now = true;
    } else if (asked(FATTR_ATIME)) {
        TRY_ASSIGN(changes.atime, timestamp(wire.atime, wire.atimensec));
    }
    if (asked(FATTR_MTIME_NOW)) {
        changes.mtime_now = true;
    } else if (asked(FATTR_MTIME)) {
        TRY_ASSIGN(changes.mtime, timestamp(wire.mtime, wire.mtimensec));
    }
    if (asked(FATTR_CTIME)) {
        TRY_ASSIGN(changes.ctime, timestamp(wire.ctime, wire.ctimensec));
    }
    changes.kill_privileges = asked(FATTR_KILL_SUIDGID);
    // The kernel lets go of the times that it kept for a file, with each fdatasync(2), too. What
    // utimensat(2) sets comes with both times, or one of them "now".
    changes.lazily = (wire.valid & ~std::uint32_t{FATTR_FH}) == (FATTR_MTIME | FATTR_CTIME);
    return changes;
}

}  // namespace blobfs::fs::fuse
