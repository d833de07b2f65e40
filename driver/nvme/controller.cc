#include "driver/nvme/controller.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>

#include "driver/base/check.h"
#include "driver/nvme/status.h"

namespace blobfs::driver::nvme {

namespace {

constexpr std::uint32_t kAdminEntries = 32;
constexpr std::uint64_t kCheckIntervalUs = 100'000;
constexpr std::uint64_t kShutdownTimeoutUs = 10'000'000;
constexpr std::uint64_t kPollPauseUs = 100;

// Identify's strings are ASCII padded with spaces; what is not printable came from a broken device.
std::string trimmed(const char* text, std::size_t size) {
    std::string result;
    for (std::size_t i = 0; i < size && text[i] != '\0'; ++i) {
        result += text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    }
    const std::size_t end = result.find_last_not_of(' ');
    result.resize(end == std::string::npos ? 0 : end + 1);
    return result;
}

SubmissionEntry admin_entry(AdminOpcode opcode) {
    SubmissionEntry entry{};
    entry.opcode = static_cast<std::uint8_t>(opcode);
    return entry;
}

}  // namespace

Controller::Controller(Reactor& reactor, std::unique_ptr<Transport> transport,
                       const ControllerOptions& options)
    : reactor_(reactor), transport_(std::move(transport)), options_(options) {}

Controller::~Controller() {
    CHECK(state_ == State::kClosed);
    // Before the memory that the controller might still write to.
    transport_.reset();
}

Result<std::unique_ptr<Controller>> Controller::open(Suspend& suspend,
                                                     std::unique_ptr<Transport> transport,
                                                     const ControllerOptions& options) {
    std::unique_ptr<Controller> controller(
        new Controller(suspend.reactor(), std::move(transport), options));
    Result<void> started = controller->start(suspend);
    if (!started) {
        // Leaves the controller disabled, so that it touches no memory of ours any more.
        if (!controller->dead() && controller->admin_queue_ != nullptr) {
            (void)controller->disable(suspend);
        }
        controller->die(started.error(), started.error().what);
        controller->state_ = State::kClosed;
        return fail(started.error());
    }
    return controller;
}

Result<void> Controller::start(Suspend& suspend) {
    capabilities_.raw = transport_->read64(kRegisterCap);
    if (capabilities_.raw == kAllOnes64) {
        return fail(Errc::kDeviceGone, "reading the NVMe controller's capabilities");
    }
    if (!capabilities_.nvm_command_set()) {
        return fail(Errc::kNotSupported, "looking for the NVM command set on the NVMe controller");
    }
    if (capabilities_.min_page_bytes() > kPageBytes) {
        return fail(Errc::kNotSupported,
                    "using 4096-byte memory pages with the NVMe controller (CAP.MPSMIN)");
    }
    TRY_ASSIGN(admin_page_, DmaBuffer::allocate(kPageBytes));
    TRY_ASSIGN(
        admin_queue_,
        QueuePair::create(*transport_, *this,
                          {.queue_id = 0,
                           .entries = std::min(kAdminEntries, capabilities_.max_queue_entries()),
                           .doorbell_stride = capabilities_.doorbell_stride_bytes(),
                           .timeout_us = std::uint64_t{options_.admin_timeout_ms} * 1000,
                           .abort_grace_us = std::uint64_t{options_.abort_grace_ms} * 1000}));
    TRY(disable(suspend));
    TRY(enable(suspend));
    TRY(identify_controller(suspend));
    TRY(read_namespaces(suspend));
    TRY(set_features(suspend));
    TRY(create_queues(suspend));
    state_ = State::kReady;
    event_slots_.resize(
        std::min<std::size_t>(options_.event_requests, std::size_t{identify_.event_limit} + 1));
    for (EventSlot& slot : event_slots_) {
        slot.controller = this;
        request_event(slot);
    }
    admin_queue_->ring();
    return {};
}

Result<void> Controller::wait_ready(Suspend& suspend, bool ready, const char* what) {
    // CAP.TO of 0 is not meant literally by the controllers that have it.
    const std::uint64_t limit_us =
        std::max<std::uint64_t>(capabilities_.ready_timeout_ms(), 500) * 1000;
    const std::uint64_t start_us = reactor_.now_us();
    while (true) {
        const std::uint32_t status = transport_->read32(kRegisterCsts);
        if (status == kAllOnes32) return fail(Errc::kDeviceGone, what);
        if (((status & kCstsReady) != 0) == ready) return {};
        // A fatal controller may still become not ready, which is how it is reset.
        if (ready && (status & kCstsFatal) != 0) return fail(Errc::kDeviceGone, what);
        if (reactor_.now_us() - start_us > limit_us) {
            spdlog::error("{}: {}: no answer within {} ms (CAP.TO)", transport_->name(), what,
                          limit_us / 1000);
            return fail(Errc::kDeviceGone, what);
        }
        suspend.sleep_us(kPollPauseUs);
    }
}

Result<void> Controller::disable(Suspend& suspend) {
    constexpr const char* kWhat = "disabling the NVMe controller";
    const std::uint32_t configuration = transport_->read32(kRegisterCc);
    if (configuration == kAllOnes32) return fail(Errc::kDeviceGone, kWhat);
    if ((configuration & kCcEnable) != 0) {
        // Clearing CC.EN while it is still becoming ready is undefined (section 3.1.5), so a
        // controller that a previous owner just enabled is waited for; if it is stuck, cleared.
        if ((transport_->read32(kRegisterCsts) & kCstsFatal) == 0) {
            (void)wait_ready(suspend, true, "waiting for the NVMe controller to become ready");
        }
        transport_->write32(kRegisterCc, configuration & ~(kCcEnable | kCcShutdownMask));
    }
    return wait_ready(suspend, false, kWhat);
}

Result<void> Controller::enable(Suspend& suspend) {
    const std::uint32_t size = admin_queue_->entries() - 1;
    transport_->write32(kRegisterAqa, size << 16 | size);
    transport_->write64(kRegisterAsq, admin_queue_->submission_address());
    transport_->write64(kRegisterAcq, admin_queue_->completion_address());
    // Interrupts stay masked: completions are found by their phase bit.
    transport_->write32(kRegisterIntms, kAllOnes32);
    transport_->write32(kRegisterCc, kCcEntrySizes | kCcEnable);
    return wait_ready(suspend, true, "enabling the NVMe controller");
}

struct Controller::AdminCall {
    bool done = false;
    bool failed = false;
    Error error{};
    std::uint32_t dword0 = 0;
};

Result<std::uint32_t> Controller::admin_raw(Suspend& suspend, const SubmissionEntry& command,
                                            DmaSpan data, const char* what) {
    AdminCall call;
    admin_queue_->submit_raw(
        command, data, what,
        [](void* context, const Error* error, std::uint32_t dword0) {
            auto* ended = static_cast<AdminCall*>(context);
            ended->done = true;
            ended->dword0 = dword0;
            if (error != nullptr) {
                ended->failed = true;
                ended->error = *error;
            }
        },
        &call);
    admin_queue_->ring();
    while (!call.done) {
        admin_queue_->poll(reactor_.now_us());
        if (!call.done) suspend.yield();
    }
    if (call.failed) return fail(call.error);
    return call.dword0;
}

Result<std::uint32_t> Controller::admin(Suspend& suspend, SubmissionEntry command,
                                        std::span<std::byte> data, bool to_controller,
                                        const char* what) {
    if (data.size() > kPageBytes || data.size() % 4 != 0) {
        return fail(Errc::kInvalidArgument, what);
    }
    if (data.empty()) return admin_raw(suspend, command, {}, what);
    FiberMutex::Guard guard(suspend, admin_page_mutex_);
    const DmaSpan page = admin_page_.span().first(data.size());
    std::memset(page.data(), 0, page.size());
    if (to_controller) std::memcpy(page.data(), data.data(), data.size());
    Result<std::uint32_t> answer = admin_raw(suspend, command, page, what);
    if (answer && !to_controller) std::memcpy(data.data(), page.data(), data.size());
    return answer;
}

Result<void> Controller::identify_controller(Suspend& suspend) {
    SubmissionEntry command = admin_entry(AdminOpcode::kIdentify);
    command.dword10 = static_cast<std::uint32_t>(IdentifyKind::kController);
    TRY(admin(suspend, command, std::as_writable_bytes(std::span(&identify_, 1)), false,
              "identifying the NVMe controller"));
    info_.model = trimmed(identify_.model_number, sizeof identify_.model_number);
    info_.serial = trimmed(identify_.serial_number, sizeof identify_.serial_number);
    info_.firmware = trimmed(identify_.firmware_revision, sizeof identify_.firmware_revision);
    info_.version = transport_->read32(kRegisterVs);
    // MDTS is a power of two of the smallest memory page; beyond 2^20 pages it bounds nothing.
    const std::uint32_t mdts = identify_.max_data_transfer;
    info_.max_transfer_bytes = mdts == 0 || mdts > 20 ? 0 : capabilities_.min_page_bytes() << mdts;
    info_.volatile_write_cache = (identify_.volatile_write_cache & 1) != 0;
    info_.compare = (identify_.optional_commands & kOncsCompare) != 0;
    info_.deallocate = (identify_.optional_commands & kOncsDatasetManagement) != 0;
    info_.write_zeroes = (identify_.optional_commands & kOncsWriteZeroes) != 0;
    info_.verify = (identify_.optional_commands & kOncsVerify) != 0;
    return {};
}

Result<void> Controller::read_namespaces(Suspend& suspend) {
    std::vector<std::uint32_t> ids(kPageBytes / sizeof(std::uint32_t));
    std::uint32_t after = 0;
    active_.clear();
    while (true) {
        SubmissionEntry command = admin_entry(AdminOpcode::kIdentify);
        command.namespace_id = after;
        command.dword10 = static_cast<std::uint32_t>(IdentifyKind::kActiveNamespaces);
        Result<std::uint32_t> answer =
            admin(suspend, command, std::as_writable_bytes(std::span(ids)), false,
                  "listing the namespaces of the NVMe controller");
        if (!answer) {
            // Controllers older than 1.1 have no such list: there, 1 to NN may be active.
            if (after != 0 || answer.error().nvme_status == 0) return fail(answer.error());
            const std::uint32_t count = std::min<std::uint32_t>(identify_.namespaces, 1024);
            for (std::uint32_t id = 1; id <= count; ++id) active_.push_back(id);
            return {};
        }
        for (const std::uint32_t id : ids) {
            if (id <= after) return {};  // 0 ends the list; a list out of order is not followed
            active_.push_back(id);
            after = id;
        }
    }
}

Result<void> Controller::set_features(Suspend& suspend) {
    const std::uint32_t wanted = std::max<std::uint32_t>(options_.io_queues, 1);
    SubmissionEntry command = admin_entry(AdminOpcode::kSetFeatures);
    command.dword10 = static_cast<std::uint32_t>(Feature::kNumberOfQueues);
    command.dword11 = (wanted - 1) << 16 | (wanted - 1);
    TRY_ASSIGN(const std::uint32_t given,
               admin(suspend, command, {}, false, "asking the NVMe controller for I/O queues"));
    const std::uint32_t granted = std::min(given & 0xffff, given >> 16) + 1;
    options_.io_queues = static_cast<std::uint16_t>(std::min(wanted, granted));

    if (info_.volatile_write_cache) {
        command.dword10 = static_cast<std::uint32_t>(Feature::kVolatileWriteCache);
        command.dword11 = 1;
        Result<std::uint32_t> answer =
            admin(suspend, command, {}, false, "enabling the NVMe controller's write cache");
        if (!answer) {
            if (answer.error().nvme_status == 0) return fail(answer.error());
            spdlog::warn("{}: {}; going on", transport_->name(), answer.error().message());
        }
    }
    // Only those events that the controller says it has; health warnings are always allowed.
    command.dword10 = static_cast<std::uint32_t>(Feature::kAsynchronousEventConfiguration);
    command.dword11 = kEventHealthWarnings | (identify_.optional_events &
                                              (kEventNamespaceChanged | kEventFirmwareActivation));
    Result<std::uint32_t> events =
        admin(suspend, command, {}, false, "configuring the NVMe controller's events");
    if (!events) {
        if (events.error().nvme_status == 0) return fail(events.error());
        spdlog::warn("{}: {}; going on without", transport_->name(), events.error().message());
    }
    return {};
}

Result<void> Controller::create_queues(Suspend& suspend) {
    const std::uint32_t entries =
        std::clamp(options_.queue_depth + 1, 2U, capabilities_.max_queue_entries());
    for (std::uint16_t id = 1; id <= options_.io_queues; ++id) {
        TRY_ASSIGN(
            std::unique_ptr<QueuePair> queue,
            QueuePair::create(*transport_, *this,
                              {.queue_id = id,
                               .entries = entries,
                               .doorbell_stride = capabilities_.doorbell_stride_bytes(),
                               .max_transfer_bytes = info_.max_transfer_bytes,
                               .timeout_us = std::uint64_t{options_.io_timeout_ms} * 1000,
                               .abort_grace_us = std::uint64_t{options_.abort_grace_ms} * 1000,
                               .max_retries = options_.max_retries}));
        queue->set_retry_delays(identify_.retry_delay);
        io_queues_.push_back(std::move(queue));
        TRY(create_queue_commands(suspend, *io_queues_.back()));
    }
    return {};
}

Result<void> Controller::create_queue_commands(Suspend& suspend, QueuePair& queue) {
    const std::uint32_t size_and_id = (queue.entries() - 1) << 16 | queue.queue_id();
    SubmissionEntry command = admin_entry(AdminOpcode::kCreateCompletionQueue);
    command.prp1 = queue.completion_address();
    command.dword10 = size_and_id;
    command.dword11 = kQueueContiguous;  // interrupts off
    TRY(admin_raw(suspend, command, {}, "creating an NVMe completion queue"));
    command = admin_entry(AdminOpcode::kCreateSubmissionQueue);
    command.prp1 = queue.submission_address();
    command.dword10 = size_and_id;
    command.dword11 = std::uint32_t{queue.queue_id()} << 16 | kQueueContiguous;
    TRY(admin_raw(suspend, command, {}, "creating an NVMe submission queue"));
    return {};
}

Result<void> Controller::identify_namespace(Suspend& suspend, std::uint32_t id,
                                            IdentifyNamespace& into) {
    SubmissionEntry command = admin_entry(AdminOpcode::kIdentify);
    command.namespace_id = id;
    command.dword10 = static_cast<std::uint32_t>(IdentifyKind::kNamespace);
    TRY(admin(suspend, command, std::as_writable_bytes(std::span(&into, 1)), false,
              "identifying an NVMe namespace"));
    return {};
}

Result<const Namespace*> Controller::open_namespace(Suspend& suspend, std::uint32_t id) {
    constexpr const char* kWhat = "opening an NVMe namespace";
    if (std::find(active_.begin(), active_.end(), id) == active_.end()) {
        spdlog::error("{}: there is no active namespace {}", transport_->name(), id);
        return fail(Errc::kNotFound, kWhat, id);
    }
    const auto raw = std::make_unique<IdentifyNamespace>();
    TRY(identify_namespace(suspend, id, *raw));
    // FLBAS: index in bits 3:0, and two more bits where there are more than 16 formats (2.0).
    std::size_t index = raw->formatted_lba & 0xf;
    if (raw->lba_formats > 16) index |= static_cast<std::size_t>(raw->formatted_lba >> 5 & 3) << 4;
    if (raw->size_blocks == 0 || index >= std::size(raw->formats)) {
        spdlog::error("{}: namespace {} has size {} and LBA format {}", transport_->name(), id,
                      raw->size_blocks, index);
        return fail(raw->size_blocks == 0 ? Errc::kNotFound : Errc::kNotSupported, kWhat, id);
    }
    const LbaFormat& format = raw->formats[index];
    if (format.metadata_bytes != 0) {
        spdlog::error(
            "{}: namespace {} is formatted with {} bytes of metadata per block, which is not "
            "supported: format it without metadata",
            transport_->name(), id, format.metadata_bytes);
        return fail(Errc::kNotSupported, "opening an NVMe namespace formatted with metadata", id);
    }
    if (format.data_size != 9 && format.data_size != 12) {
        spdlog::error("{}: namespace {} has blocks of 2^{} bytes; 512 and 4096 are supported",
                      transport_->name(), id, format.data_size);
        return fail(Errc::kNotSupported,
                    "opening an NVMe namespace with blocks other than 512 or 4096 bytes", id);
    }
    if (raw->size_blocks > (std::uint64_t{1} << 63) >> format.data_size) {
        return fail(Errc::kTooLarge, kWhat, id);
    }
    auto space = std::make_unique<Namespace>();
    *space = {
        .id = id,
        .lba_shift = format.data_size,
        .blocks = raw->size_blocks,
        .boundary_bytes = std::uint64_t{raw->optimal_io_boundary} << format.data_size,
        .write_protected = (raw->attributes & 1) != 0,
        .write_zeroes_deallocates = (raw->deallocate_features & kDlfeatWriteZeroesDeallocate) != 0};
    namespaces_.push_back(std::move(space));
    return namespaces_.back().get();
}

Result<void> Controller::get_log_page(Suspend& suspend, LogPage page, std::span<std::byte> into) {
    constexpr const char* kWhat = "reading a log page of the NVMe controller";
    if (into.empty()) return fail(Errc::kInvalidArgument, kWhat);
    SubmissionEntry command = admin_entry(AdminOpcode::kGetLogPage);
    command.namespace_id = kAllNamespaces;
    const auto dwords = static_cast<std::uint32_t>(into.size() / 4 - 1);  // NUMD, zero based
    command.dword10 = static_cast<std::uint32_t>(page) | (dwords & 0xffff) << 16;
    command.dword11 = dwords >> 16;
    TRY(admin(suspend, command, into, false, kWhat));
    return {};
}

void Controller::request_event(EventSlot& slot) {
    ++events_outstanding_;
    admin_queue_->submit_raw(
        admin_entry(AdminOpcode::kAsynchronousEventRequest), {}, "waiting for an NVMe event",
        [](void* context, const Error* error, std::uint32_t dword0) {
            auto* ended = static_cast<EventSlot*>(context);
            Controller& controller = *ended->controller;
            --controller.events_outstanding_;
            // An error is the end of the controller or of this use of it: not asked again.
            if (error == nullptr) controller.event_arrived(*ended, dword0);
        },
        &slot);
}

void Controller::event_arrived(EventSlot& slot, std::uint32_t dword0) {
    ++statistics_.events;
    const std::uint32_t type = dword0 & 7;
    const std::uint32_t information = dword0 >> 8 & 0xff;
    const std::uint32_t page = dword0 >> 16 & 0xff;
    if (state_ != State::kReady) return;
    // Reading the event's log page is what lets the controller report the next one of its type.
    event_fibers_.add();
    reactor_.spawn([this, type, information, page](Suspend& suspend) {
        log_event(suspend, type, information, page);
        event_fibers_.done();
    });
    request_event(slot);
}

void Controller::log_event(Suspend& suspend, std::uint32_t type, std::uint32_t information,
                           std::uint32_t page) {
    if (state_ != State::kReady) return;
    if (page == static_cast<std::uint32_t>(LogPage::kHealth)) {
        HealthLog health{};
        if (get_log_page(suspend, LogPage::kHealth,
                         std::as_writable_bytes(std::span(&health, 1)))) {
            spdlog::warn("{}: health event {}: critical warning {:#x}, {} C, spare {} %, used {} %",
                         transport_->name(), information, health.critical_warning,
                         static_cast<int>(health.temperature_kelvin()) - 273,
                         health.available_spare, health.percentage_used);
        }
        return;
    }
    const bool error_page = page == static_cast<std::uint32_t>(LogPage::kError);
    const bool list_page = page == static_cast<std::uint32_t>(LogPage::kChangedNamespaces);
    std::vector<std::byte> contents(error_page ? 64 : list_page ? 4096 : 512);
    (void)get_log_page(suspend, static_cast<LogPage>(page), contents);
    spdlog::warn("{}: event of type {}, information {:#x}, log page {:#x}", transport_->name(),
                 type, information, page);
}

bool Controller::busy() const {
    if (recovering_) return true;
    for (const auto& queue : io_queues_) {
        if (queue->in_flight() != 0) return true;
    }
    return admin_queue_->in_flight() > events_outstanding_;
}

bool Controller::check_alive() {
    const std::uint32_t status = transport_->read32(kRegisterCsts);
    if (status == kAllOnes32) {
        die({.code = Errc::kDeviceGone, .what = "using the NVMe controller"},
            "its registers read all ones: it is gone");
        return false;
    }
    if ((status & kCstsFatal) != 0) {
        die({.code = Errc::kDeviceGone, .what = "using the NVMe controller"},
            "it reports a fatal error (CSTS.CFS)");
        return false;
    }
    return true;
}

bool Controller::poll(std::uint64_t now_us) {
    bool worked = false;
    for (const auto& queue : io_queues_) worked |= queue->poll(now_us);
    if (state_ != State::kReady) return worked;
    if (admin_queue_->in_flight() > events_outstanding_) worked |= admin_queue_->poll(now_us);
    if (now_us - last_check_us_ >= kCheckIntervalUs) [[unlikely]] {
        last_check_us_ = now_us;
        if (check_alive()) worked |= admin_queue_->poll(now_us);
    }
    return worked;
}

void Controller::command_timed_out(QueuePair& queue, std::uint16_t command_id, bool aborted) {
    if (state_ == State::kDead || !check_alive()) return;
    if (queue.queue_id() == 0) {
        spdlog::error("{}: an admin command was not answered", transport_->name());
        // During bring-up there is nobody who would start over.
        if (state_ != State::kReady) {
            die({.code = Errc::kIo, .what = "waiting for an NVMe admin command"},
                "an admin command was not answered");
            return;
        }
        begin_reset("an admin command was not answered");
        return;
    }
    if (state_ != State::kReady) return;
    if (aborted) {
        begin_reset("a command was not answered, nor its abort");
        return;
    }
    spdlog::warn("{}: command {:#x} of queue {} timed out, aborting it", transport_->name(),
                 command_id, queue.queue_id());
    ++statistics_.aborts;
    SubmissionEntry command = admin_entry(AdminOpcode::kAbort);
    command.dword10 = std::uint32_t{command_id} << 16 | queue.queue_id();
    // Whether it worked shows in the aborted command's own completion, or in its absence.
    admin_queue_->submit_raw(
        command, {}, "aborting an NVMe command", [](void*, const Error*, std::uint32_t) {},
        nullptr);
    admin_queue_->ring();
}

void Controller::protocol_broken(QueuePair& queue, const CompletionEntry& entry, const char* how) {
    if (queue.statistics().protocol_errors > 8) return;  // enough said
    spdlog::error("{}: queue {}: {} (command id {:#x}, status {:#x})", transport_->name(),
                  queue.queue_id(), how, entry.command_id, entry.status);
}

void Controller::begin_reset(const char* why) {
    if (recovering_ || state_ != State::kReady) return;
    spdlog::error("{}: resetting the controller: {}", transport_->name(), why);
    recovering_ = true;
    state_ = State::kResetting;
    for (const auto& queue : io_queues_) queue->freeze();
    reactor_.spawn([this](Suspend& suspend) {
        recover(suspend);
        recovering_ = false;
        recovered_.wake_all();
    });
}

void Controller::recover(Suspend& suspend) {
    ++statistics_.resets;
    std::uint64_t completed = 0;
    for (const auto& queue : io_queues_) {
        completed += queue->statistics().completions;
    }
    // Commands that come back again and again without one ever completing are no progress.
    resets_in_a_row_ = completed == commands_at_reset_ ? resets_in_a_row_ + 1 : 1;
    commands_at_reset_ = completed;
    Result<void> result = [&]() -> Result<void> {
        if (resets_in_a_row_ > options_.max_resets) {
            return fail(Errc::kDeviceGone, "resetting the NVMe controller again and again");
        }
        TRY(disable(suspend));
        // The admin queue starts over: what was in it has no answer any more.
        admin_queue_->freeze();
        admin_queue_->reset();
        admin_queue_->thaw();
        for (const auto& queue : io_queues_) queue->reset();
        TRY(enable(suspend));
        TRY(identify_controller(suspend));
        TRY(set_features(suspend));
        if (options_.io_queues < io_queues_.size()) {
            return fail(Errc::kDeviceGone, "asking the NVMe controller for its queues again");
        }
        for (const auto& queue : io_queues_) TRY(create_queue_commands(suspend, *queue));
        return {};
    }();
    if (!result) {
        Error error = result.error();
        error.code = Errc::kDeviceGone;
        die(error, "it could not be reset");
        return;
    }
    state_ = State::kReady;
    for (EventSlot& slot : event_slots_) request_event(slot);
    admin_queue_->ring();
    for (const auto& queue : io_queues_) queue->thaw();
    spdlog::warn("{}: the controller works again after a reset", transport_->name());
}

void Controller::die(const Error& error, const char* why) {
    if (state_ == State::kDead) return;
    spdlog::error("{}: giving the controller up: {}", transport_->name(), why);
    state_ = State::kDead;
    transport_->stop_dma();
    for (const auto& queue : io_queues_) queue->fail_all(error);
    if (admin_queue_ != nullptr) admin_queue_->fail_all(error);
}

Result<void> Controller::close(Suspend& suspend) {
    constexpr const char* kWhat = "shutting the NVMe controller down";
    while (busy()) {
        if (recovering_) {
            recovered_.wait(suspend);
            continue;
        }
        poll(reactor_.now_us());
        suspend.yield();
    }
    event_fibers_.wait(suspend);
    Result<void> result;
    if (state_ == State::kDead) result = fail(Errc::kDeviceGone, kWhat);
    if (state_ == State::kReady) {
        const std::uint32_t configuration = transport_->read32(kRegisterCc) & ~kCcShutdownMask;
        transport_->write32(kRegisterCc, configuration | kCcShutdownNormal);
        const std::uint64_t start_us = reactor_.now_us();
        while (true) {
            const std::uint32_t status = transport_->read32(kRegisterCsts);
            if (status == kAllOnes32) {
                result = fail(Errc::kDeviceGone, kWhat);
                break;
            }
            if ((status & kCstsShutdownMask) == kCstsShutdownComplete) break;
            if (reactor_.now_us() - start_us > kShutdownTimeoutUs) {
                result = fail(Errc::kIo, kWhat);
                break;
            }
            suspend.sleep_us(kPollPauseUs);
        }
    }
    // Also when it was given up: a controller that is merely confused must not write to memory that
    // is about to be freed.
    Result<void> disabled = disable(suspend);
    if (result && !disabled && state_ == State::kReady) result = disabled;
    const Error closed{.code = Errc::kDeviceGone, .what = kWhat};
    state_ = State::kDead;
    for (const auto& queue : io_queues_) queue->fail_all(closed);
    admin_queue_->fail_all(closed);
    state_ = State::kClosed;
    return result;
}

}  // namespace blobfs::driver::nvme
