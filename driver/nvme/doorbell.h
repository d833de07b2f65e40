#pragma once

// One doorbell of a queue: the controller's register, and where the controller has been given one,
// a shadow of it in memory (Doorbell Buffer Config, 1.4 section 5.7). With a shadow the register is
// written only when the controller has asked to be told: a write to memory costs nothing, one to an
// emulated controller's register leaves the virtual machine. The thread of the queue.

#include <atomic>
#include <cstdint>

#include "driver/nvme/shared_word.h"

namespace blobfs::driver::nvme {

class Doorbell {
  public:
    Doorbell() = default;
    explicit Doorbell(volatile std::uint32_t* word) : register_(word) {}

    [[nodiscard]] bool reachable() const { return register_ != nullptr; }

    // From now on by way of the shadow, whose words start at 0; null: by the register alone. The
    // specification has the admin queue's register written all the same: always.
    void set_shadow(volatile std::uint32_t* shadow, const volatile std::uint32_t* event_index,
                    bool always) {
        shadow_ = shadow;
        event_index_ = event_index;
        always_ = always;
    }

    // Tells the controller the queue's new tail or head. True when its register was written.
    bool ring(std::uint32_t value) {
        // The controller may use what the new value covers as soon as it sees it: the stores of
        // entries, lists and data (the loads of completions, for a head) come before.
        if (shadow_ != nullptr) [[unlikely]] {
            const std::uint32_t before = *shadow_;
            store_release(*shadow_, value);
            // The controller stores the event index and then looks at the shadow once more; we
            // store the shadow and then look at the event index. Without a full fence both could
            // see the old value of the other, and the command would lie there unseen.
            std::atomic_thread_fence(std::memory_order_seq_cst);
            if (!always_ && !passes(*event_index_, before, value)) return false;
        }
        store_release(*register_, value);
        return true;
    }

    // True when going from `before` to `value` passes the event index (all modulo 2^16).
    [[nodiscard]] static bool passes(std::uint32_t event_index, std::uint32_t before,
                                     std::uint32_t value) {
        return static_cast<std::uint16_t>(value - event_index - 1) <
               static_cast<std::uint16_t>(value - before);
    }

  private:
    volatile std::uint32_t* register_ = nullptr;
    volatile std::uint32_t* shadow_ = nullptr;
    const volatile std::uint32_t* event_index_ = nullptr;
    bool always_ = false;
};

}  // namespace blobfs::driver::nvme
