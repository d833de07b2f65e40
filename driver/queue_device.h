#pragma once

// A Device on one queue pair: turns fibers' calls into requests on it. What the device of the
// controller's own thread and those of threads that joined have in common. The queue pair's thread.

#include "driver/device.h"
#include "driver/nvme/controller.h"

namespace blobfs::driver {

class QueueDevice : public Device {
  public:
    [[nodiscard]] const DeviceProperties& properties() const final { return properties_; }
    Result<void> read(Suspend& suspend, std::uint64_t offset, DmaSpan into) final;
    Result<void> write(Suspend& suspend, std::uint64_t offset, ConstDmaSpan from,
                       WriteFlags flags) final;
    Result<void> write(Suspend& suspend, std::uint64_t offset, std::span<const DmaSegment> from,
                       WriteFlags flags) final;
    Result<void> flush(Suspend& suspend) final;
    Result<void> write_zeroes(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) final;
    Result<void> deallocate(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) final;
    Result<bool> compare(Suspend& suspend, std::uint64_t offset, ConstDmaSpan with) final;
    Result<void> verify(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes) final;
    void fence(Suspend& suspend) final;
    [[nodiscard]] Statistics statistics() const final { return statistics_; }

    // For requests with callbacks instead of fibers. Polled by the device.
    [[nodiscard]] nvme::QueuePair& queue() const { return queue_; }
    [[nodiscard]] const nvme::Namespace& name_space() const { return space_; }

  protected:
    // Both outlive it.
    QueueDevice(nvme::QueuePair& queue, const nvme::Namespace& space,
                const DeviceProperties& properties)
        : queue_(queue), space_(space), properties_(properties) {}

    [[nodiscard]] bool closed() const { return closed_; }
    // The transport, where commands end when they are rung and that is this thread's: who waits for
    // one then has the controller carry it out, up to kAtOncePerTurn times in a turn of the
    // reactor. begin_turn() starts a new one.
    void set_at_once(nvme::Transport* transport) { at_once_ = transport; }
    void begin_turn() { at_once_left_ = kAtOncePerTurn; }
    // Whether a command that is alone on the device is rung for at once. Not where the controller
    // works when it is asked to, in the next turn at the earliest: then all that is submitted until
    // then goes to its medium together.
    void set_ring_alone(bool alone) { ring_alone_ = alone; }

    // From now on every call fails.
    void set_closed() { closed_ = true; }

  private:
    struct Call;

    void start(const Transfer& transfer, Ended ended, void* context) final;
    void send() final;
    Result<void> perform(Suspend& suspend, const Transfer& transfer);
    Result<void> write_zero_buffer(Suspend& suspend, std::uint64_t offset, std::uint64_t bytes);

    // Enough for a turn's requests; few enough that a fiber which reads one page after another does
    // not keep the others, and the timers, waiting.
    static constexpr unsigned kAtOncePerTurn = 16;

    nvme::QueuePair& queue_;
    const nvme::Namespace& space_;
    nvme::Transport* at_once_ = nullptr;
    unsigned at_once_left_ = kAtOncePerTurn;
    bool ring_alone_ = true;
    DeviceProperties properties_;
    Statistics statistics_;
    DmaBuffer zeroes_;
    bool closed_ = false;
    bool fenced_ = false;
};

}  // namespace blobfs::driver
