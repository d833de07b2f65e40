#include "driver/nvme/admin_queue.h"

#include <cstring>

#include "driver/reactor/reactor.h"

namespace blobfs::driver::nvme {

SubmissionEntry admin_entry(AdminOpcode opcode) {
    SubmissionEntry entry{};
    entry.opcode = static_cast<std::uint8_t>(opcode);
    return entry;
}

struct AdminQueue::Call {
    bool done = false;
    bool failed = false;
    Error error{};
    std::uint32_t dword0 = 0;
};

Result<std::unique_ptr<AdminQueue>> AdminQueue::create(Transport& transport,
                                                       QueueSupervisor& supervisor,
                                                       const QueuePairOptions& options) {
    std::unique_ptr<AdminQueue> queue(new AdminQueue(supervisor));
    TRY_ASSIGN(queue->page_, DmaBuffer::allocate(kPageBytes));
    TRY_ASSIGN(queue->pair_, QueuePair::create(transport, supervisor, options));
    return queue;
}

Result<std::uint32_t> AdminQueue::send(Suspend& suspend, const SubmissionEntry& command,
                                       DmaSpan data, const char* what) {
    Call call;
    pair_->submit_raw(
        command, data, what,
        [](void* context, const Error* error, std::uint32_t dword0) {
            auto* ended = static_cast<Call*>(context);
            ended->done = true;
            ended->dword0 = dword0;
            if (error != nullptr) {
                ended->failed = true;
                ended->error = *error;
            }
        },
        &call);
    pair_->ring();
    while (!call.done) {
        pair_->poll(suspend.reactor().now_us());
        if (call.done) break;
        supervisor_.admin_waits(suspend.reactor().now_us());
        if (!call.done) suspend.yield();
    }
    if (call.failed) return fail(call.error);
    return call.dword0;
}

Result<std::uint32_t> AdminQueue::send_copied(Suspend& suspend, const SubmissionEntry& command,
                                              std::span<std::byte> data, Direction direction,
                                              const char* what) {
    if (data.size() > kPageBytes || data.size() % 4 != 0) {
        return fail(Errc::kInvalidArgument, what);
    }
    if (data.empty()) return send(suspend, command, {}, what);
    FiberMutex::Guard guard(suspend, page_mutex_);
    const DmaSpan page = page_.span().first(data.size());
    std::memset(page.data(), 0, page.size());
    if (direction == Direction::kToController) std::memcpy(page.data(), data.data(), data.size());
    Result<std::uint32_t> answer = send(suspend, command, page, what);
    if (answer && direction == Direction::kToHost) {
        std::memcpy(data.data(), page.data(), data.size());
    }
    return answer;
}

Result<void> AdminQueue::identify(Suspend& suspend, IdentifyKind kind, std::uint32_t namespace_id,
                                  std::span<std::byte> into, const char* what) {
    SubmissionEntry command = admin_entry(AdminOpcode::kIdentify);
    command.namespace_id = namespace_id;
    command.dword10 = static_cast<std::uint32_t>(kind);
    TRY(send_copied(suspend, command, into, Direction::kToHost, what));
    return {};
}

Result<void> AdminQueue::get_log_page(Suspend& suspend, LogPage page, std::span<std::byte> into) {
    constexpr const char* kWhat = "reading a log page of the NVMe controller";
    if (into.empty()) return fail(Errc::kInvalidArgument, kWhat);
    SubmissionEntry command = admin_entry(AdminOpcode::kGetLogPage);
    command.namespace_id = kAllNamespaces;
    const auto dwords = static_cast<std::uint32_t>(into.size() / 4 - 1);  // NUMD, zero based
    command.dword10 = static_cast<std::uint32_t>(page) | (dwords & 0xffff) << 16;
    command.dword11 = dwords >> 16;
    TRY(send_copied(suspend, command, into, Direction::kToHost, kWhat));
    return {};
}

Result<std::uint32_t> AdminQueue::set_feature(Suspend& suspend, Feature feature,
                                              std::uint32_t value, std::span<std::byte> data,
                                              const char* what) {
    SubmissionEntry command = admin_entry(AdminOpcode::kSetFeatures);
    command.dword10 = static_cast<std::uint32_t>(feature);
    command.dword11 = value;
    return send_copied(suspend, command, data, Direction::kToController, what);
}

}  // namespace blobfs::driver::nvme
