#include "driver/nvme/controller.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>

#include "driver/base/check.h"

namespace blobfs::driver::nvme {

namespace {

constexpr std::uint32_t kAdminEntries = 32;  // CAP.MQES is for I/O queues; here up to 4096
constexpr std::uint64_t kCheckIntervalUs = 100'000;
constexpr std::uint32_t kMaxShutdownUs = 300'000'000;  // whatever the controller names
constexpr std::uint64_t kPollPauseUs = 100;
constexpr std::size_t kHostBehaviorBytes = 512;  // figure 288 of 1.4

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

}  // namespace

Controller::Controller(Reactor& reactor, std::unique_ptr<Transport> transport,
                       const ControllerOptions& options)
    : reactor_(reactor),
      transport_(std::move(transport)),
      options_(options),
      namespaces_(transport_->name()) {}

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
        if (!controller->dead() && controller->admin_ != nullptr) {
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
    if (capabilities_.max_queue_entries() < 2) {
        return fail(Errc::kNotSupported,
                    "making queues of two entries on the NVMe controller (CAP.MQES)");
    }
    if (capabilities_.min_page_bytes() > kPageBytes) {
        return fail(Errc::kNotSupported,
                    "using 4096-byte memory pages with the NVMe controller (CAP.MPSMIN)");
    }
    TRY_ASSIGN(admin_, AdminQueue::create(
                           *transport_, *this,
                           {.queue_id = 0,
                            .entries = kAdminEntries,
                            .doorbell_stride = capabilities_.doorbell_stride_bytes(),
                            .timeout_us = std::uint64_t{options_.admin_timeout_ms} * 1000,
                            .abort_grace_us = std::uint64_t{options_.abort_grace_ms} * 1000}));
    EventListener& listener = *this;
    events_ = std::make_unique<AsynchronousEvents>(reactor_, *admin_, identify_, listener,
                                                   transport_->name());
    events_->set_recheck(std::uint64_t{options_.health_recheck_ms} * 1000);
    TRY(disable(suspend));
    TRY(enable(suspend));
    TRY(identify_controller(suspend));
    TRY(namespaces_.read(suspend, *admin_, identify_));
    TRY(set_features(suspend));
    TRY(configure_doorbells(suspend));
    TRY(create_queues(suspend));
    state_ = State::kReady;
    events_->start(options_.event_requests);
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
    const QueuePair& admin = admin_->pair();
    const std::uint32_t size = admin.entries() - 1;
    transport_->write32(kRegisterAqa, size << 16 | size);
    transport_->write64(kRegisterAsq, admin.submission_address());
    transport_->write64(kRegisterAcq, admin.completion_address());
    // Interrupts stay masked: completions are found by their phase bit.
    transport_->write32(kRegisterIntms, kAllOnes32);
    transport_->write32(kRegisterCc, kCcEntrySizes | kCcEnable);
    return wait_ready(suspend, true, "enabling the NVMe controller");
}

Result<void> Controller::identify_controller(Suspend& suspend) {
    TRY(admin_->identify(suspend, IdentifyKind::kController, 0,
                         std::as_writable_bytes(std::span(&identify_, 1)),
                         "identifying the NVMe controller"));
    // Required sizes of queue entries, as powers of two (bits 3:0).
    if ((identify_.submission_entry_size & 0xf) > kSubmissionEntryShift ||
        (identify_.completion_entry_size & 0xf) > kCompletionEntryShift) {
        return fail(Errc::kNotSupported,
                    "using queue entries of 64 and 16 bytes with the NVMe controller (SQES, CQES)");
    }
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
    const std::uint32_t sgls = identify_.sgl_support & kSglsSupported;
    info_.sgl = options_.use_sgl && (sgls == 1 || sgls == 2);
    return {};
}

Result<void> Controller::set_features(Suspend& suspend) {
    const std::uint32_t wanted = std::max<std::uint32_t>(options_.io_queues, 1);
    TRY_ASSIGN(
        const std::uint32_t given,
        admin_->set_feature(suspend, Feature::kNumberOfQueues, (wanted - 1) << 16 | (wanted - 1),
                            {}, "asking the NVMe controller for I/O queues"));
    const std::uint32_t granted = std::min(given & 0xffff, given >> 16) + 1;
    options_.io_queues = static_cast<std::uint16_t>(std::min(wanted, granted));

    if (info_.volatile_write_cache) {
        Result<std::uint32_t> answer =
            admin_->set_feature(suspend, Feature::kVolatileWriteCache, 1, {},
                                "enabling the NVMe controller's write cache");
        if (!answer) {
            if (answer.error().nvme_status == 0) return fail(answer.error());
            spdlog::warn("{}: {}; going on", transport_->name(), answer.error().message());
        }
    }
    TRY(enable_retry_delays(suspend));
    return events_->configure(suspend);
}

// A controller names retry delays (CRD) only to a host that has said that it understands them:
// ACRE, Advanced Command Retry Enable (section 5.21.1.22).
Result<void> Controller::enable_retry_delays(Suspend& suspend) {
    const auto& delays = identify_.retry_delay;
    if (delays[0] == 0 && delays[1] == 0 && delays[2] == 0) return {};
    std::array<std::byte, kHostBehaviorBytes> behavior{};
    behavior[0] = std::byte{1};
    Result<std::uint32_t> answer =
        admin_->set_feature(suspend, Feature::kHostBehaviorSupport, 0, behavior,
                            "telling the NVMe controller that retry delays are understood");
    if (!answer) {
        if (answer.error().nvme_status == 0) return fail(answer.error());
        spdlog::warn("{}: {}; going on", transport_->name(), answer.error().message());
    }
    return {};
}

// Before the I/O queues are made: each finds its words as it is made.
Result<void> Controller::configure_doorbells(Suspend& suspend) {
    const std::uint32_t stride = capabilities_.doorbell_stride_bytes();
    info_.shadow_doorbells = false;
    if (!options_.use_shadow_doorbells ||
        (identify_.optional_admin_commands & kOacsDoorbellBuffer) == 0 ||
        !DoorbellBuffer::has_room_for(options_.io_queues, stride)) {
        return {};
    }
    if (doorbell_buffer_ == nullptr) {
        TRY_ASSIGN(doorbell_buffer_, DoorbellBuffer::create());
    }
    if (Result<void> done = doorbell_buffer_->configure(suspend, *admin_, *transport_); !done) {
        // What it offers and does not do is not needed.
        if (done.error().nvme_status == 0 || !io_queues_.empty()) return done;
        spdlog::warn("{}: {}; going on without", transport_->name(), done.error().message());
        return {};
    }
    info_.shadow_doorbells = true;
    admin_->pair().set_shadow(doorbell_buffer_->words(0, stride));
    return {};
}

Result<void> Controller::create_queues(Suspend& suspend) {
    const std::uint32_t entries =
        std::clamp(options_.queue_depth + 1, 2U, capabilities_.max_queue_entries());
    for (std::uint16_t id = 1; id <= options_.io_queues; ++id) {
        TRY_ASSIGN(std::unique_ptr<IoQueue> queue,
                   IoQueue::create(*transport_, reactor_, *this,
                                   {.queue_id = id,
                                    .entries = entries,
                                    .doorbell_stride = capabilities_.doorbell_stride_bytes(),
                                    .max_transfer_bytes = info_.max_transfer_bytes,
                                    .timeout_us = std::uint64_t{options_.io_timeout_ms} * 1000,
                                    .abort_grace_us = std::uint64_t{options_.abort_grace_ms} * 1000,
                                    .max_retries = options_.max_retries,
                                    .sgl = info_.sgl}));
        queue->pair().set_retry_delays(identify_.retry_delay);
        if (info_.shadow_doorbells) {
            queue->pair().set_shadow(
                doorbell_buffer_->words(id, capabilities_.doorbell_stride_bytes()));
        }
        io_queues_.push_back(std::move(queue));
        TRY(create_queue_commands(suspend, io_queues_.back()->pair()));
    }
    return {};
}

Result<void> Controller::create_queue_commands(Suspend& suspend, QueuePair& queue) {
    const std::uint32_t size_and_id = (queue.entries() - 1) << 16 | queue.queue_id();
    SubmissionEntry command = admin_entry(AdminOpcode::kCreateCompletionQueue);
    command.prp1 = queue.completion_address();
    command.dword10 = size_and_id;
    command.dword11 = kQueueContiguous;  // interrupts off
    TRY(admin_->send(suspend, command, {}, "creating an NVMe completion queue"));
    command = admin_entry(AdminOpcode::kCreateSubmissionQueue);
    command.prp1 = queue.submission_address();
    command.dword10 = size_and_id;
    command.dword11 = std::uint32_t{queue.queue_id()} << 16 | kQueueContiguous;
    TRY(admin_->send(suspend, command, {}, "creating an NVMe submission queue"));
    return {};
}

Result<const Namespace*> Controller::open_namespace(Suspend& suspend, std::uint32_t id) {
    return namespaces_.open(suspend, *admin_, id);
}

Result<void> Controller::get_log_page(Suspend& suspend, LogPage page, std::span<std::byte> into) {
    return admin_->get_log_page(suspend, page, into);
}

Result<std::uint32_t> Controller::admin(Suspend& suspend, const SubmissionEntry& command,
                                        std::span<std::byte> data, AdminQueue::Direction direction,
                                        const char* what) {
    return admin_->send_copied(suspend, command, data, direction, what);
}

Controller::Statistics Controller::statistics() const {
    Statistics statistics = statistics_;
    statistics.events = events_->count();
    return statistics;
}

Result<Controller::LentQueue> Controller::borrow_queue(Suspend& borrower) {
    constexpr const char* kWhat = "taking one more queue of the NVMe controller";
    Result<LentQueue> result = fail(Errc::kBusy, kWhat);
    Reactor& there = borrower.reactor();
    call_on(borrower, reactor_, [&](Suspend& suspend) {
        while (recovering_) recovered_.wait(suspend);
        if (state_ != State::kReady) {
            result = fail(Errc::kDeviceGone, kWhat);
            return;
        }
        for (std::size_t i = 1; i < io_queues_.size(); ++i) {
            IoQueue& queue = *io_queues_[i];
            if (!queue.at_home() || queue.pair().in_flight() != 0) continue;
            queue.hand_over(&there);
            result = LentQueue{
                .pair = &queue.pair(),
                .notified = transport_->notify_of_completions(queue.pair().queue_id(), &there)};
            return;
        }
    });
    return result;
}

void Controller::give_back_queue(Suspend& borrower, QueuePair& queue) {
    CHECK(queue.in_flight() == 0);
    call_on(borrower, reactor_, [&](Suspend& suspend) {
        // Both call the borrower, who has to be there until they are through.
        while (recovering_) recovered_.wait(suspend);
        endings_.wait(suspend);
        (void)transport_->notify_of_completions(queue.queue_id(), nullptr);
        io_queues_[queue.queue_id() - 1U]->hand_over(nullptr);
    });
}

// Ready controllers are looked at by poll(). One that goes away while it is brought up would else
// be noticed when the command has timed out.
void Controller::admin_waits(std::uint64_t now_us) {
    if (state_ != State::kResetting || now_us - last_check_us_ < kCheckIntervalUs) return;
    last_check_us_ = now_us;
    (void)check_alive();
}

void Controller::namespaces_changed(Suspend& suspend) {
    namespaces_.refresh(suspend, *admin_, identify_);
}

void Controller::health_changed(std::uint8_t warnings) {
    namespaces_.set_media_read_only((warnings & kWarningReadOnly) != 0);
}

bool Controller::busy() const {
    if (recovering_) return true;
    for (const auto& queue : io_queues_) {
        if (queue->at_home() && queue->pair().in_flight() != 0) return true;
    }
    return admin_->pair().in_flight() > events_->outstanding();
}

bool Controller::poll(std::uint64_t now_us) {
    bool worked = false;
    for (const auto& queue : io_queues_) {
        if (queue->at_home()) worked |= queue->pair().poll(now_us);
    }
    if (state_ != State::kReady) return worked;
    QueuePair& admin = admin_->pair();
    if (admin.in_flight() > events_->outstanding()) worked |= admin.poll(now_us);
    if (now_us - last_check_us_ >= kCheckIntervalUs) [[unlikely]] {
        last_check_us_ = now_us;
        if (check_alive()) worked |= admin.poll(now_us);
    }
    return worked;
}

Result<void> Controller::shut_down(Suspend& suspend) {
    constexpr const char* kWhat = "shutting the NVMe controller down";
    const std::uint32_t configuration = transport_->read32(kRegisterCc) & ~kCcShutdownMask;
    transport_->write32(kRegisterCc, configuration | kCcShutdownNormal);
    const std::uint64_t start_us = reactor_.now_us();
    const std::uint64_t limit_us =
        std::max<std::uint64_t>(std::uint64_t{options_.shutdown_timeout_ms} * 1000,
                                std::min(identify_.shutdown_latency, kMaxShutdownUs));
    while (true) {
        const std::uint32_t status = transport_->read32(kRegisterCsts);
        if (status == kAllOnes32) return fail(Errc::kDeviceGone, kWhat);
        if ((status & kCstsShutdownMask) == kCstsShutdownComplete) return {};
        if (reactor_.now_us() - start_us > limit_us) {
            spdlog::error("{}: {}: no answer within {} ms", transport_->name(), kWhat,
                          limit_us / 1000);
            return fail(Errc::kIo, kWhat);
        }
        suspend.sleep_us(kPollPauseUs);
    }
}

Result<void> Controller::close(Suspend& suspend) {
    constexpr const char* kWhat = "shutting the NVMe controller down";
    for (const auto& queue : io_queues_) CHECK(queue->at_home());
    // What an event's fiber still asks may lead to a recovery, and that starts the events again.
    do {
        events_->stop();
        while (busy()) {
            if (recovering_) {
                recovered_.wait(suspend);
                continue;
            }
            poll(reactor_.now_us());
            suspend.yield();
        }
        events_->stop();
        events_->wait(suspend);
    } while (busy());
    endings_.wait(suspend);
    Result<void> result;
    if (state_ == State::kDead) result = fail(Errc::kDeviceGone, kWhat);
    if (state_ == State::kReady) result = shut_down(suspend);
    // Also when it was given up: a controller that is merely confused must not write to memory that
    // is about to be freed.
    Result<void> disabled = disable(suspend);
    if (result && !disabled && state_ == State::kReady) result = disabled;
    const Error closed{.code = Errc::kDeviceGone, .what = kWhat};
    state_ = State::kDead;
    for (const auto& queue : io_queues_) queue->pair().fail_all(closed);
    admin_->pair().fail_all(closed);
    state_ = State::kClosed;
    return result;
}

}  // namespace blobfs::driver::nvme
