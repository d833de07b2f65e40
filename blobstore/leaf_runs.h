#pragma once

// Notices when the leaves of the tree that are not in memory are wanted one after the other, and
// says how many behind them should be read ahead. README.md, "Leaves that are read ahead". Knows
// leaves by the keys where they begin and end, so it does not matter where they move to. Reactor
// thread.

#include <array>
#include <cstddef>
#include <cstdint>

#include "blobstore/key.h"

namespace blobfs::blobstore {

class LeafRuns {
  public:
    static constexpr std::uint32_t kFirstWindow = 4;
    static constexpr std::uint32_t kLastWindow = 32;

    // A leaf with these bounds (empty: none) is wanted by somebody who looks for that kind of key,
    // and must be read. How many behind it to read ahead: 0 unless it is the third in a row.
    std::uint32_t missed(KeyKind kind, KeyView lower, KeyView upper);
    // What lies before that key was read ahead, `window` leaves at a time: who misses the leaf that
    // begins there goes on with it.
    void reached(KeyKind kind, KeyView end, std::uint32_t window);
    // The window that follows on one that was used.
    [[nodiscard]] static std::uint32_t doubled(std::uint32_t window) {
        return window < kLastWindow ? 2 * window : kLastWindow;
    }

  private:
    struct Run {
        std::uint64_t end = 0;     // hash of the key where the next leaf begins
        std::uint32_t window = 0;  // 0: none. 1, 2: so many leaves in a row. More: read ahead
    };
    // As many may go on side by side, each in a kind of keys. Names that are looked up at random
    // do not make the inodes forgotten that are read in order.
    static constexpr std::size_t kRuns = 8;
    static constexpr std::size_t kKinds = 8;
    struct Runs {
        std::array<Run, kRuns> runs{};
        std::size_t next = 0;
    };
    Runs& of(KeyKind kind) { return kinds_[static_cast<std::size_t>(kind) % kKinds]; }
    static void note(Runs& runs, KeyView end, std::uint32_t window);

    std::array<Runs, kKinds> kinds_{};
};

}  // namespace blobfs::blobstore
