#pragma once

// The way into a reactor for other threads: a ring of functions without locks, and a descriptor
// that wakes the reactor when it sleeps. Private to driver/reactor. deliver() and notify() from any
// thread, the rest from the reactor's.

#include <absl/functional/any_invocable.h>

#include <atomic>
#include <cstddef>
#include <memory>

#include "driver/reactor/message_ring.h"

namespace blobfs::driver {

class Mailbox {
  public:
    using Function = absl::AnyInvocable<void()>;
    static constexpr std::size_t kCapacity = 2047;

    Mailbox();
    // Functions that were not taken are dropped. No thread delivers any more.
    ~Mailbox();
    Mailbox(const Mailbox&) = delete;
    Mailbox& operator=(const Mailbox&) = delete;

    // False, and the function is dropped, when kCapacity functions wait.
    bool deliver(Function function);
    // Wakes the reactor if it sleeps, or is about to. What the caller published before is seen by
    // the reactor before it sleeps the next time.
    void notify();

    // Calls what was delivered, a bounded number of functions; true when there were any.
    bool drain();

    // The reactor calls announce_sleep(), looks for work once more, polls descriptor() together
    // with the others it sleeps on, and calls retract_sleep().
    //
    // Without an order between the two sides a wake-up is lost: the reactor finds the ring empty,
    // a thread delivers and still reads "awake", and the reactor sleeps on a full ring. Each side
    // therefore writes, passes a full fence, and reads what the other side writes: the reactor
    // writes "asleep" and reads the ring, the thread writes the ring and reads "asleep". At least
    // one of the two sees the other.
    void announce_sleep();
    void retract_sleep() { asleep_.store(false, std::memory_order_relaxed); }
    // Makes descriptor() unreadable, when it was found readable.
    void clear_event();
    [[nodiscard]] int descriptor() const { return event_; }

  private:
    MessageRing full_;  // slots that hold a function, from any thread to the reactor
    MessageRing free_;  // slots that hold none, from the reactor to any thread
    std::unique_ptr<Function[]> slots_;
    int event_ = -1;
    alignas(64) std::atomic<bool> asleep_{false};
};

}  // namespace blobfs::driver
