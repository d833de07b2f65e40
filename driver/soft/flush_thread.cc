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
    : descriptor_(descriptor), ended_(std::move(ended)) {
    (void)sched_getaffinity(0, sizeof(everywhere_), &everywhere_);
}

FlushThread::~FlushThread() {
    if (!thread_.joinable()) return;
    wait();
    state_.store(kStop);
    state_.notify_all();
    thread_.join();
}

void FlushThread::start(bool near) {
    CHECK(!running_);
    running_ = true;
    move(near);
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
void FlushThread::move(bool near) {
    const int processor = near ? ::sched_getcpu() : -1;
    if (processor == processor_ || processor >= CPU_SETSIZE) return;
    processor_ = processor;
    cpu_set_t one;
    CPU_ZERO(&one);
    if (processor >= 0) CPU_SET(processor, &one);
    (void)pthread_setaffinity_np(thread_.native_handle(), sizeof(cpu_set_t),
                                 processor >= 0 ? &one : &everywhere_);
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
