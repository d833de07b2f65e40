#include "blobstore/superblock.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "blobstore/units.h"

namespace blobfs::blobstore {
namespace {

using driver::ConstDmaSpan;
using driver::Device;
using driver::DmaBuffer;
using driver::Suspend;
using driver::WriteFlags;

// Far from where what is added to a counter would run over.
constexpr std::uint64_t kMostCounted = std::uint64_t{1} << 62;

constexpr std::uint64_t slot_offset(unsigned slot) { return kSuperblockBlocks[slot] * kBlockBytes; }

// Superblocks are large for the stack of a fiber, so what is passed about here is not copied.
std::uint64_t checksum_of(const Superblock& superblock) {
    const auto copy = std::make_unique<Superblock>(superblock);
    copy->checksum = 0;
    return XXH3_64bits(copy.get(), sizeof(*copy));
}

// Blocks from `block` to the end of a page there lie behind the log, within the filesystem,
// aligned.
bool is_page_address(const Superblock& s, std::uint64_t block) {
    const std::uint64_t pages = s.page_bytes / kBlockBytes;
    return block >= log_end(s) && block < s.block_count && s.block_count - block >= pages &&
           block % pages == 0;
}

bool valid_pointer(const Superblock& s, const PagePointer& pointer) {
    return is_page_address(s, pointer.block) && pointer.generation != 0 &&
           pointer.generation <= s.generation;
}

bool zero_padded(const std::array<char, 64>& label) {
    const auto end = std::find(label.begin(), label.end(), '\0');
    return std::all_of(end, label.end(), [](char c) { return c == '\0'; });
}

// What is wrong with a superblock whose checksum is right, or null.
const char* geometry_fault(const Superblock& s) {
    if (s.block_bytes != kBlockBytes) return "reading the superblock: wrong block size";
    if (!power_of_two_within(s.page_bytes, kMinPageBytes, kMaxPageBytes)) {
        return "reading the superblock: wrong page size";
    }
    if (!power_of_two_within(s.cluster_bytes, kMinClusterBytes, kMaxClusterBytes)) {
        return "reading the superblock: wrong cluster size";
    }
    if (s.inline_bytes > s.page_bytes) return "reading the superblock: wrong inline limit";
    if (s.block_count < kMinDeviceBytes / kBlockBytes ||
        s.block_count > kMaxDeviceBytes / kBlockBytes) {
        return "reading the superblock: wrong number of blocks";
    }
    if (s.log_start < kLogStartBlock || s.log_start >= s.block_count ||
        s.log_blocks < kMinLogBlocks || s.log_blocks >= s.block_count - s.log_start) {
        return "reading the superblock: wrong place of the log";
    }
    return nullptr;
}

// slot: nothing for a copy.
const char* root_fault(const Superblock& s, std::optional<unsigned> slot) {
    if (s.generation == 0) return "reading the superblock: generation 0";
    if (slot && superblock_slot(s.generation) != *slot) {
        return "reading the superblock: it belongs into the other slot";
    }
    if (s.epoch == 0) return "reading the superblock: epoch 0";
    if (std::max({s.generation, s.epoch, s.log_batch, s.transaction}) > kMostCounted) {
        return "reading the superblock: a counter that nobody can have counted to";
    }
    if (s.log_position >= s.log_blocks || s.log_batch == 0) {
        return "reading the superblock: wrong log position";
    }
    const bool empty = s.tree_root.block == 0;
    if (empty != (s.tree_height == 0) || s.tree_height > kMaxRootHeight ||
        (empty && s.tree_root != PagePointer{}) || (!empty && !valid_pointer(s, s.tree_root))) {
        return "reading the superblock: wrong root of the tree";
    }
    if (s.map_height != map_height_for(s.block_count, s.page_bytes) ||
        !valid_pointer(s, s.map_root) || s.map_root.block == s.tree_root.block) {
        return "reading the superblock: wrong root of the allocation map";
    }
    if (s.next_blob_id == 0 || s.next_blob_id > kBlobIdEnd) {
        return "reading the superblock: wrong next blob id";
    }
    if (s.free_blocks > s.block_count - log_end(s)) {
        return "reading the superblock: wrong number of free blocks";
    }
    return nullptr;
}

const char* content_fault(const Superblock& s, std::optional<unsigned> slot) {
    if (s.version == 0) return "reading the superblock: version 0";
    if (s.state > static_cast<std::uint32_t>(SuperblockState::kClean)) {
        return "reading the superblock: unknown state";
    }
    if (s.uuid == std::array<std::uint8_t, 16>{}) return "reading the superblock: no UUID";
    if (!zero_padded(s.label)) return "reading the superblock: wrong label";
    if (const char* fault = geometry_fault(s)) return fault;
    if (const char* fault = root_fault(s, slot)) return fault;
    if (std::ranges::any_of(s.reserved, [](std::uint8_t byte) { return byte != 0; })) {
        return "reading the superblock: reserved bytes are set";
    }
    return nullptr;
}

// Which of two errors tells more about the device: lower is better.
int rank(const Error& error) {
    switch (error.code) {
        case Errc::kCorrupt:
            return 0;
        case Errc::kWrongFormat:
            return 2;
        default:
            return 1;
    }
}

constexpr const char* kNoFilesystem = "reading the superblock: no blobfs filesystem here";
constexpr const char* kNewerVersion =
    "reading the superblock: made by a newer version of blobfs, which this one cannot read";
constexpr const char* kUnknownFeature =
    "reading the superblock: uses a feature that this version of blobfs does not know";

bool from_newer_program(const Error& error) {
    return error.code == Errc::kWrongFormat &&
           (error.what == kNewerVersion || error.what == kUnknownFeature);
}

Result<std::unique_ptr<const Superblock>> decode(std::span<const std::byte> bytes, std::uint64_t at,
                                                 std::optional<unsigned> slot) {
    CHECK(bytes.size() == sizeof(Superblock));
    auto copy = std::make_unique<Superblock>();
    std::memcpy(copy.get(), bytes.data(), sizeof(*copy));
    const Superblock& superblock = *copy;
    if (superblock.magic != kSuperblockMagic) return fail(Errc::kWrongFormat, kNoFilesystem, at);
    if (superblock.checksum != checksum_of(superblock)) {
        return fail(Errc::kCorrupt, "reading the superblock: damaged (checksum)", at);
    }
    // Of a newer version only magic, checksum, version and the feature masks mean what they do
    // here.
    if (superblock.version > kFormatVersion) return fail(Errc::kWrongFormat, kNewerVersion, at);
    if ((superblock.incompatible & ~kKnownIncompatible) != 0) {
        return fail(Errc::kWrongFormat, kUnknownFeature, at);
    }
    if (const char* fault = content_fault(superblock, slot)) return fail(Errc::kCorrupt, fault, at);
    return copy;
}

bool has_copy(const Superblock& superblock, const Device& device) {
    return (superblock.compatible & kSuperblockCopy) != 0 &&
           superblock.block_count < device.properties().bytes / kBlockBytes;
}

}  // namespace

std::uint32_t map_height_for(std::uint64_t block_count, std::uint32_t page_bytes) {
    const std::uint64_t content = page_bytes - sizeof(PageHeader);
    std::uint32_t height = 1;
    for (std::uint64_t covered = content * 8; covered < block_count; ++height) {
        covered *= content / sizeof(MapEntry);
    }
    return height;
}

void seal(Superblock& superblock) {
    superblock.magic = kSuperblockMagic;
    superblock.version = kFormatVersion;
    superblock.reserved = {};
    superblock.checksum = checksum_of(superblock);
}

Result<Superblock> decode_superblock(std::span<const std::byte> bytes, std::uint64_t device_bytes,
                                     unsigned slot) {
    CHECK(slot < 2);
    const std::uint64_t at = slot_offset(slot);
    TRY_ASSIGN(const auto superblock, decode(bytes, at, slot));
    if (superblock->block_count > device_bytes / kBlockBytes) {
        return fail(Errc::kCorrupt,
                    "reading the superblock: the device is shorter than the filesystem on it", at);
    }
    return *superblock;
}

Result<Superblock> decode_superblock_copy(std::span<const std::byte> bytes, std::uint64_t block) {
    TRY_ASSIGN(const auto superblock, decode(bytes, block * kBlockBytes, std::nullopt));
    if (superblock->block_count != block || (superblock->compatible & kSuperblockCopy) == 0) {
        return fail(Errc::kWrongFormat, kNoFilesystem, block * kBlockBytes);
    }
    return *superblock;
}

Result<void> check_writable(const Superblock& superblock) {
    if ((superblock.read_only_compatible & ~kKnownReadOnlyCompatible) != 0) {
        return fail(
            Errc::kReadOnly,
            "opening for writing: the filesystem uses a feature that this version of blobfs "
            "can only read");
    }
    return {};
}

Result<Superblock> SuperblockSlots::newest() const {
    for (const auto& slot : slots) {
        if (!slot && from_newer_program(slot.error())) return fail(slot.error());
    }
    if (slots[0] && slots[1]) {
        if (slots[0]->uuid != slots[1]->uuid) {
            return fail(Errc::kCorrupt,
                        "reading the superblocks: the two are of different filesystems",
                        slot_offset(0));
        }
        return slots[0]->generation > slots[1]->generation ? *slots[0] : *slots[1];
    }
    if (slots[0]) return *slots[0];
    if (slots[1]) return *slots[1];
    const Error& first = slots[0].error();
    const Error& second = slots[1].error();
    return fail(rank(second) < rank(first) ? second : first);
}

bool SuperblockSlots::is_foreign() const {
    const auto foreign = [](const Result<Superblock>& slot) {
        return !slot && slot.error().code == Errc::kWrongFormat &&
               !from_newer_program(slot.error());
    };
    return foreign(slots[0]) && foreign(slots[1]);
}

namespace {

Result<void> check_copy(Suspend& suspend, Device& device, std::uint64_t block,
                        const std::array<std::uint8_t, 16>& uuid) {
    const std::unique_ptr<Result<Superblock>> copy(
        new Result<Superblock>(read_superblock_copy(suspend, device, block)));
    if (!*copy) return fail(copy->error());
    if ((*copy)->uuid == uuid) return {};
    return fail(Errc::kCorrupt, "reading the copy of the superblock: another UUID",
                block * kBlockBytes);
}

}  // namespace

Result<SuperblockSlots> read_superblocks(Suspend& suspend, Device& device) {
    const std::uint64_t device_bytes = device.properties().bytes;
    if (device_bytes < slot_offset(1) + sizeof(Superblock)) {
        return fail(Errc::kWrongFormat, kNoFilesystem);
    }
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(sizeof(Superblock)));
    const auto read_slot = [&](unsigned slot) -> Result<Superblock> {
        TRY(device.read(suspend, slot_offset(slot), buffer.span()));
        return decode_superblock(buffer.span(), device_bytes, slot);
    };
    SuperblockSlots both{.slots = {read_slot(0), read_slot(1)}};
    const auto unreadable = [](const Result<Superblock>& slot) {
        return !slot && slot.error().code != Errc::kWrongFormat &&
               slot.error().code != Errc::kCorrupt;
    };
    if (unreadable(both.slots[0]) && unreadable(both.slots[1])) return fail(both.slots[0].error());
    const auto& whole = both.slots[0] ? both.slots[0] : both.slots[1];
    if (whole && has_copy(*whole, device)) {
        both.copy = check_copy(suspend, device, whole->block_count, whole->uuid);
    }
    return both;
}

Result<void> write_superblock(Suspend& suspend, Device& device, const Superblock& superblock) {
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(sizeof(Superblock)));
    Superblock sealed = superblock;
    seal(sealed);
    std::memcpy(buffer.data(), &sealed, sizeof(sealed));
    if (device.properties().volatile_write_cache) TRY(device.flush(suspend));
    return device.write(suspend, slot_offset(superblock_slot(sealed.generation)),
                        ConstDmaSpan(buffer.span()), WriteFlags::kForceUnitAccess);
}

Result<Superblock> read_superblock_copy(Suspend& suspend, Device& device, std::uint64_t block) {
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(sizeof(Superblock)));
    TRY(device.read(suspend, block * kBlockBytes, buffer.span()));
    return decode_superblock_copy(buffer.span(), block);
}

Result<void> write_superblock_copy(Suspend& suspend, Device& device, const Superblock& superblock) {
    if (!has_copy(superblock, device)) return {};
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(sizeof(Superblock)));
    Superblock sealed = superblock;
    seal(sealed);
    std::memcpy(buffer.data(), &sealed, sizeof(sealed));
    return device.write(suspend, superblock.block_count * kBlockBytes, ConstDmaSpan(buffer.span()),
                        WriteFlags::kForceUnitAccess);
}

Result<void> erase_superblock_copy(Suspend& suspend, Device& device, std::uint64_t block) {
    const bool inside = block < device.properties().bytes / kBlockBytes;
    if (!inside || !read_superblock_copy(suspend, device, block)) return {};
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(sizeof(Superblock)));
    return device.write(suspend, block * kBlockBytes, ConstDmaSpan(buffer.span()),
                        WriteFlags::kForceUnitAccess);
}

Result<void> erase_superblocks(Suspend& suspend, Device& device) {
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(sizeof(Superblock)));
    for (unsigned slot = 0; slot < 2; ++slot) {
        TRY(device.write(suspend, slot_offset(slot), ConstDmaSpan(buffer.span()),
                         WriteFlags::kForceUnitAccess));
    }
    return {};
}

}  // namespace blobfs::blobstore
