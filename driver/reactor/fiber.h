#pragma once

// Fibers: each request on the reactor runs on a small stack of its own and reads top to bottom.
// A function that may suspend the calling fiber takes a `Suspend&` as its first parameter; whoever
// calls one holds no assumption across the call that another fiber may break. Everything here is
// used from the reactor's thread only.

#include <cstddef>
#include <cstdint>
#include <deque>

#include "driver/base/check.h"

namespace blobfs::driver {

class Reactor;
class Fiber;

// The permission to suspend the running fiber. Made by the reactor for each fiber, handed down the
// calls, never stored beyond the call and never used from another fiber.
class Suspend {
  public:
    [[nodiscard]] Reactor& reactor() const { return reactor_; }

    // Suspends until Fiber::wake() is called on current(). A wake that came before is not lost when
    // it came after the last park(); spurious wakes do not happen.
    void park();
    // Lets every other ready fiber run once, and the pollers, before going on.
    void yield();
    // Suspends for at least that long.
    void sleep_us(std::uint64_t microseconds);

    [[nodiscard]] Fiber& current() const { return fiber_; }

    Suspend(Reactor& reactor, Fiber& fiber) : reactor_(reactor), fiber_(fiber) {}
    Suspend(const Suspend&) = delete;
    Suspend& operator=(const Suspend&) = delete;

  private:
    Reactor& reactor_;
    Fiber& fiber_;
};

// Fibers that wait for something; the waker decides what. First in, first out.
class WaitQueue {
  public:
    void wait(Suspend& suspend);
    // Makes the longest waiting fiber ready; false when nobody waits.
    bool wake_one();
    void wake_all();
    [[nodiscard]] bool empty() const { return waiters_.empty(); }
    ~WaitQueue() { CHECK(waiters_.empty()); }

  private:
    std::deque<Fiber*> waiters_;
};

// Mutual exclusion among fibers; fair. lock() suspends only when it is held.
class FiberMutex {
  public:
    void lock(Suspend& suspend);
    bool try_lock();
    void unlock();
    [[nodiscard]] bool held() const { return held_; }

    class Guard {
      public:
        Guard(Suspend& suspend, FiberMutex& mutex) : mutex_(mutex) { mutex_.lock(suspend); }
        ~Guard() { mutex_.unlock(); }
        Guard(const Guard&) = delete;
        Guard& operator=(const Guard&) = delete;

      private:
        FiberMutex& mutex_;
    };

  private:
    bool held_ = false;
    WaitQueue waiters_;
};

// Many readers or one writer among fibers; fair (first come, first served, so no starvation).
class FiberSharedMutex {
  public:
    void lock(Suspend& suspend);
    void unlock();
    void lock_shared(Suspend& suspend);
    void unlock_shared();
    [[nodiscard]] bool idle() const;  // neither held nor waited for

  private:
    struct Waiter {
        Fiber* fiber;
        bool exclusive;
    };
    void hand_over();

    std::size_t readers_ = 0;
    bool writer_ = false;
    std::deque<Waiter> waiters_;
};

// Counts things that are under way; wait() suspends until there are none.
class WaitGroup {
  public:
    void add(std::size_t n = 1) { count_ += n; }
    void done();
    void wait(Suspend& suspend);
    [[nodiscard]] std::size_t count() const { return count_; }

  private:
    std::size_t count_ = 0;
    WaitQueue waiters_;
};

}  // namespace blobfs::driver
