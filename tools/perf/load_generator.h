#pragma once

// Keeps one queue pair busy with the I/Os of a stream and measures what becomes of them. Works by
// the queue pair's callbacks: what is measured is the driver and the device, not fibers. A poller
// of the reactor whose thread the queue pair belongs to; it is asked after the queue pair, so it
// sees each turn of the loop end. That thread only, except for the stage that all generators of a
// benchmark read and one of the threads sets.

#include <atomic>
#include <cstdint>
#include <vector>

#include "driver/memory/dma_buffer.h"
#include "driver/nvme/queue_pair.h"
#include "driver/reactor/reactor.h"
#include "tools/perf/latency_histogram.h"
#include "tools/perf/workload.h"

namespace blobfs::tools {

//   stage     I/Os are started   they count
//   waiting   no                 no
//   warm-up   yes                no
//   measure   yes                yes
//   stop      no                 no; the generator ends when those under way have
enum class Stage : std::uint8_t { kWaiting, kWarmUp, kMeasure, kStop };

struct LoadCounts {
    LatencyHistogram reads, writes;
    // Reference cycles of the measured time, and those of turns of the loop that did something.
    std::uint64_t cycles = 0, busy_cycles = 0;
    double processor_seconds = 0;  // that the thread had the processor for
};

class LoadGenerator final : public driver::Poller {
  public:
    // What it is given outlives it. memory: memory_bytes(), filled with what is to be written.
    LoadGenerator(driver::nvme::QueuePair& queue, const driver::nvme::Namespace& space,
                  driver::DmaSpan memory, const Workload& workload, std::uint32_t index,
                  std::atomic<Stage>& stage);

    // Of DMA memory for one queue.
    [[nodiscard]] static std::size_t memory_bytes(const Workload& workload);

    bool poll() override;
    [[nodiscard]] bool needs_polling() const override { return !ended_; }

    // Suspends until the stage is kStop and nothing is under way.
    void wait(driver::Suspend& suspend);

    // I/Os that counted so far.
    [[nodiscard]] std::uint64_t measured() const {
        return counts_.reads.count() + counts_.writes.count();
    }
    // After wait().
    [[nodiscard]] const LoadCounts& counts() const { return counts_; }
    // The first error of an I/O, which ends the whole benchmark; null when there was none.
    [[nodiscard]] const Error* error() const { return failed_ ? &error_ : nullptr; }

  private:
    struct Slot {
        LoadGenerator* generator = nullptr;
        // Apart, so that what is written is never what was read.
        std::byte* into = nullptr;
        std::byte* from = nullptr;
        std::uint64_t started = 0;  // cycles
        bool read = true;
    };

    void start(Slot& slot);
    void ended(Slot& slot, const Error* error);
    void enter(Stage next, std::uint64_t now);

    driver::nvme::QueuePair& queue_;
    const driver::nvme::Namespace& space_;
    std::uint64_t block_bytes_;
    std::atomic<Stage>& stage_;
    IoStream stream_;
    std::vector<Slot> slots_;
    double ns_per_cycle_;

    Stage current_ = Stage::kWaiting;
    bool worked_ = false;  // in this turn of the loop
    bool ended_ = false;
    std::size_t in_flight_ = 0;
    std::uint64_t turn_began_ = 0, measure_began_ = 0;
    double processor_began_ = 0;
    LoadCounts counts_;
    bool failed_ = false;
    Error error_{};
    driver::WaitQueue waiting_;
};

}  // namespace blobfs::tools
