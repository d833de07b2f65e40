#include "tools/perf/load_generator.h"

#include <ctime>

#include "driver/base/check.h"
#include "tools/perf/cycle_clock.h"

namespace blobfs::tools {

namespace {

using driver::nvme::Opcode;

double processor_seconds() {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

}  // namespace

LoadGenerator::LoadGenerator(driver::nvme::QueuePair& queue, const driver::nvme::Namespace& space,
                             driver::DmaSpan memory, const Workload& workload, std::uint32_t index,
                             std::atomic<Stage>& stage)
    : queue_(queue),
      space_(space),
      block_bytes_(workload.block_bytes),
      stage_(stage),
      stream_(workload, index),
      slots_(workload.depth),
      ns_per_cycle_(1 / cycles_per_ns()) {
    CHECK(memory.size() >= memory_bytes(workload));
    // Where it only reads or only writes, both are the same memory.
    const std::size_t half = memory_bytes(workload) - workload.depth * block_bytes_;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        slots_[i].generator = this;
        slots_[i].from = memory.data() + i * block_bytes_;
        slots_[i].into = slots_[i].from + half;
    }
}

std::size_t LoadGenerator::memory_bytes(const Workload& workload) {
    const bool mixed = workload.read_percent > 0 && workload.read_percent < 100;
    return workload.depth * workload.block_bytes * (mixed ? 2 : 1);
}

void LoadGenerator::start(Slot& slot) {
    const IoStream::Io io = stream_.next();
    const driver::DmaSegment segment{.data = io.read ? slot.into : slot.from,
                                     .bytes = block_bytes_};
    slot.read = io.read;
    slot.started = read_cycles();
    ++in_flight_;
    queue_.submit(
        space_,
        {.opcode = io.read ? Opcode::kRead : Opcode::kWrite,
         .offset = io.offset,
         .bytes = block_bytes_,
         .memory = {&segment, 1}},
        [](void* context, const Error* error, std::uint32_t) {
            auto* ended_slot = static_cast<Slot*>(context);
            ended_slot->generator->ended(*ended_slot, error);
        },
        &slot);
}

void LoadGenerator::ended(Slot& slot, const Error* error) {
    --in_flight_;
    worked_ = true;
    if (error != nullptr) [[unlikely]] {
        if (!failed_) error_ = *error;
        failed_ = true;
        stage_.store(Stage::kStop, std::memory_order_relaxed);
        return;
    }
    if (current_ == Stage::kMeasure) {
        const std::uint64_t cycles = read_cycles() - slot.started;
        const auto ns = static_cast<std::uint64_t>(static_cast<double>(cycles) * ns_per_cycle_);
        (slot.read ? counts_.reads : counts_.writes).record(ns);
    }
    if (stage_.load(std::memory_order_relaxed) != Stage::kStop) start(slot);
}

void LoadGenerator::enter(Stage next, std::uint64_t now) {
    if (current_ == Stage::kMeasure) {
        counts_.cycles = now - measure_began_;
        counts_.processor_seconds = processor_seconds() - processor_began_;
    }
    if (next == Stage::kMeasure) {
        measure_began_ = now;
        processor_began_ = processor_seconds();
    }
    const bool first = current_ == Stage::kWaiting && next != Stage::kStop;
    current_ = next;
    if (!first) return;
    for (Slot& slot : slots_) start(slot);
    queue_.ring();
}

bool LoadGenerator::poll() {
    if (ended_) return false;
    const std::uint64_t now = read_cycles();
    if (current_ == Stage::kMeasure && worked_) counts_.busy_cycles += now - turn_began_;
    turn_began_ = now;
    const bool worked = worked_;
    worked_ = false;
    const Stage stage = stage_.load(std::memory_order_relaxed);
    if (stage != current_) enter(stage, now);
    if (current_ == Stage::kStop && in_flight_ == 0) {
        ended_ = true;
        waiting_.wake_all();
    }
    return worked;
}

void LoadGenerator::wait(driver::Suspend& suspend) {
    while (!ended_) waiting_.wait(suspend);
}

}  // namespace blobfs::tools
