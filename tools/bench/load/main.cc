// blobfs-bench-load: does one kind of operation many times, and prints how long it took as JSON.
// For blobfs-bench(1): an interpreter's own time would hide the differences.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/bench/load/processes.h"

int main(int argc, char** argv) {
    blobfs::bench::Load load;
    CLI::App app("Does an operation on files many times, for blobfs-bench(1)", "blobfs-bench-load");
    app.add_option("OPERATION", load.operation, "What to do")
        ->required()
        ->check(CLI::IsMember(blobfs::bench::Operation::names()));
    app.add_option("PATH", load.directory,
                   "The directory of the files, or the file that is overwritten")
        ->required();
    app.add_option("-n,--count", load.count, "Operations of each process")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("-p,--processes", load.processes, "At the same time")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    app.add_option("-d,--directories", load.directories, "Subdirectories that the files are in")
        ->capture_default_str();
    app.add_option("--first", load.first, "Number of the first file")->capture_default_str();
    app.add_option("--of", load.of, "Choose the files at random from so many");
    app.add_option("-b,--bytes", load.bytes, "Bytes of one write or read")->capture_default_str();
    app.add_option("--file-bytes", load.file_bytes, "Bytes of the file that is overwritten");
    app.add_flag("--shuffled", load.shuffled, "Files in random order");
    app.add_flag("--direct", load.direct, "Without the page cache (O_DIRECT)");
    app.add_option("--seed", load.seed, "Of what is random")->capture_default_str();
    app.set_help_flag("-h,--help", "Print this help");
    app.set_version_flag("-V,--version", "blobfs-bench-load (blobfs) " BLOBFS_VERSION,
                         "Print the version");
    CLI11_PARSE(app, argc, argv);
    if (load.operation == "overwrite-fdatasync" &&
        (load.bytes == 0 || load.file_bytes < load.bytes)) {
        std::fprintf(stderr, "blobfs-bench-load: overwriting needs --bytes and --file-bytes\n");
        return EXIT_FAILURE;
    }
    const blobfs::bench::LoadResult result = blobfs::bench::run_load(load);
    if (!result.error.empty()) {
        std::fprintf(stderr, "blobfs-bench-load: %s\n", result.error.c_str());
        return EXIT_FAILURE;
    }
    std::printf("%s\n", nlohmann::json{{"operations", result.operations},
                                       {"seconds", result.seconds},
                                       {"mean_us", result.mean_us},
                                       {"p50_us", result.p50_us},
                                       {"p99_us", result.p99_us},
                                       {"max_us", result.max_us}}
                            .dump()
                            .c_str());
    return EXIT_SUCCESS;
}
