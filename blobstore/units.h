#pragma once

// Distinct types for what must not be mixed up, and runs of blocks. Any thread.

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>

#include "blobstore/format.h"

namespace blobfs::blobstore {

// A block of kBlockBytes on the device.
enum class BlockIndex : std::uint64_t {};
// The identity of a blob: never 0, never reused.
enum class BlobId : std::uint64_t {};
// Ids are below (FORMAT.md, "Superblock").
inline constexpr std::uint64_t kBlobIdEnd = std::uint64_t{1} << 60;
// The number of a committed transaction: later ones are larger.
enum class Sequence : std::uint64_t {};
// The number of a checkpoint.
enum class Generation : std::uint64_t {};

constexpr std::uint64_t value(BlockIndex v) { return static_cast<std::uint64_t>(v); }
constexpr std::uint64_t value(BlobId v) { return static_cast<std::uint64_t>(v); }
constexpr std::uint64_t value(Sequence v) { return static_cast<std::uint64_t>(v); }
constexpr std::uint64_t value(Generation v) { return static_cast<std::uint64_t>(v); }

// Consecutive blocks on the device.
struct Run {
    BlockIndex start{};
    std::uint64_t blocks = 0;

    [[nodiscard]] std::uint64_t first() const { return value(start); }
    [[nodiscard]] std::uint64_t end() const { return value(start) + blocks; }
    [[nodiscard]] std::uint64_t byte_offset() const { return value(start) * kBlockBytes; }
    friend bool operator==(const Run&, const Run&) = default;
};

// Memory for a transfer starts on such a boundary, or its bytes go through a buffer that does. A
// controller asks for 4 only, but direct I/O on a file asks for a sector, and must not be mixed
// with buffered I/O on the same file.
inline constexpr std::size_t kMemoryAlignment = 512;

constexpr std::uint64_t round_up(std::uint64_t v, std::uint64_t unit) {
    return (v + unit - 1) / unit * unit;
}
constexpr std::uint64_t round_down(std::uint64_t v, std::uint64_t unit) { return v / unit * unit; }
constexpr bool power_of_two_within(std::uint32_t v, std::uint32_t least, std::uint32_t most) {
    return std::has_single_bit(v) && v >= least && v <= most;
}

}  // namespace blobfs::blobstore
