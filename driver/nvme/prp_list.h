#pragma once

// Physical Region Pages: how a command names its memory (NVMe 1.4, section 4.3), and how a transfer
// of any length is cut into commands. Pure functions, no hardware.

#include <cstddef>
#include <cstdint>
#include <span>

#include "driver/base/result.h"
#include "driver/memory/dma_segment.h"
#include "driver/nvme/commands.h"
#include "driver/nvme/transport.h"

namespace blobfs::driver::nvme {

inline constexpr std::size_t kPrpListEntries = kPageBytes / sizeof(std::uint64_t);
// One page in PRP 1, the others in one list page.
inline constexpr std::size_t kMaxPrpPages = 1 + kPrpListEntries;

struct PrpPair {
    std::uint64_t prp1 = 0;
    std::uint64_t prp2 = 0;
};

// A piece of a transfer: `bytes` bytes from byte `offset` on of the segments laid end to end.
struct TransferRange {
    std::size_t offset = 0;
    std::size_t bytes = 0;
};

// The two PRP fields for that piece of the segments. When it touches more than two pages, the list
// page (kPrpListEntries words that the controller sees at list_address) gets the addresses of all
// but the first. REQUIRES: check_segments() passed; the piece is within the segments, not empty,
// and touches at most kMaxPrpPages pages.
[[nodiscard]] PrpPair build_prps(const Transport& transport, std::span<const DmaSegment> segments,
                                 TransferRange range, std::uint64_t* list,
                                 std::uint64_t list_address);

// The PRP rules: dword alignment at the start, page alignment at every seam. Gives the length in
// bytes of all segments together, kInvalidArgument when a rule is broken or a segment is empty.
[[nodiscard]] Result<std::size_t> check_segments(std::span<const DmaSegment> segments);

// What bounds one command; bytes, 0 where there is no such bound.
struct CommandLimits {
    std::uint32_t lba_bytes = 512;
    std::uint64_t max_transfer_bytes = 0;  // MDTS
    std::uint64_t boundary_bytes = 0;      // NOIOB: no command crosses a multiple of it
};

// Where on the namespace and in memory a command would start.
struct CommandStart {
    std::uint64_t device_offset = 0;  // bytes
    std::size_t page_offset = 0;      // of the memory, within its page
};

// The length in bytes of the first command of a transfer with that many bytes left: as long as the
// limits allow, a multiple of the LBA size, at least one LBA.
[[nodiscard]] std::size_t first_command_bytes(const CommandLimits& limits, CommandStart start,
                                              std::size_t bytes_left);

// The memory address at a byte offset of the segments laid end to end. REQUIRES: within them.
[[nodiscard]] const std::byte* segment_at(std::span<const DmaSegment> segments, std::size_t offset);

}  // namespace blobfs::driver::nvme
