#include "tools/perf/report.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "mkfs/byte_count.h"
#include "tools/formatted_text.h"

namespace blobfs::tools {

namespace {

constexpr std::array kPercentiles = {50.0, 90.0, 99.0, 99.9, 99.99};
constexpr std::size_t kBarWidth = 50;

std::string duration(double nanoseconds) {
    std::string text;
    if (nanoseconds < 1e3) {
        append(text, "%.0f ns", nanoseconds);
    } else if (nanoseconds < 1e6) {
        append(text, "%.2f us", nanoseconds / 1e3);
    } else if (nanoseconds < 1e9) {
        append(text, "%.2f ms", nanoseconds / 1e6);
    } else {
        append(text, "%.2f s", nanoseconds / 1e9);
    }
    return text;
}

std::string percent_name(double percent) {
    std::string text;
    append(text, "%g", percent);
    return text;
}

const char* kind(const Workload& workload) {
    return workload.read_percent == 100 ? "read" : workload.read_percent == 0 ? "write" : "mixed";
}

double per_second(const BenchmarkResult& result, std::uint64_t count) {
    return result.seconds > 0 ? static_cast<double>(count) / result.seconds : 0;
}

void describe_direction(std::string& text, const BenchmarkResult& result, const char* name,
                        const LatencyHistogram& latencies, bool histogram) {
    if (latencies.count() == 0) return;
    const double iops = per_second(result, latencies.count());
    append(text, "%-6s %12.0f IOPS  %10.1f MB/s\n", name, iops,
           iops * static_cast<double>(result.workload.block_bytes) / 1e6);
    append(text, "    latency: least %s, mean %s, greatest %s\n   ",
           duration(static_cast<double>(latencies.min_ns())).c_str(),
           duration(latencies.mean_ns()).c_str(),
           duration(static_cast<double>(latencies.max_ns())).c_str());
    for (const double percent : kPercentiles) {
        append(text, " %s%%: %s%s", percent_name(percent).c_str(),
               duration(static_cast<double>(latencies.percentile_ns(percent))).c_str(),
               percent == kPercentiles.back() ? "\n" : ",");
    }
    if (!histogram) return;
    const std::vector<LatencyHistogram::Bar> bars = latencies.bars();
    std::uint64_t most = 1;
    for (const LatencyHistogram::Bar& bar : bars) most = std::max(most, bar.count);
    for (const LatencyHistogram::Bar& bar : bars) {
        append(text, "    %9s to %9s %12llu  %s\n",
               duration(static_cast<double>(bar.from_ns)).c_str(),
               duration(static_cast<double>(bar.to_ns)).c_str(),
               static_cast<unsigned long long>(bar.count),
               std::string(static_cast<std::size_t>(bar.count * kBarWidth / most), '#').c_str());
    }
}

nlohmann::json direction_json(const BenchmarkResult& result, const LatencyHistogram& latencies) {
    nlohmann::json percentiles = nlohmann::json::object();
    for (const double percent : kPercentiles) {
        percentiles[percent_name(percent)] = latencies.percentile_ns(percent);
    }
    nlohmann::json bars = nlohmann::json::array();
    for (const LatencyHistogram::Bar& bar : latencies.bars()) {
        bars.push_back({{"from", bar.from_ns}, {"to", bar.to_ns}, {"count", bar.count}});
    }
    const double iops = per_second(result, latencies.count());
    return {{"ios", latencies.count()},
            {"iops", iops},
            {"bytes_per_second", iops * static_cast<double>(result.workload.block_bytes)},
            {"latency_ns",
             {{"min", latencies.min_ns()},
              {"mean", latencies.mean_ns()},
              {"max", latencies.max_ns()},
              {"percentiles", percentiles},
              {"histogram", bars}}}};
}

}  // namespace

std::string describe(const BenchmarkResult& result, bool histogram) {
    const Workload& workload = result.workload;
    std::string text;
    append(text, "%s: %s%s%s, %s, blocks of %u bytes\n", result.device.name.c_str(),
           result.device.model.c_str(), result.device.serial.empty() ? "" : ", ",
           result.device.serial.c_str(), mkfs::describe_byte_count(result.device.bytes).c_str(),
           result.device.lba_bytes);
    append(text, "%s %s, %s at once, depth %u, %u queue%s, %.1f s%s\n",
           workload.random ? "random" : "sequential", kind(workload),
           mkfs::describe_byte_count(workload.block_bytes).c_str(), workload.depth, workload.queues,
           workload.queues == 1 ? "" : "s", result.seconds,
           result.interrupted ? " (interrupted)" : "");
    describe_direction(text, result, "read", result.reads, histogram);
    describe_direction(text, result, "write", result.writes, histogram);
    append(text, "%.0f cycles (%.0f ns) of the processor for one I/O\n", result.cycles_per_io,
           result.cycles_per_ns > 0 ? result.cycles_per_io / result.cycles_per_ns : 0);
    for (std::size_t i = 0; i < result.queues.size(); ++i) {
        const QueueResult& queue = result.queues[i];
        append(text, "queue %zu: %.0f IOPS, busy %.0f %% of the time", i,
               per_second(result, queue.ios), queue.busy * 100);
        if (queue.core >= 0) append(text, ", core %d", queue.core);
        if (queue.processor < 0.95) {
            append(text, "; others had its processor %.0f %% of the time",
                   (1 - queue.processor) * 100);
        }
        text += '\n';
    }
    return text;
}

std::string to_json(const BenchmarkResult& result) {
    const Workload& workload = result.workload;
    nlohmann::json json = {{"device",
                            {{"name", result.device.name},
                             {"model", result.device.model},
                             {"serial", result.device.serial},
                             {"firmware", result.device.firmware},
                             {"bytes", result.device.bytes},
                             {"lba_bytes", result.device.lba_bytes},
                             {"max_transfer_bytes", result.device.max_transfer_bytes}}},
                           {"workload",
                            {{"kind", kind(workload)},
                             {"read_percent", workload.read_percent},
                             {"pattern", workload.random ? "random" : "sequential"},
                             {"block_bytes", workload.block_bytes},
                             {"depth", workload.depth},
                             {"queues", workload.queues},
                             {"offset", workload.offset},
                             {"region_bytes", workload.region_bytes},
                             {"preconditioned", workload.precondition},
                             {"seed", workload.seed}}},
                           {"seconds", result.seconds},
                           {"interrupted", result.interrupted},
                           {"cycles_per_io", result.cycles_per_io},
                           {"cycles_per_second", result.cycles_per_ns * 1e9},
                           {"warnings", result.warnings}};
    if (workload.read_percent > 0) json["read"] = direction_json(result, result.reads);
    if (workload.read_percent < 100) json["write"] = direction_json(result, result.writes);
    nlohmann::json queues = nlohmann::json::array();
    for (const QueueResult& queue : result.queues) {
        nlohmann::json one = {{"ios", queue.ios},
                              {"iops", per_second(result, queue.ios)},
                              {"busy", queue.busy},
                              {"processor", queue.processor}};
        if (queue.core >= 0) one["core"] = queue.core;
        queues.push_back(std::move(one));
    }
    json["queues"] = std::move(queues);
    return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace blobfs::tools
