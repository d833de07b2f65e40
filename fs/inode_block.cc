#include "fs/inode_block.h"

#include <cstring>

#include "driver/base/check.h"

namespace blobfs::fs {

namespace {

bool times_valid(const InodeBlock& block) {
    return block.atime_nanoseconds < kNanosecondsPerSecond &&
           block.mtime_nanoseconds < kNanosecondsPerSecond &&
           block.ctime_nanoseconds < kNanosecondsPerSecond &&
           block.btime_nanoseconds < kNanosecondsPerSecond;
}

// What only some types of inode have must be zero in all others.
bool type_fields_valid(const InodeBlock& block) {
    if (is_directory(block)) {
        if (block.parent == 0) {
            return false;
        }
    } else if (block.parent != 0 || block.entries != 0 || block.name_bytes != 0) {
        return false;
    }
    if (is_symlink(block)) {
        if (block.target_bytes == 0 || block.target_bytes > kMaxSymlinkBytes) {
            return false;
        }
    } else if (block.target_bytes != 0) {
        return false;
    }
    return is_device(block) || block.rdev == 0;
}

}  // namespace

InodeBlock make_inode_block(std::uint32_t mode, Timestamp now) {
    InodeBlock block{};
    block.magic = kInodeMagic;
    block.version = kInodeVersion;
    block.mode = mode;
    block.generation = 1;
    set_atime(block, now);
    set_modified(block, now);
    block.btime_seconds = now.seconds;
    block.btime_nanoseconds = now.nanoseconds;
    return block;
}

std::string encode_inode(const InodeBlock& block, std::string_view inline_target) {
    CHECK(inline_target.empty() || inline_target.size() == block.target_bytes);
    CHECK(inline_target.size() <= kMaxInlineTargetBytes);
    std::string bytes(sizeof(InodeBlock) + inline_target.size(), '\0');
    std::memcpy(bytes.data(), &block, sizeof(InodeBlock));
    if (!inline_target.empty()) {
        std::memcpy(bytes.data() + sizeof(InodeBlock), inline_target.data(), inline_target.size());
    }
    return bytes;
}

Result<DecodedInode> decode_inode(std::string_view bytes, InodeNumber inode) {
    const auto damaged = [&](const char* what) { return fail(Errc::kCorrupt, what, value(inode)); };
    if (bytes.size() < sizeof(InodeBlock)) {
        return damaged("reading an inode: its attribute block is too short");
    }
    DecodedInode decoded;
    std::memcpy(&decoded.block, bytes.data(), sizeof(InodeBlock));
    const InodeBlock& block = decoded.block;
    if (block.magic != kInodeMagic || block.version != kInodeVersion) {
        return damaged("reading an inode: its attribute block is not one of this version");
    }
    if (block.reserved0 != 0 || block.reserved1 != 0 || (block.flags & ~kKnownInodeFlags) != 0) {
        return damaged("reading an inode: reserved bits are set");
    }
    if (!valid_mode(block.mode) || !times_valid(block) || !type_fields_valid(block) ||
        block.nlink > kMaxLinks) {
        return damaged("reading an inode: impossible attributes");
    }
    const bool inline_target = is_symlink(block) && block.target_bytes <= kMaxInlineTargetBytes;
    const std::size_t expected = sizeof(InodeBlock) + (inline_target ? block.target_bytes : 0u);
    if (bytes.size() != expected) {
        return damaged("reading an inode: its attribute block has the wrong length");
    }
    decoded.inline_target = bytes.substr(sizeof(InodeBlock));
    if (decoded.inline_target.find('\0') != std::string::npos) {
        return damaged("reading a symbolic link: its target holds a zero byte");
    }
    return decoded;
}

bool valid_mode(std::uint32_t mode) {
    if ((mode & ~(std::uint32_t{S_IFMT} | 07777u)) != 0) {
        return false;
    }
    switch (mode & S_IFMT) {
        case S_IFREG:
        case S_IFDIR:
        case S_IFLNK:
        case S_IFCHR:
        case S_IFBLK:
        case S_IFIFO:
        case S_IFSOCK:
            return true;
        default:
            return false;
    }
}

Timestamp atime_of(const InodeBlock& block) {
    return {block.atime_seconds, block.atime_nanoseconds};
}
Timestamp mtime_of(const InodeBlock& block) {
    return {block.mtime_seconds, block.mtime_nanoseconds};
}
Timestamp ctime_of(const InodeBlock& block) {
    return {block.ctime_seconds, block.ctime_nanoseconds};
}
Timestamp btime_of(const InodeBlock& block) {
    return {block.btime_seconds, block.btime_nanoseconds};
}

void set_atime(InodeBlock& block, Timestamp time) {
    block.atime_seconds = time.seconds;
    block.atime_nanoseconds = time.nanoseconds;
}
void set_mtime(InodeBlock& block, Timestamp time) {
    block.mtime_seconds = time.seconds;
    block.mtime_nanoseconds = time.nanoseconds;
}
void set_ctime(InodeBlock& block, Timestamp time) {
    block.ctime_seconds = time.seconds;
    block.ctime_nanoseconds = time.nanoseconds;
}
void set_modified(InodeBlock& block, Timestamp time) {
    set_mtime(block, time);
    set_ctime(block, time);
}

std::uint32_t without_set_id(std::uint32_t mode) {
    mode &= ~std::uint32_t{S_ISUID};
    if ((mode & S_IXGRP) != 0) {
        mode &= ~std::uint32_t{S_ISGID};
    }
    return mode;
}

}  // namespace blobfs::fs
