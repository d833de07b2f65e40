#pragma once

// A Device that is one namespace of an NVMe controller, over any transport. Turns fibers' calls
// into requests on the I/O queue pair and is the poller that looks for their completions.

#include <memory>

#include "driver/device.h"
#include "driver/nvme/controller.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver {

class NvmeDevice final : public Device, private Poller {
  public:
    // Brings the controller up and opens options.namespace_id on it. Takes the transport over.
    static Result<std::unique_ptr<Device>> open(Suspend& suspend,
                                                std::unique_ptr<nvme::Transport> transport,
                                                const DeviceOptions& options,
                                                const nvme::ControllerOptions& controller = {});
    ~NvmeDevice() override;

    Result<void> close(Suspend& suspend) override;
    [[nodiscard]] const DeviceProperties& properties() const override { return properties_; }
    Result<void> read(Suspend& suspend, std::uint64_t offset, DmaSpan into) override;
    Result<void> write(Suspend& suspend, std::uint64_t offset, ConstDmaSpan from,
                       WriteFlags flags) override;
    Result<void> write(Suspend& suspend, std::uint64_t offset, std::span<const DmaSegment> from,
                       WriteFlags flags) override;
    Result<void> flush(Suspend& suspend) override;
    Result<void> write_zeroes(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) override;
    Result<void> deallocate(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) override;
    [[nodiscard]] Statistics statistics() const override { return statistics_; }

    [[nodiscard]] nvme::Controller& controller() { return *controller_; }
    // For requests with callbacks instead of fibers. Polled by the device.
    [[nodiscard]] nvme::QueuePair& queue() { return queue_; }
    [[nodiscard]] const nvme::Namespace& name_space() const { return space_; }

  private:
    struct Call;

    NvmeDevice(Reactor& reactor, std::unique_ptr<nvme::Controller> controller,
               const nvme::Namespace& space, const DeviceOptions& options);
    void start(const Transfer& transfer, Ended ended, void* context) override;
    void send() override;
    Result<void> perform(Suspend& suspend, const Transfer& transfer);
    Result<void> write_zero_buffer(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes);
    void check_idle_controller();
    bool poll() override;
    [[nodiscard]] bool needs_polling() const override;
    [[nodiscard]] bool busy() const override;

    Reactor& reactor_;
    std::unique_ptr<nvme::Controller> controller_;
    nvme::Namespace space_;
    nvme::QueuePair& queue_;
    DeviceProperties properties_;
    Statistics statistics_;
    DmaBuffer zeroes_;
    Reactor::TimerId timer_ = 0;
    bool closed_ = false;
};

}  // namespace blobfs::driver
