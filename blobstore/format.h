#pragma once

// The on-disk structures of format version 1, byte for byte as blobstore/FORMAT.md defines them.
// All integers are little-endian; reserved bytes are zero when written and must be zero when read.
// Addresses on the device are in blocks of 4096 bytes. Any thread.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace blobfs::blobstore {

static_assert(std::endian::native == std::endian::little, "blobfs runs on little-endian machines");

inline constexpr std::uint32_t kBlockBytes = 4096;
inline constexpr std::uint32_t kMinPageBytes = 4096;
inline constexpr std::uint32_t kMaxPageBytes = 16384;
inline constexpr std::uint32_t kDefaultPageBytes = 16384;
inline constexpr std::uint32_t kMinClusterBytes = 4096;
inline constexpr std::uint32_t kMaxClusterBytes = 4u << 20;
inline constexpr std::uint32_t kDefaultClusterBytes = 4096;
inline constexpr std::uint64_t kMinDeviceBytes = 16ull << 20;
inline constexpr std::uint64_t kMaxDeviceBytes = 1ull << 50;  // 1 PiB

// FORMAT.md, "Layout": two superblock slots in the first MiB, then the log, then everything else.
inline constexpr std::uint64_t kSuperblockBlocks[2] = {1, 16};  // bytes 4096 and 65536
inline constexpr std::uint64_t kLogStartBlock = 256;            // byte 1 MiB

inline constexpr std::uint64_t kSuperblockMagic = 0x0153'4642'4f4c'4281;  // 81 "BLOBFS" 01
inline constexpr std::uint32_t kPageMagic = 0x4750'4642;                  // "BFPG"
inline constexpr std::uint32_t kLogMagic = 0x474c'4642;                   // "BFLG"
inline constexpr std::uint32_t kFormatVersion = 1;

// Feature masks known to this program: an unknown bit in `incompatible` refuses the mount, one in
// `read_only_compatible` refuses a writable mount, one in `compatible` is ignored.
inline constexpr std::uint64_t kSuperblockCopy = 1;  // compatible: there is a copy, see Superblock
inline constexpr std::uint64_t kKnownCompatible = kSuperblockCopy;
inline constexpr std::uint64_t kKnownReadOnlyCompatible = 0;
inline constexpr std::uint64_t kKnownIncompatible = 0;

// A pointer to a page: where it is, the checkpoint generation that wrote it, and its checksum.
// block 0 means none.
struct PagePointer {
    std::uint64_t block = 0;
    std::uint64_t generation = 0;
    std::uint64_t checksum = 0;
    friend bool operator==(const PagePointer&, const PagePointer&) = default;
};
static_assert(sizeof(PagePointer) == 24);

enum class SuperblockState : std::uint32_t {
    kInUse = 0,  // mounted, or was when the power went: the log is replayed
    kClean = 1,  // the log holds nothing that the root does not
};

struct Superblock {
    std::uint64_t magic;
    std::uint64_t checksum;  // XXH3-64 of the 4096 bytes with this field zero
    std::uint32_t version;
    std::uint32_t state;  // SuperblockState
    std::uint64_t compatible;
    std::uint64_t read_only_compatible;
    std::uint64_t incompatible;
    std::array<std::uint8_t, 16> uuid;
    std::array<char, 64> label;  // UTF-8, padded with zeroes, not necessarily terminated
    std::uint32_t block_bytes;   // 4096
    std::uint32_t page_bytes;
    std::uint32_t cluster_bytes;
    std::uint32_t inline_bytes;  // files up to this size live in the tree
    std::uint64_t block_count;
    std::uint64_t log_start;     // first block of the log ring
    std::uint64_t log_blocks;    // length of the ring
    std::uint64_t generation;    // of the checkpoint that this superblock completes
    std::uint64_t epoch;         // of the log records that follow it
    std::uint64_t log_position;  // block within the ring where replay starts
    std::uint64_t log_batch;     // number of the batch expected there
    std::uint64_t transaction;   // number of the last transaction that the root contains
    PagePointer tree_root;       // block 0: an empty tree
    PagePointer map_root;        // root of the allocation map
    std::uint32_t tree_height;   // 1: the root is a leaf; 0: empty
    std::uint32_t map_height;    // 1: the root is a bitmap page
    std::uint64_t next_blob_id;
    std::uint64_t free_blocks;  // blocks that the allocation map shows free
    std::uint64_t blob_count;
    std::uint64_t created_us;  // microseconds since 1970
    std::uint64_t written_us;
    std::uint64_t mounts;  // how often it was opened for writing
    std::array<std::uint8_t, 3784> reserved;
};
static_assert(sizeof(Superblock) == 4096 && std::is_trivially_copyable_v<Superblock>);
static_assert(offsetof(Superblock, uuid) == 48 && offsetof(Superblock, label) == 64);
static_assert(offsetof(Superblock, block_bytes) == 128 && offsetof(Superblock, tree_root) == 208);
static_assert(offsetof(Superblock, next_blob_id) == 264 && offsetof(Superblock, reserved) == 312);

enum class PageKind : std::uint8_t {
    kLeaf = 1,      // tree: keys and values
    kInterior = 2,  // tree: keys and PagePointers
    kBitmap = 3,    // allocation map: one bit a block
    kMapIndex = 4,  // allocation map: MapEntries
};

// The first 64 bytes of every metadata page.
struct PageHeader {
    std::uint32_t magic;
    PageKind kind;
    std::uint8_t level;        // tree: 0 in leaves; map: 0 in bitmaps
    std::uint16_t slot_count;  // tree: entries; map index: 0
    std::uint64_t checksum;    // XXH3-64 of the whole page with this field zero
    std::uint64_t block;       // the page's own address
    std::uint64_t generation;  // the checkpoint generation that wrote it
    std::array<std::uint8_t, 16> uuid;
    std::uint64_t map_index;      // map: which page of its level; tree: 0
    std::uint16_t content_start;  // tree: offset in the page of the lowest byte of entry contents
    std::uint16_t garbage_bytes;  // tree: bytes of dead entries within the contents
    std::uint16_t prefix_bytes;   // tree: all keys of the page begin with the same that many bytes
    std::uint16_t reserved;
};
static_assert(sizeof(PageHeader) == 64 && std::is_trivially_copyable_v<PageHeader>);
static_assert(offsetof(PageHeader, checksum) == 8 && offsetof(PageHeader, uuid) == 32);
static_assert(offsetof(PageHeader, content_start) == 56 && offsetof(PageHeader, reserved) == 62);

// One slot of a tree page, ascending by key from byte 64. The entry in the contents: the size of
// the value (2 bytes), the key, the value.
struct PageSlot {
    std::uint32_t hint;    // the key's 4 bytes after the prefix, first byte most significant
    std::uint16_t offset;  // of the entry within the page
    std::uint16_t key_bytes;
};
static_assert(sizeof(PageSlot) == 8 && std::is_trivially_copyable_v<PageSlot>);

// How tall a tree gets at most, and the tallest that a superblock may name: no store comes near
// either, and a tree that was made to cannot outgrow the program.
inline constexpr std::uint32_t kMaxTreeHeight = 16;
inline constexpr std::uint32_t kMaxRootHeight = 12;

// One child of a kMapIndex page. A child that was never written (block 0) is all free.
struct MapEntry {
    PagePointer child;
    std::uint64_t free_blocks;  // in the whole of what the child covers
};
static_assert(sizeof(MapEntry) == 32);

// The head of a batch of transactions in the log; starts on a block boundary.
struct LogBatchHeader {
    std::uint32_t magic;
    std::uint16_t blocks;        // of the whole batch, header included
    std::uint16_t data_batches;  // so many before this one hold data that still counts
    std::uint64_t checksum;  // XXH3-64 of header (this field zero) and payload
    std::array<std::uint8_t, 16> uuid;
    std::uint64_t epoch;
    std::uint64_t batch;              // number: one more than the batch before
    std::uint64_t first_transaction;  // number of the first transaction in it
    std::uint32_t transactions;
    std::uint32_t payload_bytes;
};
static_assert(sizeof(LogBatchHeader) == 64);

struct LogTransactionHeader {
    std::uint32_t bytes;  // of the transaction, this header included, a multiple of 8
    std::uint32_t operations;
};
static_assert(sizeof(LogTransactionHeader) == 8);

enum class LogOperationType : std::uint8_t {
    kPut = 1,           // key, value
    kErase = 2,         // key
    kAllocate = 3,      // a run of blocks becomes file data: LogRun
    kFree = 4,          // a run of blocks is file data no more: LogRun
    kNextBlobId = 5,    // the value, 8 bytes: ids below it are taken
    kData = 6,          // the value, a LogData and bytes: what is there on the device
    kDataChecksum = 7,  // LogDataChecksum: the batch counts only if the data matches (reserved)
};

struct LogOperationHeader {
    LogOperationType type;
    std::uint8_t reserved;
    std::uint16_t key_bytes;
    std::uint32_t value_bytes;  // key, then value follow; then the next operation, unaligned
};
static_assert(sizeof(LogOperationHeader) == 8);

struct LogRun {
    std::uint64_t block;
    std::uint64_t blocks;
};
static_assert(sizeof(LogRun) == 16);

// Followed by the bytes.
struct LogData {
    std::uint64_t address;  // byte on the device
};
static_assert(sizeof(LogData) == 8);
inline constexpr std::uint32_t kLogDataUnit = 512;  // of the address and the number of bytes
inline constexpr std::uint32_t kMaxLogDataBytes = 8192;
// Data in the log that counts at a time.
inline constexpr std::uint64_t kMaxLoggedDataBytes = 1u << 20;

// Value of a key of kind kExtent; its key's last 8 bytes are the first block within the file.
struct ExtentValue {
    std::uint64_t block;  // on the device
    std::uint32_t blocks;
    std::uint32_t flags;  // kExtentShared, kExtentUnwritten
};
static_assert(sizeof(ExtentValue) == 16);
inline constexpr std::uint32_t kExtentShared = 1;     // counted by a kSharedRun key
inline constexpr std::uint32_t kExtentUnwritten = 2;  // allocated ahead: reads as zeroes

// Value of a key of kind kTruncation.
struct TruncationValue {
    std::uint64_t size;  // bytes: what is mapped beyond is still to be freed
};
static_assert(sizeof(TruncationValue) == 8);

// Head of the value of a key of kind kAttributes; the owner's opaque attribute block follows.
struct AttributesValue {
    std::uint64_t size;              // bytes
    std::uint64_t allocated_blocks;  // mapped by extents
    std::uint32_t flags;             // kBlobInline
    std::uint32_t reserved;
};
static_assert(sizeof(AttributesValue) == 24);
inline constexpr std::uint32_t kBlobInline = 1;  // the data is the value of its kInlineData key

}  // namespace blobfs::blobstore
