#include "mkfs/byte_count.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <limits>

namespace blobfs::mkfs {

namespace {

constexpr std::uint64_t kLargest = std::numeric_limits<std::uint64_t>::max() >> 1;

// The factor of a unit in lower case; 0 when there is no such unit.
std::uint64_t unit_factor(std::string_view unit) {
    if (unit.empty() || unit == "b") return 1;
    constexpr std::string_view kPrefixes = "kmgtp";
    const std::size_t power = kPrefixes.find(unit.front());
    if (power == std::string_view::npos) return 0;
    const std::string_view rest = unit.substr(1);
    std::uint64_t base = 0;
    if (rest.empty() || rest == "ib") base = 1024;
    if (rest == "b") base = 1000;
    std::uint64_t factor = base;
    for (std::size_t i = 0; i < power; ++i) factor *= base;
    return factor;
}

}  // namespace

std::optional<std::uint64_t> parse_byte_count(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) return std::nullopt;
    std::string unit(end, text.data() + text.size());
    for (char& c : unit) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    const std::uint64_t factor = unit_factor(unit);
    if (factor == 0 || number > kLargest / factor) return std::nullopt;
    return number * factor;
}

std::string describe_byte_count(std::uint64_t bytes) {
    constexpr std::array<const char*, 6> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    std::size_t unit = 0;
    std::uint64_t whole = bytes;
    std::uint64_t rest = 0;
    while (whole >= 1024 && unit + 1 < kUnits.size()) {
        rest = (whole % 1024) != 0 || rest != 0 ? 1 : 0;
        whole /= 1024;
        ++unit;
    }
    std::array<char, 48> text{};
    if (rest == 0) {
        std::snprintf(text.data(), text.size(), "%llu %s", static_cast<unsigned long long>(whole),
                      kUnits[unit]);
    } else {
        double value = static_cast<double>(bytes);
        for (std::size_t i = 0; i < unit; ++i) value /= 1024;
        std::snprintf(text.data(), text.size(), value < 99.95 ? "%.1f %s" : "%.0f %s", value,
                      kUnits[unit]);
    }
    return text.data();
}

}  // namespace blobfs::mkfs
