#pragma once

// The host's side of one NVMe controller: bring-up by the specification (1.4, section 7.6.1), its
// namespaces, the admin queue, asynchronous events, I/O queue pairs, and what to do when it does
// not answer. A passive library: whoever owns it calls poll(); recovery runs on a fiber of the
// reactor. Reactor thread only.
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
#include "driver/memory/dma_buffer.h"
#include "driver/nvme/queue_pair.h"
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
    std::uint32_t max_retries = 4;
    std::uint32_t max_resets = 3;      // in a row without any command completing between them
    std::uint32_t event_requests = 3;  // Asynchronous Event Requests kept outstanding
};

struct ControllerInfo {
    std::string model, serial, firmware;
    std::uint32_t version = 0;
    std::uint64_t max_transfer_bytes = 0;  // MDTS, 0: no limit
    bool volatile_write_cache = false;
    bool compare = false, deallocate = false, write_zeroes = false, verify = false;
};

class Controller final : public QueueSupervisor {
  public:
    // Brings the controller up, whatever state its last owner left it in. kDeviceGone when it does
    // not answer, kNotSupported (and why, in the log) when it is one that we cannot drive.
    static Result<std::unique_ptr<Controller>> open(Suspend& suspend,
                                                    std::unique_ptr<Transport> transport,
                                                    const ControllerOptions& options);
    ~Controller() override;

    // Waits until nothing is in flight or recovering, then shuts the controller down (CC.SHN) and
    // disables it. An error when it did not follow or was dead; it is closed all the same. Called
    // once.
    Result<void> close(Suspend& suspend);

    [[nodiscard]] const ControllerInfo& info() const { return info_; }
    [[nodiscard]] const IdentifyController& identify() const { return identify_; }
    // The active namespace ids, ascending.
    [[nodiscard]] const std::vector<std::uint32_t>& namespace_ids() const { return active_; }
    // The namespace, with an LBA format that we can use; kNotFound, or kNotSupported for metadata
    // and LBA sizes other than 512 and 4096. The reason goes to the log, too. Valid as long as the
    // controller.
    Result<const Namespace*> open_namespace(Suspend& suspend, std::uint32_t id);
    Result<void> identify_namespace(Suspend& suspend, std::uint32_t id, IdentifyNamespace& into);

    [[nodiscard]] std::size_t io_queues() const { return io_queues_.size(); }
    [[nodiscard]] QueuePair& io_queue(std::size_t index) { return *io_queues_[index]; }

    // Get Log Page; at most 4096 bytes, a multiple of 4.
    Result<void> get_log_page(Suspend& suspend, LogPage page, std::span<std::byte> into);
    // An admin command with up to a page of data (in either direction). Completion dword 0.
    Result<std::uint32_t> admin(Suspend& suspend, SubmissionEntry command,
                                std::span<std::byte> data, bool to_controller, const char* what);

    // Polls the I/O queue and now and then the admin queue and CSTS. True when there was something.
    bool poll(std::uint64_t now_us);
    // True while a request is in flight that only poll() will notice.
    [[nodiscard]] bool busy() const;
    [[nodiscard]] bool dead() const { return state_ == State::kDead; }
    [[nodiscard]] Transport& transport() { return *transport_; }

    struct Statistics {
        std::uint64_t aborts = 0, resets = 0, events = 0;
    };
    [[nodiscard]] const Statistics& statistics() const { return statistics_; }

  private:
    enum class State : std::uint8_t { kResetting, kReady, kDead, kClosed };
    struct AdminCall;
    struct EventSlot {
        Controller* controller = nullptr;
    };

    Controller(Reactor& reactor, std::unique_ptr<Transport> transport,
               const ControllerOptions& options);
    Result<void> start(Suspend& suspend);
    Result<void> enable(Suspend& suspend);
    Result<void> disable(Suspend& suspend);
    Result<void> wait_ready(Suspend& suspend, bool ready, const char* what);
    Result<void> identify_controller(Suspend& suspend);
    Result<void> read_namespaces(Suspend& suspend);
    Result<void> set_features(Suspend& suspend);
    Result<void> create_queues(Suspend& suspend);
    Result<void> create_queue_commands(Suspend& suspend, QueuePair& queue);
    Result<std::uint32_t> admin_raw(Suspend& suspend, const SubmissionEntry& command, DmaSpan data,
                                    const char* what);
    void request_event(EventSlot& slot);
    void event_arrived(EventSlot& slot, std::uint32_t dword0);
    void log_event(Suspend& suspend, std::uint32_t type, std::uint32_t information,
                   std::uint32_t page);
    void begin_reset(const char* why);
    void recover(Suspend& suspend);
    void die(const Error& error, const char* why);
    bool check_alive();

    void command_timed_out(QueuePair& queue, std::uint16_t command_id, bool aborted) override;
    void protocol_broken(QueuePair& queue, const CompletionEntry& entry, const char* how) override;

    Reactor& reactor_;
    std::unique_ptr<Transport> transport_;
    ControllerOptions options_;
    State state_ = State::kResetting;
    bool recovering_ = false;
    Capabilities capabilities_;
    ControllerInfo info_;
    IdentifyController identify_{};
    std::vector<std::uint32_t> active_;
    std::vector<std::unique_ptr<Namespace>> namespaces_;
    std::unique_ptr<QueuePair> admin_queue_;
    std::vector<std::unique_ptr<QueuePair>> io_queues_;
    DmaBuffer admin_page_;
    FiberMutex admin_page_mutex_;
    std::vector<EventSlot> event_slots_;
    std::size_t events_outstanding_ = 0;
    WaitGroup event_fibers_;
    WaitQueue recovered_;
    std::uint64_t last_check_us_ = 0;
    std::uint64_t commands_at_reset_ = 0;
    std::uint32_t resets_in_a_row_ = 0;
    Statistics statistics_;
};

}  // namespace blobfs::driver::nvme
