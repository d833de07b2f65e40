#include "tools/bench/load/processes.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <numeric>
#include <span>

namespace blobfs::bench {

namespace {

using Time = std::chrono::steady_clock;

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Time::now().time_since_epoch())
            .count());
}

// What the processes share: a starting line, their ends, and a time for each operation.
struct Shared {
    std::atomic<std::uint32_t> ready = 0;
    std::atomic<std::uint32_t> started = 0;
};

struct Outcome {
    std::uint64_t end_ns = 0;
    char error[500] = {};
};

class SharedMemory {
  public:
    explicit SharedMemory(std::size_t bytes)
        : bytes_(bytes),
          data_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)) {}
    ~SharedMemory() {
        if (good()) ::munmap(data_, bytes_);
    }
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;
    [[nodiscard]] bool good() const { return data_ != MAP_FAILED; }
    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }

  private:
    std::size_t bytes_;
    void* data_;
};

void complain(Outcome& outcome, const std::string& what) {
    std::strncpy(outcome.error, what.c_str(), sizeof(outcome.error) - 1);
}

void work(const Load& load, std::uint32_t process, Shared& shared, Outcome& outcome,
          std::span<std::uint32_t> times_ns) {
    const std::unique_ptr<Operation> operation = Operation::make(load, process);
    const std::string wrong = operation->prepare();
    if (!wrong.empty()) complain(outcome, wrong);
    shared.ready.fetch_add(1);
    while (shared.started.load() == 0) ::sched_yield();
    if (!wrong.empty()) return;
    std::uint64_t before = now_ns();
    for (std::uint64_t i = 0; i < load.count; ++i) {
        if (!operation->run(i)) {
            complain(outcome, load.operation + ", number " + std::to_string(i) + " of process " +
                                  std::to_string(process) + ": " + std::strerror(errno));
            return;
        }
        const std::uint64_t after = now_ns();
        times_ns[i] =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(after - before, UINT32_MAX));
        before = after;
    }
    outcome.end_ns = before;
}

void summarize(std::span<std::uint32_t> times_ns, LoadResult& result) {
    const auto us = [&](double share) {
        const auto place =
            static_cast<std::ptrdiff_t>(share * static_cast<double>(times_ns.size() - 1));
        std::nth_element(times_ns.begin(), times_ns.begin() + place, times_ns.end());
        return times_ns[static_cast<std::size_t>(place)] / 1e3;
    };
    result.mean_us = std::accumulate(times_ns.begin(), times_ns.end(), 0.0) /
                     static_cast<double>(times_ns.size()) / 1e3;
    result.p50_us = us(0.5);
    result.p99_us = us(0.99);
    result.max_us = us(1);
}

}  // namespace

LoadResult run_load(const Load& load) {
    LoadResult result;
    if (!Operation::make(load, 0)) {
        result.error = "there is no operation \"" + load.operation + "\"";
        return result;
    }
    for (std::uint32_t i = 0; i < load.directories; ++i) {
        const std::string path = load.directory + "/d" + std::to_string(i);
        if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
            result.error = "making " + path + ": " + std::strerror(errno);
            return result;
        }
    }
    result.operations = load.count * load.processes;
    const std::size_t head = 64 + load.processes * sizeof(Outcome);
    const SharedMemory memory(head + result.operations * sizeof(std::uint32_t));
    if (!memory.good()) {
        result.error = std::string("memory for the times: ") + std::strerror(errno);
        return result;
    }
    auto& shared = *new (memory.data()) Shared;
    const std::span outcomes(reinterpret_cast<Outcome*>(memory.data() + 64), load.processes);
    const std::span times(reinterpret_cast<std::uint32_t*>(memory.data() + head),
                          result.operations);
    std::vector<pid_t> children;
    for (std::uint32_t process = 0; process < load.processes; ++process) {
        const pid_t child = ::fork();
        if (child == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            work(load, process, shared, outcomes[process],
                 times.subspan(process * load.count, load.count));
            ::_exit(0);
        }
        if (child < 0) {
            result.error = std::string("starting a process: ") + std::strerror(errno);
            break;
        }
        children.push_back(child);
    }
    // A process that dies before it is ready must not be waited for.
    while (shared.ready.load() < children.size()) {
        int status = 0;
        const pid_t ended = ::waitpid(-1, &status, WNOHANG);
        if (ended > 0) {
            std::erase(children, ended);
            result.error = "a process died before it began";
        }
        ::usleep(1000);
    }
    const std::uint64_t start = now_ns();
    shared.started.store(1);
    for (const pid_t child : children) {
        int status = 0;
        while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
        if (!WIFEXITED(status)) result.error = "a process died";
    }
    std::uint64_t end = start + 1;
    for (const Outcome& outcome : outcomes) {
        if (outcome.error[0] != 0 && result.error.empty()) result.error = outcome.error;
        end = std::max(end, outcome.end_ns);
    }
    result.seconds = static_cast<double>(end - start) / 1e9;
    if (result.error.empty() && result.operations != 0) summarize(times, result);
    return result;
}

}  // namespace blobfs::bench
