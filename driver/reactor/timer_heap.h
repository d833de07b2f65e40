#pragma once

// Functions to be called at a time: a binary heap whose entries know their place, so that adding,
// cancelling and expiring cost O(log n) and nothing is allocated once the heap has had its size.
// Times are nanoseconds of any one monotonic clock. One thread.

#include <absl/functional/any_invocable.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace blobfs::driver {

class TimerHeap {
  public:
    using Function = absl::AnyInvocable<void()>;
    static constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

    // The identifier is never 0 and is not reused within 2^32 uses of its slot.
    std::uint64_t add(std::uint64_t deadline_ns, Function function);
    // False when the timer has expired, or was cancelled before.
    bool cancel(std::uint64_t id);

    // Calls what is due, earliest first and in the order of adding for equal deadlines. A function
    // may add and cancel timers. True when anything was called.
    bool expire(std::uint64_t now_ns);

    // kNever when there is none.
    [[nodiscard]] std::uint64_t next_deadline_ns() const {
        return heap_.empty() ? kNever : heap_.front().deadline_ns;
    }
    [[nodiscard]] std::size_t size() const { return heap_.size(); }

  private:
    struct Entry {
        std::uint64_t deadline_ns;
        std::uint64_t order;
        std::uint32_t slot;
        [[nodiscard]] bool before(const Entry& other) const {
            return deadline_ns != other.deadline_ns ? deadline_ns < other.deadline_ns
                                                    : order < other.order;
        }
    };
    struct Slot {
        Function function;
        std::uint32_t position = 0;  // in the heap
        std::uint32_t generation = 1;
        bool used = false;
    };

    void place(std::size_t position, const Entry& entry);
    void sift_up(std::size_t position, const Entry& entry);
    void sift_down(std::size_t position, const Entry& entry);
    Function remove(std::size_t position);

    std::vector<Entry> heap_;
    std::vector<Slot> slots_;
    std::vector<std::uint32_t> free_slots_;
    std::uint64_t next_order_ = 0;
};

}  // namespace blobfs::driver
