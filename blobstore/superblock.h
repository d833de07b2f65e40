#pragma once

// The superblock: the root of everything, in two slots (FORMAT.md, "Superblock"), and a copy at the
// other end of the device for fsck. A checkpoint of generation g overwrites slot g & 1 only, so a
// torn or lost write costs that checkpoint and never the one before. Reactor thread.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "blobstore/format.h"
#include "driver/base/result.h"
#include "driver/device.h"

namespace blobfs::blobstore {

// The shortest ring: its largest batch takes the largest transaction, a 64 KiB attribute included.
inline constexpr std::uint64_t kMinLogBlocks = 256;

// The slot that the superblock of a generation is written to.
constexpr unsigned superblock_slot(std::uint64_t generation) {
    return static_cast<unsigned>(generation & 1);
}

// First block behind the log ring: everything from here on is pages and data.
inline std::uint64_t log_end(const Superblock& superblock) {
    return superblock.log_start + superblock.log_blocks;
}

// Levels that the allocation map of a device has: 1 when one bitmap page covers it. Any thread.
std::uint32_t map_height_for(std::uint64_t block_count, std::uint32_t page_bytes);

// Fills magic, version and checksum and zeroes the reserved bytes. Any thread.
void seal(Superblock& superblock);

// The superblock in the bytes of a slot, all of it checked; any bytes whatever may come in.
// kWrongFormat: no blobfs here, or a version or incompatible feature that this program does not
// know. kCorrupt: damaged, or it names what the device (device_bytes) does not have; the address is
// the slot's byte offset. `what` says which check failed. Any thread.
// REQUIRES bytes.size() == sizeof(Superblock), slot < 2.
Result<Superblock> decode_superblock(std::span<const std::byte> bytes, std::uint64_t device_bytes,
                                     unsigned slot);

// Whether the filesystem may be written by this program: kReadOnly when it has features that only
// allow reading. Any thread.
Result<void> check_writable(const Superblock& superblock);

// The same of a copy, which was read at that block: only the copy that says that the filesystem
// ends there is one, and not a file's content that looks like it. Any thread.
Result<Superblock> decode_superblock_copy(std::span<const std::byte> bytes, std::uint64_t block);

struct SuperblockSlots {
    std::array<Result<Superblock>, 2> slots;  // each as decode_superblock answered
    // The copy behind the filesystem, where there is one: kCorrupt, or that it could not be read.
    // An old one is no error: it is the last that is written.
    Result<void> copy{};

    // The valid superblock of the highest generation. When there is none, or a slot was written by
    // a newer program (falling back behind it would undo what that one did): the error of the slot
    // that says most.
    [[nodiscard]] Result<Superblock> newest() const;
    // Neither slot has our magic: no blobfs, or one that was overwritten.
    [[nodiscard]] bool is_foreign() const;
};

// Reads both slots. Fails only when the device is too small to be one of ours (kWrongFormat) or
// neither slot can be read; an unreadable slot beside a readable one is an error in its place.
// Suspends.
Result<SuperblockSlots> read_superblocks(driver::Suspend& suspend, driver::Device& device);

// Seals the superblock and writes it to the slot of its generation. First makes everything written
// so far durable, as the superblock names it (a flush when the device has a volatile cache), then
// writes with FUA: durable when it returns. After an error the slot holds the old superblock, the
// new one, or damage. Suspends.
Result<void> write_superblock(driver::Suspend& suspend, driver::Device& device,
                              const Superblock& superblock);

// Reads the copy at that block, whatever the slots say. Errors are decode_superblock_copy's and the
// device's. Suspends.
Result<Superblock> read_superblock_copy(driver::Suspend& suspend, driver::Device& device,
                                        std::uint64_t block);

// Writes the superblock that is in the slots to its copy, with FUA, if the filesystem has one and
// the device has room for it. Suspends.
Result<void> write_superblock_copy(driver::Suspend& suspend, driver::Device& device,
                                   const Superblock& superblock);

// Zeroes what is a copy at that block, durably. Suspends.
Result<void> erase_superblock_copy(driver::Suspend& suspend, driver::Device& device,
                                   std::uint64_t block);

// Zeroes both slots, durably, so that nothing of an earlier filesystem can be found by a mount when
// making a new one ends half-way. Suspends.
Result<void> erase_superblocks(driver::Suspend& suspend, driver::Device& device);

}  // namespace blobfs::blobstore
