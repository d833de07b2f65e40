#pragma once

// Choices, and the damage to bytes that they lead to: bits, numbers that are known to hurt, pieces
// moved, cut and repeated. The choices are random, the same for the same seed, or they are read
// from a fuzzer's input, which so learns which ones lead further.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <string_view>

namespace blobfs::fuzz {

// BLOBFS_SEED, or the one given; printed, so that a failure can be seen again.
inline std::uint64_t chosen_seed(std::uint64_t otherwise) {
    const char* text = std::getenv("BLOBFS_SEED");
    const std::uint64_t seed = text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
    std::cout << "BLOBFS_SEED=" << seed << std::endl;
    return seed;
}

// How many rounds: BLOBFS_FUZZ_FACTOR times as many, for long runs by hand.
inline int chosen_rounds(int rounds) {
    const char* text = std::getenv("BLOBFS_FUZZ_FACTOR");
    return text == nullptr ? rounds : rounds * std::atoi(text);
}

class Mutation {
  public:
    explicit Mutation(std::uint64_t seed) : random_(seed) {}
    // The choices are the bytes, which outlive it; behind their end all are 0.
    explicit Mutation(std::string_view choices) : choices_(choices), chosen_(true) {}

    // Any number below the bound, which is not 0.
    std::uint64_t below(std::uint64_t bound) {
        return chosen_ ? take(bound <= 256      ? 1
                              : bound <= 65'536 ? 2
                                                : 8) %
                             bound
                       : random_() % bound;
    }
    // All the choices were made.
    [[nodiscard]] bool over() const { return chosen_ && choices_.empty(); }

    // One to four changes. With `keep_size` it stays as long as it is.
    void damage(std::string& bytes, bool keep_size) {
        for (std::uint64_t n = 1 + below(4); n-- > 0;) change(bytes, keep_size);
    }

  private:
    std::uint64_t take(std::size_t bytes) {
        std::uint64_t number = 0;
        const std::size_t count = std::min(bytes, choices_.size());
        if (count != 0) std::memcpy(&number, choices_.data(), count);
        choices_.remove_prefix(count);
        return number;
    }

    static constexpr std::array<std::uint64_t, 14> kNumbers = {0,
                                                               1,
                                                               2,
                                                               0x7f,
                                                               0xff,
                                                               0x7fff,
                                                               0xffff,
                                                               0x7fff'ffff,
                                                               0xffff'ffff,
                                                               0x8000'0000,
                                                               0x7fff'ffff'ffff'ffff,
                                                               0xffff'ffff'ffff'ffff,
                                                               4096,
                                                               1ull << 51};

    void change(std::string& bytes, bool keep_size) {
        if (bytes.empty()) {
            if (!keep_size) bytes.assign(1 + below(32), static_cast<char>(below(256)));
            return;
        }
        const std::size_t at = below(bytes.size());
        switch (below(keep_size ? 6 : 9)) {
            case 0:
                bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
                return;
            case 1:
                bytes[at] = static_cast<char>(below(256));
                return;
            case 2:
                return put(bytes, at, kNumbers[below(kNumbers.size())]);
            case 3: {
                // A number a little larger or smaller.
                std::uint64_t number = 0;
                const std::size_t width = std::min<std::size_t>(8, bytes.size() - at);
                std::memcpy(&number, bytes.data() + at, width);
                return put(bytes, at, number + below(17) - 8);
            }
            case 4: {
                const std::size_t from = below(bytes.size());
                const std::size_t count =
                    std::min({bytes.size() - at, bytes.size() - from, 1 + below(64)});
                std::memmove(bytes.data() + at, bytes.data() + from, count);
                return;
            }
            case 5:
                return put(bytes, at, below(~std::uint64_t{0}));
            case 6:
                bytes.resize(at);
                return;
            case 7:
                bytes.insert(at, std::string(1 + below(16), static_cast<char>(below(256))));
                return;
            default:
                bytes.erase(at, 1 + below(16));
                return;
        }
    }
    void put(std::string& bytes, std::size_t at, std::uint64_t number) {
        const std::size_t width = std::size_t{1} << below(4);
        std::memcpy(bytes.data() + at, &number, std::min(width, bytes.size() - at));
    }

    std::mt19937_64 random_;
    std::string_view choices_;
    bool chosen_ = false;
};

}  // namespace blobfs::fuzz
