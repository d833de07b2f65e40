#pragma once

// A controller of which a test decides everything: what registers read, which commands are
// answered, when, and how wrongly. It answers admin commands well enough to be brought up, unless
// told otherwise.

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "driver/nvme/spec.h"
#include "driver/nvme/transport.h"

namespace blobfs::driver::nvme {

class ScriptedTransport final : public Transport {
  public:
    struct Queue {
        std::uint32_t entries = 0;
        SubmissionEntry* submission = nullptr;
        CompletionEntry* completion = nullptr;
        std::uint32_t head = 0;  // of the submission queue
        std::uint32_t tail = 0;  // of the completion queue
        std::uint16_t phase = 1;
    };

    ScriptedTransport() : Transport(true) {}

    std::uint32_t read32(std::uint32_t offset) override {
        if (gone) return kAllOnes32;
        if (offset == kRegisterCsts) return status;
        if (offset == kRegisterCc) return configuration;
        if (offset == kRegisterVs) return 0x10400;
        return 0;
    }
    std::uint64_t read64(std::uint32_t offset) override {
        if (gone) return kAllOnes64;
        return offset == kRegisterCap ? capabilities : 0;
    }
    void write32(std::uint32_t offset, std::uint32_t value) override {
        if (offset == kRegisterAqa) admin_attributes = value;
        if (offset != kRegisterCc) return;
        const bool was = (configuration & kCcEnable) != 0;
        configuration = value;
        if ((value & kCcEnable) != 0 && !was) {
            ++enables;
            if (stuck_not_ready) return;
            look_at_bells();
            queues.clear();
            queues[0] = {.entries = (admin_attributes & 0xfff) + 1,
                         .submission = reinterpret_cast<SubmissionEntry*>(admin_submission),
                         .completion = reinterpret_cast<CompletionEntry*>(admin_completion)};
            bells.fill(0);
            turns_until_ready = ready_delay;
            if (turns_until_ready == 0) status = kCstsReady;
        }
        if ((value & kCcEnable) == 0 && !stuck_ready) {
            status = 0;
            bells.fill(0);
            queues.clear();  // touches no memory of the host any more
        }
        if ((value & kCcShutdownMask) != 0) {
            ++shutdowns;
            if (!stuck_shutdown) status |= kCstsShutdownComplete;
        }
    }
    void write64(std::uint32_t offset, std::uint64_t value) override {
        if (offset == kRegisterAsq) admin_submission = value;
        if (offset == kRegisterAcq) admin_completion = value;
    }
    volatile std::uint32_t* doorbell(std::uint32_t offset) override {
        const std::size_t index = (offset - kRegisterDoorbells) / 4;
        return index < bells.size() ? &bells[index] : nullptr;
    }
    const std::string& name() const override { return name_; }

    // Queue ids and their memory, for tests of a queue pair alone.
    void attach(std::uint16_t id, std::uint64_t submission, std::uint64_t completion,
                std::uint32_t entries) {
        queues[id] = {.entries = entries,
                      .submission = reinterpret_cast<SubmissionEntry*>(submission),
                      .completion = reinterpret_cast<CompletionEntry*>(completion)};
    }

    // The commands that the doorbell has made visible since the last call.
    std::vector<SubmissionEntry> fetch(std::uint16_t id) {
        Queue& queue = queues[id];
        std::vector<SubmissionEntry> commands;
        const std::uint32_t tail = bells[2U * id];
        while (queue.head != tail) {
            commands.push_back(queue.submission[queue.head]);
            queue.head = (queue.head + 1) % queue.entries;
        }
        return commands;
    }

    // Posts a completion. wrong_phase: leaves the phase bit as it was.
    void post(std::uint16_t id, std::uint16_t command_id, std::uint16_t status_bits = 0,
              std::uint32_t dword0 = 0, bool wrong_phase = false) {
        Queue& queue = queues[id];
        CompletionEntry& entry = queue.completion[queue.tail];
        entry.dword0 = dword0;
        entry.submission_head = static_cast<std::uint16_t>(queue.head);
        entry.submission_queue_id = id;
        entry.command_id = command_id;
        const std::uint16_t phase =
            wrong_phase ? static_cast<std::uint16_t>(queue.phase ^ 1) : queue.phase;
        entry.status = static_cast<std::uint16_t>(status_bits | phase);
        if (wrong_phase) return;
        if (++queue.tail == queue.entries) {
            queue.tail = 0;
            queue.phase ^= 1;
        }
    }

    // Answers admin commands as a small, well-behaved controller would.
    void serve_admin() {
        if (turns_until_ready != 0) {
            look_at_bells();
            if (--turns_until_ready == 0) status = kCstsReady;
            return;
        }
        if (queues.empty() || queues[0].submission == nullptr) return;
        for (const SubmissionEntry& command : fetch(0)) {
            ++admin_commands[command.opcode];
            if (on_admin && on_admin(command)) continue;
            std::uint32_t dword0 = 0;
            switch (static_cast<AdminOpcode>(command.opcode)) {
                case AdminOpcode::kIdentify:
                    identify(command);
                    break;
                case AdminOpcode::kCreateCompletionQueue:
                    queues[command.dword10 & 0xffff].entries = (command.dword10 >> 16) + 1;
                    queues[command.dword10 & 0xffff].completion =
                        reinterpret_cast<CompletionEntry*>(command.prp1);
                    break;
                case AdminOpcode::kCreateSubmissionQueue:
                    queues[command.dword10 & 0xffff].submission =
                        reinterpret_cast<SubmissionEntry*>(command.prp1);
                    break;
                case AdminOpcode::kAsynchronousEventRequest:
                    continue;
                default:
                    break;
            }
            post(0, command.command_id, 0, dword0);
        }
    }

    std::uint64_t capabilities = Capabilities::make(64, 1, 0);
    std::uint32_t status = 0;
    std::uint32_t configuration = 0;
    std::uint32_t admin_attributes = 0;
    std::uint64_t admin_submission = 0;
    std::uint64_t admin_completion = 0;
    std::array<std::uint32_t, 16> bells{};
    std::map<std::uint16_t, Queue> queues;
    bool gone = false;
    bool stuck_ready = false;
    bool stuck_not_ready = false;
    bool stuck_shutdown = false;
    bool rung_too_early = false;  // a doorbell, while it was not ready
    int ready_delay = 0;          // turns from CC.EN to CSTS.RDY
    int turns_until_ready = 0;
    int enables = 0, shutdowns = 0;
    std::map<std::uint8_t, int> admin_commands;
    std::function<bool(const SubmissionEntry&)> on_admin;  // true: it has dealt with the command
    // What Identify says otherwise than a well-behaved controller would.
    std::function<void(IdentifyController&)> on_identify_controller;
    std::function<void(IdentifyNamespace&)> on_identify_namespace;
    LbaFormat format{.metadata_bytes = 0, .data_size = 9, .relative_performance = 0};

  private:
    void look_at_bells() {
        for (const std::uint32_t bell : bells) rung_too_early |= bell != 0;
    }
    void identify(const SubmissionEntry& command) const {
        auto* into = reinterpret_cast<std::byte*>(command.prp1);
        std::memset(into, 0, kPageBytes);
        switch (static_cast<IdentifyKind>(command.dword10 & 0xff)) {
            case IdentifyKind::kController: {
                IdentifyController data{};
                std::memcpy(data.model_number, "scripted  ", 10);
                data.namespaces = 1;
                data.volatile_write_cache = 1;
                data.optional_commands = kOncsDatasetManagement | kOncsWriteZeroes;
                if (on_identify_controller) on_identify_controller(data);
                std::memcpy(into, &data, sizeof data);
                break;
            }
            case IdentifyKind::kNamespace: {
                IdentifyNamespace data{};
                data.size_blocks = data.capacity_blocks = 1 << 20;
                data.formats[0] = format;
                if (on_identify_namespace) on_identify_namespace(data);
                std::memcpy(into, &data, sizeof data);
                break;
            }
            case IdentifyKind::kActiveNamespaces: {
                const std::uint32_t id = command.namespace_id == 0 ? 1 : 0;
                std::memcpy(into, &id, sizeof id);
                break;
            }
        }
    }

    std::string name_ = "scripted";
};

}  // namespace blobfs::driver::nvme
