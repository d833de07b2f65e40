#pragma once

// The host's side of one NVMe controller: bring-up by the specification (1.4, section 7.6.1), its
// namespaces, the admin queue, asynchronous events, I/O queue pairs, and what to do when it does
// not answer. A passive library: whoever owns it calls poll(); recovery runs on a fiber of the
// reactor. Its reactor's thread only, except that I/O queue pairs can be lent to other threads.
//
//   state       left by                                               to
//   resetting   bring-up succeeded                                    ready
//               bring-up failed, or CAP.TO passed                     dead
//   ready       a command was not answered, nor its Abort             resetting
//               CSTS.CFS, or registers read all ones                  dead
//               close()                                               closed
//   dead        close()                                               closed

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "driver/base/result.h"
#include "driver/nvme/admin_queue.h"
#include "driver/nvme/asynchronous_events.h"
#include "driver/nvme/doorbell_buffer.h"
#include "driver/nvme/io_queue.h"
#include "driver/nvme/namespace_list.h"
#include "driver/nvme/spec.h"
#include "driver/nvme/transport.h"
#include "driver/reactor/fiber.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver::nvme {

struct ControllerOptions {
    std::uint32_t queue_depth = 256;  // of each I/O queue pair, bounded by CAP.MQES
    std::uint16_t io_queues = 1;      // wanted; the controller may give fewer
    std::uint32_t io_timeout_ms = 30'000;
    std::uint32_t admin_timeout_ms = 60'000;
    std::uint32_t abort_grace_ms = 5'000;
    std::uint32_t shutdown_timeout_ms = 10'000;  // at least; the controller may name more (RTD3E)
    std::uint32_t max_retries = 4;
    std::uint32_t max_resets = 3;      // in a row without any command completing between them
    std::uint32_t event_requests = 3;  // Asynchronous Event Requests kept outstanding
    std::uint32_t health_recheck_ms = 60'000;  // while a critical warning persists
    // What the controller offers and may be left unused: for comparisons.
    bool use_sgl = true, use_shadow_doorbells = true;
};

struct ControllerInfo {
    std::string model, serial, firmware;
    std::uint32_t version = 0;
    std::uint64_t max_transfer_bytes = 0;  // MDTS, 0: no limit
    bool volatile_write_cache = false;
    bool compare = false, deallocate = false, write_zeroes = false, verify = false;
    bool sgl = false, shadow_doorbells = false;  // offered and used
};

class Controller final : private QueueSupervisor, private EventListener {
  public:
    // Brings the controller up, whatever state its last owner left it in. kDeviceGone when it does
    // not answer, kNotSupported (and why, in the log) when it is one that we cannot drive.
    static Result<std::unique_ptr<Controller>> open(Suspend& suspend,
                                                    std::unique_ptr<Transport> transport,
                                                    const ControllerOptions& options);
    ~Controller() override;

    // Waits until nothing is in flight or recovering, then shuts the controller down (CC.SHN) and
    // disables it. An error when it did not follow or was dead; it is closed all the same. Called
    // once; REQUIRES: no queue pair is lent.
    Result<void> close(Suspend& suspend);

    [[nodiscard]] const ControllerInfo& info() const { return info_; }
    [[nodiscard]] const IdentifyController& identify() const { return identify_; }
    // The active namespace ids, ascending.
    [[nodiscard]] const std::vector<std::uint32_t>& namespace_ids() const {
        return namespaces_.active();
    }
    // NamespaceList::open(). Valid as long as the controller.
    Result<const Namespace*> open_namespace(Suspend& suspend, std::uint32_t id);

    [[nodiscard]] std::size_t io_queues() const { return io_queues_.size(); }
    // Queue 0 is never lent.
    [[nodiscard]] QueuePair& io_queue(std::size_t index) { return io_queues_[index]->pair(); }

    // Called on a fiber of another thread's reactor, which from then on has the queue pair for
    // itself and polls it, until it gives it back with nothing in flight. Both reactors run
    // meanwhile. kBusy when all are lent, kDeviceGone.
    struct LentQueue {
        QueuePair* pair = nullptr;
        bool notified = false;  // the borrower's reactor is notified of completions: it may sleep
    };
    Result<LentQueue> borrow_queue(Suspend& borrower);
    void give_back_queue(Suspend& borrower, QueuePair& queue);

    // Get Log Page; at most 4096 bytes, a multiple of 4.
    Result<void> get_log_page(Suspend& suspend, LogPage page, std::span<std::byte> into);
    // AdminQueue::send_copied().
    Result<std::uint32_t> admin(Suspend& suspend, const SubmissionEntry& command,
                                std::span<std::byte> data, AdminQueue::Direction direction,
                                const char* what);

    // Polls the I/O queues that are not lent, and now and then the admin queue and CSTS. True when
    // there was something.
    bool poll(std::uint64_t now_us);
    // True while a request is in flight that only poll() will notice.
    [[nodiscard]] bool busy() const;
    [[nodiscard]] bool dead() const { return state_ == State::kDead; }
    [[nodiscard]] Transport& transport() { return *transport_; }

    struct Statistics {
        std::uint64_t aborts = 0, resets = 0, events = 0;
    };
    [[nodiscard]] Statistics statistics() const;

  private:
    enum class State : std::uint8_t { kResetting, kReady, kDead, kClosed };
    Controller(Reactor& reactor, std::unique_ptr<Transport> transport,
               const ControllerOptions& options);
    Result<void> start(Suspend& suspend);
    Result<void> enable(Suspend& suspend);
    Result<void> disable(Suspend& suspend);
    Result<void> wait_ready(Suspend& suspend, bool ready, const char* what);
    Result<void> identify_controller(Suspend& suspend);
    Result<void> set_features(Suspend& suspend);
    Result<void> enable_retry_delays(Suspend& suspend);
    Result<void> configure_doorbells(Suspend& suspend);
    Result<void> create_queues(Suspend& suspend);
    Result<void> create_queue_commands(Suspend& suspend, QueuePair& queue);
    Result<void> shut_down(Suspend& suspend);
    void begin_reset(const char* why);
    void recover(Suspend& suspend);
    Result<void> start_over(Suspend& suspend);
    void die(const Error& error, const char* why);
    bool check_alive();

    void command_timed_out(QueuePair& queue, std::uint16_t command_id, bool aborted) override;
    void protocol_broken(QueuePair& queue, const CompletionEntry& entry, const char* how) override;
    void admin_waits(std::uint64_t now_us) override;
    void namespaces_changed(Suspend& suspend) override;
    void health_changed(std::uint8_t warnings) override;

    Reactor& reactor_;
    std::unique_ptr<Transport> transport_;
    ControllerOptions options_;
    State state_ = State::kResetting;
    bool recovering_ = false;
    Capabilities capabilities_;
    ControllerInfo info_;
    IdentifyController identify_{};
    std::unique_ptr<AdminQueue> admin_;
    NamespaceList namespaces_;
    std::vector<std::unique_ptr<IoQueue>> io_queues_;
    std::unique_ptr<DoorbellBuffer> doorbell_buffer_;  // when the controller has one
    std::unique_ptr<AsynchronousEvents> events_;
    std::uint32_t aborts_under_way_ = 0;
    WaitGroup endings_;  // requests of lent queues that are being ended
    WaitQueue recovered_;
    std::uint64_t last_check_us_ = 0;
    std::uint64_t commands_at_reset_ = 0;
    std::uint32_t resets_in_a_row_ = 0;
    Statistics statistics_;
};

}  // namespace blobfs::driver::nvme
