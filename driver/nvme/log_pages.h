#pragma once

// Log pages (NVMe 1.4, section 5.14.1).

#include <cstddef>
#include <cstdint>

namespace blobfs::driver::nvme {

enum class LogPage : std::uint8_t {
    kError = 0x01,
    kHealth = 0x02,
    kFirmwareSlot = 0x03,
    kChangedNamespaces = 0x04,
};

// Error Information (figure 193 of 1.4); the page is an array of these, newest first.
struct ErrorLogEntry {
    std::uint64_t error_count;  // 0: the entry is not used
    std::uint16_t submission_queue_id;
    std::uint16_t command_id;
    std::uint16_t status;
    std::uint16_t parameter_location;
    std::uint64_t lba;
    std::uint32_t namespace_id;
    std::uint8_t vendor_page;
    std::uint8_t transport_type;
    std::uint8_t reserved30[2];
    std::uint64_t command_specific;
    std::uint16_t transport_specific;
    std::uint8_t reserved42[22];
};
static_assert(sizeof(ErrorLogEntry) == 64);
static_assert(offsetof(ErrorLogEntry, lba) == 16);
static_assert(offsetof(ErrorLogEntry, command_specific) == 32);

// SMART / Health Information (figure 194 of 1.4). 128-bit counters are two words, low first.
inline constexpr std::uint8_t kWarningSpare = 1U << 0;  // critical_warning
inline constexpr std::uint8_t kWarningTemperature = 1U << 1;
inline constexpr std::uint8_t kWarningUnreliable = 1U << 2;
inline constexpr std::uint8_t kWarningReadOnly = 1U << 3;
inline constexpr std::uint8_t kWarningBackup = 1U << 4;
struct HealthLog {
    std::uint8_t critical_warning;
    std::uint8_t temperature[2];  // kelvin, little-endian, at an odd offset
    std::uint8_t available_spare;
    std::uint8_t available_spare_threshold;
    std::uint8_t percentage_used;
    std::uint8_t endurance_group_warning;
    std::uint8_t reserved7[25];
    std::uint64_t data_units_read[2];  // thousands of 512-byte units
    std::uint64_t data_units_written[2];
    std::uint64_t host_reads[2];
    std::uint64_t host_writes[2];
    std::uint64_t busy_minutes[2];
    std::uint64_t power_cycles[2];
    std::uint64_t power_on_hours[2];
    std::uint64_t unsafe_shutdowns[2];
    std::uint64_t media_errors[2];
    std::uint64_t error_log_entries[2];
    std::uint32_t warning_temperature_minutes;
    std::uint32_t critical_temperature_minutes;
    std::uint16_t temperature_sensors[8];
    std::uint8_t reserved216[296];

    [[nodiscard]] std::uint32_t temperature_kelvin() const {
        return temperature[0] | static_cast<std::uint32_t>(temperature[1]) << 8;
    }
};
static_assert(sizeof(HealthLog) == 512);
static_assert(offsetof(HealthLog, data_units_read) == 32);
static_assert(offsetof(HealthLog, warning_temperature_minutes) == 192);

// Firmware Slot Information (figure 195 of 1.4).
struct FirmwareSlotLog {
    std::uint8_t active_slots;  // active 2:0, next 6:4
    std::uint8_t reserved1[7];
    char revisions[7][8];
    std::uint8_t reserved64[448];
};
static_assert(sizeof(FirmwareSlotLog) == 512);
static_assert(offsetof(FirmwareSlotLog, revisions) == 8);

}  // namespace blobfs::driver::nvme
