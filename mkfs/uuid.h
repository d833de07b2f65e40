#pragma once

// The identity of a filesystem, as text and as 16 bytes. Any thread.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace blobfs::mkfs {

using Uuid = std::array<std::uint8_t, 16>;

// A random one (RFC 4122, version 4).
[[nodiscard]] Uuid random_uuid();
// "01234567-89ab-cdef-0123-456789abcdef", upper or lower case; nothing when it is anything else.
[[nodiscard]] std::optional<Uuid> parse_uuid(std::string_view text);
[[nodiscard]] std::string to_string(const Uuid& uuid);

}  // namespace blobfs::mkfs
