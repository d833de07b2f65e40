#pragma once

// The gate of something that is going to end: work passes in while it is open, close() refuses new
// work and waits for what is inside. Reactor thread only.

#include <cstddef>

#include "driver/reactor/fiber.h"

namespace blobfs::driver {

class Gate {
  public:
    Gate() = default;
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;
    ~Gate() { CHECK(inside_.count() == 0); }

    // False when the gate is closed: the caller answers with an error and does not leave().
    [[nodiscard]] bool enter() {
        if (closed_) return false;
        inside_.add();
        return true;
    }
    void leave() { inside_.done(); }

    // Nothing enters from now on; suspends until everything that is inside has left. Several may
    // call it. Not from inside the gate.
    void close(Suspend& suspend) {
        closed_ = true;
        inside_.wait(suspend);
    }

    [[nodiscard]] bool closed() const { return closed_; }
    [[nodiscard]] std::size_t inside() const { return inside_.count(); }

    // Stays inside for the length of a scope: if (Gate::Pass pass(gate); !pass) return closed...
    class [[nodiscard]] Pass {
      public:
        explicit Pass(Gate& gate) : gate_(gate.enter() ? &gate : nullptr) {}
        ~Pass() {
            if (gate_ != nullptr) gate_->leave();
        }
        Pass(const Pass&) = delete;
        Pass& operator=(const Pass&) = delete;
        explicit operator bool() const { return gate_ != nullptr; }

      private:
        Gate* gate_;
    };

  private:
    bool closed_ = false;
    WaitGroup inside_;
};

}  // namespace blobfs::driver
