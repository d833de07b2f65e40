// The admin commands of the software controller (NVMe 1.4, section 5).

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "driver/base/check.h"
#include "driver/soft/software_controller.h"
#include "driver/soft/software_queues.h"

namespace blobfs::driver {

using nvme::AdminOpcode;
using nvme::Feature;
using nvme::Status;

namespace {

constexpr std::uint8_t kEventLimit = 3;  // zero based
constexpr std::uint16_t kRoomTemperature = 300;
constexpr std::size_t kHostBehaviorBytes = 512;

template <std::size_t N>
void put_text(char (&field)[N], std::string_view text) {
    std::memset(field, ' ', N);
    std::memcpy(field, text.data(), std::min(N, text.size()));
}

}  // namespace

void SoftwareController::execute_admin(Command& command, const SubmissionEntry& entry) {
    switch (static_cast<AdminOpcode>(entry.opcode)) {
        case AdminOpcode::kIdentify:
            identify(command, entry);
            return;
        case AdminOpcode::kGetLogPage:
            get_log_page(command, entry);
            return;
        case AdminOpcode::kSetFeatures:
            set_features(command, entry, true);
            return;
        case AdminOpcode::kGetFeatures:
            set_features(command, entry, false);
            return;
        case AdminOpcode::kCreateCompletionQueue:
            create_completion_queue(command, entry);
            return;
        case AdminOpcode::kCreateSubmissionQueue:
            create_submission_queue(command, entry);
            return;
        case AdminOpcode::kDeleteCompletionQueue:
            delete_queue(command, entry, false);
            return;
        case AdminOpcode::kDeleteSubmissionQueue:
            delete_queue(command, entry, true);
            return;
        case AdminOpcode::kAbort:
            abort(command, entry);
            return;
        case AdminOpcode::kAsynchronousEventRequest:
            if (event_requests_.size() > kEventLimit) {
                complete(command, MediumStatus(Status::kEventRequestLimitExceeded));
                return;
            }
            event_requests_.push_back(&command);
            deliver_events();
            return;
        case AdminOpcode::kDoorbellBufferConfig:
            configure_shadow_doorbells(command, entry);
            return;
    }
    complete(command, MediumStatus(Status::kInvalidOpcode));
}

// The shadows are looked at instead of the registers; the event indices stay 0, which asks for the
// register now and then and does no harm.
void SoftwareController::configure_shadow_doorbells(Command& command,
                                                    const SubmissionEntry& entry) {
    if (!options_.shadow_doorbells) {
        complete(command, MediumStatus(Status::kInvalidOpcode));
        return;
    }
    if (entry.prp1 == 0 || entry.prp2 == 0 || (entry.prp1 | entry.prp2) % nvme::kPageBytes != 0) {
        complete(command, MediumStatus(Status::kInvalidField));
        return;
    }
    shadow_page_ = entry.prp1;
    complete(command, MediumStatus{});
}

volatile std::uint32_t* SoftwareController::bell(std::uint32_t offset) {
    if (shadow_page_ == 0) return doorbell(offset);
    return reinterpret_cast<volatile std::uint32_t*>(shadow_page_ + offset -
                                                     nvme::kRegisterDoorbells);
}

// Data for the host, at most a page: into the memory that the command names.
bool SoftwareController::copy_out(Command& command, const SubmissionEntry& entry, const void* data,
                                  std::size_t bytes) {
    if (!map_memory(command, entry, bytes)) return false;
    const auto* from = static_cast<const std::byte*>(data);
    for (const iovec& piece : command.pieces) {
        std::memcpy(piece.iov_base, from, piece.iov_len);
        from += piece.iov_len;
    }
    return true;
}

void SoftwareController::identify(Command& command, const SubmissionEntry& entry) {
    const MediumProperties& properties = medium_->properties();
    switch (static_cast<nvme::IdentifyKind>(entry.dword10 & 0xff)) {
        case nvme::IdentifyKind::kController: {
            nvme::IdentifyController data{};
            put_text(data.serial_number,
                     std::string_view(properties.name)
                         .substr(properties.name.size() > 20 ? properties.name.size() - 20 : 0));
            put_text(data.model_number, properties.model);
            put_text(data.firmware_revision, BLOBFS_VERSION);
            if (options_.max_transfer_bytes != 0) {
                data.max_data_transfer = static_cast<std::uint8_t>(
                    std::countr_zero(options_.max_transfer_bytes / nvme::kPageBytes));
            }
            data.version = kSpecificationVersion;
            data.optional_events = nvme::kEventNamespaceChanged;
            data.retry_delay[0] = options_.retry_delay_100ms;
            data.abort_limit = 3;
            data.event_limit = kEventLimit;
            data.error_log_entries = static_cast<std::uint8_t>(error_log_.size() - 1);
            data.firmware_updates = 1U << 1 | 1U;  // one slot, read-only
            data.warning_temperature = kRoomTemperature + 50;
            data.critical_temperature = kRoomTemperature + 60;
            data.submission_entry_size = 0x66;
            data.completion_entry_size = 0x44;
            data.namespaces = 1;
            data.optional_commands = nvme::kOncsCompare | nvme::kOncsVerify;
            if (options_.sgl) data.sgl_support = 1;
            if (options_.shadow_doorbells) data.optional_admin_commands = nvme::kOacsDoorbellBuffer;
            if (properties.deallocate) data.optional_commands |= nvme::kOncsDatasetManagement;
            if (properties.write_zeroes) data.optional_commands |= nvme::kOncsWriteZeroes;
            data.volatile_write_cache = properties.volatile_write_cache ? 1 : 0;
            put_text(data.subsystem_nqn, "");
            std::memset(data.subsystem_nqn, 0, sizeof data.subsystem_nqn);
            std::strncpy(data.subsystem_nqn, "nqn.2026-01.org.blobfs:software",
                         sizeof data.subsystem_nqn - 1);
            if (copy_out(command, entry, &data, sizeof data)) complete(command, MediumStatus{});
            return;
        }
        case nvme::IdentifyKind::kNamespace: {
            nvme::IdentifyNamespace data{};
            if (entry.namespace_id == 0 || entry.namespace_id > 1) {
                complete(command, MediumStatus(Status::kInvalidNamespace));
                return;
            }
            data.size_blocks = data.capacity_blocks = data.used_blocks =
                condition_.blocks != 0 ? condition_.blocks : blocks_;
            data.features = 1;  // thin provisioning
            data.deallocate_features = nvme::kDlfeatWriteZeroesDeallocate | nvme::kDlfeatReadsZero;
            data.optimal_io_boundary = options_.optimal_boundary_blocks;
            data.attributes = properties.read_only || condition_.write_protected ? 1 : 0;
            data.formats[0].data_size = static_cast<std::uint8_t>(lba_shift_);
            data.formats[0].metadata_bytes = options_.metadata_bytes;
            if (copy_out(command, entry, &data, sizeof data)) complete(command, MediumStatus{});
            return;
        }
        case nvme::IdentifyKind::kActiveNamespaces: {
            std::array<std::uint32_t, nvme::kPageBytes / sizeof(std::uint32_t)> ids{};
            if (entry.namespace_id == 0 && condition_.namespace_active) ids[0] = 1;
            if (copy_out(command, entry, ids.data(), sizeof ids)) {
                complete(command, MediumStatus{});
            }
            return;
        }
    }
    complete(command, MediumStatus(Status::kInvalidField));
}

void SoftwareController::get_log_page(Command& command, const SubmissionEntry& entry) {
    const std::uint64_t bytes =
        ((entry.dword10 >> 16 | std::uint64_t{entry.dword11 & 0xffff} << 16) + 1) * 4;
    std::array<std::byte, nvme::kPageBytes> page{};
    if (bytes > page.size() || entry.dword12 != 0 || entry.dword13 != 0) {
        complete(command, MediumStatus(Status::kInvalidField));
        return;
    }
    switch (static_cast<nvme::LogPage>(entry.dword10 & 0xff)) {
        case nvme::LogPage::kError:
            std::memcpy(page.data(), error_log_.data(), sizeof error_log_);
            break;
        case nvme::LogPage::kHealth: {
            nvme::HealthLog health{};
            health.critical_warning = condition_.critical_warning;
            health.temperature[0] = kRoomTemperature & 0xff;
            health.temperature[1] = kRoomTemperature >> 8;
            health.available_spare = 100;
            health.available_spare_threshold = 10;
            // In thousands of 512-byte units, rounded up.
            const auto units = [this](std::uint64_t blocks) {
                return ((blocks << lba_shift_) / 512 + 999) / 1000;
            };
            health.data_units_read[0] = units(blocks_read_);
            health.data_units_written[0] = units(blocks_written_);
            health.host_reads[0] = reads_;
            health.host_writes[0] = writes_;
            health.error_log_entries[0] = errors_;
            std::memcpy(page.data(), &health, sizeof health);
            break;
        }
        case nvme::LogPage::kFirmwareSlot: {
            nvme::FirmwareSlotLog firmware{};
            firmware.active_slots = 1;
            put_text(firmware.revisions[0], BLOBFS_VERSION);
            std::memcpy(page.data(), &firmware, sizeof firmware);
            break;
        }
        case nvme::LogPage::kChangedNamespaces:
            break;
        default:
            complete(command, MediumStatus(Status::kInvalidLogPage));
            return;
    }
    if (copy_out(command, entry, page.data(), bytes)) complete(command, MediumStatus{});
}

void SoftwareController::set_features(Command& command, const SubmissionEntry& entry, bool set) {
    switch (static_cast<Feature>(entry.dword10 & 0xff)) {
        case Feature::kNumberOfQueues: {
            const std::uint32_t most = options_.max_io_queues - 1U;
            const std::uint32_t submissions = set ? std::min(entry.dword11 & 0xffff, most) : most;
            const std::uint32_t completions = set ? std::min(entry.dword11 >> 16, most) : most;
            complete(command, MediumStatus{}, completions << 16 | submissions);
            return;
        }
        case Feature::kVolatileWriteCache:
            if (!medium_->properties().volatile_write_cache) {
                complete(command, MediumStatus(Status::kInvalidField));
                return;
            }
            if (set) write_cache_on_ = (entry.dword11 & 1) != 0;
            complete(command, MediumStatus{}, set ? 0 : write_cache_on_ ? 1 : 0);
            return;
        case Feature::kHostBehaviorSupport: {
            std::array<std::byte, kHostBehaviorBytes> behavior{};
            if (!map_memory(command, entry, behavior.size())) return;
            if (set) {
                std::memcpy(behavior.data(), command.pieces[0].iov_base, 1);
                retry_delays_on_ = behavior[0] == std::byte{1};
            } else {
                behavior[0] = std::byte{retry_delays_on_};
                if (!copy_out(command, entry, behavior.data(), behavior.size())) return;
            }
            complete(command, MediumStatus{});
            return;
        }
        case Feature::kAsynchronousEventConfiguration:
            if (set) event_configuration_ = entry.dword11;
            complete(command, MediumStatus{}, set ? 0 : event_configuration_);
            return;
        default:
            complete(command, MediumStatus(Status::kInvalidField));
            return;
    }
}

void SoftwareController::create_completion_queue(Command& command, const SubmissionEntry& entry) {
    const std::uint32_t id = entry.dword10 & 0xffff;
    const std::uint32_t entries = (entry.dword10 >> 16) + 1;
    if (id == 0 || id >= completion_queues_.size() || completion_queues_[id] != nullptr) {
        complete(command, MediumStatus(Status::kInvalidQueueId));
        return;
    }
    if (entries < 2 || entries > options_.max_queue_entries) {
        complete(command, MediumStatus(Status::kInvalidQueueSize));
        return;
    }
    // CAP.CQR: queues are physically contiguous.
    if ((entry.dword11 & nvme::kQueueContiguous) == 0 || entry.prp1 == 0 ||
        entry.prp1 % nvme::kPageBytes != 0) {
        complete(command, MediumStatus(Status::kInvalidField));
        return;
    }
    auto queue = std::make_unique<CompletionQueue>();
    queue->id = static_cast<std::uint16_t>(id);
    queue->entries = entries;
    queue->ring = reinterpret_cast<volatile CompletionEntry*>(entry.prp1);
    volatile std::uint32_t* const word =
        bell(nvme::completion_doorbell(queue->id, capabilities_.doorbell_stride_bytes()));
    *word = 0;
    queue->bell = word;
    completion_queues_[id] = std::move(queue);
    complete(command, MediumStatus{});
}

void SoftwareController::create_submission_queue(Command& command, const SubmissionEntry& entry) {
    const std::uint32_t id = entry.dword10 & 0xffff;
    const std::uint32_t entries = (entry.dword10 >> 16) + 1;
    const std::uint32_t completion_id = entry.dword11 >> 16;
    if (id == 0 || id >= submission_queues_.size() || submission_queues_[id] != nullptr) {
        complete(command, MediumStatus(Status::kInvalidQueueId));
        return;
    }
    if (entries < 2 || entries > options_.max_queue_entries) {
        complete(command, MediumStatus(Status::kInvalidQueueSize));
        return;
    }
    if (completion_id == 0 || completion_id >= completion_queues_.size() ||
        completion_queues_[completion_id] == nullptr) {
        complete(command, MediumStatus(Status::kCompletionQueueInvalid));
        return;
    }
    if ((entry.dword11 & nvme::kQueueContiguous) == 0 || entry.prp1 == 0 ||
        entry.prp1 % nvme::kPageBytes != 0) {
        complete(command, MediumStatus(Status::kInvalidField));
        return;
    }
    auto queue = std::make_unique<SubmissionQueue>();
    queue->id = static_cast<std::uint16_t>(id);
    queue->entries = entries;
    queue->ring = reinterpret_cast<const SubmissionEntry*>(entry.prp1);
    queue->bell = bell(nvme::submission_doorbell(queue->id, capabilities_.doorbell_stride_bytes()));
    *queue->bell = 0;
    queue->completion = completion_queues_[completion_id].get();
    ++queue->completion->users;
    queue->commands.resize(entries);
    for (Command& slot : queue->commands) queue->free.push_back(&slot);
    submission_queues_[id] = std::move(queue);
    complete(command, MediumStatus{});
}

void SoftwareController::delete_queue(Command& command, const SubmissionEntry& entry,
                                      bool submission) {
    const std::uint32_t id = entry.dword10 & 0xffff;
    if (submission) {
        if (id == 0 || id >= submission_queues_.size() || submission_queues_[id] == nullptr) {
            complete(command, MediumStatus(Status::kInvalidQueueId));
            return;
        }
        // What the medium still works on ends unseen: its completion queue may go away next.
        std::unique_ptr<SubmissionQueue> queue = std::move(submission_queues_[id]);
        --queue->completion->users;
        queue->completion = nullptr;
        for (Command& slot : queue->commands) {
            if (slot.running) medium_->cancel(slot);
        }
        retired_.push_back(std::move(queue));
        complete(command, MediumStatus{});
        return;
    }
    if (id == 0 || id >= completion_queues_.size() || completion_queues_[id] == nullptr) {
        complete(command, MediumStatus(Status::kInvalidQueueId));
        return;
    }
    if (completion_queues_[id]->users != 0) {
        complete(command, MediumStatus(Status::kInvalidQueueDeletion));
        return;
    }
    completion_queues_[id].reset();
    complete(command, MediumStatus{});
}

// Completion dword 0, bit 0: 0 when the command was aborted (section 5.1).
void SoftwareController::abort(Command& command, const SubmissionEntry& entry) {
    const std::uint32_t queue_id = entry.dword10 & 0xffff;
    const std::uint32_t command_id = entry.dword10 >> 16;
    bool aborted = false;
    if (options_.aborts && queue_id < submission_queues_.size() &&
        submission_queues_[queue_id] != nullptr) {
        for (Command& slot : submission_queues_[queue_id]->commands) {
            if (slot.running && slot.command_id == command_id) {
                aborted = medium_->cancel(slot);
                break;
            }
        }
    }
    complete(command, MediumStatus{}, aborted ? 0 : 1);
}

void SoftwareController::raise_event(nvme::AsynchronousEventType type, std::uint8_t information,
                                     nvme::LogPage page) {
    if (events_.size() >= 16) return;  // the host does not listen
    events_.push_back(static_cast<std::uint32_t>(type) | std::uint32_t{information} << 8 |
                      static_cast<std::uint32_t>(page) << 16);
    deliver_events();
}

void SoftwareController::deliver_events() {
    while (!events_.empty() && !event_requests_.empty()) {
        const std::uint32_t event = events_.front();
        events_.pop_front();
        Command* command = event_requests_.back();
        event_requests_.pop_back();
        complete(*command, MediumStatus{}, event);
    }
}

}  // namespace blobfs::driver
