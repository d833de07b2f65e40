#include "fs/fuse/background.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace blobfs::fs::fuse {

namespace {

constexpr char kStarted = '+';
constexpr char kFailed = '-';

void print(const std::string& message) {
    std::fprintf(stderr, "blobfs-fuse: %s\n", message.c_str());
}

// A daemon that ended without a word: a signal, an internal error.
void print_unexpected_end(int status) {
    if (WIFSIGNALED(status)) {
        print("the daemon ended at its start by signal " + std::to_string(WTERMSIG(status)) + " (" +
              ::strsignal(WTERMSIG(status)) + "); nothing is mounted");
    } else {
        print("the daemon ended at its start; nothing is mounted");
    }
}

[[noreturn]] void wait_for_report(int child_pipe, pid_t child) {
    std::string report;
    std::array<char, 512> part;
    while (true) {
        const ssize_t bytes = ::read(child_pipe, part.data(), part.size());
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes <= 0) break;
        report.append(part.data(), static_cast<std::size_t>(bytes));
    }
    if (report.starts_with(kStarted)) std::_Exit(EXIT_SUCCESS);
    // When the command returns, nothing of the failed daemon is left: not its lock on the device.
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (report.starts_with(kFailed)) {
        print(report.substr(1));
    } else {
        print_unexpected_end(status);
    }
    std::_Exit(EXIT_FAILURE);
}

void send(int parent, const std::string& report) {
    std::size_t sent = 0;
    while (sent < report.size()) {
        const ssize_t bytes = ::write(parent, report.data() + sent, report.size() - sent);
        if (bytes < 0 && errno != EINTR) break;
        if (bytes > 0) sent += static_cast<std::size_t>(bytes);
    }
    ::close(parent);
}

}  // namespace

Background::Background(bool wanted) {
    if (!wanted) return;
    std::array<int, 2> ends;
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        print(std::string("making a pipe: ") + std::strerror(errno));
        std::_Exit(EXIT_FAILURE);
    }
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child < 0) {
        print(std::string("starting a process in the background: ") + std::strerror(errno));
        std::_Exit(EXIT_FAILURE);
    }
    if (child > 0) {
        ::close(ends[1]);
        wait_for_report(ends[0], child);
    }
    ::close(ends[0]);
    parent_ = ends[1];
    ::setsid();
    if (::chdir("/") != 0) report_failure(std::string("changing to /: ") + std::strerror(errno));
}

Background::~Background() {
    if (parent_ >= 0) report_failure("the daemon ended at its start");
}

void Background::report_success() {
    if (parent_ < 0) return;
    const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int standard = 0; nowhere >= 0 && standard <= 2; ++standard) ::dup2(nowhere, standard);
    if (nowhere > 2) ::close(nowhere);
    send(parent_, std::string(1, kStarted));
    parent_ = -1;
}

void Background::report_failure(const std::string& message) {
    if (parent_ < 0) {
        print(message);
        return;
    }
    send(parent_, kFailed + message);
    parent_ = -1;
}

}  // namespace blobfs::fs::fuse
