#include "driver/reactor/mailbox.h"

// DPDK's rings order their stores either by C11 atomics or by compiler barriers that suffice on
// x86. The former are what ThreadSanitizer understands; they compile to the same instructions.
#ifndef RTE_USE_C11_MEM_MODEL
#define RTE_USE_C11_MEM_MODEL
#endif
#if defined(__SANITIZE_THREAD__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif
#include <rte_atomic.h>
#include <rte_ring.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "driver/base/check.h"

namespace blobfs::driver {

namespace {

constexpr unsigned kFullSize = Mailbox::kCapacity + 1;  // a ring holds one less than its size
// In the relaxed tail mode the places that a thread has emptied become free only when those that
// were before it have finished, at most an eighth of the ring later: so this ring has places to
// spare, and giving a slot back never fails.
constexpr unsigned kFreeSize = 2 * kFullSize;
constexpr unsigned kBurst = 64;

}  // namespace

void Mailbox::RingDeleter::operator()(rte_ring* ring) const { std::free(ring); }

// A ring in our own memory: rte_ring_create() would need the environment to have been started.
Mailbox::Ring Mailbox::make_ring(unsigned size, unsigned flags) {
    const ssize_t bytes = rte_ring_get_memsize(size);
    CHECK(bytes > 0);
    void* memory = std::aligned_alloc(RTE_CACHE_LINE_SIZE, static_cast<std::size_t>(bytes));
    CHECK(memory != nullptr);
    auto* ring = static_cast<rte_ring*>(memory);
    CHECK(rte_ring_init(ring, "mailbox", size, flags) == 0);
    return Ring(ring);
}

// The sides that many threads share are in the relaxed tail mode: a thread that loses the processor
// in the middle of a delivery does not make the others spin until it has it back.
Mailbox::Mailbox()
    : full_(make_ring(kFullSize, RING_F_MP_RTS_ENQ | RING_F_SC_DEQ)),
      free_(make_ring(kFreeSize, RING_F_SP_ENQ | RING_F_MC_RTS_DEQ)),
      slots_(std::make_unique<Function[]>(kCapacity)) {
    for (std::size_t i = 0; i < kCapacity; ++i) {
        CHECK(rte_ring_enqueue(free_.get(), &slots_[i]) == 0);
    }
    event_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(event_ >= 0);
}

Mailbox::~Mailbox() { ::close(event_); }

bool Mailbox::deliver(Function function) {
    void* slot = nullptr;
    if (rte_ring_dequeue(free_.get(), &slot) != 0) return false;
    *static_cast<Function*>(slot) = std::move(function);
    CHECK(rte_ring_enqueue(full_.get(), slot) == 0);  // there are no more slots than places
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
    const unsigned count = rte_ring_dequeue_burst(full_.get(), batch.data(), kBurst, nullptr);
    for (unsigned i = 0; i < count; ++i) {
        Function function = std::move(*static_cast<Function*>(batch[i]));
        CHECK(rte_ring_enqueue(free_.get(), batch[i]) == 0);
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
