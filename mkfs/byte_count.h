#pragma once

// Numbers of bytes as people write and read them: "8G", "512MiB", "1.5 TiB". Any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace blobfs::mkfs {

// Digits and an optional unit: K, M, G, T, P (with or without "iB") are powers of 1024; KB, MB,
// GB, TB, PB powers of 1000; B or nothing bytes. Upper or lower case. Nothing when the text is
// anything else or the number does not fit in 63 bits.
[[nodiscard]] std::optional<std::uint64_t> parse_byte_count(std::string_view text);

// For people: "16 MiB", "7.9 GiB", "123 bytes"; one decimal below a hundred when it is not exact.
[[nodiscard]] std::string describe_byte_count(std::uint64_t bytes);

}  // namespace blobfs::mkfs
