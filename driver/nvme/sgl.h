#pragma once

// Scatter Gather Lists: the other way in which a command names its memory (NVMe 1.4, section 4.4),
// for controllers that offer it. One descriptor covers a piece of memory of any length that lies
// together for the controller, where PRPs take a word for each page. Pure functions.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "driver/memory/dma_segment.h"
#include "driver/nvme/commands.h"
#include "driver/nvme/prp_list.h"
#include "driver/nvme/transport.h"

namespace blobfs::driver::nvme {

// SGL descriptor (figures 109 to 114 of 1.4).
struct SglDescriptor {
    std::uint64_t address;
    std::uint32_t bytes;
    std::uint8_t reserved12[3];
    std::uint8_t identifier;  // type 7:4, subtype 3:0 (0: an address)
};
static_assert(sizeof(SglDescriptor) == 16);
static_assert(offsetof(SglDescriptor, bytes) == 8);
static_assert(offsetof(SglDescriptor, identifier) == 15);
static_assert(std::is_trivially_copyable_v<SglDescriptor>);

inline constexpr std::uint8_t kSglDataBlock = 0x00;
inline constexpr std::uint8_t kSglSegment = 0x20;      // more descriptors, and a next segment
inline constexpr std::uint8_t kSglLastSegment = 0x30;  // more descriptors, the last ones
inline constexpr std::size_t kSglListEntries = kPageBytes / sizeof(SglDescriptor);

// The command's flags: PSDT 01b, SGL for the data.
inline constexpr std::uint8_t kFlagsSgl = 1U << 6;

// The descriptor to put into the command for that piece of the segments: a data block when its
// memory lies together, else a last segment, for which the list page (that the controller sees at
// list_address) gets the data blocks. Nothing when there are too many of them: then PRPs do it.
// REQUIRES as build_prps().
[[nodiscard]] std::optional<SglDescriptor> build_sgl(const Transport& transport,
                                                     std::span<const DmaSegment> segments,
                                                     TransferRange range, SglDescriptor* list,
                                                     std::uint64_t list_address);

// Into the 16 bytes that PRPs would have.
inline void set_sgl(SubmissionEntry& entry, const SglDescriptor& descriptor) {
    entry.flags = kFlagsSgl;
    entry.prp1 = descriptor.address;
    entry.prp2 = descriptor.bytes | std::uint64_t{descriptor.identifier} << 56;
}

}  // namespace blobfs::driver::nvme
