// blobfs-bench-load: does one kind of operation many times, and prints how long it took as JSON.
// For blobfs-bench(1): an interpreter's own time would hide the differences.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "driver/base/command_line.h"
#include "tools/bench/load/processes.h"

int main(int argc, char** argv) {
    blobfs::bench::Load load;
    blobfs::command_line::Parser parser(
        "Does an operation on files many times, for blobfs-bench(1)", "blobfs-bench-load");
    parser.option("OPERATION", load.operation, "What to do")
        .required()
        .one_of(blobfs::bench::Operation::names());
    parser
        .option("PATH", load.directory,
                "The directory of the files, or the file that is overwritten")
        .required();
    parser.option("-n,--count", load.count, "Operations of each process")
        .positive()
        .shows_default();
    parser.option("-p,--processes", load.processes, "At the same time")
        .within(1, 256)
        .shows_default();
    parser.option("-d,--directories", load.directories, "Subdirectories that the files are in")
        .shows_default();
    parser.option("--first", load.first, "Number of the first file").shows_default();
    parser.option("--of", load.of, "Choose the files at random from so many");
    parser.option("-b,--bytes", load.bytes, "Bytes of one write or read").shows_default();
    parser.option("--file-bytes", load.file_bytes, "Bytes of the file that is overwritten");
    parser.flag("--shuffled", load.shuffled, "Files in random order");
    parser.flag("--direct", load.direct, "Without the page cache (O_DIRECT)");
    parser.option("--seed", load.seed, "Of what is random").shows_default();
    parser.help("Print this help");
    parser.version("blobfs-bench-load (blobfs) " BLOBFS_VERSION);
    const blobfs::command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict != blobfs::command_line::Parsed::Verdict::kGoOn) {
        parsed.print(std::cout, std::cerr);
        return parsed.status;
    }
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
