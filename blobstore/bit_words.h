#pragma once

// Searching and changing ranges of bits in arrays of 64-bit words, bit 0 being the least
// significant of word 0. Any thread.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

namespace blobfs::blobstore {

using BitWords = std::span<const std::uint64_t>;

inline bool test_bit(BitWords words, std::uint64_t bit) {
    return (words[bit / 64] >> (bit % 64) & 1) != 0;
}

// Calls visit(index of word, mask of the bits of the range in it) for the words of a range.
template <class Visit>
void for_words(std::uint64_t first, std::uint64_t count, Visit&& visit) {
    while (count > 0) {
        const std::uint64_t shift = first % 64;
        const std::uint64_t here = std::min<std::uint64_t>(64 - shift, count);
        const std::uint64_t mask = (here == 64 ? ~0ull : (1ull << here) - 1) << shift;
        visit(first / 64, mask);
        first += here;
        count -= here;
    }
}

inline std::uint64_t count_ones(BitWords words, std::uint64_t first, std::uint64_t count) {
    std::uint64_t ones = 0;
    for_words(first, count, [&](std::uint64_t i, std::uint64_t mask) {
        ones += static_cast<std::uint64_t>(std::popcount(words[i] & mask));
    });
    return ones;
}

// The first bit at or after `from` that has the value, or `end` when there is none before it.
template <bool kValue>
std::uint64_t next_bit(BitWords words, std::uint64_t from, std::uint64_t end) {
    while (from < end) {
        const std::uint64_t word = kValue ? words[from / 64] : ~words[from / 64];
        const std::uint64_t rest = word >> (from % 64);
        if (rest != 0) return std::min(end, from + static_cast<unsigned>(std::countr_zero(rest)));
        from = from / 64 * 64 + 64;
    }
    return end;
}

// Behind the last bit in [begin, from) that has the value; `begin` when there is none.
template <bool kValue>
std::uint64_t previous_end(BitWords words, std::uint64_t from, std::uint64_t begin) {
    while (from > begin) {
        const std::uint64_t last = from - 1;
        const std::uint64_t word = kValue ? words[last / 64] : ~words[last / 64];
        const std::uint64_t rest = word << (63 - last % 64);
        if (rest != 0) {
            const std::uint64_t end = from - static_cast<unsigned>(std::countl_zero(rest));
            return std::max(begin, end);
        }
        from = last / 64 * 64;
    }
    return begin;
}

// The bits of those groups of `size` bits (a power of two) that are set wholly; groups are aligned.
constexpr std::uint64_t whole_groups(std::uint64_t word, std::uint64_t size) {
    std::uint64_t pattern = 1;
    for (std::uint64_t shift = size; shift < 64; shift *= 2) pattern |= pattern << shift;
    for (std::uint64_t shift = 1; shift < size; shift *= 2) word &= word >> shift;
    word &= pattern;
    for (std::uint64_t shift = 1; shift < size; shift *= 2) word |= word << shift;
    return word;
}

}  // namespace blobfs::blobstore
