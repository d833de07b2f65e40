#include "driver/soft/software_controller.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "driver/base/check.h"
#include "driver/nvme/sgl.h"
#include "driver/nvme/shared_word.h"
#include "driver/soft/host_memory.h"
#include "driver/soft/software_queues.h"

namespace blobfs::driver {

using nvme::CompletionEntry;
using nvme::load_acquire;
using nvme::Opcode;
using nvme::Status;
using nvme::store_release;
using nvme::SubmissionEntry;

SoftwareController::SoftwareController(std::unique_ptr<Medium> medium,
                                       const SoftwareControllerOptions& options)
    : medium_(std::move(medium)),
      options_(options),
      lba_shift_(static_cast<std::uint32_t>(std::countr_zero(medium_->properties().lba_bytes))),
      blocks_(medium_->properties().bytes >> lba_shift_) {
    capabilities_.raw =
        nvme::Capabilities::make(options_.max_queue_entries, options_.ready_timeout_500ms,
                                 options_.doorbell_stride_exponent);
    const std::size_t queues = std::size_t{options_.max_io_queues} + 1;
    doorbells_.resize(queues * 2 << options_.doorbell_stride_exponent);
    submission_queues_.resize(queues);
    completion_queues_.resize(queues);
    listeners_.resize(queues);
}

SoftwareController::~SoftwareController() {
    for (auto& queue : submission_queues_) {
        if (queue == nullptr) continue;
        for (Command& command : queue->commands) {
            if (command.running) medium_->cancel(command);
        }
    }
    while (medium_->in_flight() != 0) medium_->poll();
}

std::uint32_t SoftwareController::read32(std::uint32_t offset) {
    if (medium_->gone()) return nvme::kAllOnes32;
    switch (offset) {
        case nvme::kRegisterCap:
            return static_cast<std::uint32_t>(capabilities_.raw);
        case nvme::kRegisterCap + 4:
            return static_cast<std::uint32_t>(capabilities_.raw >> 32);
        case nvme::kRegisterVs:
            return kSpecificationVersion;
        case nvme::kRegisterIntms:
        case nvme::kRegisterIntmc:
            return interrupt_mask_;
        case nvme::kRegisterCc:
            return configuration_;
        case nvme::kRegisterCsts:
            return status_;
        case nvme::kRegisterAqa:
            return admin_attributes_;
        default:
            return 0;
    }
}

std::uint64_t SoftwareController::read64(std::uint32_t offset) {
    if (medium_->gone()) return nvme::kAllOnes64;
    switch (offset) {
        case nvme::kRegisterAsq:
            return admin_submission_;
        case nvme::kRegisterAcq:
            return admin_completion_;
        default:
            return std::uint64_t{read32(offset + 4)} << 32 | read32(offset);
    }
}

void SoftwareController::write32(std::uint32_t offset, std::uint32_t value) {
    switch (offset) {
        case nvme::kRegisterIntms:
            interrupt_mask_ |= value;
            break;
        case nvme::kRegisterIntmc:
            interrupt_mask_ &= ~value;
            break;
        case nvme::kRegisterCc:
            configure(value);
            break;
        case nvme::kRegisterAqa:
            admin_attributes_ = value;
            break;
        default:
            break;
    }
}

void SoftwareController::write64(std::uint32_t offset, std::uint64_t value) {
    if (offset == nvme::kRegisterAsq) admin_submission_ = value & ~std::uint64_t{0xfff};
    if (offset == nvme::kRegisterAcq) admin_completion_ = value & ~std::uint64_t{0xfff};
}

volatile std::uint32_t* SoftwareController::doorbell(std::uint32_t offset) {
    if (offset < nvme::kRegisterDoorbells || offset % sizeof(std::uint32_t) != 0) return nullptr;
    const std::size_t index = (offset - nvme::kRegisterDoorbells) / sizeof(std::uint32_t);
    return index < doorbells_.size() ? &doorbells_[index] : nullptr;
}

void SoftwareController::notify_of_completions(std::uint16_t queue_id, Reactor* reactor) {
    CHECK(queue_id < listeners_.size());
    listeners_[queue_id] = reactor;
}

void SoftwareController::configure(std::uint32_t value) {
    const std::uint32_t before = configuration_;
    configuration_ = value;
    if ((value & nvme::kCcEnable) != 0 && (before & nvme::kCcEnable) == 0) enable();
    if ((value & nvme::kCcEnable) == 0 && (before & nvme::kCcEnable) != 0) {
        // Ready goes away when nothing of ours touches the host's memory any more.
        deferred_ = Deferred::kDisable;
        for (auto& queue : submission_queues_) {
            if (queue == nullptr) continue;
            for (Command& command : queue->commands) {
                if (command.running) medium_->cancel(command);
            }
        }
        return;
    }
    if ((value & nvme::kCcShutdownMask) != 0 && (before & nvme::kCcShutdownMask) == 0) {
        status_ = (status_ & ~nvme::kCstsShutdownMask) | nvme::kCstsShutdownOccurring;
        deferred_ = Deferred::kShutdown;
    }
}

void SoftwareController::enable() {
    const std::uint32_t submission_entries = (admin_attributes_ & 0xfff) + 1;
    const std::uint32_t completion_entries = (admin_attributes_ >> 16 & 0xfff) + 1;
    const bool sizes = (configuration_ >> 16 & 0xff) == nvme::kCcEntrySizes >> 16;
    if (admin_submission_ == 0 || admin_completion_ == 0 || submission_entries < 2 ||
        completion_entries < 2 || !sizes || (configuration_ >> 4 & 0x7f) != 0) {
        status_ = nvme::kCstsFatal;
        return;
    }
    std::fill(doorbells_.begin(), doorbells_.end(), 0);
    const std::uint32_t stride = capabilities_.doorbell_stride_bytes();
    auto completion = std::make_unique<CompletionQueue>();
    completion->entries = completion_entries;
    completion->ring = reinterpret_cast<volatile CompletionEntry*>(admin_completion_);
    completion->users = 1;
    completion->bell = doorbell(nvme::completion_doorbell(0, stride));
    auto submission = std::make_unique<SubmissionQueue>();
    submission->entries = submission_entries;
    submission->ring = reinterpret_cast<const SubmissionEntry*>(admin_submission_);
    submission->bell = doorbell(nvme::submission_doorbell(0, stride));
    submission->completion = completion.get();
    submission->commands.resize(submission_entries);
    for (Command& command : submission->commands) submission->free.push_back(&command);
    completion_queues_[0] = std::move(completion);
    submission_queues_[0] = std::move(submission);
    status_ = nvme::kCstsReady;
}

void SoftwareController::drop_queues() {
    for (auto& queue : submission_queues_) queue.reset();
    for (auto& queue : completion_queues_) queue.reset();
    retired_.clear();
    event_requests_.clear();
    events_.clear();
    write_cache_on_ = true;
    retry_delays_on_ = false;
    event_configuration_ = 0;
    shadow_page_ = 0;
}

void SoftwareController::finish_deferred() {
    if (running_ != 0 || shutdown_flushing_) return;
    if (deferred_ == Deferred::kDisable) {
        drop_queues();
        status_ = 0;
        deferred_ = Deferred::kNothing;
        return;
    }
    // A normal shutdown makes everything durable that was acknowledged (section 7.6.2).
    shutdown_flushing_ = true;
    deferred_ = Deferred::kNothing;
    shutdown_flush_ = {};
    shutdown_flush_.kind = MediumOperation::Kind::kFlush;
    shutdown_flush_.controller = this;
    shutdown_flush_.done = [](MediumOperation& operation, MediumStatus) {
        SoftwareController* self = static_cast<ShutdownFlush&>(operation).controller;
        self->shutdown_flushing_ = false;
        self->status_ = (self->status_ & ~nvme::kCstsShutdownMask) | nvme::kCstsShutdownComplete;
    };
    medium_->start(shutdown_flush_);
    medium_->submit();
}

bool SoftwareController::busy() const { return running_ != 0 || shutdown_flushing_; }

bool SoftwareController::needs_polling() const {
    if (busy() && medium_->wake_descriptor() < 0) return true;
    if (deferred_ != Deferred::kNothing) return true;
    for (const auto& queue : submission_queues_) {
        if (queue != nullptr && load_acquire(*queue->bell) != queue->head) return true;
    }
    return false;
}

bool SoftwareController::poll() {
    if (medium_->gone()) [[unlikely]]
        return medium_->poll();
    bool worked = false;
    if ((status_ & nvme::kCstsReady) != 0 && deferred_ != Deferred::kDisable) {
        for (const auto& queue : submission_queues_) {
            if (queue == nullptr || load_acquire(*queue->bell) == queue->head) continue;
            worked = true;
            fetch(*queue);
        }
        if (worked) medium_->submit();
    }
    if (medium_->in_flight() != 0) worked |= medium_->poll();
    for (const auto& queue : completion_queues_) {
        if (queue == nullptr) continue;
        if (!queue->waiting.empty()) [[unlikely]] {
            std::deque<CompletionEntry> waiting;
            waiting.swap(queue->waiting);
            for (const CompletionEntry& entry : waiting) post(*queue, entry);
        }
        if (queue->unannounced) announce(*queue);
    }
    if (deferred_ != Deferred::kNothing) [[unlikely]]
        finish_deferred();
    return worked;
}

void SoftwareController::fetch(SubmissionQueue& queue) {
    // The entries were stored before the doorbell; they are loaded after it.
    const std::uint32_t tail = load_acquire(*queue.bell);
    if (tail >= queue.entries) {
        // Invalid doorbell write value: an error event; the queue is not looked at.
        *queue.bell = queue.head;
        raise_event(nvme::AsynchronousEventType::kError, 1, nvme::LogPage::kError);
        return;
    }
    while (queue.head != tail && !queue.free.empty()) {
        const SubmissionEntry& entry = queue.ring[queue.head];
        queue.head = queue.head + 1 == queue.entries ? 0 : queue.head + 1;
        execute(queue, entry);
        // The command may have been one that deletes this very queue, or disables all.
        if ((status_ & nvme::kCstsReady) == 0) return;
    }
}

SoftwareController::Command* SoftwareController::take_command(SubmissionQueue& queue) {
    Command* command = queue.free.back();
    queue.free.pop_back();
    return command;
}

void SoftwareController::execute(SubmissionQueue& queue, const SubmissionEntry& entry) {
    Command& command = *take_command(queue);
    command.controller = this;
    command.queue = &queue;
    command.command_id = entry.command_id;
    command.opcode = entry.opcode;
    command.lba = 0;
    // Fused operations are not offered, nor SGLs for admin commands.
    const bool good_flags =
        entry.flags == 0 || (entry.flags == nvme::kFlagsSgl && options_.sgl && queue.id != 0);
    if (!good_flags) [[unlikely]] {
        complete(command, MediumStatus(Status::kInvalidField));
        return;
    }
    if (queue.id == 0) {
        execute_admin(command, entry);
    } else {
        execute_io(command, entry);
    }
}

// Lays the command's memory out in command.pieces. Completes the command with an error and gives
// false when its description is wrong.
bool SoftwareController::map_memory(Command& command, const SubmissionEntry& entry,
                                    std::uint64_t bytes) {
    const Status status = map_host_memory(entry, bytes, command.pieces);
    if (status == Status::kSuccess) [[likely]]
        return true;
    complete(command, MediumStatus(status));
    return false;
}

void SoftwareController::complete(Command& command, MediumStatus status, std::uint32_t dword0) {
    SubmissionQueue& queue = *command.queue;
    std::uint16_t field = nvme::status_field(status.code, status.do_not_retry);
    if (status.code == 0) [[likely]] {
        field = 0;
    } else {
        if (!status.do_not_retry && options_.retry_delay_100ms != 0 && retry_delays_on_) {
            field |= 1U << 12;
        }
        log_error(command, field);
    }
    const CompletionEntry entry{.dword0 = dword0,
                                .dword1 = 0,
                                .submission_head = static_cast<std::uint16_t>(queue.head),
                                .submission_queue_id = queue.id,
                                .command_id = command.command_id,
                                .status = field};
    queue.free.push_back(&command);
    // While it is being disabled, nothing is posted: the host may use the queue's memory again.
    if (deferred_ == Deferred::kDisable || queue.completion == nullptr || medium_->gone()) return;
    post(*queue.completion, entry);
}

void SoftwareController::post(CompletionQueue& queue, CompletionEntry entry) {
    const std::uint32_t next = queue.tail + 1 == queue.entries ? 0 : queue.tail + 1;
    if (next == load_acquire(*queue.bell) || !queue.waiting.empty()) [[unlikely]] {
        queue.waiting.push_back(entry);
        return;
    }
    volatile CompletionEntry& slot = queue.ring[queue.tail];
    slot.dword0 = entry.dword0;
    slot.dword1 = 0;
    slot.submission_head = entry.submission_head;
    slot.submission_queue_id = entry.submission_queue_id;
    slot.command_id = entry.command_id;
    // The phase bit says that the rest of the entry, and the data, are there.
    store_release(slot.status, static_cast<std::uint16_t>(entry.status | queue.phase));
    queue.tail = next;
    if (next == 0) queue.phase ^= nvme::kPhase;
    queue.unannounced = true;
}

// Once for all that a poll() has posted. Reactor::notify() orders the entries before its look at
// whether that reactor sleeps; the reactor, before it sleeps, looks at the queue once more.
void SoftwareController::announce(CompletionQueue& queue) {
    queue.unannounced = false;
    if (Reactor* const listener = listeners_[queue.id]) [[unlikely]]
        listener->notify();
}

void SoftwareController::log_error(const Command& command, std::uint16_t status) {
    std::move_backward(error_log_.begin(), error_log_.end() - 1, error_log_.end());
    error_log_[0] = {};
    error_log_[0].error_count = ++errors_;
    error_log_[0].submission_queue_id = command.queue->id;
    error_log_[0].command_id = command.command_id;
    error_log_[0].status = status;
    error_log_[0].parameter_location = 0xffff;
    error_log_[0].lba = command.lba;
    error_log_[0].namespace_id = command.queue->id == 0 ? 0 : 1;
}

SoftwareTransport::SoftwareTransport(Reactor& reactor, std::unique_ptr<Medium> medium,
                                     const SoftwareControllerOptions& options)
    : Transport(true),
      reactor_(reactor),
      controller_(std::move(medium), options),
      name_(controller_.medium().properties().name) {
    reactor_.add_poller(controller_);
}

SoftwareTransport::~SoftwareTransport() { reactor_.remove_poller(controller_); }

std::uint32_t SoftwareTransport::read32(std::uint32_t offset) { return controller_.read32(offset); }

std::uint64_t SoftwareTransport::read64(std::uint32_t offset) { return controller_.read64(offset); }

void SoftwareTransport::write32(std::uint32_t offset, std::uint32_t value) {
    controller_.write32(offset, value);
}

void SoftwareTransport::write64(std::uint32_t offset, std::uint64_t value) {
    controller_.write64(offset, value);
}

volatile std::uint32_t* SoftwareTransport::doorbell(std::uint32_t offset) {
    return controller_.doorbell(offset);
}

}  // namespace blobfs::driver
