#include <unistd.h>

#include <iostream>

#include "mkfs/command_line.h"

int main(int argc, char** argv) {
    return blobfs::mkfs::run_mkfs(argc, argv, std::cout, std::cerr, isatty(STDERR_FILENO) == 1);
}
