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

struct PcieName {
    std::string address;  // empty: it does not begin with one
    std::uint32_t namespace_id = 0;
    bool valid = true;
};

PcieName pcie_name(std::string_view text) {
    constexpr std::string_view kNamespace = ",ns=";
    PcieName result;
    const std::size_t comma = text.find(',');
    result.address = pci_address(text.substr(0, comma));
    if (comma == std::string_view::npos) return result;
    const std::string_view rest = text.substr(comma);
    if (!rest.starts_with(kNamespace)) {
        result.valid = false;
        return result;
    }
    const char* const end = rest.data() + rest.size();
    const auto [stop, error] =
        std::from_chars(rest.data() + kNamespace.size(), end, result.namespace_id);
    result.valid = error == std::errc{} && stop == end && result.namespace_id != 0 &&
                   result.namespace_id != UINT32_MAX;
    return result;
}

}  // namespace

bool names_pcie(std::string_view name) {
    return name.starts_with("pcie:") || !pcie_name(name).address.empty();
}

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
    const bool prefixed = view.starts_with("pcie:");
    const PcieName pcie = pcie_name(prefixed ? view.substr(5) : view);
    if (prefixed || !pcie.address.empty()) {
        if (pcie.address.empty() || !pcie.valid) return fail(Errc::kInvalidArgument, kWhat);
        result.kind = DeviceName::Kind::kPcie;
        result.address = pcie.address;
        result.namespace_id = pcie.namespace_id;
        return result;
    }
    result.path = view.starts_with("file:") ? name.substr(5) : name;
    if (result.path.empty()) return fail(Errc::kInvalidArgument, kWhat);
    return result;
}

}  // namespace blobfs::driver
