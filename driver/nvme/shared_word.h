#pragma once

// Words by which host and controller hand memory to each other: a doorbell, the status of a
// completion. Whoever stores one has stored what it stands for before; whoever loads it loads that
// after. The builtins take volatile words, as registers are; on x86 they are plain loads and
// stores. Any thread.

#include <concepts>

namespace blobfs::driver::nvme {

template <std::unsigned_integral Word>
[[nodiscard]] Word load_acquire(const volatile Word& word) {
    return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}

template <std::unsigned_integral Word>
void store_release(volatile Word& word, Word value) {
    __atomic_store_n(&word, value, __ATOMIC_RELEASE);
}

}  // namespace blobfs::driver::nvme
