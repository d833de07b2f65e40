#pragma once

// Identify data structures (NVMe 1.4, section 5.15). Only fields that somebody reads have a name of
// their own.

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace blobfs::driver::nvme {

// CNS values (figure 244 of 1.4).
enum class IdentifyKind : std::uint8_t {
    kNamespace = 0x00,
    kController = 0x01,
    kActiveNamespaces = 0x02,
};

// Identify Controller (figure 247 of 1.4).
struct IdentifyController {
    std::uint16_t vendor_id;
    std::uint16_t subsystem_vendor_id;
    char serial_number[20];  // ASCII, padded with spaces
    char model_number[40];
    char firmware_revision[8];
    std::uint8_t arbitration_burst;
    std::uint8_t ieee_oui[3];
    std::uint8_t multi_path;
    std::uint8_t max_data_transfer;  // MDTS: 2^n memory pages of CAP.MPSMIN, 0: no limit
    std::uint16_t controller_id;
    std::uint32_t version;
    std::uint32_t resume_latency;    // RTD3R, microseconds, 0: not said
    std::uint32_t shutdown_latency;  // RTD3E, likewise: the longest that a shutdown takes
    std::uint32_t optional_events;   // OAES
    std::uint32_t controller_attributes;
    std::uint8_t reserved100[12];
    std::uint8_t field_replaceable_unit[16];
    std::uint16_t retry_delay[3];  // CRDT1..3, in units of 100 ms
    std::uint8_t reserved134[122];
    std::uint16_t optional_admin_commands;  // OACS
    std::uint8_t abort_limit;               // ACL, zero based
    std::uint8_t event_limit;               // AERL, zero based
    std::uint8_t firmware_updates;
    std::uint8_t log_page_attributes;
    std::uint8_t error_log_entries;  // ELPE, zero based
    std::uint8_t power_states;
    std::uint8_t reserved264[2];
    std::uint16_t warning_temperature;   // kelvin
    std::uint16_t critical_temperature;  // kelvin
    std::uint8_t reserved270[242];
    std::uint8_t submission_entry_size;  // SQES: required 3:0, maximum 7:4
    std::uint8_t completion_entry_size;  // CQES
    std::uint16_t max_outstanding;       // MAXCMD
    std::uint32_t namespaces;            // NN
    std::uint16_t optional_commands;     // ONCS
    std::uint16_t fused_operations;
    std::uint8_t format_attributes;
    std::uint8_t volatile_write_cache;  // VWC: bit 0 present
    std::uint16_t atomic_write_normal;
    std::uint16_t atomic_write_power_fail;
    std::uint8_t reserved530[6];
    std::uint32_t sgl_support;  // SGLS
    std::uint8_t reserved540[228];
    char subsystem_nqn[256];
    std::uint8_t reserved1024[1024];
    std::uint8_t power_state_descriptors[1024];
    std::uint8_t vendor_specific[1024];
};
static_assert(sizeof(IdentifyController) == 4096);
static_assert(offsetof(IdentifyController, model_number) == 24);
static_assert(offsetof(IdentifyController, firmware_revision) == 64);
static_assert(offsetof(IdentifyController, max_data_transfer) == 77);
static_assert(offsetof(IdentifyController, version) == 80);
static_assert(offsetof(IdentifyController, shutdown_latency) == 88);
static_assert(offsetof(IdentifyController, optional_events) == 92);
static_assert(offsetof(IdentifyController, retry_delay) == 128);
static_assert(offsetof(IdentifyController, optional_admin_commands) == 256);
static_assert(offsetof(IdentifyController, warning_temperature) == 266);
static_assert(offsetof(IdentifyController, submission_entry_size) == 512);
static_assert(offsetof(IdentifyController, namespaces) == 516);
static_assert(offsetof(IdentifyController, optional_commands) == 520);
static_assert(offsetof(IdentifyController, volatile_write_cache) == 525);
static_assert(offsetof(IdentifyController, sgl_support) == 536);
static_assert(offsetof(IdentifyController, subsystem_nqn) == 768);
static_assert(std::is_trivially_copyable_v<IdentifyController>);

// ONCS bits.
inline constexpr std::uint16_t kOncsCompare = 1U << 0;
inline constexpr std::uint16_t kOncsDatasetManagement = 1U << 2;
inline constexpr std::uint16_t kOncsWriteZeroes = 1U << 3;
inline constexpr std::uint16_t kOncsVerify = 1U << 7;

// OACS bits.
inline constexpr std::uint16_t kOacsDoorbellBuffer = 1U << 8;

// SGLS bits 1:0: 1 or 2 when the NVM command set takes SGLs, 2 with dword alignment.
inline constexpr std::uint32_t kSglsSupported = 3;

// LBA format (figure 246 of 1.4).
struct LbaFormat {
    std::uint16_t metadata_bytes;
    std::uint8_t data_size;  // LBADS: 2^n bytes
    std::uint8_t relative_performance;
};
static_assert(sizeof(LbaFormat) == 4);

// Identify Namespace (figure 245 of 1.4).
struct IdentifyNamespace {
    std::uint64_t size_blocks;      // NSZE
    std::uint64_t capacity_blocks;  // NCAP
    std::uint64_t used_blocks;      // NUSE
    std::uint8_t features;          // NSFEAT
    std::uint8_t lba_formats;       // NLBAF, zero based
    std::uint8_t formatted_lba;     // FLBAS: index in bits 3:0
    std::uint8_t metadata_capabilities;
    std::uint8_t protection_capabilities;
    std::uint8_t protection_settings;
    std::uint8_t sharing;
    std::uint8_t reservations;
    std::uint8_t format_progress;
    std::uint8_t deallocate_features;  // DLFEAT
    std::uint16_t atomic_write_normal;
    std::uint16_t atomic_write_power_fail;
    std::uint16_t atomic_compare_write;
    std::uint16_t atomic_boundary_normal;
    std::uint16_t atomic_boundary_offset;
    std::uint16_t atomic_boundary_power_fail;
    std::uint16_t optimal_io_boundary;  // NOIOB, logical blocks, 0: none
    std::uint8_t nvm_capacity[16];
    std::uint8_t reserved64[35];
    std::uint8_t attributes;  // NSATTR: bit 0 write protected
    std::uint8_t reserved100[4];
    std::uint8_t guid[16];
    std::uint8_t eui64[8];
    LbaFormat formats[64];  // 16 in 1.4, 64 in 2.0
    std::uint8_t vendor_specific[3712];
};
static_assert(sizeof(IdentifyNamespace) == 4096);
static_assert(offsetof(IdentifyNamespace, features) == 24);
static_assert(offsetof(IdentifyNamespace, deallocate_features) == 33);
static_assert(offsetof(IdentifyNamespace, optimal_io_boundary) == 46);
static_assert(offsetof(IdentifyNamespace, attributes) == 99);
static_assert(offsetof(IdentifyNamespace, formats) == 128);
static_assert(offsetof(IdentifyNamespace, vendor_specific) == 384);
static_assert(std::is_trivially_copyable_v<IdentifyNamespace>);

// DLFEAT bit 3: Write Zeroes honours its Deallocate bit; bits 2:0 = 1: deallocated reads as zero.
inline constexpr std::uint8_t kDlfeatWriteZeroesDeallocate = 1U << 3;
inline constexpr std::uint8_t kDlfeatReadsZero = 1;

}  // namespace blobfs::driver::nvme
