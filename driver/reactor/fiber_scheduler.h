#pragma once

// The fibers of one reactor: the pool that they come from and return to, and the queue of those
// that are ready to run. Private to driver/reactor; the reactor's thread only.

#include <absl/functional/any_invocable.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>

#include "driver/reactor/fiber.h"
#include "driver/reactor/stack_context.h"

namespace blobfs::driver {

class FiberScheduler {
  public:
    using FiberFunction = absl::AnyInvocable<void(Suspend&)>;

    FiberScheduler(Reactor& reactor, std::size_t stack_bytes,
                   std::optional<std::uint64_t> shuffle_seed);
    // No fiber is live.
    ~FiberScheduler();
    FiberScheduler(const FiberScheduler&) = delete;
    FiberScheduler& operator=(const FiberScheduler&) = delete;

    // Takes a fiber from the pool; it runs at the next run_ready(), or right now on top of the
    // caller until it suspends for the first time.
    void start(FiberFunction function);
    void start_now(FiberFunction function);

    // Runs ready fibers, among them those that become ready meanwhile, until there are none or
    // enough have run that pollers should get their turn; true when any ran. Not from a fiber.
    bool run_ready();
    [[nodiscard]] bool any_ready() const { return !ready_.empty() || !yielded_.empty(); }

    // What the waiting primitives are made of. make_ready: the fiber is parked or waiting.
    void make_ready(Fiber& fiber) {
        CHECK(fiber.status_ == Fiber::Status::kParked || fiber.status_ == Fiber::Status::kWaiting);
        fiber.status_ = Fiber::Status::kReady;
        ready_.push_back(fiber);
    }
    void suspend(Fiber& fiber, Fiber::Status status);
    void yield(Fiber& fiber);

    [[nodiscard]] bool running(const Fiber& fiber) const { return current_ == &fiber; }
    [[nodiscard]] bool any_running() const { return current_ != nullptr; }
    [[nodiscard]] std::size_t live() const { return live_; }
    [[nodiscard]] std::uint64_t started() const { return started_; }

  private:
    class PooledFiber;
    // Idle fibers keep their stacks, up to this many.
    static constexpr std::size_t kMaxIdle = 512;
    static constexpr std::size_t kMaxRunsPerTurn = 256;

    PooledFiber& acquire(FiberFunction function);
    void resume(Fiber& fiber);
    void release(PooledFiber& fiber);
    Fiber& next_ready();

    Reactor& reactor_;
    std::size_t stack_bytes_;
    FiberList ready_;
    FiberList yielded_;  // ready at the next turn
    FiberList idle_;
    std::size_t idle_count_ = 0;
    Fiber* current_ = nullptr;
    std::size_t live_ = 0;
    std::uint64_t started_ = 0;
    std::optional<std::mt19937_64> shuffle_;
};

}  // namespace blobfs::driver
