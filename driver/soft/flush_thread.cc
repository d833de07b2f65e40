#include "driver/soft/flush_thread.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

#include "driver/base/check.h"

namespace blobfs::driver {

Result<std::unique_ptr<FlushThread>> FlushThread::create(int descriptor,
                                                         std::function<void()> ended) {
    std::unique_ptr<FlushThread> flusher(new FlushThread(descriptor, std::move(ended)));
    // Signals are for the other threads.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    try {
        flusher->thread_ = std::thread([thread = flusher.get()] { thread->serve(); });
    } catch (const std::system_error& problem) {
        error = problem.code().value();
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error != 0) return fail(errno_error(error, "starting the thread that flushes"));
    pthread_setname_np(flusher->thread_.native_handle(), "flush");
    return flusher;
}

FlushThread::FlushThread(int descriptor, std::function<void()> ended)
    : descriptor_(descriptor), ended_(std::move(ended)) {}

FlushThread::~FlushThread() {
    if (!thread_.joinable()) return;
    wait();
    state_.store(kStop);
    state_.notify_all();
    thread_.join();
}

void FlushThread::start() {
    CHECK(!running_);
    running_ = true;
    stay_near();
    // Stores before notify_one() are in the one order of all: it looks whether anyone waits, and
    // libstdc++ has no fence of its own between the two.
    state_.store(kAsked);
    state_.notify_one();
}

bool FlushThread::take(int& result) {
    if (!running_ || state_.load(std::memory_order_acquire) != kEnded) return false;
    result = result_;
    running_ = false;
    return true;
}

void FlushThread::wait() const {
    if (running_) state_.wait(kAsked, std::memory_order_acquire);
}

// A hint: where it is refused the flush takes longer, no more.
void FlushThread::stay_near() {
    const int processor = ::sched_getcpu();
    if (processor == processor_ || processor < 0 || processor >= CPU_SETSIZE) return;
    processor_ = processor;
    cpu_set_t processors;
    CPU_ZERO(&processors);
    CPU_SET(processor, &processors);
    (void)pthread_setaffinity_np(thread_.native_handle(), sizeof(processors), &processors);
}

void FlushThread::serve() {
    while (true) {
        const int state = state_.load(std::memory_order_acquire);
        if (state == kStop) return;
        if (state != kAsked) {
            state_.wait(state, std::memory_order_acquire);
            continue;
        }
        result_ = ::fdatasync(descriptor_) == 0 ? 0 : -errno;
        state_.store(kEnded);
        state_.notify_one();
        ended_();
    }
}

}  // namespace blobfs::driver
