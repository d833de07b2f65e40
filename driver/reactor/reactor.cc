#include "driver/reactor/reactor.h"

#include <poll.h>
#include <rte_pause.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>
#include <vector>

#include "driver/reactor/courtesy.h"
#include "driver/reactor/fiber_scheduler.h"
#include "driver/reactor/mailbox.h"
#include "driver/reactor/spin_window.h"
#include "driver/reactor/timer_heap.h"

namespace blobfs::driver {

namespace {

constexpr std::uint64_t kNanosecondsPerSecond = 1'000'000'000;

std::uint64_t clock_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * kNanosecondsPerSecond +
           static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

// A turn of the loop: pollers, posted functions, timers, ready fibers. After turns that found
// nothing for a while (SpinWindow) the loop sleeps, unless a poller needs to be asked.
struct Reactor::State {
    State(Reactor& reactor, const ReactorOptions& given)
        : options(given),
          spin(std::uint64_t{given.spin_us} * 1000,
               std::uint64_t{std::max(given.spin_us, given.max_spin_us)} * 1000),
          scheduler(reactor, given.fiber_stack_bytes, given.shuffle_seed) {}

    [[nodiscard]] std::uint64_t read_clock() const {
        return options.virtual_turn_us != 0 ? virtual_ns : clock_ns();
    }
    void run_until(const bool& done);
    bool turn();
    bool skip_to_timer();
    bool poll_pollers();
    [[nodiscard]] bool must_poll() const;
    [[nodiscard]] bool busy() const;
    bool sleep();
    void yield_processor();

    const ReactorOptions options;
    SpinWindow spin;
    Courtesy courtesy;
    FiberScheduler scheduler;
    Mailbox mailbox;
    TimerHeap timers;
    std::vector<Poller*> pollers;  // null: removed while they were asked
    bool asking_pollers = false;
    std::vector<pollfd> descriptors;
    std::uint64_t now_ns = 0;
    std::uint64_t virtual_ns = kNanosecondsPerSecond;
    bool running = false;
    bool stopping = false;
    std::uint64_t turns = 0, sleeps = 0;
};

void Reactor::State::run_until(const bool& done) {
    CHECK(!running && !scheduler.any_running());
    running = true;
    now_ns = read_clock();
    std::uint64_t last_work_ns = now_ns;
    while (!done) {
        virtual_ns += options.virtual_turn_us * 1000;
        now_ns = read_clock();
        if (turn()) {
            last_work_ns = now_ns;
        } else if (options.poll_always || must_poll()) {
            continue;
        } else if (skip_to_timer()) {
            continue;
        } else if (const std::uint64_t idle_ns = now_ns - last_work_ns;
                   idle_ns < spin.ns() || (idle_ns < spin.most_ns() && busy())) {
            yield_processor();
        } else {
            const bool woken = sleep();
            const std::uint64_t awake_ns = read_clock();
            spin.slept(awake_ns - now_ns);
            // What ended the sleep is work, or announces some: spin again before the next one.
            if (woken) last_work_ns = awake_ns;
        }
    }
    running = false;
}

bool Reactor::State::turn() {
    ++turns;
    bool worked = poll_pollers();
    worked |= mailbox.drain();
    worked |= timers.expire(now_ns);
    worked |= scheduler.run_ready();
    return worked;
}

// False when the clock is a real one, or there is no timer.
bool Reactor::State::skip_to_timer() {
    if (options.virtual_turn_us == 0 || timers.next_deadline_ns() == TimerHeap::kNever)
        return false;
    virtual_ns = std::max(virtual_ns, timers.next_deadline_ns());
    return true;
}

bool Reactor::State::poll_pollers() {
    bool worked = false;
    bool removed = false;
    asking_pollers = true;
    // By index: a poller may lead to adding or removing others.
    for (std::size_t i = 0; i < pollers.size(); ++i) {
        if (pollers[i] != nullptr) worked |= pollers[i]->poll();
        removed |= pollers[i] == nullptr;
    }
    asking_pollers = false;
    if (removed) std::erase(pollers, nullptr);
    return worked;
}

void Reactor::State::yield_processor() {
    if (!courtesy.yields(now_ns)) {
        rte_pause();
        return;
    }
    const std::uint64_t begin_ns = clock_ns();
    ::sched_yield();
    courtesy.yielded(begin_ns, clock_ns() - begin_ns);
}

bool Reactor::State::must_poll() const {
    return std::any_of(pollers.begin(), pollers.end(),
                       [](const Poller* poller) { return poller->needs_polling(); });
}

bool Reactor::State::busy() const {
    return std::any_of(pollers.begin(), pollers.end(),
                       [](const Poller* poller) { return poller->busy(); });
}

// Sleeps until a descriptor, another thread or a timer has something. False when a timer's time
// has come, or a signal; what is due is then found by the next turn.
bool Reactor::State::sleep() {
    mailbox.announce_sleep();
    // Whoever published something before seeing the announcement did not wake us: look once more.
    bool worked = poll_pollers();
    worked |= mailbox.drain();
    if (worked || scheduler.any_ready() || must_poll()) {
        mailbox.retract_sleep();
        return true;
    }
    descriptors.clear();
    descriptors.push_back({.fd = mailbox.descriptor(), .events = POLLIN, .revents = 0});
    for (const Poller* poller : pollers) {
        const int descriptor = poller->wake_descriptor();
        if (descriptor >= 0) {
            descriptors.push_back({.fd = descriptor, .events = POLLIN, .revents = 0});
        }
    }
    timespec timeout{};
    const std::uint64_t deadline_ns = timers.next_deadline_ns();
    if (deadline_ns != TimerHeap::kNever) {
        const std::uint64_t now = read_clock();
        const std::uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
        timeout.tv_sec = static_cast<time_t>(left / kNanosecondsPerSecond);
        timeout.tv_nsec = static_cast<long>(left % kNanosecondsPerSecond);
    }
    ++sleeps;
    const int ready = ::ppoll(descriptors.data(), static_cast<nfds_t>(descriptors.size()),
                              deadline_ns == TimerHeap::kNever ? nullptr : &timeout, nullptr);
    CHECK(ready >= 0 || errno == EINTR);
    mailbox.retract_sleep();
    // A thread may read the announcement of one sleep and write its event during the next: then
    // that one ends early, which costs a turn.
    if (ready > 0 && descriptors.front().revents != 0) mailbox.clear_event();
    return ready > 0;
}

Reactor::Reactor(const ReactorOptions& options) : state_(std::make_unique<State>(*this, options)) {}

Reactor::~Reactor() {
    CHECK(!state_->running);
    CHECK(state_->scheduler.live() == 0);
}

void Reactor::spawn(FiberFunction function) { state_->scheduler.start(std::move(function)); }

void Reactor::spawn_now(FiberFunction function) {
    state_->scheduler.start_now(std::move(function));
}

void Reactor::add_poller(Poller& poller) { state_->pollers.push_back(&poller); }

void Reactor::remove_poller(Poller& poller) {
    auto& pollers = state_->pollers;
    const auto found = std::find(pollers.begin(), pollers.end(), &poller);
    CHECK(found != pollers.end());
    if (state_->asking_pollers) {
        *found = nullptr;
    } else {
        pollers.erase(found);
    }
}

Reactor::TimerId Reactor::run_after(std::uint64_t microseconds, Function function) {
    // From the clock itself, not from the turn's reading of it, which may be older.
    const std::uint64_t now = state_->read_clock();
    const std::uint64_t most_us = (TimerHeap::kNever - 1 - now) / 1000;
    return state_->timers.add(now + std::min(microseconds, most_us) * 1000, std::move(function));
}

void Reactor::cancel(TimerId timer) { state_->timers.cancel(timer); }

bool Reactor::post(Function function) { return state_->mailbox.deliver(std::move(function)); }

void Reactor::notify() { state_->mailbox.notify(); }

void Reactor::run() {
    state_->run_until(state_->stopping);
    state_->stopping = false;
}

void Reactor::stop() { state_->stopping = true; }

void Reactor::block_on_fiber(FiberFunction function) {
    bool done = false;
    CHECK(!state_->running && !state_->scheduler.any_running());
    spawn([&](Suspend& suspend) {
        function(suspend);
        done = true;
    });
    state_->run_until(done);
}

void Reactor::yield_processor() { state_->yield_processor(); }
bool Reactor::yields_processor() const { return state_->courtesy.yields(state_->now_ns); }

std::size_t Reactor::live_fibers() const { return state_->scheduler.live(); }

std::uint64_t Reactor::now_us() const {
    return (state_->running ? state_->now_ns : state_->read_clock()) / 1000;
}

Reactor::Statistics Reactor::statistics() const {
    return {
        .turns = state_->turns, .sleeps = state_->sleeps, .fibers = state_->scheduler.started()};
}

}  // namespace blobfs::driver
