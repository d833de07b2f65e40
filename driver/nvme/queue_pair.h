#pragma once

// A submission and a completion queue in DMA memory, used together, from one thread: the reactor's
// that has the controller, or the one that the queue pair was lent to.
// Requests come from a pool that is larger than the hardware queue; what does not fit waits in a
// software queue. Each command in the hardware queue has a tracker, found by its command id; the
// tracker owns a DMA page for a PRP list or a dataset range. No allocation per I/O: the pool grows
// only when more requests are under way than ever before.
//
// A request's life:
//   state      left by                                     to
//   free       submit()                                    queued, or in the hardware queue
//   queued     a free tracker, not frozen                  in the hardware queue
//   hardware   its completion: success, or a final error   free (the callback has been called)
//              its completion: an error worth a retry      queued
//              reset()                                     queued, or free with an error
//   any        fail_all()                                  free with an error
// A request that is longer than one command may be is split: its parts go through these states, and
// its callback is called when the last of them has ended.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "driver/base/result.h"
#include "driver/memory/dma_buffer.h"
#include "driver/nvme/doorbell.h"
#include "driver/nvme/io_command.h"
#include "driver/nvme/request_pool.h"
#include "driver/nvme/spec.h"
#include "driver/nvme/transport.h"

namespace blobfs::driver::nvme {

class QueuePair;

// Who decides what happens to a queue that is in trouble (the controller). Called from poll().
class QueueSupervisor {
  public:
    virtual ~QueueSupervisor() = default;
    // The command has not been answered in time: the first time, and again after the abort grace.
    virtual void command_timed_out(QueuePair& queue, std::uint16_t command_id, bool aborted) = 0;
    // The controller posted a completion that fits no command.
    virtual void protocol_broken(QueuePair& queue, const CompletionEntry& entry,
                                 const char* how) = 0;
    // A fiber waits for an admin command, and nothing has come. Called again and again.
    virtual void admin_waits(std::uint64_t now_us) { (void)now_us; }
};

struct QueuePairOptions {
    std::uint16_t queue_id = 0;
    std::uint32_t entries = 256;  // hardware queue: entries - 1 commands at once; 2 to 4096
    std::uint32_t doorbell_stride = 4;
    std::uint64_t max_transfer_bytes = 0;  // MDTS in bytes, 0: none
    std::uint64_t timeout_us = 30'000'000;
    std::uint64_t abort_grace_us = 5'000'000;
    std::uint32_t max_retries = 4;
    std::uint32_t retry_delay_100ms[3] = {0, 0, 0};  // Identify's CRDT1..3
    bool sgl = false;  // the controller takes SGLs: used where they say more with less than PRPs
};

class QueuePair {
  public:
    // The transport and the supervisor outlive the queue pair. kNoMemory; kNotSupported when the
    // doorbells are not within what the transport maps.
    static Result<std::unique_ptr<QueuePair>> create(Transport& transport,
                                                     QueueSupervisor& supervisor,
                                                     const QueuePairOptions& options);
    ~QueuePair();
    QueuePair(const QueuePair&) = delete;
    QueuePair& operator=(const QueuePair&) = delete;

    // Starts a request; splits it as the limits need. The callback comes from a later poll(), or at
    // once when the arguments break a rule or the queue pair has failed. The doorbell is rung by
    // the next ring() or poll().
    void submit(const Namespace& space, const IoCommand& command, Callback callback, void* context);
    // A command as it is (admin): the command id is filled in, and the PRPs when memory is not
    // empty. Not retried, not split. what: a literal for its error.
    void submit_raw(const SubmissionEntry& command, DmaSpan memory, const char* what,
                    Callback callback, void* context);

    // Tells the controller of all commands put into the queue since the last time.
    bool ring();
    // Takes what has completed and calls callbacks, as poll() does; nothing when called from one.
    void take_completed();
    // Rings, takes what has completed, calls callbacks, moves queued requests on, looks after
    // timeouts. now_us: a monotonic clock. True when there was something.
    bool poll(std::uint64_t now_us);

    // Requests that have not ended, Asynchronous Event Requests included.
    [[nodiscard]] std::size_t in_flight() const { return in_flight_; }
    [[nodiscard]] std::size_t in_hardware() const { return active_; }
    [[nodiscard]] std::size_t capacity() const { return entries_ - 1; }
    [[nodiscard]] std::uint16_t queue_id() const { return options_.queue_id; }
    [[nodiscard]] std::uint32_t entries() const { return entries_; }
    [[nodiscard]] std::uint64_t submission_address() const;
    [[nodiscard]] std::uint64_t completion_address() const;
    void set_max_transfer(std::uint64_t bytes) { options_.max_transfer_bytes = bytes; }
    void set_retry_delays(const std::uint16_t (&delays)[3]);
    // The words of this queue's doorbells in the shadow and event index pages; null: none. Only
    // while the controller is disabled or does not know of the queue.
    struct ShadowWords {
        volatile std::uint32_t* submission = nullptr;
        volatile std::uint32_t* completion = nullptr;
        const volatile std::uint32_t* submission_event = nullptr;
        const volatile std::uint32_t* completion_event = nullptr;
    };
    void set_shadow(const ShadowWords& words);
    // The queue pair is used from another thread than the transport.
    void set_remote(bool remote) { remote_ = remote; }

    // Controller reset: nothing goes to the hardware until thaw().
    void freeze() { frozen_ = true; }
    // Empties both queues as for a controller that has just been disabled. What was in the hardware
    // queue goes back to the head of the software queue in its order, or ends with an error when
    // it may not be tried again (raw commands; retries used up).
    void reset();
    void thaw();
    // Ends every request with that error, now, and from now on each new one at once.
    void fail_all(const Error& error);
    // Back in service after fail_all(): for an admin queue in front of a new start.
    void revive();

    struct Statistics {
        std::uint64_t commands = 0, completions = 0, doorbells = 0, retries = 0, timeouts = 0,
                      protocol_errors = 0;
        std::uint64_t splits = 0, queued = 0, sgls = 0;
        std::uint64_t unwritten_doorbells = 0;  // that the shadow made unnecessary
    };
    [[nodiscard]] const Statistics& statistics() const { return statistics_; }

  private:
    struct Tracker;

    QueuePair(Transport& transport, QueueSupervisor& supervisor, const QueuePairOptions& options);
    Result<void> allocate();
    void start(Request* request);
    void issue(Request* request);
    void name_memory(Request* request, Tracker& tracker);
    void issue_queued();
    bool reap();
    void complete(const CompletionEntry& entry);
    void finish(Request* request, const Error* error, std::uint32_t dword0);
    void finish_error(Request* request, std::uint16_t code);
    void release(Tracker& tracker);
    void look_after_timeouts(std::uint64_t now_us);
    void release_delayed(std::uint64_t now_us);
    void report(const CompletionEntry& entry, const char* how);

    Transport& transport_;
    QueueSupervisor& supervisor_;
    QueuePairOptions options_;
    std::uint32_t entries_;

    DmaBuffer submission_memory_, completion_memory_, list_memory_;
    SubmissionEntry* submission_ = nullptr;
    volatile CompletionEntry* completion_ = nullptr;
    Doorbell submission_bell_, completion_bell_;
    bool remote_ = false;
    std::uint32_t tail_ = 0;        // next submission slot
    std::uint32_t rung_tail_ = 0;   // the tail that the controller knows
    std::uint32_t head_ = 0;        // next completion slot
    std::uint16_t phase_ = kPhase;  // of entries that are new

    std::vector<Tracker> trackers_;
    std::vector<std::uint16_t> free_trackers_;  // a stack: the one used last is still in the cache
    std::uint32_t slot_bits_ = 0;
    std::size_t active_ = 0;

    RequestPool pool_;
    RequestList queued_;
    std::vector<Request*> delayed_;  // waiting for a retry delay to pass
    std::size_t in_flight_ = 0;

    bool taking_ = false;  // a callback is being called
    bool frozen_ = false;
    bool failed_ = false;
    Error failure_{};
    std::uint64_t last_scan_us_ = 0;
    std::uint64_t now_us_ = 0;
    Statistics statistics_;
};

}  // namespace blobfs::driver::nvme
