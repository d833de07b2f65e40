#include "fs/fuse/signal_watch.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "driver/base/check.h"

namespace blobfs::fs::fuse {

namespace {

// What the handler may touch: lock-free atomics and write(2).
std::atomic<std::uint64_t> arrived{0};  // bit N: signal N
std::atomic<int> event_descriptor{-1};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

void note(int signal_number) {
    const int saved_errno = errno;
    arrived.fetch_or(std::uint64_t{1} << signal_number, std::memory_order_release);
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(event_descriptor.load(), &one, sizeof(one));
    errno = saved_errno;
}

constexpr int kSignals = 64;

}  // namespace

struct SignalWatch::Saved {
    int number;
    struct sigaction action;
};

SignalWatch::SignalWatch(const std::vector<int>& signals, std::function<void(int)> on_signal)
    : on_signal_(std::move(on_signal)) {
    wake_descriptor_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(wake_descriptor_ >= 0);
    int none = -1;
    CHECK(event_descriptor.compare_exchange_strong(none, wake_descriptor_));
    arrived = 0;
    struct sigaction action {};
    ::sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    const auto install = [&](int number, void (*handler)(int)) {
        CHECK(number > 0 && number < kSignals);
        Saved saved{.number = number, .action = {}};
        action.sa_handler = handler;
        CHECK(::sigaction(number, &action, &saved.action) == 0);
        saved_.push_back(saved);
    };
    for (const int number : signals) install(number, note);
    install(SIGPIPE, SIG_IGN);
}

SignalWatch::~SignalWatch() {
    for (const Saved& saved : saved_) ::sigaction(saved.number, &saved.action, nullptr);
    event_descriptor = -1;
    ::close(wake_descriptor_);
}

bool SignalWatch::poll() {
    if (arrived.load(std::memory_order_relaxed) == 0) return false;
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t bytes = ::read(wake_descriptor_, &count, sizeof(count));
    const std::uint64_t signals = arrived.exchange(0, std::memory_order_acquire);
    for (int number = 1; number < kSignals; ++number) {
        if ((signals >> number & 1) != 0) on_signal_(number);
    }
    return true;
}

}  // namespace blobfs::fs::fuse
