#pragma once

// Controller registers (NVMe Base Specification 1.4, section 3.1; 2.0, section 3.1.3). Offsets in
// bytes from the start of BAR 0, and the fields that the driver uses. Both sides of the protocol
// use this header: the host driver and the software controller.

#include <cstdint>

namespace blobfs::driver::nvme {

inline constexpr std::uint32_t kRegisterCap = 0x00;    // Controller Capabilities, 64 bits
inline constexpr std::uint32_t kRegisterVs = 0x08;     // Version
inline constexpr std::uint32_t kRegisterIntms = 0x0c;  // Interrupt Mask Set
inline constexpr std::uint32_t kRegisterIntmc = 0x10;  // Interrupt Mask Clear
inline constexpr std::uint32_t kRegisterCc = 0x14;     // Controller Configuration
inline constexpr std::uint32_t kRegisterCsts = 0x1c;   // Controller Status
inline constexpr std::uint32_t kRegisterAqa = 0x24;    // Admin Queue Attributes
inline constexpr std::uint32_t kRegisterAsq = 0x28;    // Admin Submission Queue Base, 64 bits
inline constexpr std::uint32_t kRegisterAcq = 0x30;    // Admin Completion Queue Base, 64 bits
inline constexpr std::uint32_t kRegisterDoorbells = 0x1000;

// What a read of a register gives when the device is no longer there.
inline constexpr std::uint32_t kAllOnes32 = 0xffffffffU;
inline constexpr std::uint64_t kAllOnes64 = ~std::uint64_t{0};

// CAP (figure 69 of 1.4).
struct Capabilities {
    std::uint64_t raw = 0;

    // Largest queue, in entries (MQES is zero based).
    [[nodiscard]] std::uint32_t max_queue_entries() const {
        return static_cast<std::uint32_t>(raw & 0xffff) + 1;
    }
    [[nodiscard]] bool contiguous_queues_required() const { return (raw >> 16 & 1) != 0; }
    // CAP.TO: the longest time to become ready or not ready, in milliseconds.
    [[nodiscard]] std::uint32_t ready_timeout_ms() const {
        return static_cast<std::uint32_t>(raw >> 24 & 0xff) * 500;
    }
    // CAP.DSTRD: bytes from one doorbell to the next.
    [[nodiscard]] std::uint32_t doorbell_stride_bytes() const {
        return 4U << static_cast<std::uint32_t>(raw >> 32 & 0xf);
    }
    // CAP.CSS bit 0: the NVM command set.
    [[nodiscard]] bool nvm_command_set() const { return (raw >> 37 & 1) != 0; }
    // CAP.MPSMIN, CAP.MPSMAX: memory page sizes in bytes.
    [[nodiscard]] std::uint64_t min_page_bytes() const { return 1ULL << (12 + (raw >> 48 & 0xf)); }
    [[nodiscard]] std::uint64_t max_page_bytes() const { return 1ULL << (12 + (raw >> 52 & 0xf)); }

    static constexpr std::uint64_t make(std::uint32_t max_entries, std::uint32_t timeout_500ms,
                                        std::uint32_t doorbell_stride_exponent) {
        return (max_entries - 1) | 1ULL << 16 | std::uint64_t{timeout_500ms} << 24 |
               std::uint64_t{doorbell_stride_exponent} << 32 | 1ULL << 37;
    }
};

// CC (figure 78 of 1.4).
inline constexpr std::uint32_t kCcEnable = 1U << 0;
inline constexpr std::uint32_t kCcShutdownMask = 3U << 14;
inline constexpr std::uint32_t kCcShutdownNormal = 1U << 14;
inline constexpr std::uint32_t kCcShutdownAbrupt = 2U << 14;
// IOSQES = 6 (64 bytes), IOCQES = 4 (16 bytes); MPS = 0 (4 KiB), CSS = 0 (NVM), AMS = 0.
inline constexpr std::uint32_t kSubmissionEntryShift = 6;
inline constexpr std::uint32_t kCompletionEntryShift = 4;
inline constexpr std::uint32_t kCcEntrySizes = kSubmissionEntryShift << 16 | kCompletionEntryShift
                                                                                 << 20;

// CSTS (figure 79 of 1.4).
inline constexpr std::uint32_t kCstsReady = 1U << 0;
inline constexpr std::uint32_t kCstsFatal = 1U << 1;
inline constexpr std::uint32_t kCstsShutdownMask = 3U << 2;
inline constexpr std::uint32_t kCstsShutdownOccurring = 1U << 2;
inline constexpr std::uint32_t kCstsShutdownComplete = 2U << 2;

// Doorbell offsets from the start of BAR 0 (1.4, sections 3.1.24 and 3.1.25).
inline constexpr std::uint32_t submission_doorbell(std::uint16_t queue_id, std::uint32_t stride) {
    return kRegisterDoorbells + 2U * queue_id * stride;
}
inline constexpr std::uint32_t completion_doorbell(std::uint16_t queue_id, std::uint32_t stride) {
    return kRegisterDoorbells + (2U * queue_id + 1U) * stride;
}

}  // namespace blobfs::driver::nvme
