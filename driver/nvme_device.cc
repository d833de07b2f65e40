#include "driver/nvme_device.h"

#include <algorithm>

#include "driver/base/check.h"

namespace blobfs::driver {

namespace {

constexpr std::uint64_t kIdleCheckUs = 1'000'000;
// While requests are in flight and the reactor sleeps: timeouts and delayed retries.
constexpr std::uint64_t kBusyCheckUs = 100'000;
constexpr std::size_t kZeroBytes = 256 * 1024;

}  // namespace

// One fiber's call, on its stack.
struct NvmeDevice::Call {
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

NvmeDevice::NvmeDevice(Reactor& reactor, std::unique_ptr<nvme::Controller> controller,
                       const nvme::Namespace& space, const DeviceOptions& options)
    : reactor_(reactor),
      controller_(std::move(controller)),
      space_(space),
      queue_(controller_->io_queue(0)) {
    const nvme::ControllerInfo& info = controller_->info();
    properties_.name = controller_->transport().name();
    properties_.model = info.model;
    properties_.serial = info.serial;
    properties_.firmware = info.firmware;
    properties_.bytes = space.blocks << space.lba_shift;
    properties_.lba_bytes = 1U << space.lba_shift;
    properties_.max_transfer_bytes = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(info.max_transfer_bytes == 0 ? UINT32_MAX : info.max_transfer_bytes,
                                (nvme::kMaxPrpPages - 1) * nvme::kPageBytes));
    properties_.volatile_write_cache = info.volatile_write_cache;
    properties_.deallocate = info.deallocate;
    properties_.write_zeroes = info.write_zeroes;
    properties_.read_only = options.read_only || space.write_protected;
}

NvmeDevice::~NvmeDevice() { CHECK(closed_); }

Result<std::unique_ptr<Device>> NvmeDevice::open(Suspend& suspend,
                                                 std::unique_ptr<nvme::Transport> transport,
                                                 const DeviceOptions& options,
                                                 const nvme::ControllerOptions& controller) {
    nvme::ControllerOptions wanted = controller;
    wanted.queue_depth = options.queue_depth;
    if (options.io_timeout_ms != 0) wanted.io_timeout_ms = options.io_timeout_ms;
    TRY_ASSIGN(std::unique_ptr<nvme::Controller> opened,
               nvme::Controller::open(suspend, std::move(transport), wanted));
    Result<const nvme::Namespace*> space = opened->open_namespace(suspend, options.namespace_id);
    if (!space) {
        (void)opened->close(suspend);
        return fail(space.error());
    }
    std::unique_ptr<NvmeDevice> device(
        new NvmeDevice(suspend.reactor(), std::move(opened), **space, options));
    suspend.reactor().add_poller(*device);
    device->check_idle_controller();
    return device;
}

// The admin queue and CSTS are looked at once a second also when nobody uses the device: events,
// and the news that it is gone. More often while a request is in flight that nobody polls for.
void NvmeDevice::check_idle_controller() {
    timer_ = reactor_.run_after(controller_->busy() ? kBusyCheckUs : kIdleCheckUs, [this] {
        controller_->poll(reactor_.now_us());
        check_idle_controller();
    });
}

Result<void> NvmeDevice::close(Suspend& suspend) {
    CHECK(!closed_);
    Result<void> result = controller_->close(suspend);
    closed_ = true;
    reactor_.cancel(timer_);
    reactor_.remove_poller(*this);
    return result;
}

bool NvmeDevice::poll() { return controller_->poll(reactor_.now_us()); }

bool NvmeDevice::needs_polling() const {
    return controller_->busy() && controller_->transport().wake_descriptor() < 0;
}

bool NvmeDevice::busy() const { return controller_->busy(); }

void NvmeDevice::start(const Transfer& transfer, Ended ended, void* context) {
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
    }
    if (closed_) [[unlikely]] {
        refused = {.code = Errc::kDeviceGone, .what = "using a device after it was closed"};
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

void NvmeDevice::send() { queue_.ring(); }

Result<void> NvmeDevice::perform(Suspend& suspend, const Transfer& transfer) {
    Call call;
    start(transfer, Call::ended, &call);
    if (!call.done) {
        // Alone on the device, nothing is gained by waiting for others to share a doorbell.
        if (queue_.in_hardware() == 1) queue_.ring();
        call.fiber = &suspend.current();
        while (!call.done) suspend.park();
    }
    if (call.failed) [[unlikely]]
        return fail(call.error);
    return {};
}

Result<void> NvmeDevice::read(Suspend& suspend, std::uint64_t offset, DmaSpan into) {
    const DmaSegment segment{.data = into.data(), .bytes = into.size()};
    return perform(suspend, {.operation = Operation::kRead,
                             .offset = offset,
                             .bytes = into.size(),
                             .memory = {&segment, 1}});
}

Result<void> NvmeDevice::write(Suspend& suspend, std::uint64_t offset, ConstDmaSpan from,
                               WriteFlags flags) {
    const DmaSegment segment{.data = const_cast<std::byte*>(from.data()), .bytes = from.size()};
    return write(suspend, offset, std::span(&segment, 1), flags);
}

Result<void> NvmeDevice::write(Suspend& suspend, std::uint64_t offset,
                               std::span<const DmaSegment> from, WriteFlags flags) {
    std::uint64_t bytes = 0;
    for (const DmaSegment& segment : from) bytes += segment.bytes;
    return perform(suspend, {.operation = Operation::kWrite,
                             .flags = flags,
                             .offset = offset,
                             .bytes = bytes,
                             .memory = from});
}

Result<void> NvmeDevice::flush(Suspend& suspend) {
    return perform(suspend, {.operation = Operation::kFlush});
}

Result<void> NvmeDevice::write_zeroes(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) {
    if (bytes == 0) return {};
    if (!properties_.write_zeroes) return write_zero_buffer(suspend, offset, bytes);
    return perform(suspend,
                   {.operation = Operation::kWriteZeroes, .offset = offset, .bytes = bytes});
}

// For controllers without the command.
Result<void> NvmeDevice::write_zero_buffer(Suspend& suspend, std::uint64_t offset,
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

Result<void> NvmeDevice::deallocate(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) {
    if (bytes == 0) return {};
    return perform(suspend,
                   {.operation = Operation::kDeallocate, .offset = offset, .bytes = bytes});
}

}  // namespace blobfs::driver
