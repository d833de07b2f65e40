#include "driver/reactor/timer_heap.h"

#include <utility>

#include "driver/base/check.h"

namespace blobfs::driver {

std::uint64_t TimerHeap::add(std::uint64_t deadline_ns, Function function) {
    if (free_slots_.empty()) {
        CHECK(slots_.size() < std::numeric_limits<std::uint32_t>::max());
        free_slots_.push_back(static_cast<std::uint32_t>(slots_.size()));
        slots_.emplace_back();
    }
    const std::uint32_t index = free_slots_.back();
    free_slots_.pop_back();
    Slot& slot = slots_[index];
    slot.function = std::move(function);
    slot.used = true;
    heap_.emplace_back();
    sift_up(heap_.size() - 1, Entry{deadline_ns, next_order_++, index});
    return std::uint64_t{slot.generation} << 32 | index;
}

bool TimerHeap::cancel(std::uint64_t id) {
    const auto index = static_cast<std::uint32_t>(id);
    const auto generation = static_cast<std::uint32_t>(id >> 32);
    if (index >= slots_.size()) return false;
    const Slot& slot = slots_[index];
    if (!slot.used || slot.generation != generation) return false;
    // The function goes only now, with the heap in order: what it holds may call us on its way out.
    const Function dropped = remove(slot.position);
    return true;
}

bool TimerHeap::expire(std::uint64_t now_ns) {
    bool any = false;
    while (!heap_.empty() && heap_.front().deadline_ns <= now_ns) {
        Function function = remove(0);
        function();
        any = true;
    }
    return any;
}

void TimerHeap::place(std::size_t position, const Entry& entry) {
    heap_[position] = entry;
    slots_[entry.slot].position = static_cast<std::uint32_t>(position);
}

void TimerHeap::sift_up(std::size_t position, const Entry& entry) {
    while (position > 0) {
        const std::size_t parent = (position - 1) / 2;
        if (!entry.before(heap_[parent])) break;
        place(position, heap_[parent]);
        position = parent;
    }
    place(position, entry);
}

void TimerHeap::sift_down(std::size_t position, const Entry& entry) {
    for (;;) {
        std::size_t child = 2 * position + 1;
        if (child >= heap_.size()) break;
        if (child + 1 < heap_.size() && heap_[child + 1].before(heap_[child])) ++child;
        if (!heap_[child].before(entry)) break;
        place(position, heap_[child]);
        position = child;
    }
    place(position, entry);
}

TimerHeap::Function TimerHeap::remove(std::size_t position) {
    const std::uint32_t index = heap_[position].slot;
    const Entry last = heap_.back();
    heap_.pop_back();
    if (position < heap_.size()) {
        if (position > 0 && last.before(heap_[(position - 1) / 2])) {
            sift_up(position, last);
        } else {
            sift_down(position, last);
        }
    }
    Slot& slot = slots_[index];
    Function function = std::move(slot.function);
    slot.function = nullptr;
    slot.used = false;
    if (++slot.generation == 0) slot.generation = 1;
    free_slots_.push_back(index);
    return function;
}

}  // namespace blobfs::driver
