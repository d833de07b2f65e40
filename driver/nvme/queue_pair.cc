#include "driver/nvme/queue_pair.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "driver/base/check.h"
#include "driver/nvme/status.h"

namespace blobfs::driver::nvme {

namespace {

constexpr std::uint64_t kScanIntervalUs = 50'000;
constexpr std::size_t kSlabRequests = 64;
// The field of a Dataset Management range has 32 bits of logical blocks.
constexpr std::uint64_t kMaxDatasetBlocks = 0xffffffffULL;

const char* describe(Opcode opcode) {
    switch (opcode) {
        case Opcode::kFlush:
            return "flushing the device";
        case Opcode::kWrite:
            return "writing to the device";
        case Opcode::kRead:
            return "reading from the device";
        case Opcode::kCompare:
            return "comparing with the device";
        case Opcode::kWriteZeroes:
            return "writing zeroes to the device";
        case Opcode::kDatasetManagement:
            return "deallocating on the device";
        case Opcode::kVerify:
            return "verifying the device";
    }
    return "sending a command to the device";
}

bool has_memory(Opcode opcode) {
    return opcode == Opcode::kRead || opcode == Opcode::kWrite || opcode == Opcode::kCompare;
}

}  // namespace

struct QueuePair::Request {
    SubmissionEntry command{};
    Callback callback = nullptr;
    void* context = nullptr;
    Request* next = nullptr;
    Request* parent = nullptr;  // this is a part of that one, and borrows its memory
    const char* what = "";
    DmaSegment single{};                // the memory, when it is one piece
    std::vector<DmaSegment> scattered;  // else the pieces; keeps its capacity in the pool
    TransferRange range;                // of the memory
    DatasetRange dataset{};
    std::uint64_t device_offset = 0;
    std::uint64_t retry_at_us = 0;
    std::uint32_t parts_left = 0;  // of a split request
    std::uint32_t retries = 0;
    Error error{};  // of a split request: the first of its parts
    bool failed = false;
    bool raw = false;
    bool memory = false;

    [[nodiscard]] std::span<const DmaSegment> segments() const {
        const Request& owner = parent != nullptr ? *parent : *this;
        if (!owner.scattered.empty()) return owner.scattered;
        return {&owner.single, 1};
    }
};

struct QueuePair::Tracker {
    Request* request = nullptr;     // null: free
    std::uint64_t deadline_us = 0;  // 0: the next scan sets it
    std::uint64_t* list = nullptr;  // its DMA page
    std::uint64_t list_address = 0;
    std::uint64_t order = 0;       // of issue, for resubmission
    std::uint16_t generation = 0;  // upper bits of the command id: tells a late duplicate apart
    bool aborting = false;
};

void QueuePair::RequestList::push_back(Request* request) {
    request->next = nullptr;
    (head == nullptr ? head : tail->next) = request;
    tail = request;
}

void QueuePair::RequestList::push_front(Request* request) {
    request->next = head;
    if (head == nullptr) tail = request;
    head = request;
}

QueuePair::Request* QueuePair::RequestList::pop_front() {
    Request* request = head;
    head = request->next;
    request->next = nullptr;
    return request;
}

QueuePair::QueuePair(Transport& transport, QueueSupervisor& supervisor,
                     const QueuePairOptions& options)
    : transport_(transport),
      supervisor_(supervisor),
      options_(options),
      entries_(std::clamp<std::uint32_t>(options.entries, 2, 4096)) {}

QueuePair::~QueuePair() { CHECK(in_flight_ == 0); }

Result<std::unique_ptr<QueuePair>> QueuePair::create(Transport& transport,
                                                     QueueSupervisor& supervisor,
                                                     const QueuePairOptions& options) {
    std::unique_ptr<QueuePair> queue(new QueuePair(transport, supervisor, options));
    TRY(queue->allocate());
    return queue;
}

Result<void> QueuePair::allocate() {
    const std::size_t trackers = capacity();
    // Aligned to their size, so that none lies across two hugepages.
    const auto allocate_queue = [](std::size_t bytes) {
        return DmaBuffer::allocate(bytes, std::bit_ceil(std::max<std::size_t>(bytes, kPageBytes)));
    };
    TRY_ASSIGN(submission_memory_, allocate_queue(entries_ * sizeof(SubmissionEntry)));
    TRY_ASSIGN(completion_memory_, allocate_queue(entries_ * sizeof(CompletionEntry)));
    TRY_ASSIGN(list_memory_, DmaBuffer::allocate(trackers * kPageBytes));
    // The queues are given to the controller as physically contiguous (PC bit), so they must be.
    for (const DmaBuffer* buffer : {&submission_memory_, &completion_memory_}) {
        const std::uint64_t base = transport_.dma_address(buffer->data());
        for (std::size_t at = 0; at < buffer->size(); at += kPageBytes) {
            if (transport_.dma_address(buffer->data() + at) != base + at) {
                return fail(Errc::kNoMemory, "allocating contiguous memory for an NVMe queue");
            }
        }
    }
    submission_ = reinterpret_cast<SubmissionEntry*>(submission_memory_.data());
    completion_ = reinterpret_cast<volatile CompletionEntry*>(completion_memory_.data());
    submission_bell_ =
        transport_.doorbell(submission_doorbell(options_.queue_id, options_.doorbell_stride));
    completion_bell_ =
        transport_.doorbell(completion_doorbell(options_.queue_id, options_.doorbell_stride));
    if (submission_bell_ == nullptr || completion_bell_ == nullptr) {
        return fail(Errc::kNotSupported, "reaching the doorbells of an NVMe queue");
    }

    slot_bits_ = static_cast<std::uint32_t>(std::bit_width(trackers - 1));
    trackers_.resize(trackers);
    free_trackers_.reserve(trackers);
    for (std::size_t i = trackers; i-- > 0;) {
        Tracker& tracker = trackers_[i];
        std::byte* page = list_memory_.data() + i * kPageBytes;
        tracker.list = reinterpret_cast<std::uint64_t*>(page);
        tracker.list_address = transport_.dma_address(page);
        free_trackers_.push_back(static_cast<std::uint16_t>(i));
    }
    delayed_.reserve(kSlabRequests);
    for (std::size_t have = 0; have < 2 * trackers; have += kSlabRequests) grow_pool();
    return {};
}

std::uint64_t QueuePair::submission_address() const {
    return transport_.dma_address(submission_memory_.data());
}

std::uint64_t QueuePair::completion_address() const {
    return transport_.dma_address(completion_memory_.data());
}

void QueuePair::set_retry_delays(const std::uint16_t (&delays)[3]) {
    std::copy(std::begin(delays), std::end(delays), std::begin(options_.retry_delay_100ms));
}

void QueuePair::grow_pool() {
    slabs_.push_back(std::make_unique<Request[]>(kSlabRequests));
    Request* slab = slabs_.back().get();
    for (std::size_t i = kSlabRequests; i-- > 0;) {
        slab[i].next = free_requests_;
        free_requests_ = &slab[i];
    }
}

QueuePair::Request* QueuePair::take_request() {
    if (free_requests_ == nullptr) [[unlikely]]
        grow_pool();
    Request* request = free_requests_;
    free_requests_ = request->next;
    request->next = nullptr;
    return request;
}

void QueuePair::give_back(Request* request) {
    request->scattered.clear();
    request->parent = nullptr;
    request->retries = 0;
    request->failed = false;
    request->next = free_requests_;
    free_requests_ = request;
}

void QueuePair::submit(const Namespace& space, const IoCommand& io, Callback callback,
                       void* context) {
    const std::uint32_t lba_bytes = 1U << space.lba_shift;
    const char* const what = describe(io.opcode);
    Error refused{.code = Errc::kInvalidArgument, .address = io.offset, .what = what};
    if (failed_) [[unlikely]] {
        refused = failure_;
        refused.what = what;
        refused.address = io.offset;
        callback(context, &refused, 0);
        return;
    }
    const bool flush = io.opcode == Opcode::kFlush;
    const bool memory = has_memory(io.opcode);
    if (!flush) {
        const std::uint64_t size = space.blocks << space.lba_shift;
        const bool bad_range = ((io.offset | io.bytes) & (lba_bytes - 1)) != 0 || io.bytes == 0 ||
                               io.bytes > size || io.offset > size - io.bytes;
        bool bad_memory = false;
        if (memory) {
            const Result<std::size_t> bytes = check_segments(io.memory);
            bad_memory = !bytes || *bytes != io.bytes;
        }
        if (bad_range || bad_memory) [[unlikely]] {
            callback(context, &refused, 0);
            return;
        }
    }

    Request* request = take_request();
    ++in_flight_;
    request->callback = callback;
    request->context = context;
    request->what = what;
    request->raw = false;
    request->memory = memory;
    request->device_offset = io.offset;
    SubmissionEntry& command = request->command;
    command = SubmissionEntry{};
    command.opcode = static_cast<std::uint8_t>(io.opcode);
    command.namespace_id = space.id;
    if (flush) {
        start(request);
        return;
    }
    if (memory) {
        if (io.memory.size() == 1) {
            request->single = io.memory[0];
        } else {
            request->scattered.assign(io.memory.begin(), io.memory.end());
        }
    }

    // Gives the command its place on the namespace and in the memory.
    const auto place = [&](Request* part, std::uint64_t done, std::uint64_t bytes) {
        SubmissionEntry& entry = part->command;
        const std::uint64_t lba = (io.offset + done) >> space.lba_shift;
        const auto blocks = static_cast<std::uint32_t>(bytes >> space.lba_shift);
        part->device_offset = io.offset + done;
        part->range = {.offset = static_cast<std::size_t>(done),
                       .bytes = static_cast<std::size_t>(bytes)};
        if (io.opcode == Opcode::kDatasetManagement) {
            part->dataset = {.context_attributes = 0, .blocks = blocks, .start_lba = lba};
            entry.dword10 = 0;  // one range, zero based
            entry.dword11 = kDatasetDeallocate;
            return;
        }
        entry.dword10 = static_cast<std::uint32_t>(lba);
        entry.dword11 = static_cast<std::uint32_t>(lba >> 32);
        entry.dword12 = (blocks - 1) | (io.force_unit_access ? kForceUnitAccess : 0);
        if (io.opcode == Opcode::kWriteZeroes && space.write_zeroes_deallocates) {
            entry.dword12 |= kWriteZeroesDeallocate;
        }
    };
    const auto next_bytes = [&](std::uint64_t done) -> std::uint64_t {
        const std::uint64_t left = io.bytes - done;
        if (io.opcode == Opcode::kDatasetManagement) {
            return std::min(left, kMaxDatasetBlocks << space.lba_shift);
        }
        if (!memory) {
            return std::min(left, std::uint64_t{kMaxBlocksPerCommand} << space.lba_shift);
        }
        const std::byte* at = segment_at(io.memory, static_cast<std::size_t>(done));
        return first_command_bytes(
            {.lba_bytes = lba_bytes,
             .max_transfer_bytes = options_.max_transfer_bytes,
             .boundary_bytes = space.boundary_bytes},
            {.device_offset = io.offset + done,
             .page_offset = reinterpret_cast<std::uintptr_t>(at) & (kPageBytes - 1)},
            static_cast<std::size_t>(left));
    };

    const std::uint64_t first = next_bytes(0);
    if (first == io.bytes) [[likely]] {
        place(request, 0, first);
        start(request);
        return;
    }
    // The parent counts its parts; the one extra keeps it alive until all of them have started.
    ++statistics_.splits;
    request->parts_left = 1;
    for (std::uint64_t done = 0; done < io.bytes;) {
        const std::uint64_t bytes = next_bytes(done);
        Request* part = take_request();
        ++in_flight_;
        part->parent = request;
        part->what = what;
        part->raw = false;
        part->memory = memory;
        part->command = request->command;
        place(part, done, bytes);
        ++request->parts_left;
        start(part);
        done += bytes;
    }
    CHECK(--request->parts_left > 0);
}

void QueuePair::submit_raw(const SubmissionEntry& command, DmaSpan memory, const char* what,
                           Callback callback, void* context) {
    if (failed_) {
        Error error = failure_;
        error.what = what;
        callback(context, &error, 0);
        return;
    }
    Request* request = take_request();
    ++in_flight_;
    request->callback = callback;
    request->context = context;
    request->what = what;
    request->raw = true;
    request->memory = !memory.empty();
    request->device_offset = 0;
    request->command = command;
    request->single = {.data = memory.data(), .bytes = memory.size()};
    request->range = {.offset = 0, .bytes = memory.size()};
    start(request);
}

void QueuePair::start(Request* request) {
    // First come, first served: nobody overtakes those who wait already.
    if (queued_.head != nullptr || free_trackers_.empty() || frozen_) [[unlikely]] {
        ++statistics_.queued;
        queued_.push_back(request);
        return;
    }
    issue(request);
}

void QueuePair::issue(Request* request) {
    const std::uint16_t slot = free_trackers_.back();
    free_trackers_.pop_back();
    Tracker& tracker = trackers_[slot];
    tracker.request = request;
    tracker.deadline_us = 0;
    tracker.aborting = false;
    ++tracker.generation;
    tracker.order = statistics_.commands++;

    SubmissionEntry& entry = request->command;
    // 0xffff names no command in the error log, so no generation may make it.
    std::uint32_t id = static_cast<std::uint32_t>(tracker.generation) << slot_bits_ | slot;
    if ((id & 0xffff) == 0xffff) {
        ++tracker.generation;
        id = static_cast<std::uint32_t>(tracker.generation) << slot_bits_ | slot;
    }
    entry.command_id = static_cast<std::uint16_t>(id);
    if (request->memory) {
        const PrpPair prps = build_prps(transport_, request->segments(), request->range,
                                        tracker.list, tracker.list_address);
        entry.prp1 = prps.prp1;
        entry.prp2 = prps.prp2;
    } else if (!request->raw &&
               entry.opcode == static_cast<std::uint8_t>(Opcode::kDatasetManagement)) {
        std::memcpy(tracker.list, &request->dataset, sizeof(DatasetRange));
        entry.prp1 = tracker.list_address;
    }
    std::memcpy(&submission_[tail_], &entry, sizeof entry);
    tail_ = tail_ + 1 == entries_ ? 0 : tail_ + 1;
    ++active_;
}

void QueuePair::ring() {
    if (tail_ == rung_tail_) return;
    rung_tail_ = tail_;
    // The controller may fetch entries as soon as it sees the new tail: the stores of the entries,
    // of the PRP lists and of the data must be visible before the store to the doorbell.
    std::atomic_thread_fence(std::memory_order_release);
    *submission_bell_ = tail_;
    ++statistics_.doorbells;
}

void QueuePair::issue_queued() {
    while (queued_.head != nullptr && !free_trackers_.empty() && !frozen_) {
        issue(queued_.pop_front());
    }
}

bool QueuePair::poll(std::uint64_t now_us) {
    now_us_ = now_us;
    if (!frozen_) ring();
    bool worked = false;
    if (active_ != 0 && !frozen_) {
        worked = reap();
        if (!delayed_.empty()) [[unlikely]]
            release_delayed(now_us);
        if (queued_.head != nullptr) [[unlikely]]
            issue_queued();
        ring();
        if (now_us - last_scan_us_ >= kScanIntervalUs) [[unlikely]]
            look_after_timeouts(now_us);
    } else if (!frozen_ && (queued_.head != nullptr || !delayed_.empty())) {
        release_delayed(now_us);
        issue_queued();
        ring();
    }
    return worked;
}

bool QueuePair::reap() {
    bool any = false;
    // A callback may end with this queue frozen or failed: then its memory is no longer read.
    while (!frozen_ && !failed_) {
        volatile CompletionEntry& slot = completion_[head_];
        const std::uint16_t status = slot.status;
        if ((status & kPhase) != phase_) break;
        // The controller writes the phase bit last. This keeps the loads of the other fields, and
        // of the data it transferred, behind the load of the phase bit.
        std::atomic_thread_fence(std::memory_order_acquire);
        const CompletionEntry entry{.dword0 = slot.dword0,
                                    .dword1 = 0,
                                    .submission_head = slot.submission_head,
                                    .submission_queue_id = slot.submission_queue_id,
                                    .command_id = slot.command_id,
                                    .status = status};
        if (++head_ == entries_) {
            head_ = 0;
            phase_ ^= kPhase;
        }
        any = true;
        complete(entry);
    }
    // One doorbell for all: gives the slots back to the controller, after they have been read.
    if (any && !failed_) {
        std::atomic_thread_fence(std::memory_order_release);
        *completion_bell_ = head_;
    }
    return any;
}

void QueuePair::report(const CompletionEntry& entry, const char* how) {
    ++statistics_.protocol_errors;
    supervisor_.protocol_broken(*this, entry, how);
}

void QueuePair::complete(const CompletionEntry& entry) {
    const std::uint32_t slot = entry.command_id & ((1U << slot_bits_) - 1);
    if (entry.submission_queue_id != options_.queue_id) [[unlikely]] {
        report(entry, "a completion for another submission queue");
        return;
    }
    if (slot >= trackers_.size()) [[unlikely]] {
        report(entry, "a completion for a command id that was never used");
        return;
    }
    Tracker& tracker = trackers_[slot];
    if (tracker.request == nullptr) [[unlikely]] {
        report(entry, "a completion for a command that has ended");
        return;
    }
    Request* request = tracker.request;
    if (entry.command_id != request->command.command_id) [[unlikely]] {
        report(entry, "a second completion for a command id that is in use again");
        return;
    }
    if (entry.submission_head >= entries_) [[unlikely]] {
        report(entry, "a submission queue head beyond the queue");
    }
    release(tracker);
    ++statistics_.completions;
    const std::uint16_t code = status_code(entry.status);
    if (code == 0) [[likely]] {
        finish(request, nullptr, entry.dword0);
        return;
    }
    if (!request->raw && (entry.status & kDoNotRetry) == 0 &&
        request->retries < options_.max_retries) {
        ++request->retries;
        ++statistics_.retries;
        const std::uint32_t delay = retry_delay_index(entry.status);
        const std::uint64_t delay_100ms = delay == 0 ? 0 : options_.retry_delay_100ms[delay - 1];
        if (delay_100ms != 0) {
            request->retry_at_us = now_us_ + delay_100ms * 100'000;
            delayed_.push_back(request);
        } else {
            queued_.push_back(request);
        }
        return;
    }
    finish_error(request, code);
}

void QueuePair::release(Tracker& tracker) {
    tracker.request = nullptr;
    free_trackers_.push_back(static_cast<std::uint16_t>(&tracker - trackers_.data()));
    --active_;
}

void QueuePair::finish_error(Request* request, std::uint16_t code) {
    Error error = status_error(code, request->what, request->device_offset);
    finish(request, &error, 0);
}

void QueuePair::finish(Request* request, const Error* error, std::uint32_t dword0) {
    --in_flight_;
    Request* parent = request->parent;
    if (parent != nullptr) {
        if (error != nullptr && !parent->failed) {
            parent->failed = true;
            parent->error = *error;
        }
        give_back(request);
        if (--parent->parts_left != 0) return;
        if (parent->failed) {
            const Error first = parent->error;
            finish(parent, &first, 0);
        } else {
            finish(parent, nullptr, 0);
        }
        return;
    }
    // Given back first: the callback may submit the next one into the same, still warm, request.
    const Callback callback = request->callback;
    void* const context = request->context;
    give_back(request);
    callback(context, error, dword0);
}

void QueuePair::release_delayed(std::uint64_t now_us) {
    for (std::size_t i = 0; i < delayed_.size();) {
        if (delayed_[i]->retry_at_us > now_us) {
            ++i;
            continue;
        }
        queued_.push_back(delayed_[i]);
        delayed_[i] = delayed_.back();
        delayed_.pop_back();
    }
}

void QueuePair::look_after_timeouts(std::uint64_t now_us) {
    // Time in which nobody polled (the process was stopped, or idle) does not count against the
    // controller: what it answered meanwhile has been taken just before this.
    const std::uint64_t gap = now_us - last_scan_us_;
    const std::uint64_t lost = gap > 8 * kScanIntervalUs ? gap : 0;
    last_scan_us_ = now_us;
    for (std::size_t i = 0; i < trackers_.size() && !frozen_ && !failed_; ++i) {
        Tracker& tracker = trackers_[i];
        if (tracker.request == nullptr) continue;
        const bool event_request =
            tracker.request->raw &&
            tracker.request->command.opcode ==
                static_cast<std::uint8_t>(AdminOpcode::kAsynchronousEventRequest);
        if (options_.queue_id == 0 && event_request) continue;
        if (tracker.deadline_us == 0) {
            tracker.deadline_us = now_us + options_.timeout_us;
            continue;
        }
        tracker.deadline_us += lost;
        if (now_us < tracker.deadline_us) continue;
        ++statistics_.timeouts;
        const bool aborted = tracker.aborting;
        tracker.aborting = true;
        tracker.deadline_us = now_us + options_.abort_grace_us;
        supervisor_.command_timed_out(*this, tracker.request->command.command_id, aborted);
    }
}

void QueuePair::reset() {
    CHECK(frozen_);
    std::vector<Tracker*> busy;
    for (Tracker& tracker : trackers_) {
        if (tracker.request != nullptr) busy.push_back(&tracker);
    }
    std::sort(busy.begin(), busy.end(),
              [](const Tracker* a, const Tracker* b) { return a->order > b->order; });
    std::vector<Request*> lost;
    for (Tracker* tracker : busy) {
        Request* request = tracker->request;
        release(*tracker);
        if (request->raw || request->retries >= options_.max_retries) {
            lost.push_back(request);
            continue;
        }
        ++request->retries;
        ++statistics_.retries;
        queued_.push_front(request);
    }
    std::memset(submission_memory_.data(), 0, submission_memory_.size());
    std::memset(completion_memory_.data(), 0, completion_memory_.size());
    tail_ = rung_tail_ = head_ = 0;
    phase_ = kPhase;
    for (Request* request : lost) {
        finish_error(request, static_cast<std::uint16_t>(Status::kAbortRequested));
    }
}

void QueuePair::thaw() {
    frozen_ = false;
    issue_queued();
    ring();
}

void QueuePair::fail_all(const Error& error) {
    failed_ = true;
    failure_ = error;
    std::vector<Request*> all;
    for (Tracker& tracker : trackers_) {
        if (tracker.request == nullptr) continue;
        all.push_back(tracker.request);
        release(tracker);
    }
    while (queued_.head != nullptr) all.push_back(queued_.pop_front());
    all.insert(all.end(), delayed_.begin(), delayed_.end());
    delayed_.clear();
    rung_tail_ = tail_;
    for (Request* request : all) {
        Error own = error;
        own.what = request->what;
        own.address = request->device_offset;
        finish(request, &own, 0);
    }
}

void QueuePair::revive() { failed_ = false; }

}  // namespace blobfs::driver::nvme
