// blobfs-bench-store: random I/O on a blob, for blobfs-bench(1). Prints JSON.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "driver/base/command_line.h"
#include "mkfs/byte_count.h"
#include "tools/bench/store/blob_benchmark.h"

int main(int argc, char** argv) {
    blobfs::bench::BlobWorkload workload;
    std::string kind = "read", size;
    blobfs::command_line::Parser parser(
        "Measures random I/O on a blob in memory, without filesystem and kernel, for "
        "blobfs-bench(1)",
        "blobfs-bench-store");
    parser.option("DEVICE", workload.device, "Memory, such as mem:512M")
        .required()
        .refused_by([](const std::string& name) {
            return name.starts_with("mem:") ? "" : "only mem:SIZE, as all that is there is lost";
        });
    parser.option("-w,--workload", kind, "read or write").one_of({"read", "write"}).shows_default();
    parser.option("-d,--depth", workload.depth, "I/Os under way").within(1, 1024).shows_default();
    parser.option("-t,--time", workload.seconds, "Seconds to measure")
        .within(0.01, 1e6)
        .shows_default();
    parser.option("--size", size, "Of the blob; half of the device");
    parser.help("Print this help");
    parser.version("blobfs-bench-store (blobfs) " BLOBFS_VERSION);
    const blobfs::command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict != blobfs::command_line::Parsed::Verdict::kGoOn) {
        parsed.print(std::cout, std::cerr);
        return parsed.status;
    }
    workload.writes = kind == "write";
    if (!size.empty()) {
        const auto bytes = blobfs::mkfs::parse_byte_count(size);
        if (!bytes) {
            std::fprintf(stderr, "blobfs-bench-store: --size: \"%s\" is not a size\n",
                         size.c_str());
            return EXIT_FAILURE;
        }
        workload.blob_bytes = *bytes;
    }
    const auto result = blobfs::bench::run_blob_benchmark(workload);
    if (!result) {
        std::fprintf(stderr, "blobfs-bench-store: %s: %s\n", workload.device.c_str(),
                     result.error().message().c_str());
        return EXIT_FAILURE;
    }
    std::printf("%s\n", nlohmann::json{{"ios", result->ios},
                                       {"seconds", result->seconds},
                                       {"iops", static_cast<double>(result->ios) / result->seconds}}
                            .dump()
                            .c_str());
    return EXIT_SUCCESS;
}
