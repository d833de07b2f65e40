// What one command costs: host driver plus software controller, in one thread, on a medium that
// moves no data. Prints nanoseconds per command, the best of several rounds, since all that
// disturbs a round makes it longer. Its numbers mean something in a release build only.
//
//   driver_command_cost [COMMANDS [LIMIT_NS]]
//
// Exit status 1 when a command failed, or when one at depth 32 costs more than the limit.

#include <x86intrin.h>

#include <algorithm>
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

constexpr int kRounds = 8;

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
    std::uint64_t failed = 0;
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
            [](void* context, const Error* error, std::uint32_t) {
                auto* load = static_cast<Load*>(context);
                ++load->ended;
                load->failed += error != nullptr ? 1 : 0;
                load->submit();
            },
            this);
    }
};

struct Cost {
    double total_ns = 1e18, controller_ns = 0;  // per command; the controller's is in the total
};

// Callbacks only: what the queue pair and the controller cost.
Cost measure_queue_pair(Suspend& suspend, std::uint32_t depth, std::uint64_t bytes,
                        std::uint64_t count) {
    auto transport =
        std::make_unique<SoftwareTransport>(suspend.reactor(), std::make_unique<NullMedium>());
    SoftwareController& software = transport->controller();
    auto controller =
        nvme::Controller::open(suspend, std::move(transport), {.queue_depth = 256}).value();
    const nvme::Namespace* space = controller->open_namespace(suspend, 1).value();
    DmaBuffer memory = DmaBuffer::allocate(1 << 20).value();
    Cost best;
    for (int round = 0; round < kRounds; ++round) {
        Load load{.queue = &controller->io_queue(0),
                  .space = space,
                  .memory = memory.data(),
                  .bytes = bytes,
                  .left = count / kRounds};
        const std::uint64_t commands = load.left;
        std::uint64_t in_controller = 0;
        const auto begin = Clock::now();
        const std::uint64_t first = __rdtsc();
        for (std::uint32_t i = 0; i < depth; ++i) load.submit();
        while (load.ended < commands) {
            load.queue->ring();
            const std::uint64_t enter = __rdtsc();
            software.poll();
            in_controller += __rdtsc() - enter;
            load.queue->poll(0);
        }
        const std::uint64_t cycles = __rdtsc() - first;
        const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
        if (load.failed != 0) {
            std::printf("%llu commands failed\n", static_cast<unsigned long long>(load.failed));
            std::exit(1);
        }
        const double each = took.count() / static_cast<double>(commands);
        if (each < best.total_ns) {
            best.total_ns = each;
            best.controller_ns =
                each * static_cast<double>(in_controller) / static_cast<double>(cycles);
        }
    }
    std::printf(
        "queue pair, %7llu bytes, depth %3u: %6.1f ns per command, software controller %5.1f of "
        "it\n",
        static_cast<unsigned long long>(bytes), depth, best.total_ns, best.controller_ns);
    (void)controller->close(suspend);
    return best;
}

// Through the Device, a fiber per request in flight, the reactor's loop included.
void measure_device(Suspend& suspend, std::uint32_t fibers, std::uint64_t count) {
    auto device = Device::open(suspend, std::make_unique<NullMedium>()).value();
    DmaBuffer memory = DmaBuffer::allocate(4096).value();
    double best = 1e18;
    for (int round = 0; round < kRounds; ++round) {
        WaitGroup group;
        const std::uint64_t each = count / kRounds / fibers;
        const auto begin = Clock::now();
        for (std::uint32_t i = 0; i < fibers; ++i) {
            group.add();
            suspend.reactor().spawn([&, i](Suspend& own) {
                for (std::uint64_t k = 0; k < each; ++k) {
                    if (!device->read(own, (k * fibers + i) % (1 << 20) * 4096, memory.span())) {
                        std::exit(1);
                    }
                }
                group.done();
            });
        }
        group.wait(suspend);
        const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
        best = std::min(best, took.count() / static_cast<double>(each * fibers));
    }
    std::printf("device, fibers, 4096 bytes, depth %3u: %6.1f ns per command\n", fibers, best);
    (void)device->close(suspend);
}

}  // namespace

int main(int argc, char** argv) {
    const std::uint64_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4'000'000;
    const double limit_ns = argc > 2 ? std::strtod(argv[2], nullptr) : 0;
    if (count < 10'000 || !start_environment({})) return 1;
    Reactor reactor;
    Cost cost;
    reactor.block_on([&](Suspend& suspend) {
        for (const std::uint32_t depth : {1U, 4U, 32U, 128U}) {
            const Cost one = measure_queue_pair(suspend, depth, 4096, count);
            if (depth == 32) cost = one;
        }
        measure_queue_pair(suspend, 32, 131072, count / 4);
        for (const std::uint32_t depth : {1U, 32U}) measure_device(suspend, depth, count / 4);
    });
    if (limit_ns == 0 || cost.total_ns <= limit_ns) return 0;
    std::printf("more than the limit of %.0f ns\n", limit_ns);
    return 1;
}
