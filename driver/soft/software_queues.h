#pragma once

// The software controller's queues and commands: private to its .cc files.

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "driver/soft/software_controller.h"

namespace blobfs::driver {

using nvme::CompletionEntry;
using nvme::SubmissionEntry;

inline constexpr std::uint32_t kSpecificationVersion = 0x0001'0400;  // 1.4

struct SoftwareController::CompletionQueue {
    std::uint16_t id = 0;
    std::uint32_t entries = 0;
    volatile CompletionEntry* ring = nullptr;
    const volatile std::uint32_t* bell = nullptr;
    std::uint32_t tail = 0;
    std::uint16_t phase = nvme::kPhase;
    std::uint32_t users = 0;              // submission queues that complete here
    std::deque<CompletionEntry> waiting;  // the host has not made room
    bool unannounced = false;             // something was posted since its listener was notified
};

struct SoftwareController::Command : MediumOperation {
    SoftwareController* controller = nullptr;
    SubmissionQueue* queue = nullptr;
    std::uint16_t command_id = 0;
    std::uint8_t opcode = 0;
    bool running = false;  // with the medium
    std::uint64_t lba = 0;
    std::vector<iovec> pieces;               // keeps its capacity
    std::vector<nvme::DatasetRange> ranges;  // of Dataset Management, those still to do
    std::unique_ptr<std::byte[]> aside;      // of Compare and Verify: what the medium has
    iovec aside_piece{};

    [[nodiscard]] bool equals_aside() const;
};

struct SoftwareController::SubmissionQueue {
    std::uint16_t id = 0;
    std::uint32_t entries = 0;
    const SubmissionEntry* ring = nullptr;
    volatile std::uint32_t* bell = nullptr;
    CompletionQueue* completion = nullptr;
    std::uint32_t head = 0;
    std::vector<Command> commands;
    std::vector<Command*> free;
};

}  // namespace blobfs::driver
