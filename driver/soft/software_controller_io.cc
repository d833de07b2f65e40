// The I/O commands of the software controller (NVMe 1.4, section 6).

#include <cstring>
#include <memory>

#include "driver/nvme/io_command.h"
#include "driver/soft/software_controller.h"
#include "driver/soft/software_queues.h"

namespace blobfs::driver {

using nvme::Opcode;
using nvme::Status;
using nvme::SubmissionEntry;

void SoftwareController::execute_io(Command& command, const SubmissionEntry& entry) {
    const auto opcode = static_cast<Opcode>(entry.opcode);
    if (entry.namespace_id != 1 &&
        !(opcode == Opcode::kFlush && entry.namespace_id == nvme::kAllNamespaces)) [[unlikely]] {
        complete(command, MediumStatus(Status::kInvalidNamespace));
        return;
    }
    const MediumProperties& properties = medium_->properties();
    command.memory = nullptr;
    command.memory_count = 0;
    command.force_unit_access = false;
    command.done = medium_done;
    switch (opcode) {
        case Opcode::kRead:
        case Opcode::kCompare:
        case Opcode::kVerify:
            command.kind = MediumOperation::Kind::kRead;
            break;
        case Opcode::kWrite:
            command.kind = MediumOperation::Kind::kWrite;
            break;
        case Opcode::kWriteZeroes:
            command.kind = MediumOperation::Kind::kWriteZeroes;
            break;
        case Opcode::kFlush:
            command.kind = MediumOperation::Kind::kFlush;
            break;
        case Opcode::kDatasetManagement:
            command.kind = MediumOperation::Kind::kDeallocate;
            break;
        default:
            complete(command, MediumStatus(Status::kInvalidOpcode));
            return;
    }
    if (opcode == Opcode::kFlush) {
        command.offset = 0;
        command.bytes = 0;
        command.running = true;
        ++running_;
        medium_->start(command);
        return;
    }
    if (properties.read_only && nvme::changes_data(opcode)) {
        complete(command, MediumStatus(Status::kNamespaceWriteProtected));
        return;
    }
    if (opcode == Opcode::kDatasetManagement) {
        deallocate(command, entry);
        return;
    }

    const std::uint64_t lba = entry.dword10 | std::uint64_t{entry.dword11} << 32;
    const std::uint64_t blocks = std::uint64_t{entry.dword12 & 0xffff} + 1;
    command.lba = lba;
    if (lba > blocks_ || blocks > blocks_ - lba) [[unlikely]] {
        complete(command, MediumStatus(Status::kLbaOutOfRange));
        return;
    }
    command.offset = lba << lba_shift_;
    command.bytes = blocks << lba_shift_;
    command.force_unit_access = (entry.dword12 & nvme::kForceUnitAccess) != 0 ||
                                (nvme::changes_data(opcode) && !write_cache_on_);
    if (opcode == Opcode::kWriteZeroes) {
        command.may_deallocate = (entry.dword12 & nvme::kWriteZeroesDeallocate) != 0;
    } else if (opcode == Opcode::kCompare || opcode == Opcode::kVerify) {
        if (!read_aside(command, entry)) return;
    } else {
        if (options_.max_transfer_bytes != 0 && command.bytes > options_.max_transfer_bytes)
            [[unlikely]] {
            complete(command, MediumStatus(Status::kInvalidField));
            return;
        }
        if (!map_memory(command, entry, command.bytes)) return;
        command.memory = command.pieces.data();
        command.memory_count = static_cast<unsigned>(command.pieces.size());
        if (opcode == Opcode::kRead) {
            ++reads_;
            blocks_read_ += blocks;
        } else {
            ++writes_;
            blocks_written_ += blocks;
        }
    }
    command.running = true;
    ++running_;
    medium_->start(command);
}

void SoftwareController::deallocate(Command& command, const SubmissionEntry& entry) {
    const MediumProperties& properties = medium_->properties();
    const std::size_t count = (entry.dword10 & 0xff) + 1;
    const std::uint64_t bytes = count * sizeof(nvme::DatasetRange);
    if (!map_memory(command, entry, bytes)) return;
    command.ranges.clear();
    if ((entry.dword11 & nvme::kDatasetDeallocate) != 0 && properties.deallocate) {
        command.ranges.resize(count);
        auto* into = reinterpret_cast<std::byte*>(command.ranges.data());
        for (const iovec& piece : command.pieces) {
            std::memcpy(into, piece.iov_base, piece.iov_len);
            into += piece.iov_len;
        }
        for (const nvme::DatasetRange& range : command.ranges) {
            if (range.start_lba > blocks_ || range.blocks > blocks_ - range.start_lba) {
                complete(command, MediumStatus(Status::kLbaOutOfRange));
                return;
            }
        }
    }
    next_dataset_range(command);
}

void SoftwareController::next_dataset_range(Command& command) {
    while (!command.ranges.empty()) {
        const nvme::DatasetRange range = command.ranges.back();
        command.ranges.pop_back();
        if (range.blocks == 0) continue;
        command.offset = range.start_lba << lba_shift_;
        command.bytes = std::uint64_t{range.blocks} << lba_shift_;
        command.memory = nullptr;
        command.memory_count = 0;
        command.done = medium_done;
        command.running = true;
        ++running_;
        medium_->start(command);
        return;
    }
    complete(command, MediumStatus{});
}

void SoftwareController::medium_done(MediumOperation& operation, MediumStatus status) {
    auto& command = static_cast<Command&>(operation);
    SoftwareController& self = *command.controller;
    command.running = false;
    --self.running_;
    if (command.kind == MediumOperation::Kind::kDeallocate && status.code == 0 &&
        !command.ranges.empty()) {
        self.next_dataset_range(command);
        return;
    }
    if (command.aside != nullptr) [[unlikely]] {
        if (command.opcode == static_cast<std::uint8_t>(Opcode::kCompare) && status.code == 0 &&
            !command.equals_aside()) {
            // Without DNR, as others do too: the host has to know that trying again is no use.
            status = MediumStatus(Status::kCompareFailure, false);
        }
        command.aside.reset();
    }
    self.complete(command, status);
}

// The medium's data goes into memory of the command's own: for what the host does not get to see.
bool SoftwareController::read_aside(Command& command, const SubmissionEntry& entry) {
    if (options_.max_transfer_bytes != 0 && command.bytes > options_.max_transfer_bytes) {
        complete(command, MediumStatus(Status::kInvalidField));
        return false;
    }
    if (command.opcode == static_cast<std::uint8_t>(Opcode::kCompare) &&
        !map_memory(command, entry, command.bytes)) {
        return false;
    }
    command.aside = std::make_unique_for_overwrite<std::byte[]>(command.bytes);
    command.aside_piece = {.iov_base = command.aside.get(), .iov_len = command.bytes};
    command.memory = &command.aside_piece;
    command.memory_count = 1;
    return true;
}

bool SoftwareController::Command::equals_aside() const {
    const std::byte* at = aside.get();
    for (const iovec& piece : pieces) {
        if (std::memcmp(piece.iov_base, at, piece.iov_len) != 0) return false;
        at += piece.iov_len;
    }
    return true;
}

}  // namespace blobfs::driver
