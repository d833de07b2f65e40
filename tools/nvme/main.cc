// blobfs-nvme: the NVMe controllers of this machine, and who drives them (blobfs-nvme(8)).

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <iostream>

#include "tools/nvme/command_line.h"

int main(int argc, char** argv) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "blobfs-nvme", std::make_shared<spdlog::sinks::stderr_color_sink_mt>()));
    spdlog::set_pattern("%n: %l: %v");
    return blobfs::tools::run_nvme(argc, argv, std::cout, std::cerr);
}
