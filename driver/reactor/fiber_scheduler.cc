#include "driver/reactor/fiber_scheduler.h"

#include <utility>

namespace blobfs::driver {

class FiberScheduler::PooledFiber final : public Fiber {
  public:
    PooledFiber(FiberScheduler& scheduler, Reactor& reactor, std::size_t stack_bytes)
        : Fiber(scheduler), reactor_(reactor), context_(stack_bytes, &PooledFiber::main, this) {}
    // Lets main() return: the fiber is idle, and has run before.
    ~PooledFiber() {
        ending_ = true;
        context_.switch_in();
    }

    void set_function(FiberFunction function) { function_ = std::move(function); }
    void switch_in() { context_.switch_in(); }
    void switch_out() { context_.switch_out(); }

  private:
    // One stack serves one function after another. An exception that leaves a function ends the
    // process: nothing above could handle it.
    static void main(void* argument) noexcept {
        auto& self = *static_cast<PooledFiber*>(argument);
        while (!self.ending_) {
            Suspend suspend(self.reactor_, self);
            self.function_(suspend);
            self.function_ = nullptr;
            self.status_ = Status::kIdle;
            self.switch_out();
        }
    }

    Reactor& reactor_;
    FiberFunction function_;
    bool ending_ = false;
    StackContext context_;
};

FiberScheduler::FiberScheduler(Reactor& reactor, std::size_t stack_bytes,
                               std::optional<std::uint64_t> shuffle_seed)
    : reactor_(reactor), stack_bytes_(stack_bytes) {
    if (shuffle_seed) shuffle_.emplace(*shuffle_seed);
}

FiberScheduler::~FiberScheduler() {
    CHECK(live_ == 0);
    while (!idle_.empty()) delete static_cast<PooledFiber*>(&idle_.pop_front());
}

void FiberScheduler::start(FiberFunction function) {
    PooledFiber& fiber = acquire(std::move(function));
    fiber.status_ = Fiber::Status::kReady;
    ready_.push_back(fiber);
}

void FiberScheduler::start_now(FiberFunction function) { resume(acquire(std::move(function))); }

bool FiberScheduler::run_ready() {
    CHECK(current_ == nullptr);
    ready_.splice(yielded_);
    if (ready_.empty()) return false;
    for (std::size_t runs = 0; runs < kMaxRunsPerTurn && !ready_.empty(); ++runs) {
        resume(next_ready());
    }
    return true;
}

void FiberScheduler::suspend(Fiber& fiber, Fiber::Status status) {
    fiber.status_ = status;
    static_cast<PooledFiber&>(fiber).switch_out();
}

void FiberScheduler::yield(Fiber& fiber) {
    yielded_.push_back(fiber);
    suspend(fiber, Fiber::Status::kReady);
}

FiberScheduler::PooledFiber& FiberScheduler::acquire(FiberFunction function) {
    PooledFiber* fiber = nullptr;
    if (idle_.empty()) {
        fiber = new PooledFiber(*this, reactor_, stack_bytes_);
    } else {
        fiber = static_cast<PooledFiber*>(&idle_.pop_front());
        --idle_count_;
    }
    fiber->wake_pending_ = false;
    fiber->set_function(std::move(function));
    ++live_;
    ++started_;
    return *fiber;
}

// Runs the fiber on top of the caller, the reactor's loop or another fiber, until it suspends.
void FiberScheduler::resume(Fiber& fiber) {
    Fiber* previous = std::exchange(current_, &fiber);
    fiber.status_ = Fiber::Status::kRunning;
    static_cast<PooledFiber&>(fiber).switch_in();
    current_ = previous;
    if (fiber.status_ == Fiber::Status::kIdle) release(static_cast<PooledFiber&>(fiber));
}

void FiberScheduler::release(PooledFiber& fiber) {
    --live_;
    if (idle_count_ == kMaxIdle) {
        delete &fiber;
        return;
    }
    // The stack used last is the warmest in the caches: last in, first out.
    idle_.push_front(fiber);
    ++idle_count_;
}

Fiber& FiberScheduler::next_ready() {
    if (!shuffle_) return ready_.pop_front();
    // A window is random enough, and keeps the walk short.
    constexpr std::uint64_t kWindow = 64;
    return ready_.pop_at(static_cast<std::size_t>((*shuffle_)() % kWindow));
}

}  // namespace blobfs::driver
