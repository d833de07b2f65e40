#pragma once

// A request on a namespace, as the layers above state it, and how it becomes NVMe commands: what is
// refused, where it is cut, and what stands in each command. Pure functions.

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>

#include "driver/base/result.h"
#include "driver/memory/dma_segment.h"
#include "driver/nvme/spec.h"

namespace blobfs::driver::nvme {

// What an event of the controller made of a namespace that is in use.
enum class NamespaceState : std::uint8_t {
    kUsable,
    kReadOnly,   // the controller, or the namespace, no longer takes writes
    kWithdrawn,  // gone, smaller, or formatted anew: what was known of it is wrong
};

// A namespace as a queue pair needs to know it. The state is set by the controller's thread.
struct Namespace {
    std::uint32_t id = 1;
    std::uint32_t lba_shift = 9;
    std::uint64_t blocks = 0;
    std::uint64_t boundary_bytes = 0;  // NOIOB, 0: none
    bool write_protected = false;
    bool write_zeroes_deallocates = false;  // DLFEAT bit 3
    std::atomic<NamespaceState> state = NamespaceState::kUsable;
};

[[nodiscard]] inline bool withdrawn(const Namespace& space) {
    return space.state.load(std::memory_order_relaxed) == NamespaceState::kWithdrawn;
}

// One request on a namespace; offset and bytes are multiples of the LBA size. Read, write and
// compare have memory, whose segments are copied; the memory itself stays the caller's until the
// callback.
struct IoCommand {
    Opcode opcode = Opcode::kRead;
    bool force_unit_access = false;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::span<const DmaSegment> memory = {};
};

// "reading from the device": for its error.
[[nodiscard]] const char* describe(Opcode opcode);

[[nodiscard]] constexpr bool has_memory(Opcode opcode) {
    return opcode == Opcode::kRead || opcode == Opcode::kWrite || opcode == Opcode::kCompare;
}
[[nodiscard]] constexpr bool changes_data(Opcode opcode) {
    return opcode == Opcode::kWrite || opcode == Opcode::kWriteZeroes ||
           opcode == Opcode::kDatasetManagement;
}

// Why the request cannot be carried out: kInvalidArgument when it is not within the namespace, not
// of whole blocks, or its memory not as the PRP rules want it; or what the namespace's state says.
// Nothing when it can.
[[nodiscard]] std::optional<Errc> refusal(const Namespace& space, const IoCommand& io);

// A part of a request, in bytes from its beginning.
struct CommandPart {
    std::uint64_t begin = 0, bytes = 0;
};

// The length in bytes of the command that begins that many bytes into the request; up to
// max_transfer_bytes (0: no limit) where there is memory.
[[nodiscard]] std::uint64_t command_bytes(const Namespace& space, const IoCommand& io,
                                          std::uint64_t begin, std::uint64_t max_transfer_bytes);

// Fills in the blocks of that part: the command's dwords 10 to 12, or the range of a deallocation.
void place(const Namespace& space, const IoCommand& io, CommandPart part, SubmissionEntry& entry,
           DatasetRange& dataset);

}  // namespace blobfs::driver::nvme
