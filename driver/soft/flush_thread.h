#pragma once

// fdatasync on a thread of its own, one at a time. io_uring would run it on a kernel thread, too,
// but on any processor, and to wake an idle processor and to be told from there takes as long as
// the flush of a fast device; this thread stays on its owner's processor, which the owner yields
// while it waits. start(), take() and wait() by one thread, the owner.

#include <sched.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "driver/base/result.h"

namespace blobfs::driver {

class FlushThread {
  public:
    // The descriptor is the caller's and stays open. `ended` is called after each flush, on the
    // thread. Fails where no thread can be started.
    static Result<std::unique_ptr<FlushThread>> create(int descriptor, std::function<void()> ended);
    // Waits for a flush that runs.
    ~FlushThread();
    FlushThread(const FlushThread&) = delete;
    FlushThread& operator=(const FlushThread&) = delete;

    // From start() until take() has said that it ended.
    [[nodiscard]] bool running() const { return running_; }
    // Covers every write that has ended before. near: the owner yields its processor, so the thread
    // is to be there; else anywhere. REQUIRES !running().
    void start(bool near);
    // True once, when the flush has ended: result is then 0 or -errno.
    bool take(int& result);
    // Blocks until take() will be true, or nothing runs.
    void wait() const;

  private:
    FlushThread(int descriptor, std::function<void()> ended);
    void serve();
    void move(bool near);

    enum State : int { kIdle, kAsked, kEnded, kStop };

    const int descriptor_;
    const std::function<void()> ended_;
    std::atomic<int> state_{kIdle};
    int result_ = 0;  // of the flush that ended; handed over by state_
    bool running_ = false;
    int processor_ = -1;  // where the thread runs; -1: anywhere
    cpu_set_t everywhere_{};
    std::thread thread_;
};

}  // namespace blobfs::driver
