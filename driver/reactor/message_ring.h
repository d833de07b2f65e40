#pragma once

// Pointers handed from thread to thread without locks: a DPDK ring in our own memory (the
// environment need not have been started). What a thread wrote before push() is seen by the thread
// whose pop() returns the pointer. Ownership of what is pointed to goes along. First in, first out.

#include <cstddef>
#include <memory>
#include <span>

struct rte_ring;

namespace blobfs::driver {

class MessageRing {
  public:
    // How many threads use a side. A thread that loses the processor in the middle of a call on a
    // side that many use does not make the others spin until it has it back.
    enum class Threads { kOne, kMany };
    struct Options {
        std::size_t capacity;  // at least; in pointers
        Threads producers = Threads::kMany;
        Threads consumers = Threads::kOne;
    };

    explicit MessageRing(const Options& options);
    // Forgets the pointers that are in it.
    ~MessageRing();
    MessageRing(const MessageRing&) = delete;
    MessageRing& operator=(const MessageRing&) = delete;

    // Any producer. False when the ring is full; it never is while it holds fewer than `capacity`.
    bool push(void* message);
    // Any consumer. Null, or 0, when there is none.
    void* pop();
    std::size_t pop(std::span<void*> into);
    // A moment's answer. Any thread.
    [[nodiscard]] bool empty() const;

  private:
    struct Free {
        void operator()(rte_ring* ring) const;
    };
    std::unique_ptr<rte_ring, Free> ring_;
};

}  // namespace blobfs::driver
