#pragma once

// The attribute block of an inode: bytes to struct and back, checked. The only place where bytes
// from the store become an InodeBlock. Any thread, never suspends.

#include <sys/stat.h>

#include <string>
#include <string_view>

#include "blobstore/units.h"
#include "driver/base/result.h"
#include "fs/inode_format.h"

namespace blobfs::fs {

constexpr blobstore::BlobId to_blob(InodeNumber inode) {
    return static_cast<blobstore::BlobId>(value(inode));
}
constexpr InodeNumber to_inode(blobstore::BlobId blob) {
    return static_cast<InodeNumber>(blobstore::value(blob));
}

inline bool is_directory(const InodeBlock& block) { return S_ISDIR(block.mode); }
inline bool is_regular(const InodeBlock& block) { return S_ISREG(block.mode); }
inline bool is_symlink(const InodeBlock& block) { return S_ISLNK(block.mode); }
inline bool is_device(const InodeBlock& block) {
    return S_ISCHR(block.mode) || S_ISBLK(block.mode);
}

// An InodeBlock with magic, version and the given mode, all times at `now`, all else zero.
InodeBlock make_inode_block(std::uint32_t mode, Timestamp now);

// The bytes to store; the target only of a symlink whose target is kept inline.
std::string encode_inode(const InodeBlock& block, std::string_view inline_target);

struct DecodedInode {
    InodeBlock block{};
    std::string inline_target;  // of symlinks whose target is in the block
};
// kCorrupt (address: the inode) for whatever encode_inode() cannot have made.
Result<DecodedInode> decode_inode(std::string_view bytes, InodeNumber inode);

// True for the modes that an inode may have: one of the seven types, no bits beyond 07777.
bool valid_mode(std::uint32_t mode);

Timestamp atime_of(const InodeBlock& block);
Timestamp mtime_of(const InodeBlock& block);
Timestamp ctime_of(const InodeBlock& block);
Timestamp btime_of(const InodeBlock& block);
void set_atime(InodeBlock& block, Timestamp time);
void set_mtime(InodeBlock& block, Timestamp time);
void set_ctime(InodeBlock& block, Timestamp time);
// Content changed: mtime and ctime.
void set_modified(InodeBlock& block, Timestamp time);

// Takes setuid and, where the group may execute, setgid away: what a write or chown does to a file.
std::uint32_t without_set_id(std::uint32_t mode);

}  // namespace blobfs::fs
