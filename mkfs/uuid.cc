#include "mkfs/uuid.h"

#include <sys/random.h>

#include "driver/base/check.h"

namespace blobfs::mkfs {

namespace {

constexpr std::size_t kTextLength = 36;

constexpr bool is_dash(std::size_t position) {
    return position == 8 || position == 13 || position == 18 || position == 23;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

}  // namespace

Uuid random_uuid() {
    Uuid uuid{};
    CHECK(getrandom(uuid.data(), uuid.size(), 0) == static_cast<ssize_t>(uuid.size()));
    uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);
    uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
    return uuid;
}

std::optional<Uuid> parse_uuid(std::string_view text) {
    if (text.size() != kTextLength) return std::nullopt;
    Uuid uuid{};
    std::size_t nibble = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (is_dash(i)) {
            if (text[i] != '-') return std::nullopt;
            continue;
        }
        const int digit = hex_digit(text[i]);
        if (digit < 0) return std::nullopt;
        std::uint8_t& byte = uuid[nibble / 2];
        byte = static_cast<std::uint8_t>(byte << 4 | digit);
        ++nibble;
    }
    return uuid;
}

std::string to_string(const Uuid& uuid) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (const std::uint8_t byte : uuid) {
        if (is_dash(text.size())) text += '-';
        text += kDigits[byte >> 4];
        text += kDigits[byte & 0xf];
    }
    return text;
}

}  // namespace blobfs::mkfs
