#pragma once

// Keeps Asynchronous Event Requests with the controller, reads the log page of each event (which is
// what lets the controller report the next one), and tells the listener what has to be acted on. A
// health warning that persists is reported once: its event is turned off, the page is looked at
// again every minute, and the event turned on when the warning has ended. The controller's thread.

#include <cstdint>
#include <string>
#include <vector>

#include "driver/nvme/admin_queue.h"
#include "driver/nvme/health_watch.h"
#include "driver/reactor/fiber.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver::nvme {

class EventListener {
  public:
    virtual ~EventListener() = default;
    // On fibers of the events' own.
    virtual void namespaces_changed(Suspend& suspend) = 0;
    virtual void health_changed(std::uint8_t warnings) = 0;
};

class AsynchronousEvents {
  public:
    // What it is given outlives it. name: of the controller, for messages.
    AsynchronousEvents(Reactor& reactor, AdminQueue& admin, const IdentifyController& identify,
                       EventListener& listener, std::string name);
    // stop() and wait() have been called.
    ~AsynchronousEvents();

    // Chooses the events that the controller reports: part of its bring-up. Suspends.
    Result<void> configure(Suspend& suspend);
    // Hands the requests to the controller, up to that many: after its bring-up.
    void start(std::uint32_t requests);
    // Nothing new begins: the controller is being reset, or has ended.
    void stop();
    // Until what has begun is over. Suspends.
    void wait(Suspend& suspend) { fibers_.wait(suspend); }

    // Requests that the controller has.
    [[nodiscard]] std::size_t outstanding() const { return outstanding_; }
    // Events that have come.
    [[nodiscard]] std::uint64_t count() const { return count_; }
    [[nodiscard]] std::uint8_t warnings() const { return health_.warnings(); }
    // How long until a persisting warning is looked at again.
    void set_recheck(std::uint64_t microseconds) { recheck_us_ = microseconds; }

  private:
    struct Slot {
        AsynchronousEvents* events = nullptr;
    };
    struct Event {
        std::uint8_t type = 0, information = 0, page = 0;
    };

    void request(Slot& slot);
    void arrived(Slot& slot, std::uint32_t dword0);
    void handle(Suspend& suspend, Event event);
    void look_at_health(Suspend& suspend);
    void look_again_later();
    void log_error_entry(Suspend& suspend);

    Reactor& reactor_;
    AdminQueue& admin_;
    const IdentifyController& identify_;
    EventListener& listener_;
    std::string name_;
    HealthWatch health_;
    std::vector<Slot> slots_;
    bool running_ = false;
    std::size_t outstanding_ = 0;
    std::uint64_t count_ = 0;
    std::uint64_t recheck_us_ = 60'000'000;
    Reactor::TimerId timer_ = 0;
    WaitGroup fibers_;
};

}  // namespace blobfs::driver::nvme
