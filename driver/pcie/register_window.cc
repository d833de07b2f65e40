#include "driver/pcie/register_window.h"

#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "driver/base/check.h"

namespace blobfs::driver {

namespace {

// The windows that the signal handler knows: it may take no lock and must not find half of one.
constexpr std::size_t kMaxWindows = 64;
std::array<std::atomic<RegisterWindow*>, kMaxWindows> windows{};

struct sigaction previous_action {};

void fill_with_ones(std::byte* data, std::size_t bytes) {
    void* const memory =
        ::mmap(data, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (memory != MAP_FAILED) std::memset(memory, 0xff, bytes);
}

}  // namespace

bool RegisterWindow::replace(const void* address) {
    const auto* const byte = static_cast<const std::byte*>(address);
    for (const std::atomic<RegisterWindow*>& slot : windows) {
        RegisterWindow* const window = slot.load(std::memory_order_acquire);
        if (window == nullptr || byte < window->data_ || byte >= window->data_ + window->bytes_) {
            continue;
        }
        window->gone_.store(true, std::memory_order_relaxed);
        fill_with_ones(window->data_, window->bytes_);
        return true;
    }
    return false;
}

void RegisterWindow::on_bus_error(int signal, void* info, void* context) {
    auto* const what = static_cast<siginfo_t*>(info);
    const int saved = errno;
    const bool ours = replace(what->si_addr);
    errno = saved;
    if (ours) return;
    if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
        previous_action.sa_sigaction(signal, what, context);
    } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
        previous_action.sa_handler(signal);
    } else {
        // Not ours and nobody else's: the access is made again, and ends the process as it would
        // have without us.
        ::sigaction(SIGBUS, &previous_action, nullptr);
    }
}

Result<void> RegisterWindow::map(int file, off_t offset, std::size_t bytes) {
    CHECK(data_ == nullptr);
    static std::once_flag installed;
    std::call_once(installed, [] {
        struct sigaction action {};
        action.sa_sigaction = [](int signal, siginfo_t* info, void* context) {
            on_bus_error(signal, info, context);
        };
        action.sa_flags = SA_SIGINFO;
        ::sigemptyset(&action.sa_mask);
        ::sigaction(SIGBUS, &action, &previous_action);
    });
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
    if (memory == MAP_FAILED) {
        return fail(errno_error(errno, "mapping the controller's registers"));
    }
    data_ = static_cast<std::byte*>(memory);
    bytes_ = bytes;
    for (std::atomic<RegisterWindow*>& slot : windows) {
        RegisterWindow* expected = nullptr;
        if (slot.compare_exchange_strong(expected, this)) return {};
    }
    ::munmap(data_, bytes_);
    data_ = nullptr;
    return fail(Errc::kBusy, "mapping the registers of one more controller");
}

void RegisterWindow::abandon() {
    if (data_ == nullptr) return;
    gone_.store(true, std::memory_order_relaxed);
    fill_with_ones(data_, bytes_);
}

RegisterWindow::~RegisterWindow() {
    if (data_ == nullptr) return;
    for (std::atomic<RegisterWindow*>& slot : windows) {
        RegisterWindow* expected = this;
        if (slot.compare_exchange_strong(expected, nullptr)) break;
    }
    ::munmap(data_, bytes_);
}

}  // namespace blobfs::driver
