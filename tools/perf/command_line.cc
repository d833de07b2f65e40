#include "tools/perf/command_line.h"

#include <limits>
#include <ostream>
#include <string>
#include <utility>

#include "driver/base/command_line.h"
#include "mkfs/byte_count.h"
#include "tools/perf/report.h"

namespace blobfs::tools {

namespace {

constexpr const char* kProgram = "blobfs-perf";
constexpr std::uint64_t kMaxBlockBytes = std::uint64_t{64} << 20;

struct Arguments {
    Workload workload;
    std::string device;
    std::string kind = "read", pattern = "random";
    std::string block_size = "4K", offset, size, cores;
    std::uint32_t read_percent = 70;
    bool json = false, histogram = false, quiet = false;
};

// Adds the options to the parser; the arguments outlive it.
void describe_options(command_line::Parser& parser, Arguments& arguments) {
    Workload& workload = arguments.workload;
    parser
        .option("DEVICE", arguments.device,
                "NVMe controller (0000:03:00.0), file, block device, or mem:SIZE")
        .required();
    parser.option("-w,--workload", arguments.kind, "read, write or mixed")
        .one_of({"read", "write", "mixed"})
        .shows_default();
    parser.option("-p,--pattern", arguments.pattern, "random or sequential")
        .one_of({"random", "sequential"})
        .shows_default();
    parser.option("--read-percent", arguments.read_percent, "Of a mixed workload: share of reads")
        .within(1, 99)
        .shows_default();
    parser.option("-b,--block-size", arguments.block_size, "Bytes of one I/O").shows_default();
    parser.option("-d,--depth", workload.depth, "I/Os under way on each queue")
        .within(1, 4095)
        .shows_default();
    parser.option("-Q,--queues", workload.queues, "Queue pairs, each with a thread of its own")
        .within(1, 256)
        .shows_default();
    parser.option("-t,--time", workload.seconds, "Seconds to measure")
        .within(0.01, 1e6)
        .shows_default();
    parser.option("--warm-up", workload.warm_up_seconds, "Seconds of the same load before that")
        .within(0.0, 1e6)
        .shows_default();
    parser.option("--cores", arguments.cores, "Bind the threads to these cores: 0,2-3");
    parser.option("--offset", arguments.offset, "Where on the device to begin");
    parser.option("--size", arguments.size, "Use only that much of the device");
    parser.option("--seed", workload.seed, "Of what is random").shows_default();
    parser.flag("--precondition", workload.precondition,
                "Write all of it twice first, as SSDs need before they tell the truth");
    parser.flag("-f,--force", workload.force, "Overwrite the data that the device holds");
    parser.flag("--histogram", arguments.histogram, "Show how the latencies are distributed");
    parser.flag("-q,--quiet", arguments.quiet, "No warnings");
    parser.flag("--json", arguments.json, "Print the result as JSON");
    parser.version(std::string(kProgram) + " (blobfs) " + BLOBFS_VERSION);
    parser.help("Print this help");
}

// Text options into numbers; an empty string when all is good, else what is wrong.
std::string interpret(Arguments& arguments) {
    Workload& workload = arguments.workload;
    const auto size = [](const char* option, const std::string& text,
                         std::uint64_t& into) -> std::string {
        if (text.empty()) return {};
        const auto bytes = mkfs::parse_byte_count(text);
        if (!bytes) {
            return std::string(option) + ": \"" + text +
                   "\" is not a size; write for example 4096, 64K, 8G or 2TiB";
        }
        into = *bytes;
        return {};
    };
    for (const auto& [option, text, into] :
         {std::tuple("--block-size", &arguments.block_size, &workload.block_bytes),
          std::tuple("--offset", &arguments.offset, &workload.offset),
          std::tuple("--size", &arguments.size, &workload.region_bytes)}) {
        if (std::string wrong = size(option, *text, *into); !wrong.empty()) return wrong;
    }
    if (workload.block_bytes < 512 || workload.block_bytes % 512 != 0 ||
        workload.block_bytes > kMaxBlockBytes) {
        return "--block-size: a multiple of 512 bytes, at most 64M";
    }
    if (!arguments.cores.empty()) {
        workload.cores = parse_cores(arguments.cores);
        if (workload.cores.empty()) return "--cores: write for example 0,2-3";
    }
    workload.random = arguments.pattern == "random";
    workload.read_percent = arguments.kind == "read"    ? 100
                            : arguments.kind == "write" ? 0
                                                        : arguments.read_percent;
    return {};
}

}  // namespace

int run_perf(int argc, const char* const* argv, std::ostream& output, std::ostream& errors,
             bool progress, const std::atomic<bool>* interrupted) {
    command_line::Parser parser(
        "Measures what a device does, by the NVMe driver of blobfs and without a filesystem",
        kProgram);
    Arguments arguments;
    describe_options(parser, arguments);
    const command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict != command_line::Parsed::Verdict::kGoOn) {
        parsed.print(output, errors);
        return parsed.status == 0 ? 0 : 1;
    }
    const auto complain = [&](const std::string& what) {
        errors << kProgram << ": " << what << "\n";
        return 1;
    };
    if (const std::string wrong = interpret(arguments); !wrong.empty()) return complain(wrong);

    BenchmarkHooks hooks{.progress = {}, .interrupted = interrupted};
    std::pair<std::string, unsigned> shown;
    if (progress) {
        hooks.progress = [&](const char* what, unsigned percent) {
            if (shown.first == what && shown.second == percent) return;
            shown = {what, percent};
            errors << "\r\033[K" << what << " " << percent << " %" << std::flush;
        };
    }
    const auto result = run_benchmark(arguments.device, arguments.workload, hooks);
    if (!shown.first.empty()) errors << "\r\033[K" << std::flush;
    if (!result) return complain(result.error());
    if (!arguments.quiet) {
        for (const std::string& warning : result->warnings) {
            errors << kProgram << ": warning: " << warning << "\n";
        }
    }
    output << (arguments.json ? to_json(*result) : describe(*result, arguments.histogram));
    output.flush();
    return output.good() ? 0 : complain("the result could not be printed");
}

}  // namespace blobfs::tools
