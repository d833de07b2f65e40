#pragma once

// The bytes of an inode: the attribute block of a blob, as fs/FORMAT.md defines them. Integers are
// little-endian; reserved bytes are zero when written and must be zero when read. Any thread.

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace blobfs::fs {

static_assert(std::endian::native == std::endian::little, "blobfs runs on little-endian machines");

// The number of an inode is the id of its blob; never 0.
enum class InodeNumber : std::uint64_t {};
constexpr std::uint64_t value(InodeNumber v) { return static_cast<std::uint64_t>(v); }

inline constexpr InodeNumber kRootInode{1};
inline constexpr std::uint32_t kMaxNameBytes = 255;
inline constexpr std::uint32_t kMaxSymlinkBytes = 4095;
inline constexpr std::uint32_t kMaxLinks = 2'000'000'000;  // fits a signed 32-bit st_nlink
inline constexpr std::uint64_t kMaxFileBytes = ~std::uint64_t{0} >> 1;
inline constexpr std::uint64_t kMaxCopyBytes = 64ull << 20;

inline constexpr std::uint32_t kNanosecondsPerSecond = 1'000'000'000;

// A point in time: seconds since 1970, negative before; nanoseconds are always forward.
struct Timestamp {
    std::int64_t seconds = 0;
    std::uint32_t nanoseconds = 0;  // below kNanosecondsPerSecond
    friend auto operator<=>(const Timestamp&, const Timestamp&) = default;
};

inline constexpr std::uint32_t kInodeMagic = 0x4e49'4642;  // "BFIN"
inline constexpr std::uint8_t kInodeVersion = 1;

enum InodeFlags : std::uint32_t {
    kInodeHasXattrs = 1,  // may have extended attributes; clear: it has none
    kInodeTemporary = 2,  // made without a name and never had one: link() may give it one
};
inline constexpr std::uint32_t kKnownInodeFlags = kInodeHasXattrs | kInodeTemporary;

// FORMAT.md, "The attribute block". A symlink target of at most kMaxInlineTargetBytes follows
// directly.
struct InodeBlock {
    std::uint32_t magic;
    std::uint8_t version;
    std::uint8_t reserved0;
    std::uint16_t target_bytes;  // symlinks: length of the target; 0 otherwise
    std::uint32_t mode;          // S_IFMT and permission bits
    std::uint32_t flags;         // InodeFlags
    std::uint32_t uid;
    std::uint32_t gid;
    std::uint32_t nlink;
    std::uint32_t generation;
    std::uint64_t rdev;
    std::int64_t atime_seconds;
    std::int64_t mtime_seconds;
    std::int64_t ctime_seconds;
    std::int64_t btime_seconds;
    std::uint32_t atime_nanoseconds;
    std::uint32_t mtime_nanoseconds;
    std::uint32_t ctime_nanoseconds;
    std::uint32_t btime_nanoseconds;
    std::uint64_t parent;      // directories: the inode of ".."; 0 otherwise
    std::uint64_t entries;     // directories: names in it; 0 otherwise
    std::uint64_t name_bytes;  // directories: bytes of these names; 0 otherwise
    std::uint64_t reserved1;
};
static_assert(sizeof(InodeBlock) == 120 && std::is_trivially_copyable_v<InodeBlock>);
static_assert(offsetof(InodeBlock, mode) == 8 && offsetof(InodeBlock, rdev) == 32);
static_assert(offsetof(InodeBlock, atime_seconds) == 40 && offsetof(InodeBlock, parent) == 88);

// Targets up to this size lie in the attribute block, longer ones in records of the blob:
// FORMAT.md, "Symbolic links".
inline constexpr std::uint32_t kMaxInlineTargetBytes = 512 - sizeof(InodeBlock);
inline constexpr std::uint32_t kTargetRecordBytes = 512;

// FORMAT.md, "Directory records". The key is 8 bytes big-endian: the hash of the name in the upper
// bits, a number that tells names of equal hash apart in the lowest 8.
inline constexpr unsigned kCollisionBits = 8;
inline constexpr std::size_t kEntryKeyBytes = 8;

// The head of a record's value; the name follows.
struct EntryHead {
    std::uint64_t inode;
    std::uint8_t type;  // S_IFMT >> 12
    std::uint8_t name_bytes;
    std::uint16_t reserved;
    std::uint32_t reserved1;
};
static_assert(sizeof(EntryHead) == 16 && std::is_trivially_copyable_v<EntryHead>);

}  // namespace blobfs::fs
