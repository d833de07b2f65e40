// blobfs-bench-empty: mounts a filesystem that keeps nothing and answers at once, the floor that
// FUSE sets. For blobfs-bench(1), which tells it on standard input what to do, one line each:
//
//   statistics   print the requests so far, as one line of JSON
//   spin, block  how to wait for requests
//
// It unmounts and ends when that input ends, when told to by a signal, or when somebody unmounts
// it.

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <thread>

#include "driver/base/command_line.h"
#include "tools/bench/empty/server.h"

namespace {

using blobfs::bench::Server;
using blobfs::bench::Waiting;

void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

void obey(const std::string& command, const Server& server) {
    if (command == "statistics") {
        say(server.statistics());
    } else if (command == "spin" || command == "block") {
        server.wait_by(command == "spin" ? Waiting::kSpinning : Waiting::kBlocking);
        say("{}");
    } else {
        say(R"({"error": "commands are: statistics, spin, block"})");
    }
}

// Reads commands until input or the process is to end, or the filesystem is gone; then unmounts.
// While it does, the main thread goes on serving.
void listen(const Server& server, const blobfs::fs::fuse::KernelMount& mount, int signals,
            int gone) {
    std::string line;
    std::array<char, 256> text;
    while (true) {
        std::array<pollfd, 3> waits{{{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                                     {.fd = signals, .events = POLLIN, .revents = 0},
                                     {.fd = gone, .events = POLLIN, .revents = 0}}};
        if (::poll(waits.data(), waits.size(), -1) < 0) continue;
        if (waits[2].revents != 0) return;
        if (waits[1].revents != 0) break;
        const ssize_t bytes = ::read(STDIN_FILENO, text.data(), text.size());
        if (bytes <= 0) break;
        line.append(text.data(), static_cast<std::size_t>(bytes));
        for (std::size_t end = line.find('\n'); end != std::string::npos; end = line.find('\n')) {
            obey(line.substr(0, end), server);
            line.erase(0, end + 1);
        }
    }
    mount.unmount_and_sync();
}

int serve(const std::string& directory, Waiting waiting) {
    // Before there are threads, so that all of them leave the signals to the descriptor.
    sigset_t ending;
    ::sigemptyset(&ending);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&ending, number);
    ::pthread_sigmask(SIG_BLOCK, &ending, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    const int signals = ::signalfd(-1, &ending, SFD_CLOEXEC);
    const int gone = ::eventfd(0, EFD_CLOEXEC);

    std::string message;
    const auto mount = blobfs::fs::fuse::KernelMount::attach(
        directory,
        {.source = "empty", .subtype = "empty", .everybody = ::geteuid() == 0, .flags = {}},
        message);
    if (!mount) {
        std::fprintf(stderr, "blobfs-bench-empty: mounting on %s: %s\n", directory.c_str(),
                     message.c_str());
        return EXIT_FAILURE;
    }
    if (::geteuid() == 0) ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    Server server(*mount, waiting);
    std::thread listener([&] { listen(server, *mount, signals, gone); });
    const auto served = server.run();
    ::eventfd_write(gone, 1);
    listener.join();
    if (!served) {
        std::fprintf(stderr, "blobfs-bench-empty: %s\n", served.error().message().c_str());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
    blobfs::command_line::Parser parser(
        "Mounts an empty filesystem that answers at once, for blobfs-bench(1)",
        "blobfs-bench-empty");
    std::string directory, waiting = "block";
    parser.option("MOUNTPOINT", directory, "The directory to mount it on").required();
    parser.option("--wait", waiting, "How to wait for requests: block or spin")
        .one_of({"block", "spin"})
        .shows_default();
    parser.help("Print this help");
    parser.version("blobfs-bench-empty (blobfs) " BLOBFS_VERSION);
    const blobfs::command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict != blobfs::command_line::Parsed::Verdict::kGoOn) {
        parsed.print(std::cout, std::cerr);
        return parsed.status;
    }
    std::error_code error;
    const auto path = std::filesystem::canonical(directory, error);
    if (error) {
        std::fprintf(stderr, "blobfs-bench-empty: mountpoint %s: %s\n", directory.c_str(),
                     error.message().c_str());
        return EXIT_FAILURE;
    }
    return serve(path.string(), waiting == "spin" ? Waiting::kSpinning : Waiting::kBlocking);
}
