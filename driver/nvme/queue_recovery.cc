// What a queue pair does when the controller does not answer, is reset, or is gone.

#include <algorithm>
#include <cstring>

#include "driver/base/check.h"
#include "driver/nvme/queue_pair.h"
#include "driver/nvme/tracker.h"

namespace blobfs::driver::nvme {

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
    while (!queued_.empty()) all.push_back(queued_.pop_front());
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
