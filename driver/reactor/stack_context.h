#pragma once

// One stack and the point at which execution on it stands: the mechanism below a fiber, without any
// scheduling. Whoever calls switch_in() runs the stack's code until that calls switch_out(). Calls
// nest: code on one stack may switch into another. The address and thread sanitizers are told of
// every switch. One thread.

#include <cstddef>

namespace blobfs::driver {

class StackContext {
  public:
    using Entry = void (*)(void* argument);

    // Maps stack_bytes (rounded up to pages; four times that under AddressSanitizer, whose frames
    // are larger) above an inaccessible guard page. The entry runs at the first switch_in(); when
    // it returns, the context is finished and is not switched into again. The process ends when
    // the system has no address space or mappings left (vm.max_map_count allows about 32,000
    // stacks).
    StackContext(std::size_t stack_bytes, Entry entry, void* argument);
    // The context has finished, or was never switched into.
    ~StackContext();
    StackContext(const StackContext&) = delete;
    StackContext& operator=(const StackContext&) = delete;

    void switch_in();
    // On the stack's own code only.
    void switch_out();

  private:
    struct Bootstrap;
    [[noreturn]] void run();
    void jump_out(bool for_good);

    Entry entry_;
    void* argument_;
    void* context_ = nullptr;  // where the stack's code stands while it is switched out
    void* resumer_ = nullptr;  // where switch_in()'s caller stands while it is switched in
    std::byte* mapping_ = nullptr;
    std::size_t mapping_bytes_ = 0;
    std::byte* stack_ = nullptr;  // lowest usable byte
    std::size_t stack_bytes_ = 0;
    bool running_ = false, started_ = false, finished_ = false;
    // What the sanitizers must be told when control goes back to switch_in()'s caller.
    const void* resumer_stack_ = nullptr;
    std::size_t resumer_stack_bytes_ = 0;
    void* tsan_fiber_ = nullptr;
    void* tsan_resumer_ = nullptr;
};

}  // namespace blobfs::driver
