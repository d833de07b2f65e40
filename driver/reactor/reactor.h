#pragma once

// The reactor: one thread that owns a queue pair, a blobstore and a filesystem, runs fibers and
// polls. It spins for a short while after the last work, for longer while something is in flight
// (and for as long as it takes where nothing else would notice its end), then sleeps in poll() on
// the pollers' descriptors, the next timer, and an eventfd that other threads write only when the
// reactor has announced that it sleeps. Only post() and notify() may be called from another thread.

#include <absl/functional/any_invocable.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "driver/base/result.h"
#include "driver/reactor/fiber.h"

namespace blobfs::driver {

// Something that the reactor asks again and again: a completion queue, a channel.
class Poller {
  public:
    virtual ~Poller() = default;
    // Does what there is to do without blocking; true when there was something. Runs on the
    // reactor's own stack: it may wake fibers and start them, but not suspend.
    virtual bool poll() = 0;
    // True while something is in flight that only poll() can notice: the reactor then spins.
    [[nodiscard]] virtual bool needs_polling() const = 0;
    // True while something is in flight whose end wakes the reactor, by a descriptor or through
    // another poller: it mostly ends soon, so the reactor spins a little longer before it sleeps.
    [[nodiscard]] virtual bool busy() const { return false; }
    // A descriptor that becomes readable when poll() would find work, or -1.
    // poll() makes it unreadable again, or else the reactor goes on without sleeping. A poller that
    // is fed by another thread needs none: that thread calls Reactor::notify().
    [[nodiscard]] virtual int wake_descriptor() const { return -1; }
};

struct ReactorOptions {
    bool poll_always = false;    // never sleep
    std::uint32_t spin_us = 50;  // go on polling that long after the last work, at least
    // That long at most: while a poller is busy, as most devices have answered by then (what takes
    // longer, a flush of a disk, is not worth a core), and when sleeps turn out to be short.
    std::uint32_t max_spin_us = 300;
    // With a guard page below; four times as much under AddressSanitizer.
    std::size_t fiber_stack_bytes = std::size_t{64} << 10;
    std::optional<std::uint64_t> shuffle_seed = {};  // tests: ready fibers run in random order
    // Tests: not 0: the clock is not read but counted, so many microseconds a turn, and goes on to
    // the next timer when there is nothing else to do. So a run is the same every time, if all
    // devices are ones that are polled.
    std::uint64_t virtual_turn_us = 0;
};

class Reactor {
  public:
    explicit Reactor(const ReactorOptions& options = {});
    // No fiber is live. Timers and posted functions that were not called are dropped.
    ~Reactor();
    Reactor(const Reactor&) = delete;
    Reactor& operator=(const Reactor&) = delete;

    using FiberFunction = absl::AnyInvocable<void(Suspend&)>;
    using Function = absl::AnyInvocable<void()>;

    // Starts a fiber; it runs when the reactor next looks at its ready queue. Fibers come from a
    // pool and return to it. A function object of up to two words is not allocated for.
    void spawn(FiberFunction function);
    // Starts a fiber that runs at once, on top of the caller, up to its first suspension: then the
    // caller goes on, be it a poller, a timer's function, or another fiber (which has not suspended
    // meanwhile, but sees what the new fiber did). Calls may nest.
    void spawn_now(FiberFunction function);

    // The poller must outlive its registration. Pollers are asked in the order of their adding.
    // remove_poller(): not from within its own poll().
    void add_poller(Poller& poller);
    void remove_poller(Poller& poller);

    // Calls the function once, after at least that long, on the reactor's own stack; the handle,
    // which is never 0, cancels. Cancelling a timer that has expired does nothing. O(log timers).
    using TimerId = std::uint64_t;
    TimerId run_after(std::uint64_t microseconds, Function function);
    void cancel(TimerId timer);

    // From any thread: the function runs on the reactor's own stack. Functions posted by one thread
    // run in their order. False, and the function is dropped, when 2,047 of them wait already.
    bool post(Function function);
    // From any thread that has published something a poller of this reactor will find: ends the
    // reactor's sleep. Costs a fence when it is awake.
    void notify();

    // Polls and runs fibers until stop(), which makes run() return after the current turn, or when
    // it was called before run(), at once. Fibers that are live stay so.
    void run();
    void stop();
    // Runs the function on a fiber, and the reactor until it has returned; not within run(). For
    // programs and tests: auto r = reactor.block_on([&](Suspend& s) { return store->close(s); });
    template <class F>
    auto block_on(F&& function) {
        using R = std::invoke_result_t<F&, Suspend&>;
        if constexpr (std::is_void_v<R>) {
            block_on_fiber([&](Suspend& suspend) { function(suspend); });
        } else {
            std::optional<R> result;
            block_on_fiber([&](Suspend& suspend) { result.emplace(function(suspend)); });
            return std::move(*result);
        }
    }

    // For pollers that wait for a thread of their own on this processor: lets it in, unless
    // somebody else was found to keep the processor for long. yields_processor() tells that
    // beforehand.
    void yield_processor();
    [[nodiscard]] bool yields_processor() const;

    [[nodiscard]] std::size_t live_fibers() const;
    // Monotonic clock, microseconds; read once per turn of the loop while the reactor runs.
    [[nodiscard]] std::uint64_t now_us() const;

    struct Statistics {
        std::uint64_t turns = 0, sleeps = 0, fibers = 0;  // since the construction
    };
    [[nodiscard]] Statistics statistics() const;

  private:
    void block_on_fiber(FiberFunction function);

    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::driver
