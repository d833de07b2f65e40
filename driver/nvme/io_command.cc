#include "driver/nvme/io_command.h"

#include <algorithm>

#include "driver/nvme/prp_list.h"

namespace blobfs::driver::nvme {

namespace {

// The field of a Dataset Management range has 32 bits of logical blocks.
constexpr std::uint64_t kMaxDatasetBlocks = 0xffffffffULL;

}  // namespace

const char* describe(Opcode opcode) {
    switch (opcode) {
        case Opcode::kFlush:
            return "flushing the device";
        case Opcode::kWrite:
            return "writing to the device";
        case Opcode::kRead:
            return "reading from the device";
        case Opcode::kCompare:
            return "comparing with the device";
        case Opcode::kWriteZeroes:
            return "writing zeroes to the device";
        case Opcode::kDatasetManagement:
            return "deallocating on the device";
        case Opcode::kVerify:
            return "verifying the device";
    }
    return "sending a command to the device";
}

std::optional<Errc> refusal(const Namespace& space, const IoCommand& io) {
    const NamespaceState state = space.state.load(std::memory_order_relaxed);
    if (state != NamespaceState::kUsable) [[unlikely]] {
        if (state == NamespaceState::kWithdrawn) return Errc::kDeviceGone;
        if (changes_data(io.opcode)) return Errc::kReadOnly;
    }
    if (io.opcode == Opcode::kFlush) return std::nullopt;
    const std::uint64_t lba_bytes = std::uint64_t{1} << space.lba_shift;
    const std::uint64_t size = space.blocks << space.lba_shift;
    if (((io.offset | io.bytes) & (lba_bytes - 1)) != 0 || io.bytes == 0 || io.bytes > size ||
        io.offset > size - io.bytes) [[unlikely]] {
        return Errc::kInvalidArgument;
    }
    if (!has_memory(io.opcode)) return std::nullopt;
    const Result<std::size_t> bytes = check_segments(io.memory);
    if (!bytes || *bytes != io.bytes) [[unlikely]]
        return Errc::kInvalidArgument;
    return std::nullopt;
}

std::uint64_t command_bytes(const Namespace& space, const IoCommand& io, std::uint64_t begin,
                            std::uint64_t max_transfer_bytes) {
    const std::uint64_t left = io.bytes - begin;
    if (io.opcode == Opcode::kDatasetManagement) {
        return std::min(left, kMaxDatasetBlocks << space.lba_shift);
    }
    if (!has_memory(io.opcode)) {
        std::uint64_t limit = std::uint64_t{kMaxBlocksPerCommand} << space.lba_shift;
        // Nothing is transferred, but nothing says either how much a controller verifies at once.
        if (io.opcode == Opcode::kVerify && max_transfer_bytes != 0) {
            limit = std::min(limit, max_transfer_bytes);
        }
        return std::min(left, limit);
    }
    const std::byte* at = segment_at(io.memory, static_cast<std::size_t>(begin));
    return first_command_bytes(
        {.lba_bytes = 1U << space.lba_shift,
         .max_transfer_bytes = max_transfer_bytes,
         .boundary_bytes = space.boundary_bytes},
        {.device_offset = io.offset + begin,
         .page_offset = reinterpret_cast<std::uintptr_t>(at) & (kPageBytes - 1)},
        static_cast<std::size_t>(left));
}

void place(const Namespace& space, const IoCommand& io, CommandPart part, SubmissionEntry& entry,
           DatasetRange& dataset) {
    const std::uint64_t lba = (io.offset + part.begin) >> space.lba_shift;
    const auto blocks = static_cast<std::uint32_t>(part.bytes >> space.lba_shift);
    if (io.opcode == Opcode::kDatasetManagement) {
        dataset = {.context_attributes = 0, .blocks = blocks, .start_lba = lba};
        entry.dword10 = 0;  // one range, zero based
        entry.dword11 = kDatasetDeallocate;
        return;
    }
    entry.dword10 = static_cast<std::uint32_t>(lba);
    entry.dword11 = static_cast<std::uint32_t>(lba >> 32);
    entry.dword12 = (blocks - 1) | (io.force_unit_access ? kForceUnitAccess : 0);
    if (io.opcode == Opcode::kWriteZeroes && space.write_zeroes_deallocates) {
        entry.dword12 |= kWriteZeroesDeallocate;
    }
}

}  // namespace blobfs::driver::nvme
