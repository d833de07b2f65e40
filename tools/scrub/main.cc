// blobfs-scrub: the check of a mounted filesystem (blobfs-scrub(8)).

#include <signal.h>
#include <unistd.h>

#include <iostream>

#include "tools/scrub/command_line.h"

namespace {

volatile sig_atomic_t g_cancelled = 0;

void cancel(int) { g_cancelled = 1; }

}  // namespace

int main(int argc, char** argv) {
    struct sigaction action {};
    action.sa_handler = cancel;
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
    return blobfs::scrub::run_scrub(argc, argv,
                                    {.output = std::cout,
                                     .errors = std::cerr,
                                     .progress = isatty(STDERR_FILENO) == 1,
                                     .cancelled = [] { return g_cancelled != 0; }});
}
