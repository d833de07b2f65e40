#include "driver/memory/environment.h"

#include <dirent.h>
#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace blobfs::driver {

namespace {

enum class Phase { kNotStarted, kStarted, kFailed };
Phase phase = Phase::kNotStarted;
bool with_hugepages = false;
Error failure{};

// The EAL's own needs (malloc headers, memzones, rounding) on top of what the caller may allocate.
constexpr std::size_t kOverheadBytes = std::size_t{16} << 20;

ssize_t write_log(void* /*cookie*/, const char* text, std::size_t bytes) {
    std::string_view line(text, bytes);
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
    if (!line.empty()) {
        const int level = rte_log_cur_msg_loglevel();
        spdlog::log(
            level <= static_cast<int>(RTE_LOG_WARNING) ? spdlog::level::warn : spdlog::level::debug,
            "DPDK: {}", line);
    }
    return static_cast<ssize_t>(bytes);
}

// Bytes of hugepages of all sizes, as that file of the kernel counts them.
std::size_t hugepage_bytes(const char* counter) {
    std::size_t bytes = 0;
    const char* const root = "/sys/kernel/mm/hugepages";
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(root), &::closedir);
    if (!directory) return 0;
    constexpr std::string_view kPrefix = "hugepages-";
    while (const dirent* entry = ::readdir(directory.get())) {
        const std::string name = entry->d_name;
        if (!name.starts_with(kPrefix)) continue;
        const std::size_t page_kib = std::strtoull(name.c_str() + kPrefix.size(), nullptr, 10);
        std::size_t pages = 0;
        std::ifstream(std::string(root) + "/" + name + "/" + counter) >> pages;
        bytes += pages * page_kib * 1024;
    }
    return bytes;
}

std::size_t free_hugepage_bytes() { return hugepage_bytes("free_hugepages"); }
bool any_hugepages() { return hugepage_bytes("nr_hugepages") != 0; }

// What the calling thread had before rte_eal_init(), which pins it to one processor. Signals are
// blocked meanwhile, so that the threads that it starts never take one that is meant for ours.
class ThreadSettings {
  public:
    ThreadSettings() {
        affinity_known_ =
            ::pthread_getaffinity_np(::pthread_self(), sizeof affinity_, &affinity_) == 0;
        sigset_t all;
        ::sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &mask_);
        ::sigaction(SIGBUS, nullptr, &bus_);
    }
    ~ThreadSettings() {
        ::sigaction(SIGBUS, &bus_, nullptr);
        ::pthread_sigmask(SIG_SETMASK, &mask_, nullptr);
        if (affinity_known_) {
            ::pthread_setaffinity_np(::pthread_self(), sizeof affinity_, &affinity_);
        }
    }
    ThreadSettings(const ThreadSettings&) = delete;
    ThreadSettings& operator=(const ThreadSettings&) = delete;

    // The EAL wants a processor for its main thread: any that this thread may run on.
    [[nodiscard]] std::size_t first_processor() const {
        for (std::size_t i = 0; affinity_known_ && i < CPU_SETSIZE; ++i) {
            if (CPU_ISSET(i, &affinity_)) return i;
        }
        return 0;
    }

  private:
    cpu_set_t affinity_{};
    bool affinity_known_ = false;
    sigset_t mask_{};
    struct sigaction bus_ {};
};

// The EAL makes a folder for its files even when it has none, in a place that all users share, and
// complains when it is another's. It is given one of its own, which goes as soon as it has started.
class RuntimeFolder {
  public:
    RuntimeFolder() {
        std::string pattern = "/tmp/blobfs-XXXXXX";
        if (::mkdtemp(pattern.data()) == nullptr) return;
        path_ = pattern;
        if (const char* before = ::getenv(kVariable)) before_ = before;
        ::setenv(kVariable, path_.c_str(), 1);
    }
    ~RuntimeFolder() {
        if (path_.empty()) return;
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
        if (before_) {
            ::setenv(kVariable, before_->c_str(), 1);
        } else {
            ::unsetenv(kVariable);
        }
    }
    RuntimeFolder(const RuntimeFolder&) = delete;
    RuntimeFolder& operator=(const RuntimeFolder&) = delete;

  private:
    static constexpr const char* kVariable = "RUNTIME_DIRECTORY";
    std::string path_;
    std::optional<std::string> before_;
};

std::vector<std::string> arguments(const EnvironmentOptions& options, bool hugepages,
                                   std::size_t processor) {
    std::vector<std::string> list = {
        "blobfs",
        // One EAL thread, the caller; the number that the EAL gives it does not matter.
        "--lcores=0@" + std::to_string(processor),
        "--no-pci",  // the driver opens its devices itself
        "--no-telemetry",
    };
    if (hugepages) {
        list.emplace_back("--in-memory");
        // With a PCIe device the EAL knows best: virtual addresses behind an IOMMU, else physical.
        if (!options.physical) list.emplace_back("--iova-mode=va");
    } else {
        const std::size_t bytes = options.memory_bytes + kOverheadBytes;
        list.emplace_back("--no-huge");
        list.emplace_back("--no-shconf");
        list.emplace_back("--iova-mode=va");
        list.emplace_back("-m");
        list.emplace_back(std::to_string((bytes + (std::size_t{1} << 20) - 1) >> 20));
    }
    return list;
}

Result<void> start(const EnvironmentOptions& options, bool hugepages) {
    static const cookie_io_functions_t kFunctions = {
        .read = nullptr, .write = write_log, .seek = nullptr, .close = nullptr};
    // The stream stays for the life of the process, as the EAL does.
    FILE* stream = ::fopencookie(nullptr, "w", kFunctions);
    if (stream == nullptr) return fail(errno_error(errno, "opening a log stream for DPDK"));
    ::setvbuf(stream, nullptr, _IOLBF, 0);
    rte_openlog_stream(stream);

    const ThreadSettings settings;
    const RuntimeFolder folder;
    std::vector<std::string> list = arguments(options, hugepages, settings.first_processor());
    std::vector<char*> argv;
    argv.reserve(list.size() + 1);
    for (std::string& argument : list) argv.push_back(argument.data());
    argv.push_back(nullptr);
    if (rte_eal_init(static_cast<int>(list.size()), argv.data()) < 0) {
        return fail(errno_error(std::max(rte_errno, 1),
                                "starting the DPDK environment (its messages are in the log)"));
    }
    return {};
}

}  // namespace

Result<void> start_environment(const EnvironmentOptions& options) {
    if (phase == Phase::kStarted) return {};
    if (phase == Phase::kFailed) return fail(failure);
    bool enough = free_hugepage_bytes() >= options.memory_bytes;
    constexpr std::uint32_t kStepMs = 50;
    for (std::uint32_t waited = 0;
         options.physical && !enough && waited < options.hugepage_wait_ms && any_hugepages();
         waited += kStepMs) {
        std::this_thread::sleep_for(std::chrono::milliseconds(kStepMs));
        enough = free_hugepage_bytes() >= options.memory_bytes;
    }
    if (options.physical && !enough) {
        return fail(Errc::kNoMemory,
                    "starting the DPDK environment: a PCIe device needs free hugepages "
                    "(sysctl vm.nr_hugepages) for all of its memory");
    }
    const bool hugepages = options.physical || (options.hugepages && enough);
    if (Result<void> started = start(options, hugepages); !started) {
        phase = Phase::kFailed;
        failure = started.error();
        return fail(failure);
    }
    phase = Phase::kStarted;
    with_hugepages = hugepages;
    return {};
}

bool environment_has_hugepages() { return phase == Phase::kStarted && with_hugepages; }

}  // namespace blobfs::driver
