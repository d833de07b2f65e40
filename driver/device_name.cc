#include "driver/device_name.h"

#include <charconv>
#include <string_view>

namespace blobfs::driver {

namespace {

bool is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// True when text matches a pattern of 'h' (hexadecimal digit), 'f' (0 to 7) and literal characters.
bool matches(std::string_view text, std::string_view pattern) {
    if (text.size() != pattern.size()) return false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool fits = pattern[i] == 'h'   ? is_hex(text[i])
                          : pattern[i] == 'f' ? text[i] >= '0' && text[i] <= '7'
                                              : text[i] == pattern[i];
        if (!fits) return false;
    }
    return true;
}

// The address with its domain, or empty when it is none.
std::string pci_address(std::string_view text) {
    if (matches(text, "hhhh:hh:hh.f")) return std::string(text);
    if (matches(text, "hh:hh.f")) return "0000:" + std::string(text);
    return {};
}

}  // namespace

Result<std::uint64_t> parse_size(const std::string& text) {
    constexpr const char* kWhat = "reading a size such as 4GiB";
    std::uint64_t value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc{}) return fail(Errc::kInvalidArgument, kWhat);
    const std::string_view suffix(stop, static_cast<std::size_t>(end - stop));
    unsigned shift = 0;
    if (suffix == "K" || suffix == "KiB" || suffix == "k") {
        shift = 10;
    } else if (suffix == "M" || suffix == "MiB") {
        shift = 20;
    } else if (suffix == "G" || suffix == "GiB") {
        shift = 30;
    } else if (suffix == "T" || suffix == "TiB") {
        shift = 40;
    } else if (!suffix.empty() && suffix != "B") {
        return fail(Errc::kInvalidArgument, kWhat);
    }
    if (value > static_cast<std::uint64_t>(INT64_MAX) >> shift) return fail(Errc::kTooLarge, kWhat);
    return value << shift;
}

Result<DeviceName> parse_device_name(const std::string& name) {
    constexpr const char* kWhat = "understanding the name of a device";
    DeviceName result;
    const std::string_view view = name;
    if (view.starts_with("mem:")) {
        result.kind = DeviceName::Kind::kMemory;
        TRY_ASSIGN(result.bytes, parse_size(name.substr(4)));
        return result;
    }
    if (view.starts_with("pcie:")) {
        result.kind = DeviceName::Kind::kPcie;
        result.address = pci_address(view.substr(5));
        if (result.address.empty()) return fail(Errc::kInvalidArgument, kWhat);
        return result;
    }
    if (std::string address = pci_address(view); !address.empty()) {
        result.kind = DeviceName::Kind::kPcie;
        result.address = std::move(address);
        return result;
    }
    result.path = view.starts_with("file:") ? name.substr(5) : name;
    if (result.path.empty()) return fail(Errc::kInvalidArgument, kWhat);
    return result;
}

}  // namespace blobfs::driver
