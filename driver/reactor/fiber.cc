#include "driver/reactor/fiber.h"

#include "driver/reactor/fiber_scheduler.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver {

void Fiber::wake() {
    CHECK(status_ != Status::kIdle);
    if (status_ == Status::kParked) {
        scheduler_.make_ready(*this);
    } else {
        wake_pending_ = true;
    }
}

Fiber& FiberList::pop_at(std::size_t position) {
    Fiber* before = nullptr;
    Fiber* fiber = head_;
    for (; position > 0 && fiber->next_ != nullptr; --position) {
        before = fiber;
        fiber = fiber->next_;
    }
    if (before == nullptr) return pop_front();
    before->next_ = fiber->next_;
    if (tail_ == fiber) tail_ = before;
    fiber->next_ = nullptr;
    return *fiber;
}

void FiberList::splice(FiberList& other) {
    if (other.empty()) return;
    (head_ == nullptr ? head_ : tail_->next_) = other.head_;
    tail_ = other.tail_;
    other.head_ = nullptr;
}

void Suspend::park() {
    FiberScheduler& scheduler = fiber_.scheduler_;
    CHECK(scheduler.running(fiber_));
    if (fiber_.wake_pending_) {
        fiber_.wake_pending_ = false;
        return;
    }
    scheduler.suspend(fiber_, Fiber::Status::kParked);
}

void Suspend::yield() {
    FiberScheduler& scheduler = fiber_.scheduler_;
    CHECK(scheduler.running(fiber_));
    scheduler.yield(fiber_);
}

void Suspend::sleep_us(std::uint64_t microseconds) {
    FiberScheduler& scheduler = fiber_.scheduler_;
    CHECK(scheduler.running(fiber_));
    reactor_.run_after(microseconds, [fiber = &fiber_] { fiber->scheduler_.make_ready(*fiber); });
    scheduler.suspend(fiber_, Fiber::Status::kWaiting);
}

void WaitQueue::wait(Suspend& suspend) {
    Fiber& fiber = suspend.current();
    CHECK(fiber.scheduler_.running(fiber));
    waiters_.push_back(fiber);
    fiber.scheduler_.suspend(fiber, Fiber::Status::kWaiting);
}

bool WaitQueue::wake_one() {
    if (waiters_.empty()) return false;
    Fiber& fiber = waiters_.pop_front();
    fiber.scheduler_.make_ready(fiber);
    return true;
}

void WaitQueue::wake_all() {
    while (wake_one()) {
    }
}

void FiberMutex::lock(Suspend& suspend) {
    if (try_lock()) return;
    // unlock() hands the mutex to the fiber that it wakes: nobody gets in between.
    waiters_.wait(suspend);
}

bool FiberMutex::try_lock() {
    if (held_) return false;
    held_ = true;
    return true;
}

void FiberMutex::unlock() {
    CHECK(held_);
    if (!waiters_.wake_one()) held_ = false;
}

void FiberSharedMutex::lock(Suspend& suspend) {
    if (!try_lock()) wait(suspend, true);
}

bool FiberSharedMutex::try_lock() {
    if (!idle()) return false;
    writer_ = true;
    return true;
}

void FiberSharedMutex::unlock() {
    CHECK(writer_);
    writer_ = false;
    hand_over();
}

void FiberSharedMutex::lock_shared(Suspend& suspend) {
    if (!try_lock_shared()) wait(suspend, false);
}

bool FiberSharedMutex::try_lock_shared() {
    if (writer_ || !waiters_.empty()) return false;
    ++readers_;
    return true;
}

void FiberSharedMutex::unlock_shared() {
    CHECK(readers_ > 0);
    --readers_;
    hand_over();
}

void FiberSharedMutex::wait(Suspend& suspend, bool exclusive) {
    Fiber& fiber = suspend.current();
    CHECK(fiber.scheduler_.running(fiber));
    fiber.wants_exclusive_ = exclusive;
    waiters_.push_back(fiber);
    fiber.scheduler_.suspend(fiber, Fiber::Status::kWaiting);
}

// Gives the lock to those who wait first: one writer, or all readers up to the next writer.
void FiberSharedMutex::hand_over() {
    while (!waiters_.empty() && !writer_) {
        Fiber& fiber = *waiters_.front();
        if (fiber.wants_exclusive_) {
            if (readers_ > 0) return;
            writer_ = true;
        } else {
            ++readers_;
        }
        waiters_.pop_front();
        fiber.scheduler_.make_ready(fiber);
    }
}

void WaitGroup::done() {
    CHECK(count_ > 0);
    if (--count_ == 0) waiters_.wake_all();
}

void WaitGroup::wait(Suspend& suspend) {
    while (count_ > 0) waiters_.wait(suspend);
}

}  // namespace blobfs::driver
