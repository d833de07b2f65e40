#include "tools/nvme/pages_report.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>

#include "driver/nvme/status.h"
#include "mkfs/byte_count.h"
#include "tools/formatted_text.h"

namespace blobfs::tools {

namespace {

using driver::nvme::ErrorLogEntry;
using driver::nvme::HealthLog;
using driver::nvme::IdentifyController;
using driver::nvme::IdentifyNamespace;
using driver::nvme::LbaFormat;
using mkfs::describe_byte_count;

constexpr int kZeroCelsius = 273;  // kelvin, as the specification rounds it

template <std::size_t N>
std::string text_of(const char (&field)[N]) {
    std::string result;
    for (std::size_t i = 0; i < N && field[i] != '\0'; ++i) {
        result += field[i] >= ' ' && field[i] <= '~' ? field[i] : '?';
    }
    result.erase(result.find_last_not_of(' ') + 1);
    return result;
}

// A 128-bit counter, low word first, in decimal.
std::string decimal(const std::uint64_t (&words)[2]) {
    auto value = static_cast<unsigned __int128>(words[1]) << 64 | words[0];
    std::string digits;
    do {
        digits += static_cast<char>('0' + static_cast<int>(value % 10));
        value /= 10;
    } while (value != 0);
    std::reverse(digits.begin(), digits.end());
    return digits;
}

nlohmann::json counter(const std::uint64_t (&words)[2]) {
    if (words[1] == 0) return words[0];
    return decimal(words);
}

// Thousands of 512-byte units.
double data_units_bytes(const std::uint64_t (&words)[2]) {
    return (static_cast<double>(words[1]) * 18446744073709551616.0 +
            static_cast<double>(words[0])) *
           512'000;
}

int celsius(std::uint32_t kelvin) { return static_cast<int>(kelvin) - kZeroCelsius; }

std::string version_text(std::uint32_t version) {
    std::string text = std::to_string(version >> 16) + "." + std::to_string(version >> 8 & 0xff);
    if ((version & 0xff) != 0) text += "." + std::to_string(version & 0xff);
    return text;
}

struct Bit {
    unsigned bit;
    const char* name;
};

std::vector<std::string> names_of(std::uint32_t bits, std::span<const Bit> known) {
    std::vector<std::string> names;
    for (const Bit& one : known) {
        if ((bits >> one.bit & 1) != 0) names.emplace_back(one.name);
    }
    return names;
}

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? "none" : text;
}

constexpr std::array kOptionalCommands = {Bit{0, "compare"},
                                          Bit{1, "write uncorrectable"},
                                          Bit{2, "dataset management"},
                                          Bit{3, "write zeroes"},
                                          Bit{5, "reservations"},
                                          Bit{6, "timestamp"},
                                          Bit{7, "verify"},
                                          Bit{8, "copy"}};
constexpr std::array kOptionalAdminCommands = {
    Bit{0, "security"},       Bit{1, "format"},
    Bit{2, "firmware"},       Bit{3, "namespace management"},
    Bit{4, "self-test"},      Bit{5, "directives"},
    Bit{7, "virtualization"}, Bit{8, "shadow doorbells"}};
constexpr std::array kCriticalWarnings = {
    Bit{0, "the spare is below its threshold"},
    Bit{1, "the temperature is beyond a threshold"},
    Bit{2, "it is no longer reliable (media errors)"},
    Bit{3, "the media are read-only"},
    Bit{4, "the backup of the volatile memory has failed"},
    Bit{5, "the persistent memory region is read-only or unreliable"}};

std::vector<std::string> warnings(const HealthLog& health) {
    return names_of(health.critical_warning, kCriticalWarnings);
}

std::size_t format_index(const IdentifyNamespace& space) {
    std::size_t index = space.formatted_lba & 0xf;
    if (space.lba_formats > 16)
        index |= static_cast<std::size_t>(space.formatted_lba >> 5 & 3) << 4;
    return index;
}

std::uint64_t format_bytes(const LbaFormat& format) {
    return format.data_size < 64 ? std::uint64_t{1} << format.data_size : 0;
}

// The formats that the namespace may have: those of the 64 in the page that are there.
std::vector<LbaFormat> formats_of(const IdentifyNamespace& space) {
    const std::size_t count =
        std::min<std::size_t>(std::size_t{space.lba_formats} + 1, std::size(space.formats));
    std::vector<LbaFormat> formats(space.formats, space.formats + count);
    return formats;
}

std::uint64_t namespace_bytes(const IdentifyNamespace& space, std::uint64_t blocks) {
    const std::size_t index = format_index(space);
    return index < std::size(space.formats) ? blocks * format_bytes(space.formats[index]) : 0;
}

bool usable(const IdentifyNamespace& space) {
    const std::size_t index = format_index(space);
    if (index >= std::size(space.formats)) return false;
    const LbaFormat& format = space.formats[index];
    return format.metadata_bytes == 0 && (format.data_size == 9 || format.data_size == 12);
}

void describe_namespace(std::string& text, const NamespacePage& space) {
    const IdentifyNamespace& page = space.page;
    append(text, "namespace %u: %s, %s of it in use%s%s\n", space.id,
           describe_byte_count(namespace_bytes(page, page.size_blocks)).c_str(),
           describe_byte_count(namespace_bytes(page, page.used_blocks)).c_str(),
           (page.attributes & 1) != 0 ? ", write protected" : "",
           usable(page) ? "" : ": its format is not one that blobfs can use");
    if (page.optimal_io_boundary != 0) {
        append(text, "    optimal I/O boundary: %u blocks\n", page.optimal_io_boundary);
    }
    const std::vector<LbaFormat> formats = formats_of(page);
    for (std::size_t i = 0; i < formats.size(); ++i) {
        if (formats[i].data_size == 0) continue;
        append(text, "    format %zu: blocks of %llu bytes", i,
               static_cast<unsigned long long>(format_bytes(formats[i])));
        if (formats[i].metadata_bytes != 0) {
            append(text, " and %u of metadata", formats[i].metadata_bytes);
        }
        append(text, "%s\n", i == format_index(page) ? ", the one it has" : "");
    }
}

}  // namespace

std::string describe_identify(const ControllerPages& pages) {
    const IdentifyController& c = pages.controller;
    std::string text;
    append(text, "model               %s\n", text_of(c.model_number).c_str());
    append(text, "serial number       %s\n", text_of(c.serial_number).c_str());
    append(text, "firmware            %s\n", text_of(c.firmware_revision).c_str());
    append(text, "vendor              %04x, subsystem %04x, OUI %02x-%02x-%02x\n", c.vendor_id,
           c.subsystem_vendor_id, c.ieee_oui[2], c.ieee_oui[1], c.ieee_oui[0]);
    append(text, "NVMe version        %s\n", version_text(c.version).c_str());
    append(text, "subsystem           %s\n", text_of(c.subsystem_nqn).c_str());
    append(text, "controller id       %u\n", c.controller_id);
    append(text, "longest transfer    %s\n",
           c.max_data_transfer == 0 || c.max_data_transfer > 20
               ? "no limit"
               : describe_byte_count(std::uint64_t{4096} << c.max_data_transfer).c_str());
    append(text, "write cache         %s\n",
           (c.volatile_write_cache & 1) != 0 ? "volatile" : "none, or not volatile");
    append(text, "commands            %s\n",
           joined(names_of(c.optional_commands, kOptionalCommands)).c_str());
    append(text, "admin commands      %s\n",
           joined(names_of(c.optional_admin_commands, kOptionalAdminCommands)).c_str());
    append(text, "SGLs                %s\n", (c.sgl_support & 3) != 0 ? "yes" : "no");
    append(text, "aborts, events      %u, %u at once\n", c.abort_limit + 1U, c.event_limit + 1U);
    append(text, "error log           %u entries\n", c.error_log_entries + 1U);
    if (c.warning_temperature != 0) {
        append(text, "warns at            %d C, critical at %d C\n", celsius(c.warning_temperature),
               celsius(c.critical_temperature));
    }
    append(text, "namespaces          %zu active, at most %u\n", pages.namespaces.size(),
           c.namespaces);
    for (const NamespacePage& space : pages.namespaces) describe_namespace(text, space);
    return text;
}

std::string describe_health(const ControllerPages& pages) {
    const HealthLog& h = pages.health;
    const auto amount = [](const std::uint64_t(&units)[2]) {
        std::string text;
        append(text, "%.1f GB", data_units_bytes(units) / 1e9);
        return text;
    };
    std::string text;
    append(text, "critical warnings   %s\n", joined(warnings(h)).c_str());
    append(text, "temperature         %d C\n", celsius(h.temperature_kelvin()));
    for (std::size_t i = 0; i < std::size(h.temperature_sensors); ++i) {
        if (h.temperature_sensors[i] == 0) continue;
        append(text, "    sensor %zu        %d C\n", i + 1, celsius(h.temperature_sensors[i]));
    }
    append(text, "spare               %u %%, threshold %u %%\n", h.available_spare,
           h.available_spare_threshold);
    append(text, "life used           %u %%\n", h.percentage_used);
    append(text, "read                %s by %s commands\n", amount(h.data_units_read).c_str(),
           decimal(h.host_reads).c_str());
    append(text, "written             %s by %s commands\n", amount(h.data_units_written).c_str(),
           decimal(h.host_writes).c_str());
    append(text, "busy                %s minutes\n", decimal(h.busy_minutes).c_str());
    append(text, "power               %s cycles, %s hours, %s unsafe shutdowns\n",
           decimal(h.power_cycles).c_str(), decimal(h.power_on_hours).c_str(),
           decimal(h.unsafe_shutdowns).c_str());
    append(text, "media errors        %s\n", decimal(h.media_errors).c_str());
    append(text, "error log entries   %s\n", decimal(h.error_log_entries).c_str());
    append(text, "too hot             %u minutes, critically %u minutes\n",
           h.warning_temperature_minutes, h.critical_temperature_minutes);
    return text;
}

std::string describe_errors(const ControllerPages& pages) {
    if (pages.errors.empty()) return "no errors\n";
    std::string text = "     error  queue  command  namespace               LBA  status\n";
    for (const ErrorLogEntry& entry : pages.errors) {
        const std::uint16_t code = driver::nvme::status_code(entry.status);
        append(text, "%10llu  %5u  %#7x  %9x  %16llu  %x:%02x %s%s\n",
               static_cast<unsigned long long>(entry.error_count), entry.submission_queue_id,
               entry.command_id, entry.namespace_id, static_cast<unsigned long long>(entry.lba),
               code >> 8U, code & 0xffU, std::string(driver::nvme::status_name(code)).c_str(),
               (entry.status & driver::nvme::kDoNotRetry) != 0 ? "" : " (may be tried again)");
    }
    return text;
}

nlohmann::json identify_json(const ControllerPages& pages) {
    const IdentifyController& c = pages.controller;
    nlohmann::json spaces = nlohmann::json::array();
    for (const NamespacePage& space : pages.namespaces) {
        const IdentifyNamespace& page = space.page;
        nlohmann::json formats = nlohmann::json::array();
        for (const LbaFormat& format : formats_of(page)) {
            formats.push_back({{"lba_bytes", format_bytes(format)},
                               {"metadata_bytes", format.metadata_bytes},
                               {"relative_performance", format.relative_performance & 3}});
        }
        spaces.push_back({{"id", space.id},
                          {"bytes", namespace_bytes(page, page.size_blocks)},
                          {"capacity_bytes", namespace_bytes(page, page.capacity_blocks)},
                          {"used_bytes", namespace_bytes(page, page.used_blocks)},
                          {"format", format_index(page)},
                          {"formats", formats},
                          {"optimal_io_boundary_blocks", page.optimal_io_boundary},
                          {"write_protected", (page.attributes & 1) != 0},
                          {"usable", usable(page)}});
    }
    nlohmann::json json = {
        {"model", text_of(c.model_number)},
        {"serial", text_of(c.serial_number)},
        {"firmware", text_of(c.firmware_revision)},
        {"vendor_id", c.vendor_id},
        {"subsystem_vendor_id", c.subsystem_vendor_id},
        {"version", version_text(c.version)},
        {"subsystem_nqn", text_of(c.subsystem_nqn)},
        {"controller_id", c.controller_id},
        {"volatile_write_cache", (c.volatile_write_cache & 1) != 0},
        {"commands", names_of(c.optional_commands, kOptionalCommands)},
        {"admin_commands", names_of(c.optional_admin_commands, kOptionalAdminCommands)},
        {"sgl", (c.sgl_support & 3) != 0},
        {"abort_limit", c.abort_limit + 1U},
        {"event_limit", c.event_limit + 1U},
        {"error_log_entries", c.error_log_entries + 1U},
        {"max_namespaces", c.namespaces},
        {"namespaces", spaces}};
    if (c.max_data_transfer != 0 && c.max_data_transfer <= 20) {
        json["max_transfer_bytes"] = std::uint64_t{4096} << c.max_data_transfer;
    }
    if (c.warning_temperature != 0) {
        json["warning_temperature"] = celsius(c.warning_temperature);
        json["critical_temperature"] = celsius(c.critical_temperature);
    }
    return json;
}

nlohmann::json health_json(const ControllerPages& pages) {
    const HealthLog& h = pages.health;
    nlohmann::json sensors = nlohmann::json::object();
    for (std::size_t i = 0; i < std::size(h.temperature_sensors); ++i) {
        if (h.temperature_sensors[i] == 0) continue;
        sensors[std::to_string(i + 1)] = celsius(h.temperature_sensors[i]);
    }
    return {{"critical_warning", h.critical_warning},
            {"critical_warnings", warnings(h)},
            {"temperature", celsius(h.temperature_kelvin())},
            {"temperature_sensors", sensors},
            {"available_spare_percent", h.available_spare},
            {"available_spare_threshold_percent", h.available_spare_threshold},
            {"used_percent", h.percentage_used},
            {"data_units_read", counter(h.data_units_read)},
            {"data_units_written", counter(h.data_units_written)},
            {"bytes_read", data_units_bytes(h.data_units_read)},
            {"bytes_written", data_units_bytes(h.data_units_written)},
            {"host_reads", counter(h.host_reads)},
            {"host_writes", counter(h.host_writes)},
            {"busy_minutes", counter(h.busy_minutes)},
            {"power_cycles", counter(h.power_cycles)},
            {"power_on_hours", counter(h.power_on_hours)},
            {"unsafe_shutdowns", counter(h.unsafe_shutdowns)},
            {"media_errors", counter(h.media_errors)},
            {"error_log_entries", counter(h.error_log_entries)},
            {"warning_temperature_minutes", h.warning_temperature_minutes},
            {"critical_temperature_minutes", h.critical_temperature_minutes}};
}

nlohmann::json errors_json(const ControllerPages& pages) {
    nlohmann::json entries = nlohmann::json::array();
    for (const ErrorLogEntry& entry : pages.errors) {
        const std::uint16_t code = driver::nvme::status_code(entry.status);
        entries.push_back({{"error_count", entry.error_count},
                           {"queue_id", entry.submission_queue_id},
                           {"command_id", entry.command_id},
                           {"namespace_id", entry.namespace_id},
                           {"lba", entry.lba},
                           {"status", code},
                           {"status_name", std::string(driver::nvme::status_name(code))},
                           {"do_not_retry", (entry.status & driver::nvme::kDoNotRetry) != 0}});
    }
    return {{"errors", entries}};
}

}  // namespace blobfs::tools
