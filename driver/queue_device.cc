#include "driver/queue_device.h"

#include <algorithm>

namespace blobfs::driver {

namespace {

constexpr std::size_t kZeroBytes = 256 * 1024;
constexpr std::uint64_t kFenceWaitUs = 5'000'000;

}  // namespace

// One fiber's call, on its stack.
struct QueueDevice::Call {
    Fiber* fiber = nullptr;  // set while it is parked
    bool done = false;
    bool failed = false;
    Error error{};

    static void ended(void* context, const Error* error, std::uint32_t) {
        auto* call = static_cast<Call*>(context);
        call->done = true;
        if (error != nullptr) {
            call->failed = true;
            call->error = *error;
        }
        if (call->fiber != nullptr) call->fiber->wake();
    }
};

void QueueDevice::start(const Transfer& transfer, Ended ended, void* context) {
    nvme::IoCommand command{.force_unit_access = transfer.flags == WriteFlags::kForceUnitAccess,
                            .offset = transfer.offset,
                            .bytes = transfer.bytes,
                            .memory = transfer.memory};
    Error refused{.code = Errc::kReadOnly, .address = transfer.offset, .what = ""};
    switch (transfer.operation) {
        case Operation::kRead:
            command.opcode = nvme::Opcode::kRead;
            ++statistics_.reads;
            statistics_.bytes_read += transfer.bytes;
            break;
        case Operation::kWrite:
            command.opcode = nvme::Opcode::kWrite;
            ++statistics_.writes;
            statistics_.bytes_written += transfer.bytes;
            refused.what = "writing to the device";
            break;
        case Operation::kFlush:
            command.opcode = nvme::Opcode::kFlush;
            ++statistics_.flushes;
            break;
        case Operation::kWriteZeroes:
            command.opcode = nvme::Opcode::kWriteZeroes;
            refused.what = "writing zeroes to the device";
            break;
        case Operation::kDeallocate:
            command.opcode = nvme::Opcode::kDatasetManagement;
            refused.what = "deallocating on the device";
            break;
        case Operation::kCompare:
            command.opcode = nvme::Opcode::kCompare;
            break;
        case Operation::kVerify:
            command.opcode = nvme::Opcode::kVerify;
            break;
    }
    if (closed_ || fenced_) [[unlikely]] {
        refused =
            closed_ ? Error{.code = Errc::kDeviceGone, .what = "using a device after it was closed"}
                    : Error{.code = Errc::kIo,
                            .address = transfer.offset,
                            .what = "using the device of a filesystem that was shut down"};
        ended(context, &refused, 0);
        return;
    }
    if (properties_.read_only && refused.what[0] != '\0') [[unlikely]] {
        ended(context, &refused, 0);
        return;
    }
    const bool nothing_to_do =
        transfer.operation == Operation::kFlush        ? !properties_.volatile_write_cache
        : transfer.operation == Operation::kDeallocate ? !properties_.deallocate
                                                       : false;
    if (nothing_to_do) {
        ended(context, nullptr, 0);
        return;
    }
    queue_.submit(space_, command, ended, context);
}

void QueueDevice::send() {
    queue_.ring();
    if (at_once_ == nullptr || at_once_left_ == 0) return;
    --at_once_left_;
    at_once_->work_now();
    queue_.take_completed();
}

Result<void> QueueDevice::perform(Suspend& suspend, const Transfer& transfer) {
    Call call;
    start(transfer, Call::ended, &call);
    if (!call.done && (at_once_ != nullptr || (ring_alone_ && queue_.in_hardware() == 1))) send();
    if (!call.done) {
        call.fiber = &suspend.current();
        while (!call.done) suspend.park();
    }
    if (call.failed) [[unlikely]]
        return fail(call.error);
    return {};
}

Result<void> QueueDevice::read(Suspend& suspend, std::uint64_t offset, DmaSpan into) {
    const DmaSegment segment{.data = into.data(), .bytes = into.size()};
    return perform(suspend, {.operation = Operation::kRead,
                             .offset = offset,
                             .bytes = into.size(),
                             .memory = {&segment, 1}});
}

Result<void> QueueDevice::write(Suspend& suspend, std::uint64_t offset, ConstDmaSpan from,
                                WriteFlags flags) {
    const DmaSegment segment{.data = const_cast<std::byte*>(from.data()), .bytes = from.size()};
    return write(suspend, offset, std::span(&segment, 1), flags);
}

Result<void> QueueDevice::write(Suspend& suspend, std::uint64_t offset,
                                std::span<const DmaSegment> from, WriteFlags flags) {
    std::uint64_t bytes = 0;
    for (const DmaSegment& segment : from) bytes += segment.bytes;
    return perform(suspend, {.operation = Operation::kWrite,
                             .flags = flags,
                             .offset = offset,
                             .bytes = bytes,
                             .memory = from});
}

Result<void> QueueDevice::flush(Suspend& suspend) {
    return perform(suspend, {.operation = Operation::kFlush});
}

Result<void> QueueDevice::write_zeroes(Suspend& suspend, std::uint64_t offset,
                                       std::uint64_t bytes) {
    if (bytes == 0) return {};
    if (!properties_.write_zeroes) return write_zero_buffer(suspend, offset, bytes);
    return perform(suspend,
                   {.operation = Operation::kWriteZeroes, .offset = offset, .bytes = bytes});
}

// For controllers without the command.
Result<void> QueueDevice::write_zero_buffer(Suspend& suspend, std::uint64_t offset,
                                            std::uint64_t bytes) {
    if (!zeroes_) {
        TRY_ASSIGN(zeroes_, DmaBuffer::allocate(kZeroBytes));
    }
    while (bytes != 0) {
        const std::size_t step = std::min<std::uint64_t>(bytes, kZeroBytes);
        TRY(write(suspend, offset, zeroes_.span().first(step), WriteFlags::kNone));
        offset += step;
        bytes -= step;
    }
    return {};
}

Result<void> QueueDevice::deallocate(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) {
    if (bytes == 0) return {};
    return perform(suspend,
                   {.operation = Operation::kDeallocate, .offset = offset, .bytes = bytes});
}

Result<bool> QueueDevice::compare(Suspend& suspend, std::uint64_t offset, ConstDmaSpan with) {
    if (!properties_.compare) return Device::compare(suspend, offset, with);
    const DmaSegment segment{.data = const_cast<std::byte*>(with.data()), .bytes = with.size()};
    const Result<void> result = perform(suspend, {.operation = Operation::kCompare,
                                                  .offset = offset,
                                                  .bytes = with.size(),
                                                  .memory = {&segment, 1}});
    if (result) return true;
    constexpr auto kDiffers = static_cast<std::uint16_t>(nvme::Status::kCompareFailure);
    if (result.error().nvme_status == kDiffers) return false;
    return fail(result.error());
}

Result<void> QueueDevice::verify(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) {
    if (bytes == 0) return {};
    if (!properties_.verify) return Device::verify(suspend, offset, bytes);
    return perform(suspend, {.operation = Operation::kVerify, .offset = offset, .bytes = bytes});
}

void QueueDevice::fence(Suspend& suspend) {
    fenced_ = true;
    const std::uint64_t until = suspend.reactor().now_us() + kFenceWaitUs;
    while (queue_.in_flight() != 0 && suspend.reactor().now_us() < until) suspend.sleep_us(500);
}

}  // namespace blobfs::driver
