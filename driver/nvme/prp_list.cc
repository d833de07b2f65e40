#include "driver/nvme/prp_list.h"

#include <algorithm>

#include "driver/base/check.h"

namespace blobfs::driver::nvme {

namespace {

std::size_t page_offset(const std::byte* memory) {
    return reinterpret_cast<std::uintptr_t>(memory) & (kPageBytes - 1);
}

}  // namespace

PrpPair build_prps(const Transport& transport, std::span<const DmaSegment> segments,
                   TransferRange range, std::uint64_t* list, std::uint64_t list_address) {
    std::size_t index = 0;
    while (range.offset >= segments[index].bytes) {
        range.offset -= segments[index].bytes;
        ++index;
        CHECK(index < segments.size());
    }

    PrpPair pair;
    std::size_t pages = 0;
    std::size_t left = range.bytes;
    std::uint64_t second = 0;
    const std::byte* memory = segments[index].data + range.offset;
    std::size_t in_segment = segments[index].bytes - range.offset;
    while (true) {
        const std::size_t run = std::min(left, in_segment);
        const std::byte* const end = memory + run;
        while (memory < end) {
            const std::uint64_t address = transport.dma_address(memory);
            if (pages == 0) {
                pair.prp1 = address;
            } else if (pages == 1) {
                // Whether this one goes into PRP 2 or the list shows when there is a third.
                second = address;
            } else {
                CHECK(pages < kMaxPrpPages);
                list[pages - 1] = address;
            }
            ++pages;
            memory += std::min<std::size_t>(kPageBytes - page_offset(memory),
                                            static_cast<std::size_t>(end - memory));
        }
        left -= run;
        if (left == 0) break;
        ++index;
        CHECK(index < segments.size());
        memory = segments[index].data;
        in_segment = segments[index].bytes;
    }

    if (pages <= 2) {
        pair.prp2 = second;
    } else {
        list[0] = second;
        pair.prp2 = list_address;
    }
    return pair;
}

Result<std::size_t> check_segments(std::span<const DmaSegment> segments) {
    constexpr const char* kWhat = "describing a transfer's memory to the controller";
    if (segments.empty()) return fail(Errc::kInvalidArgument, kWhat);
    std::size_t total = 0;
    for (std::size_t i = 0; i < segments.size(); ++i) {
        const DmaSegment& segment = segments[i];
        if (segment.bytes == 0) return fail(Errc::kInvalidArgument, kWhat);
        const std::size_t start = page_offset(segment.data);
        if (i == 0 ? start % 4 != 0 : start != 0) return fail(Errc::kInvalidArgument, kWhat);
        const bool last = i + 1 == segments.size();
        if (!last && (start + segment.bytes) % kPageBytes != 0) {
            return fail(Errc::kInvalidArgument, kWhat);
        }
        total += segment.bytes;
    }
    return total;
}

std::size_t first_command_bytes(const CommandLimits& limits, CommandStart start,
                                std::size_t bytes_left) {
    std::uint64_t bytes =
        std::min<std::uint64_t>(bytes_left, std::uint64_t{kMaxBlocksPerCommand} * limits.lba_bytes);
    const std::uint64_t by_prp = kMaxPrpPages * kPageBytes - start.page_offset;
    bytes = std::min(bytes, by_prp - by_prp % limits.lba_bytes);
    if (limits.max_transfer_bytes != 0) bytes = std::min(bytes, limits.max_transfer_bytes);
    if (limits.boundary_bytes != 0) {
        const std::uint64_t to_boundary =
            limits.boundary_bytes - start.device_offset % limits.boundary_bytes;
        bytes = std::min(bytes, to_boundary);
    }
    return static_cast<std::size_t>(bytes);
}

const std::byte* segment_at(std::span<const DmaSegment> segments, std::size_t offset) {
    for (const DmaSegment& segment : segments) {
        if (offset < segment.bytes) return segment.data + offset;
        offset -= segment.bytes;
    }
    CHECK(false);
    return nullptr;
}

}  // namespace blobfs::driver::nvme
