// blobfs-perf: a raw benchmark on the host driver (blobfs-perf(8)).

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <iostream>

#include "tools/perf/command_line.h"

namespace {

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

}  // namespace

int main(int argc, char** argv) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "blobfs-perf", std::make_shared<spdlog::sinks::stderr_color_sink_mt>()));
    spdlog::set_pattern("%n: %l: %v");
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = true; };
    for (const int signal : {SIGINT, SIGTERM}) ::sigaction(signal, &action, nullptr);
    return blobfs::tools::run_perf(argc, argv, std::cout, std::cerr, isatty(STDERR_FILENO) == 1,
                                   &interrupted);
}
