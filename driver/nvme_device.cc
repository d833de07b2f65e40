#include "driver/nvme_device.h"

#include <algorithm>

#include "driver/base/check.h"

namespace blobfs::driver {

namespace {

constexpr std::uint64_t kIdleCheckUs = 1'000'000;
// While requests are in flight and the reactor sleeps: timeouts and delayed retries.
constexpr std::uint64_t kBusyCheckUs = 100'000;
constexpr std::uint64_t kCloseStepUs = 500;

DeviceProperties describe(nvme::Controller& controller, const nvme::Namespace& space,
                          const DeviceOptions& options) {
    const nvme::ControllerInfo& info = controller.info();
    DeviceProperties properties;
    properties.name = controller.transport().name();
    properties.model = info.model;
    properties.serial = info.serial;
    properties.firmware = info.firmware;
    properties.bytes = space.blocks << space.lba_shift;
    properties.lba_bytes = 1U << space.lba_shift;
    properties.max_transfer_bytes = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(info.max_transfer_bytes == 0 ? UINT32_MAX : info.max_transfer_bytes,
                                (nvme::kMaxPrpPages - 1) * nvme::kPageBytes));
    properties.volatile_write_cache = info.volatile_write_cache;
    properties.deallocate = info.deallocate;
    properties.write_zeroes = info.write_zeroes;
    properties.compare = info.compare;
    properties.verify = info.verify;
    properties.read_only = options.read_only || space.write_protected;
    properties.io_queues = static_cast<std::uint32_t>(controller.io_queues());
    return properties;
}

}  // namespace

NvmeDevice::NvmeDevice(Reactor& reactor, std::unique_ptr<nvme::Controller> controller,
                       const nvme::Namespace& space, const DeviceOptions& options)
    : QueueDevice(controller->io_queue(0), space, describe(*controller, space, options)),
      reactor_(reactor),
      controller_(std::move(controller)) {}

NvmeDevice::~NvmeDevice() { CHECK(closed()); }

Result<std::unique_ptr<Device>> NvmeDevice::open(Suspend& suspend,
                                                 std::unique_ptr<nvme::Transport> transport,
                                                 const DeviceOptions& options,
                                                 const nvme::ControllerOptions& controller) {
    nvme::ControllerOptions wanted = controller;
    wanted.queue_depth = options.queue_depth;
    wanted.io_queues = options.io_queues;
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
    nvme::Transport& reached = device->controller_->transport();
    if (reached.at_once()) device->set_at_once(&reached);
    device->set_ring_alone(!reached.works_when_asked());
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

Result<std::unique_ptr<Device>> NvmeDevice::join(Suspend& suspend) {
    return JoinedDevice::open(suspend, *controller_, name_space(), properties());
}

Result<void> NvmeDevice::close(Suspend& suspend) {
    CHECK(!closed());
    Result<void> result = controller_->close(suspend);
    set_closed();
    reactor_.cancel(timer_);
    reactor_.remove_poller(*this);
    return result;
}

bool NvmeDevice::poll() {
    begin_turn();
    return controller_->poll(reactor_.now_us());
}

bool NvmeDevice::needs_polling() const {
    return controller_->busy() && controller_->transport().wake_descriptor() < 0;
}

bool NvmeDevice::busy() const { return controller_->busy(); }

JoinedDevice::JoinedDevice(Reactor& reactor, nvme::Controller& controller,
                           const nvme::Controller::LentQueue& queue, const nvme::Namespace& space,
                           const DeviceProperties& properties)
    : QueueDevice(*queue.pair, space, properties),
      reactor_(reactor),
      controller_(controller),
      notified_(queue.notified) {}

JoinedDevice::~JoinedDevice() { CHECK(closed()); }

Result<std::unique_ptr<Device>> JoinedDevice::open(Suspend& suspend, nvme::Controller& controller,
                                                   const nvme::Namespace& space,
                                                   const DeviceProperties& properties) {
    TRY_ASSIGN(const nvme::Controller::LentQueue queue, controller.borrow_queue(suspend));
    std::unique_ptr<JoinedDevice> device(
        new JoinedDevice(suspend.reactor(), controller, queue, space, properties));
    suspend.reactor().add_poller(*device);
    if (device->notified_) device->look_after_queue();
    return device;
}

// Timeouts and delayed retries, which nobody tells of, while the reactor sleeps.
void JoinedDevice::look_after_queue() {
    timer_ = reactor_.run_after(busy() ? kBusyCheckUs : kIdleCheckUs, [this] {
        poll();
        look_after_queue();
    });
}

Result<std::unique_ptr<Device>> JoinedDevice::join(Suspend& suspend) {
    return open(suspend, controller_, name_space(), properties());
}

Result<void> JoinedDevice::close(Suspend& suspend) {
    CHECK(!closed());
    while (queue().in_flight() != 0) suspend.sleep_us(kCloseStepUs);
    set_closed();
    if (timer_ != 0) reactor_.cancel(timer_);
    controller_.give_back_queue(suspend, queue());
    reactor_.remove_poller(*this);
    return {};
}

bool JoinedDevice::poll() { return !closed() && queue().poll(reactor_.now_us()); }

bool JoinedDevice::needs_polling() const { return busy() && !notified_; }

bool JoinedDevice::busy() const { return !closed() && queue().in_flight() != 0; }

}  // namespace blobfs::driver
