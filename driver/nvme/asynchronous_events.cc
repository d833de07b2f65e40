#include "driver/nvme/asynchronous_events.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "driver/base/check.h"
#include "driver/nvme/status.h"

namespace blobfs::driver::nvme {

AsynchronousEvents::AsynchronousEvents(Reactor& reactor, AdminQueue& admin,
                                       const IdentifyController& identify, EventListener& listener,
                                       std::string name)
    : reactor_(reactor),
      admin_(admin),
      identify_(identify),
      listener_(listener),
      name_(name),
      health_(std::move(name)) {}

AsynchronousEvents::~AsynchronousEvents() { CHECK(!running_ && fibers_.count() == 0); }

// Only those events that the controller says it has; health warnings are always allowed.
Result<void> AsynchronousEvents::configure(Suspend& suspend) {
    const std::uint32_t wanted =
        (kEventHealthWarnings & ~std::uint32_t{health_.warnings()}) |
        (identify_.optional_events & (kEventNamespaceChanged | kEventFirmwareActivation));
    Result<std::uint32_t> answer =
        admin_.set_feature(suspend, Feature::kAsynchronousEventConfiguration, wanted, {},
                           "configuring the NVMe controller's events");
    if (!answer) {
        if (answer.error().nvme_status == 0) return fail(answer.error());
        spdlog::warn("{}: {}; going on without", name_, answer.error().message());
    }
    return {};
}

void AsynchronousEvents::start(std::uint32_t requests) {
    running_ = true;
    if (slots_.empty()) {
        slots_.resize(std::min<std::size_t>(requests, std::size_t{identify_.event_limit} + 1));
    }
    for (Slot& slot : slots_) {
        slot.events = this;
        request(slot);
    }
    admin_.pair().ring();
    if (health_.warnings() != 0) look_again_later();
}

void AsynchronousEvents::stop() {
    running_ = false;
    if (timer_ != 0) reactor_.cancel(timer_);
    timer_ = 0;
}

void AsynchronousEvents::request(Slot& slot) {
    ++outstanding_;
    admin_.pair().submit_raw(
        admin_entry(AdminOpcode::kAsynchronousEventRequest), {}, "waiting for an NVMe event",
        [](void* context, const Error* error, std::uint32_t dword0) {
            auto* ended = static_cast<Slot*>(context);
            --ended->events->outstanding_;
            // An error is the end of the controller or of this use of it: not asked again.
            if (error == nullptr) ended->events->arrived(*ended, dword0);
        },
        &slot);
}

void AsynchronousEvents::arrived(Slot& slot, std::uint32_t dword0) {
    ++count_;
    if (!running_) return;
    const Event event{.type = static_cast<std::uint8_t>(dword0 & 7),
                      .information = static_cast<std::uint8_t>(dword0 >> 8 & 0xff),
                      .page = static_cast<std::uint8_t>(dword0 >> 16 & 0xff)};
    fibers_.add();
    reactor_.spawn([this, event](Suspend& suspend) {
        handle(suspend, event);
        fibers_.done();
    });
    request(slot);
}

void AsynchronousEvents::handle(Suspend& suspend, Event event) {
    if (!running_) return;
    const auto type = static_cast<AsynchronousEventType>(event.type);
    if (type == AsynchronousEventType::kHealth) {
        look_at_health(suspend);
        return;
    }
    if (type == AsynchronousEventType::kError) {
        log_error_entry(suspend);
        return;
    }
    if (type == AsynchronousEventType::kNotice && event.information == kNoticeNamespaceChanged) {
        // Which ones it names does not matter: all that are open are looked at.
        std::vector<std::byte> changed(kPageBytes);
        (void)admin_.get_log_page(suspend, LogPage::kChangedNamespaces, changed);
        if (!running_) return;
        spdlog::warn("{}: its namespaces have changed", name_);
        listener_.namespaces_changed(suspend);
        return;
    }
    std::vector<std::byte> contents(512);
    if (event.page != 0) {
        (void)admin_.get_log_page(suspend, static_cast<LogPage>(event.page), contents);
    }
    if (type == AsynchronousEventType::kNotice && event.information == kNoticeFirmwareActivation) {
        spdlog::warn("{}: it starts new firmware: commands may take longer", name_);
        return;
    }
    spdlog::warn("{}: event of type {}, information {:#x}, log page {:#x}", name_, event.type,
                 event.information, event.page);
}

void AsynchronousEvents::look_at_health(Suspend& suspend) {
    HealthLog health{};
    if (Result<void> read = admin_.get_log_page(suspend, LogPage::kHealth,
                                                std::as_writable_bytes(std::span(&health, 1)));
        !read) {
        if (running_) spdlog::error("{}: {}", name_, read.error().message());
        return;
    }
    if (!running_) return;
    if (health_.update(health, identify_)) {
        listener_.health_changed(health_.warnings());
        (void)configure(suspend);
    }
    if (running_ && health_.warnings() != 0) look_again_later();
}

void AsynchronousEvents::look_again_later() {
    if (timer_ != 0) return;
    timer_ = reactor_.run_after(recheck_us_, [this] {
        timer_ = 0;
        fibers_.add();
        reactor_.spawn([this](Suspend& suspend) {
            if (running_) look_at_health(suspend);
            fibers_.done();
        });
    });
}

void AsynchronousEvents::log_error_entry(Suspend& suspend) {
    ErrorLogEntry entry{};
    if (!admin_.get_log_page(suspend, LogPage::kError,
                             std::as_writable_bytes(std::span(&entry, 1)))) {
        return;
    }
    const std::uint16_t code = status_code(entry.status);
    spdlog::error("{}: it reports an error: queue {}, command {:#x}, status {:#x} ({})", name_,
                  entry.submission_queue_id, entry.command_id, code, status_name(code));
}

}  // namespace blobfs::driver::nvme
