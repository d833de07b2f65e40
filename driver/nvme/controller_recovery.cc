// What becomes of a controller that does not answer: Abort, reset, and its end. The state table is
// at the head of controller.h.

#include <spdlog/spdlog.h>

#include "driver/nvme/controller.h"

namespace blobfs::driver::nvme {

bool Controller::check_alive() {
    const std::uint32_t status = transport_->read32(kRegisterCsts);
    if (status == kAllOnes32) {
        die({.code = Errc::kDeviceGone, .what = "using the NVMe controller"},
            "its registers read all ones: it is gone");
        return false;
    }
    if ((status & kCstsFatal) != 0) {
        die({.code = Errc::kDeviceGone, .what = "using the NVMe controller"},
            "it reports a fatal error (CSTS.CFS)");
        return false;
    }
    return true;
}

void Controller::command_timed_out(QueuePair& queue, std::uint16_t command_id, bool aborted) {
    if (state_ == State::kDead || !check_alive()) return;
    if (queue.queue_id() == 0) {
        spdlog::error("{}: an admin command was not answered", transport_->name());
        // During bring-up there is nobody who would start over.
        if (state_ != State::kReady) {
            die({.code = Errc::kIo, .what = "waiting for an NVMe admin command"},
                "an admin command was not answered");
            return;
        }
        begin_reset("an admin command was not answered");
        return;
    }
    if (state_ != State::kReady) return;
    if (aborted) {
        begin_reset("a command was not answered, nor its abort");
        return;
    }
    // ACL: what it is told beyond that it would refuse; the reset, if it comes to that, is for all.
    if (aborts_under_way_ > identify_.abort_limit) return;
    spdlog::warn("{}: command {:#x} of queue {} timed out, aborting it", transport_->name(),
                 command_id, queue.queue_id());
    ++statistics_.aborts;
    ++aborts_under_way_;
    SubmissionEntry command = admin_entry(AdminOpcode::kAbort);
    command.dword10 = std::uint32_t{command_id} << 16 | queue.queue_id();
    // Whether it worked shows in the aborted command's own completion, or in its absence.
    admin_->pair().submit_raw(
        command, {}, "aborting an NVMe command",
        [](void* controller, const Error*, std::uint32_t) {
            --static_cast<Controller*>(controller)->aborts_under_way_;
        },
        this);
    admin_->pair().ring();
}

void Controller::protocol_broken(QueuePair& queue, const CompletionEntry& entry, const char* how) {
    if (queue.statistics().protocol_errors > 8) return;  // enough said
    spdlog::error("{}: queue {}: {} (command id {:#x}, status {:#x})", transport_->name(),
                  queue.queue_id(), how, entry.command_id, entry.status);
}

void Controller::begin_reset(const char* why) {
    if (recovering_ || state_ != State::kReady) return;
    spdlog::error("{}: resetting the controller: {}", transport_->name(), why);
    recovering_ = true;
    state_ = State::kResetting;
    events_->stop();
    for (const auto& queue : io_queues_) {
        if (queue->at_home()) queue->pair().freeze();
    }
    reactor_.spawn([this](Suspend& suspend) {
        recover(suspend);
        recovering_ = false;
        recovered_.wake_all();
    });
}

void Controller::recover(Suspend& suspend) {
    ++statistics_.resets;
    std::uint64_t completed = 0;
    for (const auto& queue : io_queues_) {
        queue->call(suspend, [&](QueuePair& pair) {
            pair.freeze();
            completed += pair.statistics().completions;
        });
    }
    // Commands that come back again and again without one ever completing are no progress.
    resets_in_a_row_ = completed == commands_at_reset_ ? resets_in_a_row_ + 1 : 1;
    commands_at_reset_ = completed;
    if (Result<void> result = start_over(suspend); !result) {
        Error error = result.error();
        error.code = Errc::kDeviceGone;
        die(error, "it could not be reset");
        return;
    }
    state_ = State::kReady;
    events_->start(options_.event_requests);
    for (const auto& queue : io_queues_) {
        queue->call(suspend, [](QueuePair& pair) { pair.thaw(); });
    }
    spdlog::warn("{}: the controller works again after a reset", transport_->name());
}

Result<void> Controller::start_over(Suspend& suspend) {
    if (resets_in_a_row_ > options_.max_resets) {
        return fail(Errc::kDeviceGone, "resetting the NVMe controller again and again");
    }
    TRY(disable(suspend));
    // The admin queue starts over: what was in it has no answer any more.
    QueuePair& admin = admin_->pair();
    admin.freeze();
    admin.reset();
    admin.set_shadow({});
    for (const auto& queue : io_queues_) {
        queue->call(suspend, [](QueuePair& pair) { pair.reset(); });
    }
    TRY(enable(suspend));
    // Not before: others may have put commands into it, and a doorbell is for a controller that is
    // ready.
    admin.thaw();
    const std::string model = info_.model, serial = info_.serial;
    TRY(identify_controller(suspend));
    if (info_.model != model || info_.serial != serial) {
        spdlog::error("{}: it was {} {} before the reset and is {} {} now", transport_->name(),
                      model, serial, info_.model, info_.serial);
        return fail(Errc::kDeviceGone, "finding the NVMe controller again after a reset");
    }
    // Before anything is sent again: events that were pending have gone with the reset.
    namespaces_.refresh(suspend, *admin_, identify_);
    TRY(set_features(suspend));
    if (options_.io_queues < io_queues_.size()) {
        return fail(Errc::kDeviceGone, "asking the NVMe controller for its queues again");
    }
    TRY(configure_doorbells(suspend));
    if (!info_.shadow_doorbells) {
        for (const auto& queue : io_queues_) {
            queue->call(suspend, [](QueuePair& pair) { pair.set_shadow({}); });
        }
    }
    for (const auto& queue : io_queues_) TRY(create_queue_commands(suspend, queue->pair()));
    return {};
}

void Controller::die(const Error& error, const char* why) {
    if (state_ == State::kDead) return;
    spdlog::error("{}: giving the controller up: {}", transport_->name(), why);
    state_ = State::kDead;
    transport_->stop_dma();
    if (events_ != nullptr) events_->stop();
    for (const auto& queue : io_queues_) {
        if (queue->at_home()) {
            queue->pair().fail_all(error);
            continue;
        }
        endings_.add();
        reactor_.spawn([this, &lent = *queue, error](Suspend& suspend) {
            lent.call(suspend, [&](QueuePair& pair) { pair.fail_all(error); });
            endings_.done();
        });
    }
    if (admin_ != nullptr) admin_->pair().fail_all(error);
}

}  // namespace blobfs::driver::nvme
