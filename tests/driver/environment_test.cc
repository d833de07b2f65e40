#include "driver/memory/environment.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "driver/memory/dma_buffer.h"

namespace blobfs::driver {
namespace {

// The environment starts once per process, so each test runs its body in a child of its own. The
// body answers with an empty string, or says what is wrong.
template <class Body>
void in_child(Body body) {
    std::fflush(nullptr);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const std::string wrong = body();
        if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
        std::fflush(nullptr);
        ::_exit(wrong.empty() ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::set<std::string> runtime_files() {
    std::set<std::string> files;
    for (const char* root : {"/var/run/dpdk", "/run/user", "/tmp/dpdk", "/dev/hugepages"}) {
        std::error_code error;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(
                 root, std::filesystem::directory_options::skip_permission_denied, error)) {
            const std::string path = entry.path();
            if (path.find("dpdk") != std::string::npos || path.find("rte") != std::string::npos) {
                files.insert(path);
            }
        }
    }
    return files;
}

// The signals that the process catches, but those two that the C library catches for its threads.
unsigned long long caught_signals() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("SigCgt:")) {
            return std::stoull(line.substr(7), nullptr, 16) & ~(3ULL << 31);
        }
    }
    return 0;
}

TEST(Environment, StartsQuicklyAndLeavesTheProcessAsItWas) {
    in_child([]() -> std::string {
        const auto files = runtime_files();
        cpu_set_t before{};
        cpu_set_t after{};
        ::pthread_getaffinity_np(::pthread_self(), sizeof before, &before);
        sigset_t mask;
        sigset_t mask_after;
        ::sigemptyset(&mask);
        ::sigaddset(&mask, SIGUSR1);
        ::sigprocmask(SIG_SETMASK, &mask, nullptr);
        const auto caught = caught_signals();
        std::ostringstream log;
        spdlog::set_default_logger(std::make_shared<spdlog::logger>(
            "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
        spdlog::set_level(spdlog::level::debug);
        // What is written to the standard descriptors is caught in a file.
        std::FILE* output = std::tmpfile();
        const int saved_out = ::dup(1);
        const int saved_err = ::dup(2);
        ::dup2(::fileno(output), 1);
        ::dup2(::fileno(output), 2);

        const auto start = std::chrono::steady_clock::now();
        const Result<void> started = start_environment({.memory_bytes = 64 * kMiB});
        const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(
                                      std::chrono::steady_clock::now() - start)
                                      .count();
        const Result<void> again = start_environment({.memory_bytes = 64 * kMiB});
        std::fflush(nullptr);
        ::dup2(saved_out, 1);
        ::dup2(saved_err, 2);
        std::printf("environment started in %lld ms\n", static_cast<long long>(milliseconds));

        if (!started) return started.error().message() + "\n" + log.str();
        if (!again) return "not idempotent";
        if (::lseek(::fileno(output), 0, SEEK_END) != 0) return "wrote to the standard descriptors";
        if (log.str().find("DPDK: ") == std::string::npos) return "nothing logged at debug level";
        if (log.str().find("warning") != std::string::npos) return "warnings:\n" + log.str();
        ::pthread_getaffinity_np(::pthread_self(), sizeof after, &after);
        if (!CPU_EQUAL(&before, &after)) return "affinity changed";
        ::pthread_sigmask(SIG_SETMASK, nullptr, &mask_after);
        if (std::memcmp(&mask, &mask_after, sizeof(unsigned long)) != 0) return "mask changed";
        if (caught_signals() != caught) return "signal handlers changed";
        if (runtime_files() != files) return "left files behind";
        // The EAL's own threads take no signal that is meant for ours.
        for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
            if (task.path().filename() == std::to_string(::getpid())) continue;
            std::ifstream status(task.path() / "status");
            for (std::string line; std::getline(status, line);) {
                if (!line.starts_with("SigBlk:")) continue;
                const auto blocked = std::stoull(line.substr(7), nullptr, 16);
                if ((blocked >> (SIGTERM - 1) & 1) == 0) return "a thread takes SIGTERM";
            }
        }
        spdlog::shutdown();
        return "";
    });
}

TEST(Environment, OrdinaryUserNeedsNoRights) {
    if (::geteuid() != 0) GTEST_SKIP() << "the other tests run as an ordinary user already";
    in_child([]() -> std::string {
        if (::setgid(65534) != 0 || ::setuid(65534) != 0) return "setuid";
        if (const auto started = start_environment({.memory_bytes = 64 * kMiB}); !started) {
            return started.error().message();
        }
        const auto buffer = DmaBuffer::allocate(4 * kMiB);
        return buffer ? "" : buffer.error().message();
    });
}

TEST(Environment, TwoProcessesRunSideBySide) {
    int ready[2];
    int release[2];
    ASSERT_EQ(::pipe(ready), 0);
    ASSERT_EQ(::pipe(release), 0);
    const pid_t other = ::fork();
    ASSERT_GE(other, 0);
    if (other == 0) {
        ::close(release[1]);
        const bool ok = static_cast<bool>(start_environment({.memory_bytes = 64 * kMiB}));
        char byte = ok ? 'y' : 'n';
        if (::write(ready[1], &byte, 1) != 1) ::_exit(1);
        if (::read(release[0], &byte, 1) != 0) ::_exit(1);  // until the other end closes
        ::_exit(0);
    }
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    EXPECT_EQ(byte, 'y');
    in_child([&]() -> std::string {
        ::close(release[1]);
        if (const auto started = start_environment({.memory_bytes = 64 * kMiB}); !started) {
            return started.error().message();
        }
        return "";
    });
    ::close(release[1]);
    int status = 0;
    ASSERT_EQ(::waitpid(other, &status, 0), other);
    EXPECT_EQ(status, 0);
    for (const int fd : {ready[0], ready[1], release[0]}) ::close(fd);
}

TEST(Environment, PhysicalWithoutHugepagesFailsClearly) {
    in_child([]() -> std::string {
        // More than any machine has free.
        const auto started =
            start_environment({.memory_bytes = std::size_t{1} << 60, .physical = true});
        if (started) return "started";
        if (started.error().code != Errc::kNoMemory) return started.error().message();
        if (started.error().message().find("hugepages") == std::string::npos) return "unclear";
        // That failure spoils nothing.
        if (const auto second = start_environment({.memory_bytes = 64 * kMiB}); !second) {
            return second.error().message();
        }
        return "";
    });
}

TEST(Environment, MemoryThatTheSystemCannotGiveFails) {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer itself does not survive such a mapping";
#endif
    in_child([]() -> std::string {
        spdlog::set_level(spdlog::level::off);
        const auto started = start_environment({.memory_bytes = std::size_t{1} << 50});
        if (started) return "started";
        const auto again = start_environment({.memory_bytes = 64 * kMiB});
        return again ? "started after a failure" : "";
    });
}

}  // namespace
}  // namespace blobfs::driver
