#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <iostream>

#include "tools/fsck/command_line.h"

namespace {

bool ask(const std::string& question) {
    for (;;) {
        std::cout << question << " (y/n) " << std::flush;
        std::string answer;
        if (!std::getline(std::cin, answer)) return false;
        if (answer == "y" || answer == "Y" || answer == "yes") return true;
        if (answer == "n" || answer == "N" || answer == "no") return false;
    }
}

}  // namespace

int main(int argc, char** argv) {
    // Standard output is for the result.
    spdlog::set_default_logger(spdlog::stderr_logger_st("fsck.blobfs"));
    spdlog::set_level(spdlog::level::warn);
    blobfs::fsck::Surroundings surroundings{.output = std::cout,
                                            .errors = std::cerr,
                                            .progress = isatty(STDERR_FILENO) == 1,
                                            .ask = {}};
    if (isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1) surroundings.ask = ask;
    return blobfs::fsck::run_fsck(argc, argv, std::move(surroundings));
}
