// What one command costs: host driver plus software controller, in one thread, on a medium that
// moves no data. Prints nanoseconds per command. Not a test: its numbers mean something in a
// release build on a quiet machine only.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/nvme/controller.h"
#include "driver/nvme_device.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/medium.h"
#include "driver/soft/software_controller.h"

namespace {

using namespace blobfs;
using namespace blobfs::driver;
using Clock = std::chrono::steady_clock;

class NullMedium final : public Medium {
  public:
    NullMedium() {
        properties_.name = "null";
        properties_.bytes = std::uint64_t{1} << 40;
    }
    [[nodiscard]] const MediumProperties& properties() const override { return properties_; }
    void start(MediumOperation& operation) override { operation.done(operation, MediumStatus{}); }
    [[nodiscard]] std::size_t in_flight() const override { return 0; }

  private:
    MediumProperties properties_;
};

struct Load {
    nvme::QueuePair* queue = nullptr;
    const nvme::Namespace* space = nullptr;
    std::byte* memory = nullptr;
    std::uint64_t bytes = 4096;
    std::uint64_t left = 0;
    std::uint64_t ended = 0;
    std::uint64_t offset = 0;

    void submit() {
        if (left == 0) return;
        --left;
        offset = (offset + 7919 * 4096) & ((std::uint64_t{1} << 40) - 1) & ~std::uint64_t{4095};
        if (offset + bytes > std::uint64_t{1} << 40) offset = 0;
        const DmaSegment segment{.data = memory, .bytes = bytes};
        queue->submit(
            *space,
            {.opcode = nvme::Opcode::kRead,
             .offset = offset,
             .bytes = bytes,
             .memory = {&segment, 1}},
            [](void* context, const Error*, std::uint32_t) {
                auto* load = static_cast<Load*>(context);
                ++load->ended;
                load->submit();
            },
            this);
    }
};

// Callbacks only: what the queue pair and the controller cost.
void measure_queue_pair(Suspend& suspend, std::uint32_t depth, std::uint64_t bytes,
                        std::uint64_t count) {
    auto transport =
        std::make_unique<SoftwareTransport>(suspend.reactor(), std::make_unique<NullMedium>());
    SoftwareController& software = transport->controller();
    auto controller =
        nvme::Controller::open(suspend, std::move(transport), {.queue_depth = 256}).value();
    const nvme::Namespace* space = controller->open_namespace(suspend, 1).value();
    DmaBuffer memory = DmaBuffer::allocate(1 << 20).value();
    Load load{.queue = &controller->io_queue(0),
              .space = space,
              .memory = memory.data(),
              .bytes = bytes,
              .left = count};
    const auto begin = Clock::now();
    for (std::uint32_t i = 0; i < depth; ++i) load.submit();
    while (load.ended < count) {
        load.queue->ring();
        software.poll();
        load.queue->poll(0);
    }
    const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
    std::printf("queue pair, %7llu bytes, depth %3u: %6.1f ns per command\n",
                static_cast<unsigned long long>(bytes), depth,
                took.count() / static_cast<double>(count));
    (void)controller->close(suspend);
}

// Through the Device, a fiber per request in flight, the reactor's loop included.
void measure_device(Suspend& suspend, std::uint32_t fibers, std::uint64_t count) {
    auto device = Device::open(suspend, std::make_unique<NullMedium>()).value();
    DmaBuffer memory = DmaBuffer::allocate(4096).value();
    WaitGroup group;
    const auto begin = Clock::now();
    for (std::uint32_t i = 0; i < fibers; ++i) {
        group.add();
        suspend.reactor().spawn([&, i](Suspend& own) {
            for (std::uint64_t k = 0; k < count / fibers; ++k) {
                if (!device->read(own, (k * fibers + i) % (1 << 20) * 4096, memory.span())) {
                    std::abort();
                }
            }
            group.done();
        });
    }
    group.wait(suspend);
    const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
    std::printf("device, fibers, 4096 bytes, depth %3u: %6.1f ns per command\n", fibers,
                took.count() / static_cast<double>(count));
    (void)device->close(suspend);
}

}  // namespace

int main(int argc, char** argv) {
    const std::uint64_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4'000'000;
    if (count < 1000 || !start_environment({})) return 1;
    Reactor reactor;
    reactor.block_on([&](Suspend& suspend) {
        for (const std::uint32_t depth : {1U, 4U, 32U, 128U}) {
            measure_queue_pair(suspend, depth, 4096, count);
        }
        measure_queue_pair(suspend, 32, 131072, count / 4);
        for (const std::uint32_t depth : {1U, 32U}) measure_device(suspend, depth, count / 4);
    });
    return 0;
}
