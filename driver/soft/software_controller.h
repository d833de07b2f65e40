#pragma once

// The device side of the NVMe protocol, in process: a poller on the same reactor that takes
// submission entries out of the queues in memory when a doorbell word changes, walks their PRP
// lists, has the medium move the data, and posts completion entries with the phase bit. It knows
// the host only through registers, doorbells and queue memory, as a real controller does, and
// believes it nothing: what makes no sense is answered with the status that the specification has
// for it. (Addresses are the process's own; a wrong one is a bug of the host driver.)

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "driver/nvme/spec.h"
#include "driver/nvme/transport.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/medium.h"

namespace blobfs::driver {

struct SoftwareControllerOptions {
    std::uint32_t max_queue_entries = 1024;
    std::uint16_t max_io_queues = 4;
    std::uint32_t max_transfer_bytes = 1U << 20;  // MDTS: a power of two of 4096 bytes, 0: none
    std::uint16_t optimal_boundary_blocks = 0;    // NOIOB
    std::uint32_t doorbell_stride_exponent = 0;   // CAP.DSTRD
    // CAP.TO. Long: a file system below that is stuck is better waited for than given up, since its
    // transfers cannot be taken back.
    std::uint32_t ready_timeout_500ms = 255;
    std::uint16_t metadata_bytes = 0;     // of the LBA format: tests of what is refused
    std::uint16_t retry_delay_100ms = 0;  // CRDT1
    bool aborts = true;                   // false: answers Abort, and aborts nothing. Tests
    bool sgl = true;                      // offers SGLs for I/O commands
    // Offers Doorbell Buffer Config. It looks at doorbell words in memory anyway, so this is for
    // tests of the host's side.
    bool shadow_doorbells = false;
};

class SoftwareController final : public Poller {
  public:
    SoftwareController(std::unique_ptr<Medium> medium, const SoftwareControllerOptions& options);
    // Waits (spinning) for what the medium still has in hand.
    ~SoftwareController() override;

    // The register file.
    [[nodiscard]] std::uint32_t read32(std::uint32_t offset);
    [[nodiscard]] std::uint64_t read64(std::uint32_t offset);
    void write32(std::uint32_t offset, std::uint32_t value);
    void write64(std::uint32_t offset, std::uint64_t value);
    [[nodiscard]] volatile std::uint32_t* doorbell(std::uint32_t offset);
    // What an interrupt is to a kernel: Transport::notify_of_completions().
    void notify_of_completions(std::uint16_t queue_id, Reactor* reactor);

    bool poll() override;
    [[nodiscard]] bool needs_polling() const override;
    [[nodiscard]] bool busy() const override;
    [[nodiscard]] int wake_descriptor() const override { return medium_->wake_descriptor(); }

    [[nodiscard]] Medium& medium() const { return *medium_; }
    // What Identify and SMART say from now on. Tests of what a host does about it.
    struct Condition {
        std::uint8_t critical_warning = 0;
        std::uint64_t blocks = 0;  // of the namespace; 0: all of the medium
        bool write_protected = false;
        bool namespace_active = true;
    };
    void set_condition(const Condition& condition) { condition_ = condition; }
    [[nodiscard]] std::uint32_t event_configuration() const { return event_configuration_; }
    // Reports an asynchronous event, as soon as the host has asked for one. Tests.
    void raise_event(nvme::AsynchronousEventType type, std::uint8_t information,
                     nvme::LogPage page);

  private:
    struct SubmissionQueue;
    struct CompletionQueue;
    struct Command;
    enum class Deferred : std::uint8_t { kNothing, kDisable, kShutdown };

    void configure(std::uint32_t value);
    void enable();
    void finish_deferred();
    void drop_queues();
    void fetch(SubmissionQueue& queue);
    void execute(SubmissionQueue& queue, const nvme::SubmissionEntry& entry);
    void execute_admin(Command& command, const nvme::SubmissionEntry& entry);
    void execute_io(Command& command, const nvme::SubmissionEntry& entry);
    void identify(Command& command, const nvme::SubmissionEntry& entry);
    void get_log_page(Command& command, const nvme::SubmissionEntry& entry);
    void set_features(Command& command, const nvme::SubmissionEntry& entry, bool set);
    void create_completion_queue(Command& command, const nvme::SubmissionEntry& entry);
    void create_submission_queue(Command& command, const nvme::SubmissionEntry& entry);
    void delete_queue(Command& command, const nvme::SubmissionEntry& entry, bool submission);
    void abort(Command& command, const nvme::SubmissionEntry& entry);
    void deallocate(Command& command, const nvme::SubmissionEntry& entry);
    void next_dataset_range(Command& command);
    bool read_aside(Command& command, const nvme::SubmissionEntry& entry);
    void configure_shadow_doorbells(Command& command, const nvme::SubmissionEntry& entry);
    // The word that the host rings for that doorbell of an I/O queue.
    [[nodiscard]] volatile std::uint32_t* bell(std::uint32_t offset);
    bool map_memory(Command& command, const nvme::SubmissionEntry& entry, std::uint64_t bytes);
    bool copy_out(Command& command, const nvme::SubmissionEntry& entry, const void* data,
                  std::size_t bytes);
    Command* take_command(SubmissionQueue& queue);
    void complete(Command& command, MediumStatus status, std::uint32_t dword0 = 0);
    void post(CompletionQueue& queue, nvme::CompletionEntry entry);
    void announce(CompletionQueue& queue);
    void log_error(const Command& command, std::uint16_t status);
    void deliver_events();
    static void medium_done(MediumOperation& operation, MediumStatus status);

    std::unique_ptr<Medium> medium_;
    SoftwareControllerOptions options_;
    std::uint32_t lba_shift_;
    std::uint64_t blocks_;

    nvme::Capabilities capabilities_;
    std::uint32_t configuration_ = 0;  // CC
    std::uint32_t status_ = 0;         // CSTS
    std::uint32_t interrupt_mask_ = 0;
    std::uint32_t admin_attributes_ = 0;
    std::uint64_t admin_submission_ = 0;
    std::uint64_t admin_completion_ = 0;
    Deferred deferred_ = Deferred::kNothing;
    struct ShutdownFlush : MediumOperation {
        SoftwareController* controller = nullptr;
    };
    ShutdownFlush shutdown_flush_;
    bool shutdown_flushing_ = false;

    std::vector<std::uint32_t> doorbells_;
    std::vector<std::unique_ptr<SubmissionQueue>> submission_queues_;  // by id
    std::vector<std::unique_ptr<CompletionQueue>> completion_queues_;
    std::vector<Reactor*> listeners_;  // by id of completion queue; null: it is polled
    std::vector<std::unique_ptr<SubmissionQueue>> retired_;  // deleted, commands still with medium
    std::size_t running_ = 0;                                // commands with the medium
    bool write_cache_on_ = true;
    bool retry_delays_on_ = false;   // Host Behavior Support: ACRE
    std::uint64_t shadow_page_ = 0;  // of Doorbell Buffer Config, 0: none
    std::uint32_t event_configuration_ = 0;

    Condition condition_;
    std::vector<Command*> event_requests_;
    std::deque<std::uint32_t> events_;
    std::array<nvme::ErrorLogEntry, 16> error_log_{};
    std::uint64_t errors_ = 0;
    std::uint64_t reads_ = 0, writes_ = 0, blocks_read_ = 0, blocks_written_ = 0;
};

// Reaches a software controller in the same process. Registers it with the reactor as a poller for
// as long as the transport lives.
class SoftwareTransport final : public nvme::Transport {
  public:
    SoftwareTransport(Reactor& reactor, std::unique_ptr<Medium> medium,
                      const SoftwareControllerOptions& options = {});
    ~SoftwareTransport() override;
    SoftwareTransport(const SoftwareTransport&) = delete;
    SoftwareTransport& operator=(const SoftwareTransport&) = delete;

    [[nodiscard]] std::uint32_t read32(std::uint32_t offset) override;
    [[nodiscard]] std::uint64_t read64(std::uint32_t offset) override;
    void write32(std::uint32_t offset, std::uint32_t value) override;
    void write64(std::uint32_t offset, std::uint64_t value) override;
    [[nodiscard]] volatile std::uint32_t* doorbell(std::uint32_t offset) override;
    [[nodiscard]] int wake_descriptor() const override { return controller_.wake_descriptor(); }
    void rung_from_elsewhere() override { reactor_.notify(); }
    [[nodiscard]] bool works_when_asked() const override { return true; }
    void work_now() override { controller_.poll(); }
    [[nodiscard]] bool at_once() const override { return controller_.medium().at_once(); }
    bool notify_of_completions(std::uint16_t queue_id, Reactor* reactor) override {
        controller_.notify_of_completions(queue_id, reactor);
        return true;
    }
    [[nodiscard]] const std::string& name() const override { return name_; }
    [[nodiscard]] SoftwareController& controller() { return controller_; }

  private:
    Reactor& reactor_;
    SoftwareController controller_;
    std::string name_;
};

}  // namespace blobfs::driver
