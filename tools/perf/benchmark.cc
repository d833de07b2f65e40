#include "tools/perf/benchmark.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <thread>

#include "driver/device_name.h"
#include "driver/memory/environment.h"
#include "driver/nvme_device.h"
#include "driver/reactor/reactor.h"
#include "mkfs/byte_count.h"
#include "tools/perf/cycle_clock.h"
#include "tools/perf/device_content.h"
#include "tools/perf/load_generator.h"

namespace blobfs::tools {

namespace {

using driver::Device;
using driver::DmaBuffer;
using driver::NvmeDevice;
using driver::Reactor;
using driver::Suspend;
using mkfs::describe_byte_count;

constexpr std::size_t kOwnMemoryBytes = std::size_t{64} << 20;
constexpr std::size_t kPreconditionBytes = std::size_t{1} << 20;
constexpr std::size_t kPreconditionDepth = 8;
constexpr std::uint64_t kTickUs = 20'000;
constexpr std::uint64_t kThreadPauseUs = 500;
constexpr unsigned kZeroesWorthAWarning = 1;  // percent

tl::unexpected<std::string> refuse(const std::string& text) {
    return tl::unexpected<std::string>(text);
}

void bind_to_core(const Workload& workload, std::uint32_t index, QueueResult& result) {
    if (workload.cores.empty()) return;
    const unsigned core = workload.cores[index % workload.cores.size()];
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (::pthread_setaffinity_np(::pthread_self(), sizeof set, &set) == 0) {
        result.core = static_cast<int>(core);
    }
}

// One benchmark under way: its fiber, on the reactor that the device was opened on.
class Benchmark {
  public:
    Benchmark(const std::string& name, const Workload& workload, const BenchmarkHooks& hooks)
        : name_(name), hooks_(hooks) {
        result_.workload = workload;
    }

    tl::expected<BenchmarkResult, std::string> run(Suspend& suspend) {
        const Workload& workload = result_.workload;
        driver::DeviceOptions options;
        options.read_only = !workload.writes();
        options.queue_depth = workload.depth;
        options.io_queues = static_cast<std::uint16_t>(workload.queues);
        auto opened = Device::open(suspend, name_, options);
        if (!opened) return refuse(name_ + ": " + opened.error().message());
        device_ = std::move(*opened);
        auto done = on_device(suspend);
        auto closed = device_->close(suspend);
        if (!done) return refuse(name_ + done.error());
        if (!closed) return refuse(name_ + ": " + closed.error().message());
        return std::move(result_);
    }

  private:
    using Outcome = tl::expected<void, std::string>;
    static tl::unexpected<std::string> failed(const Error& error) {
        return refuse(": " + error.message());
    }

    Outcome on_device(Suspend& suspend) {
        result_.device = device_->properties();
        if (auto good = fit_region(); !good) return good;
        if (auto good = look(suspend); !good) return good;
        if (result_.workload.precondition) {
            if (auto good = precondition(suspend); !good) return good;
            if (stopped()) return refuse(": interrupted while it was preconditioned");
        }
        if (result_.workload.read_percent > 0) {
            if (auto good = warn_of_zeroes(suspend); !good) return good;
        }
        return measure(suspend);
    }

    [[nodiscard]] bool stopped() const {
        return hooks_.interrupted != nullptr && hooks_.interrupted->load();
    }
    void progress(const char* what, double done) const {
        if (hooks_.progress) hooks_.progress(what, static_cast<unsigned>(done * 100));
    }
    [[nodiscard]] DeviceRegion region() const {
        return {.offset = result_.workload.offset, .bytes = result_.workload.region_bytes};
    }

    Outcome fit_region() {
        Workload& workload = result_.workload;
        const driver::DeviceProperties& properties = result_.device;
        const std::string lba = std::to_string(properties.lba_bytes);
        if (workload.block_bytes % properties.lba_bytes != 0) {
            return refuse(": its blocks have " + lba + " bytes; the block size is no multiple");
        }
        if (workload.offset % properties.lba_bytes != 0) {
            return refuse(": its blocks have " + lba + " bytes; the offset is no multiple");
        }
        if (workload.offset >= properties.bytes) {
            return refuse(": the offset is beyond its end; it has " +
                          describe_byte_count(properties.bytes));
        }
        const std::uint64_t most = properties.bytes - workload.offset;
        if (workload.region_bytes == 0) workload.region_bytes = most;
        if (workload.region_bytes > most) {
            return refuse(": it is too small; it has " + describe_byte_count(properties.bytes));
        }
        workload.region_bytes -= workload.region_bytes % workload.block_bytes;
        if (workload.region_bytes < workload.block_bytes * workload.queues) {
            return refuse(": the region is smaller than a block for each queue");
        }
        if (workload.writes() && properties.read_only) return refuse(": it is read-only");
        return {};
    }

    Outcome look(Suspend& suspend) {
        if (!result_.workload.writes() || result_.workload.force) return {};
        auto found = find_data(suspend, *device_, region());
        if (!found) return failed(found.error());
        if (!*found) return {};
        const std::string what = (*found)->kind.empty() ? "data" : (*found)->kind;
        return refuse(" holds " + what + " (at byte " + std::to_string((*found)->offset) +
                      "); nothing was written. To overwrite it, and lose what is there, use "
                      "--force");
    }

    Outcome precondition(Suspend& suspend) {
        auto buffer = DmaBuffer::allocate(kPreconditionBytes);
        if (!buffer) return failed(buffer.error());
        const DeviceRegion all = region();
        for (unsigned pass = 0; pass < 2; ++pass) {
            fill_with_benchmark_data(buffer->span(), result_.workload.seed + 1000 + pass);
            for (std::uint64_t at = 0; at < all.bytes && !stopped();) {
                Device::Batch batch(*device_);
                for (std::size_t i = 0; i < kPreconditionDepth && at < all.bytes; ++i) {
                    const std::uint64_t step =
                        std::min<std::uint64_t>(kPreconditionBytes, all.bytes - at);
                    batch.write(all.offset + at, driver::ConstDmaSpan(buffer->span().first(step)));
                    at += step;
                }
                if (auto done = batch.wait(suspend); !done) return failed(done.error());
                progress("preconditioning",
                         (pass + static_cast<double>(at) / static_cast<double>(all.bytes)) / 2);
            }
        }
        if (auto done = device_->flush(suspend); !done) return failed(done.error());
        return {};
    }

    Outcome warn_of_zeroes(Suspend& suspend) {
        auto percent = zeroes_percent(suspend, *device_, region());
        if (!percent) return failed(percent.error());
        if (*percent >= kZeroesWorthAWarning) {
            result_.warnings.push_back(
                "about " + std::to_string(*percent) +
                " % of the region reads as zeroes: blocks that were never written, which an SSD "
                "answers without reading its flash, and a file without reading anything; "
                "--precondition writes them first");
        }
        return {};
    }

    // Queue 0 belongs to this thread; each of the others to one that joins. Memory is allocated
    // here, before they start.
    Outcome measure(Suspend& suspend) {
        const Workload& workload = result_.workload;
        if (result_.device.io_queues < workload.queues) {
            return refuse(": it has only " + std::to_string(result_.device.io_queues) +
                          " I/O queues");
        }
        std::vector<DmaBuffer> memory;
        for (std::uint32_t i = 0; i < workload.queues; ++i) {
            auto buffer = DmaBuffer::allocate(LoadGenerator::memory_bytes(workload));
            if (!buffer) return failed(buffer.error());
            fill_with_benchmark_data(buffer->span(), workload.seed + i);
            memory.push_back(std::move(*buffer));
        }
        result_.queues.resize(workload.queues);
        (void)cycles_per_ns();
        workers_.resize(workload.queues);
        std::vector<std::thread> threads;
        for (std::uint32_t i = 1; i < workload.queues; ++i) {
            threads.emplace_back([this, i, span = memory[i].span()] { run_thread(i, span); });
        }
        bind_to_core(workload, 0, result_.queues[0]);
        work(suspend, static_cast<driver::QueueDevice&>(*device_), 0, memory[0].span());
        while (ended_.load() + 1 < workload.queues) suspend.sleep_us(kThreadPauseUs);
        for (std::thread& thread : threads) thread.join();
        for (std::uint32_t i = 0; i < workload.queues; ++i) {
            if (workers_[i].failed) return failed(workers_[i].error);
            collect(workers_[i].counts, result_.queues[i]);
        }
        return {};
    }

    // A queue's thread: its own reactor, its own device.
    void run_thread(std::uint32_t index, driver::DmaSpan memory) {
        bind_to_core(result_.workload, index, result_.queues[index]);
        Reactor reactor;
        reactor.block_on([&](Suspend& suspend) {
            auto joined = device_->join(suspend);
            if (!joined) {
                workers_[index].failed = true;
                workers_[index].error = joined.error();
                stage_.store(Stage::kStop, std::memory_order_relaxed);
                return;
            }
            work(suspend, static_cast<driver::QueueDevice&>(**joined), index, memory);
            (void)(*joined)->close(suspend);
        });
        ended_.fetch_add(1);
    }

    // The load of one queue from its beginning to its end; queue 0 also keeps the time.
    void work(Suspend& suspend, driver::QueueDevice& device, std::uint32_t index,
              driver::DmaSpan memory) {
        Worker& worker = workers_[index];
        LoadGenerator generator(device.queue(), device.name_space(), memory, result_.workload,
                                index, stage_);
        suspend.reactor().add_poller(generator);
        if (index == 0) {
            conduct(suspend, generator);
        } else {
            ready_.fetch_add(1);
        }
        generator.wait(suspend);
        suspend.reactor().remove_poller(generator);
        worker.counts = generator.counts();
        if (const Error* error = generator.error()) {
            worker.failed = true;
            worker.error = *error;
        }
    }

    void conduct(Suspend& suspend, const LoadGenerator& generator) {
        const Workload& workload = result_.workload;
        while (ready_.load() + 1 < workload.queues && running()) suspend.sleep_us(kThreadPauseUs);
        switch_stage(Stage::kWaiting, Stage::kWarmUp);
        pass_time(suspend, "warming up", workload.warm_up_seconds);
        switch_stage(Stage::kWarmUp, Stage::kMeasure);
        // A device that is slower than that is measured by one I/O at least.
        do {
            result_.seconds += pass_time(suspend, "measuring", workload.seconds);
        } while (generator.measured() == 0 && !stopped() && running());
        result_.interrupted = stopped();
        stage_.store(Stage::kStop, std::memory_order_relaxed);
    }

    // An error may have stopped everything meanwhile.
    void switch_stage(Stage from, Stage to) {
        stage_.compare_exchange_strong(from, to, std::memory_order_relaxed);
    }

    [[nodiscard]] bool running() const {
        return stage_.load(std::memory_order_relaxed) != Stage::kStop;
    }

    // The seconds that did pass: fewer when it was interrupted.
    double pass_time(Suspend& suspend, const char* what, double seconds) {
        const std::uint64_t begin = suspend.reactor().now_us();
        const auto end = begin + static_cast<std::uint64_t>(seconds * 1e6);
        while (!stopped() && running()) {
            const std::uint64_t now = suspend.reactor().now_us();
            if (now >= end) break;
            progress(what, static_cast<double>(now - begin) / static_cast<double>(end - begin));
            suspend.sleep_us(std::min(kTickUs, end - now));
        }
        return static_cast<double>(suspend.reactor().now_us() - begin) / 1e6;
    }

    void collect(const LoadCounts& counts, QueueResult& queue) {
        result_.reads.merge(counts.reads);
        result_.writes.merge(counts.writes);
        queue.ios = counts.reads.count() + counts.writes.count();
        const auto cycles = static_cast<double>(counts.cycles);
        if (cycles > 0) {
            queue.busy = static_cast<double>(counts.busy_cycles) / cycles;
            queue.processor = counts.processor_seconds / (cycles / cycles_per_ns() / 1e9);
        }
        busy_cycles_ += counts.busy_cycles;
        const std::uint64_t ios = result_.reads.count() + result_.writes.count();
        result_.cycles_per_ns = cycles_per_ns();
        result_.cycles_per_io =
            ios == 0 ? 0 : static_cast<double>(busy_cycles_) / static_cast<double>(ios);
    }

    // What a queue's thread leaves behind.
    struct Worker {
        LoadCounts counts;
        bool failed = false;
        Error error{};
    };

    const std::string& name_;
    const BenchmarkHooks& hooks_;
    BenchmarkResult result_;
    std::unique_ptr<Device> device_;
    std::atomic<Stage> stage_ = Stage::kWaiting;
    std::vector<Worker> workers_;
    std::atomic<std::uint32_t> ready_ = 0, ended_ = 0;  // threads of queues 1 and up
    std::uint64_t busy_cycles_ = 0;
};

}  // namespace

tl::expected<BenchmarkResult, std::string> run_benchmark(const std::string& device,
                                                         const Workload& workload,
                                                         const BenchmarkHooks& hooks) {
    const std::size_t blocks = std::size_t{workload.queues} * LoadGenerator::memory_bytes(workload);
    const auto started =
        driver::start_environment({.memory_bytes = kOwnMemoryBytes + blocks + blocks / 8,
                                   .physical = driver::names_pcie(device)});
    if (!started) return refuse(device + ": " + started.error().message());
    Reactor reactor;
    tl::expected<BenchmarkResult, std::string> result = refuse("");
    reactor.block_on(
        [&](Suspend& suspend) { result = Benchmark(device, workload, hooks).run(suspend); });
    if (result && !cycles_are_steady()) {
        result->warnings.push_back(
            "this processor's time-stamp counter is not invariant: latencies and cycles may be "
            "wrong");
    }
    return result;
}

}  // namespace blobfs::tools
