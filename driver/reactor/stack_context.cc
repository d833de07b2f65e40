#include "driver/reactor/stack_context.h"

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "driver/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define BLOBFS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BLOBFS_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define BLOBFS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BLOBFS_TSAN 1
#endif
#endif

#if BLOBFS_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if BLOBFS_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace blobfs::driver {

namespace fcontext = boost::context::detail;

namespace {

constexpr std::size_t kPageBytes = 4096;
#if BLOBFS_ASAN
constexpr std::size_t kStackScale = 4;
#else
constexpr std::size_t kStackScale = 1;
#endif

// The sanitizers follow the stack pointer; these tell them that it moves to another stack on
// purpose. They compile to nothing in other builds.
inline void asan_leave([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* stack,
                       [[maybe_unused]] std::size_t bytes) {
#if BLOBFS_ASAN
    __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
#endif
}
inline void asan_arrive([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** stack,
                        [[maybe_unused]] std::size_t* bytes) {
#if BLOBFS_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, stack, bytes);
#endif
}
inline void tsan_leave_for([[maybe_unused]] void* fiber) {
#if BLOBFS_TSAN
    __tsan_switch_to_fiber(fiber, 0);
#endif
}

// Stacks are mapped page-aligned, so the hot top of every stack would fall into the same few sets
// of the first-level cache. Successive stacks start at different distances from their page's end.
std::size_t next_colour() {
    static thread_local std::size_t count = 0;
    return (count++ % 16) * 256;
}

}  // namespace

struct StackContext::Bootstrap {
    static void start(fcontext::transfer_t transfer) {
        auto* self = static_cast<StackContext*>(transfer.data);
        self->resumer_ = transfer.fctx;
        asan_arrive(nullptr, &self->resumer_stack_, &self->resumer_stack_bytes_);
        self->run();
    }
};

StackContext::StackContext(std::size_t stack_bytes, Entry entry, void* argument)
    : entry_(entry), argument_(argument) {
    // One page more for the colour, one for the guard.
    stack_bytes_ =
        (stack_bytes * kStackScale + kPageBytes - 1) / kPageBytes * kPageBytes + kPageBytes;
    mapping_bytes_ = stack_bytes_ + kPageBytes;
    void* mapping = ::mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    const bool mapped = mapping != MAP_FAILED && ::mprotect(mapping, kPageBytes, PROT_NONE) == 0;
    if (!mapped) {
        std::fprintf(stderr, "blobfs: mapping a fiber's stack of %zu bytes: %s\n", mapping_bytes_,
                     std::strerror(errno));
    }
    CHECK(mapped);
    mapping_ = static_cast<std::byte*>(mapping);
    stack_ = mapping_ + kPageBytes;
    const std::size_t usable = stack_bytes_ - next_colour();
    context_ = fcontext::make_fcontext(stack_ + usable, usable, &Bootstrap::start);
#if BLOBFS_TSAN
    tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

StackContext::~StackContext() {
    CHECK(!running_ && (finished_ || !started_));
#if BLOBFS_TSAN
    __tsan_destroy_fiber(tsan_fiber_);
#endif
#if BLOBFS_ASAN
    // The frame that never returned left its red zones behind; the next mapping at this address
    // must not find them.
    __asan_unpoison_memory_region(stack_, stack_bytes_);
#endif
    ::munmap(mapping_, mapping_bytes_);
}

void StackContext::switch_in() {
    CHECK(!running_ && !finished_);
    running_ = true;
    started_ = true;
    void* fake_stack = nullptr;
    asan_leave(&fake_stack, stack_, stack_bytes_);
#if BLOBFS_TSAN
    tsan_resumer_ = __tsan_get_current_fiber();
#endif
    tsan_leave_for(tsan_fiber_);
    const fcontext::transfer_t transfer = fcontext::jump_fcontext(context_, this);
    context_ = transfer.fctx;
    asan_arrive(fake_stack, nullptr, nullptr);
    running_ = false;
}

void StackContext::switch_out() { jump_out(false); }

void StackContext::jump_out(bool for_good) {
    void* fake_stack = nullptr;
    asan_leave(for_good ? nullptr : &fake_stack, resumer_stack_, resumer_stack_bytes_);
    tsan_leave_for(tsan_resumer_);
    const fcontext::transfer_t transfer = fcontext::jump_fcontext(resumer_, nullptr);
    resumer_ = transfer.fctx;
    asan_arrive(fake_stack, &resumer_stack_, &resumer_stack_bytes_);
}

void StackContext::run() {
    entry_(argument_);
    finished_ = true;
    jump_out(true);
    check_failed("a finished context is not switched into", __FILE__, __LINE__);
}

}  // namespace blobfs::driver
