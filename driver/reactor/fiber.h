#pragma once

// Fibers: each request on the reactor runs on a small stack of its own and reads top to bottom.
// A function that may suspend the calling fiber takes a `Suspend&` as its first parameter; whoever
// calls one holds no assumption across the call that another fiber may break. Everything here is
// used from the reactor's thread only. Nothing here allocates.
//
//   state      left by                                    to
//   idle       spawn, spawn_now                           ready, running
//   ready      the reactor runs it                        running
//   running    park() without a wake before it            parked
//              waiting for a primitive, yield, sleep      waiting
//              its function returns                       idle
//   parked     wake()                                     ready
//   waiting    the primitive, the next turn, the timer    ready

#include <cstddef>
#include <cstdint>

#include "driver/base/check.h"

namespace blobfs::driver {

class Reactor;
class FiberScheduler;
class FiberList;

// A fiber as those see it who wake it up. It belongs to the reactor's pool; a pointer to it is good
// until its function returns.
class Fiber {
  public:
    // Makes the fiber's park() return: the one it is in, or else its next one. Wakes do not add up:
    // any number of them before a park() ends that one park() only. A fiber that waits for
    // something else meanwhile (a mutex, a timer) is not disturbed. From pollers, timers, posted
    // functions and other fibers.
    void wake();

    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

  protected:
    explicit Fiber(FiberScheduler& scheduler) : scheduler_(scheduler) {}
    ~Fiber() = default;

  private:
    friend class FiberScheduler;
    friend class FiberList;
    friend class Suspend;
    friend class WaitQueue;
    friend class FiberSharedMutex;
    enum class Status : std::uint8_t { kIdle, kReady, kRunning, kParked, kWaiting };

    FiberScheduler& scheduler_;
    Fiber* next_ = nullptr;  // in the one list that the fiber is on
    Status status_ = Status::kIdle;
    bool wake_pending_ = false;
    bool wants_exclusive_ = false;  // while it waits for a FiberSharedMutex
};

// First in, first out, through the fibers themselves.
class FiberList {
  public:
    [[nodiscard]] bool empty() const { return head_ == nullptr; }
    [[nodiscard]] Fiber* front() const { return head_; }
    void push_back(Fiber& fiber) {
        fiber.next_ = nullptr;
        (head_ == nullptr ? head_ : tail_->next_) = &fiber;
        tail_ = &fiber;
    }
    void push_front(Fiber& fiber) {
        fiber.next_ = head_;
        if (head_ == nullptr) tail_ = &fiber;
        head_ = &fiber;
    }
    // The list is not empty.
    Fiber& pop_front() {
        Fiber& fiber = *head_;
        head_ = fiber.next_;
        fiber.next_ = nullptr;
        return fiber;
    }
    // Removes the fiber that stands `position` places behind the first, or the last one.
    Fiber& pop_at(std::size_t position);
    // Appends the other list, which is empty afterwards.
    void splice(FiberList& other);

  private:
    Fiber* head_ = nullptr;
    Fiber* tail_ = nullptr;  // meaningless when head_ is null
};

// The permission to suspend the running fiber. Made by the reactor for each fiber, handed down the
// calls, never stored beyond the call and never used from another fiber.
class Suspend {
  public:
    [[nodiscard]] Reactor& reactor() const { return reactor_; }

    // Suspends until Fiber::wake() is called on current(). A wake that came before is not lost when
    // it came after the last park(); spurious wakes do not happen. When several things may wake the
    // fiber, or one of them may do it before the fiber parks, wait in a loop for the condition.
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
    WaitQueue() = default;
    WaitQueue(const WaitQueue&) = delete;
    WaitQueue& operator=(const WaitQueue&) = delete;
    ~WaitQueue() { CHECK(waiters_.empty()); }

    // Suspends until a wake reaches this fiber. Fiber::wake() does not end it.
    void wait(Suspend& suspend);
    // Makes the longest waiting fiber ready; false when nobody waits.
    bool wake_one();
    // Makes those ready that wait now.
    void wake_all();
    [[nodiscard]] bool empty() const { return waiters_.empty(); }

  private:
    FiberList waiters_;
};

// Mutual exclusion among fibers; fair. lock() suspends only when it is held.
class FiberMutex {
  public:
    void lock(Suspend& suspend);
    bool try_lock();
    void unlock();
    [[nodiscard]] bool held() const { return held_; }

    class [[nodiscard]] Guard {
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

// Many readers or one writer among fibers; fair (first come, first served, so no starvation: a
// reader that comes after a waiting writer waits for it).
class FiberSharedMutex {
  public:
    FiberSharedMutex() = default;
    FiberSharedMutex(const FiberSharedMutex&) = delete;
    FiberSharedMutex& operator=(const FiberSharedMutex&) = delete;
    ~FiberSharedMutex() { CHECK(idle()); }

    void lock(Suspend& suspend);
    bool try_lock();
    void unlock();
    void lock_shared(Suspend& suspend);
    bool try_lock_shared();
    void unlock_shared();
    // Neither held nor waited for.
    [[nodiscard]] bool idle() const { return readers_ == 0 && !writer_ && waiters_.empty(); }

    class [[nodiscard]] Guard {
      public:
        Guard(Suspend& suspend, FiberSharedMutex& mutex) : mutex_(mutex) { mutex_.lock(suspend); }
        ~Guard() { mutex_.unlock(); }
        Guard(const Guard&) = delete;
        Guard& operator=(const Guard&) = delete;

      private:
        FiberSharedMutex& mutex_;
    };
    class [[nodiscard]] SharedGuard {
      public:
        SharedGuard(Suspend& suspend, FiberSharedMutex& mutex) : mutex_(mutex) {
            mutex_.lock_shared(suspend);
        }
        ~SharedGuard() { mutex_.unlock_shared(); }
        SharedGuard(const SharedGuard&) = delete;
        SharedGuard& operator=(const SharedGuard&) = delete;

      private:
        FiberSharedMutex& mutex_;
    };

  private:
    void wait(Suspend& suspend, bool exclusive);
    void hand_over();

    std::size_t readers_ = 0;
    bool writer_ = false;
    FiberList waiters_;
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
