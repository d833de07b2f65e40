// blobfs-bench-store: random I/O on a blob, for blobfs-bench(1). Prints JSON.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "mkfs/byte_count.h"
#include "tools/bench/store/blob_benchmark.h"

int main(int argc, char** argv) {
    blobfs::bench::BlobWorkload workload;
    std::string kind = "read", size;
    CLI::App app(
        "Measures random I/O on a blob in memory, without filesystem and kernel, for "
        "blobfs-bench(1)",
        "blobfs-bench-store");
    app.add_option("DEVICE", workload.device, "Memory, such as mem:512M")
        ->required()
        ->check([](const std::string& name) {
            return name.starts_with("mem:") ? "" : "only mem:SIZE, as all that is there is lost";
        });
    app.add_option("-w,--workload", kind, "read or write")
        ->check(CLI::IsMember({"read", "write"}))
        ->capture_default_str();
    app.add_option("-d,--depth", workload.depth, "I/Os under way")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("-t,--time", workload.seconds, "Seconds to measure")
        ->check(CLI::Range(0.01, 1e6))
        ->capture_default_str();
    app.add_option("--size", size, "Of the blob; half of the device");
    app.set_help_flag("-h,--help", "Print this help");
    app.set_version_flag("-V,--version", "blobfs-bench-store (blobfs) " BLOBFS_VERSION,
                         "Print the version");
    CLI11_PARSE(app, argc, argv);
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
