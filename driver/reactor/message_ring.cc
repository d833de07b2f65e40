#include "driver/reactor/message_ring.h"

#include <rte_ring.h>

#include <bit>
#include <cstdlib>

#include "driver/base/check.h"

#if defined(__SANITIZE_THREAD__)
#define BLOBFS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BLOBFS_TSAN 1
#endif
#endif
#if BLOBFS_TSAN
#include <sanitizer/tsan_interface.h>
// Exported by the sanitizer's library, declared by none of its headers.
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace blobfs::driver {

namespace {

// DPDK's rings rely on the order of x86's loads and stores and on compiler barriers, which
// ThreadSanitizer does not see. In its builds it looks away from the ring itself, and is told what
// the ring promises: push() happens before the pop() of the same pointer.
class RingAccess {
  public:
#if BLOBFS_TSAN
    RingAccess() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~RingAccess() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
#else
    RingAccess() {}
#endif
    RingAccess(const RingAccess&) = delete;
    RingAccess& operator=(const RingAccess&) = delete;
};

inline void published([[maybe_unused]] void* message) {
#if BLOBFS_TSAN
    __tsan_release(message);
#endif
}

inline void received([[maybe_unused]] void* message) {
#if BLOBFS_TSAN
    __tsan_acquire(message);
#endif
}

// In the relaxed tail mode, places that a thread has emptied come free only when the threads that
// were before it have finished too: at most an eighth of the ring's size later, where the ring
// makes the others wait. Twice the size is therefore always enough.
unsigned ring_size(const MessageRing::Options& options) {
    CHECK(options.capacity > 0 && options.capacity < (std::size_t{1} << 24));
    const bool lagging = options.consumers == MessageRing::Threads::kMany;
    // A ring holds one less than its size, which is a power of two.
    const auto size = std::bit_ceil(static_cast<unsigned>(options.capacity) + 1);
    return lagging ? 2 * size : size;
}

}  // namespace

void MessageRing::Free::operator()(rte_ring* ring) const { std::free(ring); }

MessageRing::MessageRing(const Options& options) {
    const unsigned size = ring_size(options);
    const ssize_t bytes = rte_ring_get_memsize(size);
    CHECK(bytes > 0);
    // rte_ring_create() would take the memory from the environment.
    void* memory = std::aligned_alloc(RTE_CACHE_LINE_SIZE, static_cast<std::size_t>(bytes));
    CHECK(memory != nullptr);
    ring_.reset(static_cast<rte_ring*>(memory));
    const unsigned flags =
        (options.producers == Threads::kMany ? RING_F_MP_RTS_ENQ : RING_F_SP_ENQ) |
        (options.consumers == Threads::kMany ? RING_F_MC_RTS_DEQ : RING_F_SC_DEQ);
    CHECK(rte_ring_init(ring_.get(), "messages", size, flags) == 0);
}

MessageRing::~MessageRing() = default;

bool MessageRing::push(void* message) {
    published(message);
    const RingAccess access;
    return rte_ring_enqueue(ring_.get(), message) == 0;
}

void* MessageRing::pop() {
    void* message = nullptr;
    return pop({&message, 1}) == 1 ? message : nullptr;
}

std::size_t MessageRing::pop(std::span<void*> into) {
    std::size_t count = 0;
    {
        const RingAccess access;
        count = rte_ring_dequeue_burst(ring_.get(), into.data(), static_cast<unsigned>(into.size()),
                                       nullptr);
    }
    for (std::size_t i = 0; i < count; ++i) received(into[i]);
    return count;
}

bool MessageRing::empty() const {
    const RingAccess access;
    return rte_ring_empty(ring_.get()) != 0;
}

}  // namespace blobfs::driver
