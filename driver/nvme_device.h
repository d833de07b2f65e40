#pragma once

// A Device that is one namespace of an NVMe controller, over any transport: the one that owns the
// controller, and is the poller that looks for its completions, and those that join it.

#include <memory>

#include "driver/nvme/controller.h"
#include "driver/queue_device.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver {

class NvmeDevice final : public QueueDevice, private Poller {
  public:
    // Brings the controller up and opens options.namespace_id on it. Takes the transport over.
    static Result<std::unique_ptr<Device>> open(Suspend& suspend,
                                                std::unique_ptr<nvme::Transport> transport,
                                                const DeviceOptions& options,
                                                const nvme::ControllerOptions& controller = {});
    ~NvmeDevice() override;

    // From a fiber of another thread's reactor.
    Result<std::unique_ptr<Device>> join(Suspend& suspend) override;
    Result<void> close(Suspend& suspend) override;

    [[nodiscard]] nvme::Controller& controller() { return *controller_; }

  private:
    NvmeDevice(Reactor& reactor, std::unique_ptr<nvme::Controller> controller,
               const nvme::Namespace& space, const DeviceOptions& options);
    void check_idle_controller();
    bool poll() override;
    [[nodiscard]] bool needs_polling() const override;
    [[nodiscard]] bool busy() const override;

    Reactor& reactor_;
    std::unique_ptr<nvme::Controller> controller_;
    Reactor::TimerId timer_ = 0;
};

// On a queue pair that the controller has lent to this thread.
class JoinedDevice final : public QueueDevice, private Poller {
  public:
    static Result<std::unique_ptr<Device>> open(Suspend& suspend, nvme::Controller& controller,
                                                const nvme::Namespace& space,
                                                const DeviceProperties& properties);
    ~JoinedDevice() override;

    Result<std::unique_ptr<Device>> join(Suspend& suspend) override;
    // Waits for what is in flight and gives the queue pair back.
    Result<void> close(Suspend& suspend) override;

  private:
    JoinedDevice(Reactor& reactor, nvme::Controller& controller,
                 const nvme::Controller::LentQueue& queue, const nvme::Namespace& space,
                 const DeviceProperties& properties);
    void look_after_queue();
    bool poll() override;
    [[nodiscard]] bool needs_polling() const override;
    [[nodiscard]] bool busy() const override;

    Reactor& reactor_;
    nvme::Controller& controller_;
    const bool notified_;  // of completions: may sleep while it waits for them
    Reactor::TimerId timer_ = 0;
};

}  // namespace blobfs::driver
