#include "driver/reactor/mailbox.h"

#include <rte_atomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "driver/base/check.h"

namespace blobfs::driver {

namespace {

constexpr std::size_t kBurst = 64;

}  // namespace

Mailbox::Mailbox()
    : full_({.capacity = kCapacity}),
      free_({.capacity = kCapacity,
             .producers = MessageRing::Threads::kOne,
             .consumers = MessageRing::Threads::kMany}),
      slots_(std::make_unique<Function[]>(kCapacity)) {
    for (std::size_t i = 0; i < kCapacity; ++i) CHECK(free_.push(&slots_[i]));
    event_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(event_ >= 0);
}

Mailbox::~Mailbox() { ::close(event_); }

bool Mailbox::deliver(Function function) {
    auto* slot = static_cast<Function*>(free_.pop());
    if (slot == nullptr) return false;
    *slot = std::move(function);
    CHECK(full_.push(slot));  // there are no more slots than places
    notify();
    return true;
}

void Mailbox::notify() {
    rte_smp_mb();  // between publishing and reading asleep_: see announce_sleep()
    // Only the first of several threads pays for the system call.
    if (asleep_.load(std::memory_order_relaxed) &&
        asleep_.exchange(false, std::memory_order_acq_rel)) {
        const std::uint64_t one = 1;
        // It can fail only with a counter at its limit, and then the descriptor is readable.
        [[maybe_unused]] const ssize_t written = ::write(event_, &one, sizeof one);
    }
}

bool Mailbox::drain() {
    std::array<void*, kBurst> batch;
    const std::size_t count = full_.pop(batch);
    for (std::size_t i = 0; i < count; ++i) {
        auto* slot = static_cast<Function*>(batch[i]);
        Function function = std::move(*slot);
        *slot = nullptr;
        CHECK(free_.push(slot));
        function();
    }
    return count > 0;
}

void Mailbox::announce_sleep() {
    asleep_.store(true, std::memory_order_relaxed);
    rte_smp_mb();
}

void Mailbox::clear_event() {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(event_, &count, sizeof count);
}

}  // namespace blobfs::driver
