#include "driver/nvme/queue_pair.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "driver/base/check.h"
#include "driver/nvme/sgl.h"
#include "driver/nvme/shared_word.h"
#include "driver/nvme/status.h"
#include "driver/nvme/tracker.h"

namespace blobfs::driver::nvme {

QueuePair::QueuePair(Transport& transport, QueueSupervisor& supervisor,
                     const QueuePairOptions& options)
    : transport_(transport),
      supervisor_(supervisor),
      options_(options),
      entries_(std::clamp<std::uint32_t>(options.entries, 2, 4096)),
      pool_(2 * capacity()) {}

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
    submission_bell_ = Doorbell(
        transport_.doorbell(submission_doorbell(options_.queue_id, options_.doorbell_stride)));
    completion_bell_ = Doorbell(
        transport_.doorbell(completion_doorbell(options_.queue_id, options_.doorbell_stride)));
    if (!submission_bell_.reachable() || !completion_bell_.reachable()) {
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
    delayed_.reserve(trackers);
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

void QueuePair::set_shadow(const ShadowWords& words) {
    const bool admin = options_.queue_id == 0;
    submission_bell_.set_shadow(words.submission, words.submission_event, admin);
    completion_bell_.set_shadow(words.completion, words.completion_event, admin);
}

void QueuePair::submit(const Namespace& space, const IoCommand& io, Callback callback,
                       void* context) {
    const char* const what = describe(io.opcode);
    const std::optional<Errc> refused = refusal(space, io);
    if (failed_ || refused) [[unlikely]] {
        Error error = failed_ ? failure_ : Error{.code = *refused};
        error.what = what;
        error.address = io.offset;
        callback(context, &error, 0);
        return;
    }

    Request* request = pool_.take();
    ++in_flight_;
    request->callback = callback;
    request->context = context;
    request->what = what;
    request->raw = false;
    request->space = &space;
    request->memory = has_memory(io.opcode);
    request->device_offset = io.offset;
    SubmissionEntry& command = request->command;
    command = SubmissionEntry{};
    command.opcode = static_cast<std::uint8_t>(io.opcode);
    command.namespace_id = space.id;
    if (io.opcode == Opcode::kFlush) {
        start(request);
        return;
    }
    if (request->memory) {
        if (io.memory.size() == 1) {
            request->single = io.memory[0];
        } else {
            request->scattered.assign(io.memory.begin(), io.memory.end());
        }
    }

    const auto fill = [&](Request* part, std::uint64_t begin, std::uint64_t bytes) {
        part->device_offset = io.offset + begin;
        part->range = {.offset = static_cast<std::size_t>(begin),
                       .bytes = static_cast<std::size_t>(bytes)};
        place(space, io, {.begin = begin, .bytes = bytes}, part->command, part->dataset);
    };
    const std::uint64_t first = command_bytes(space, io, 0, options_.max_transfer_bytes);
    if (first == io.bytes) [[likely]] {
        fill(request, 0, first);
        start(request);
        return;
    }
    // The parent counts its parts; the one extra keeps it alive until all of them have started.
    ++statistics_.splits;
    request->parts_left = 1;
    for (std::uint64_t begin = 0; begin < io.bytes;) {
        const std::uint64_t bytes = command_bytes(space, io, begin, options_.max_transfer_bytes);
        Request* part = pool_.take();
        ++in_flight_;
        part->parent = request;
        part->what = what;
        part->raw = false;
        part->space = &space;
        part->memory = request->memory;
        part->command = request->command;
        fill(part, begin, bytes);
        ++request->parts_left;
        start(part);
        begin += bytes;
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
    Request* request = pool_.take();
    ++in_flight_;
    request->callback = callback;
    request->context = context;
    request->what = what;
    request->raw = true;
    request->space = nullptr;
    request->memory = !memory.empty();
    request->device_offset = 0;
    request->command = command;
    request->single = {.data = memory.data(), .bytes = memory.size()};
    request->range = {.offset = 0, .bytes = memory.size()};
    start(request);
}

void QueuePair::start(Request* request) {
    // First come, first served: nobody overtakes those who wait already.
    if (!queued_.empty() || free_trackers_.empty() || frozen_) [[unlikely]] {
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
        name_memory(request, tracker);
    } else if (!request->raw &&
               entry.opcode == static_cast<std::uint8_t>(Opcode::kDatasetManagement)) {
        std::memcpy(tracker.list, &request->dataset, sizeof(DatasetRange));
        entry.prp1 = tracker.list_address;
    }
    std::memcpy(&submission_[tail_], &entry, sizeof entry);
    tail_ = tail_ + 1 == entries_ ? 0 : tail_ + 1;
    ++active_;
}

// Up to two pages PRPs say all within the command.
void QueuePair::name_memory(Request* request, Tracker& tracker) {
    SubmissionEntry& entry = request->command;
    if (options_.sgl && !request->raw && request->range.bytes > 2 * kPageBytes) {
        const std::optional<SglDescriptor> descriptor =
            build_sgl(transport_, request->segments(), request->range,
                      reinterpret_cast<SglDescriptor*>(tracker.list), tracker.list_address);
        if (descriptor) {
            ++statistics_.sgls;
            set_sgl(entry, *descriptor);
            return;
        }
        entry.flags = 0;
    }
    const PrpPair prps = build_prps(transport_, request->segments(), request->range, tracker.list,
                                    tracker.list_address);
    entry.prp1 = prps.prp1;
    entry.prp2 = prps.prp2;
}

bool QueuePair::ring() {
    if (tail_ == rung_tail_) return false;
    rung_tail_ = tail_;
    if (!submission_bell_.ring(tail_)) ++statistics_.unwritten_doorbells;
    if (remote_) [[unlikely]]
        transport_.rung_from_elsewhere();
    ++statistics_.doorbells;
    return true;
}

// A namespace may have been withdrawn while they waited, or before they are tried again.
void QueuePair::issue_queued() {
    while (!queued_.empty() && !free_trackers_.empty() && !frozen_) {
        Request* const request = queued_.pop_front();
        if (request->space != nullptr && withdrawn(*request->space)) [[unlikely]] {
            const Error gone{.code = Errc::kDeviceGone,
                             .address = request->device_offset,
                             .what = request->what};
            finish(request, &gone, 0);
            continue;
        }
        issue(request);
    }
}

bool QueuePair::poll(std::uint64_t now_us) {
    now_us_ = now_us;
    // A controller in this process was asked before, in this turn: what is rung for only now would
    // wait until the reactor has taken more requests.
    if (!frozen_ && ring() && !remote_) transport_.work_now();
    bool worked = false;
    if (active_ != 0 && !frozen_) {
        worked = reap();
        if (!delayed_.empty()) [[unlikely]]
            release_delayed(now_us);
        if (!queued_.empty()) [[unlikely]]
            issue_queued();
        ring();
        if (now_us - last_scan_us_ >= kScanIntervalUs) [[unlikely]]
            look_after_timeouts(now_us);
    } else if (!frozen_ && (!queued_.empty() || !delayed_.empty())) {
        release_delayed(now_us);
        issue_queued();
        ring();
    }
    return worked;
}

void QueuePair::take_completed() {
    if (active_ != 0 && !frozen_ && !taking_) reap();
}

bool QueuePair::reap() {
    bool any = false;
    taking_ = true;
    // A callback may end with this queue frozen or failed: then its memory is no longer read.
    while (!frozen_ && !failed_) {
        volatile CompletionEntry& slot = completion_[head_];
        // The controller writes the phase bit last: the loads of the other fields, and of the data
        // it transferred, stay behind this one.
        const std::uint16_t status = load_acquire(slot.status);
        if ((status & kPhase) != phase_) break;
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
    taking_ = false;
    // One doorbell for all: gives the slots back to the controller, after they have been read.
    if (any && !failed_) completion_bell_.ring(head_);
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
        request->retries < options_.max_retries &&
        code != static_cast<std::uint16_t>(Status::kCompareFailure)) {
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
    Error error = queue_id() == 0 ? status_error(code, request->what, request->device_offset)
                                  : transfer_error(code, request->what, request->device_offset);
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
        pool_.give_back(request);
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
    pool_.give_back(request);
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

}  // namespace blobfs::driver::nvme
