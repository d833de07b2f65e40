#pragma once

// Submission and completion queue entries, opcodes and their command-specific fields (NVMe 1.4,
// sections 4.2, 4.6, 5 and 6). Wire format: little-endian, fixed offsets. The machine is
// little-endian too (the driver builds for x86-64), so the fields are plain integers.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace blobfs::driver::nvme {

static_assert(std::endian::native == std::endian::little);

inline constexpr std::uint32_t kPageBytes = 4096;  // CC.MPS = 0
inline constexpr std::uint32_t kAllNamespaces = 0xffffffffU;

// Submission queue entry (figure 105 of 1.4).
struct SubmissionEntry {
    std::uint8_t opcode;
    std::uint8_t flags;  // FUSE bits 1:0, PSDT bits 7:6 (0: PRPs, 1: SGL)
    std::uint16_t command_id;
    std::uint32_t namespace_id;
    std::uint32_t dword2;
    std::uint32_t dword3;
    std::uint64_t metadata;
    std::uint64_t prp1;
    std::uint64_t prp2;
    std::uint32_t dword10;
    std::uint32_t dword11;
    std::uint32_t dword12;
    std::uint32_t dword13;
    std::uint32_t dword14;
    std::uint32_t dword15;
};
static_assert(sizeof(SubmissionEntry) == 64);
static_assert(offsetof(SubmissionEntry, command_id) == 2);
static_assert(offsetof(SubmissionEntry, metadata) == 16);
static_assert(offsetof(SubmissionEntry, prp1) == 24);
static_assert(offsetof(SubmissionEntry, dword10) == 40);
static_assert(std::is_trivially_copyable_v<SubmissionEntry>);

// Completion queue entry (figures 121 to 125 of 1.4).
struct CompletionEntry {
    std::uint32_t dword0;
    std::uint32_t dword1;
    std::uint16_t submission_head;
    std::uint16_t submission_queue_id;
    std::uint16_t command_id;
    std::uint16_t status;  // phase bit 0, SC 8:1, SCT 11:9, CRD 13:12, more 14, DNR 15
};
static_assert(sizeof(CompletionEntry) == 16);
static_assert(offsetof(CompletionEntry, submission_head) == 8);
static_assert(offsetof(CompletionEntry, command_id) == 12);
static_assert(offsetof(CompletionEntry, status) == 14);
static_assert(std::is_trivially_copyable_v<CompletionEntry>);

inline constexpr std::uint16_t kPhase = 1;
inline constexpr std::uint16_t kDoNotRetry = 1U << 15;

// SCT << 8 | SC out of the status field, and back.
inline constexpr std::uint16_t status_code(std::uint16_t status_field) {
    return static_cast<std::uint16_t>(status_field >> 1 & 0x7ff);
}
inline constexpr std::uint16_t status_field(std::uint16_t code, bool do_not_retry) {
    return static_cast<std::uint16_t>(code << 1 | (do_not_retry ? kDoNotRetry : 0));
}
// Command Retry Delay: 0, or which of Identify's CRDT1..3 to wait.
inline constexpr std::uint32_t retry_delay_index(std::uint16_t status_field) {
    return status_field >> 12 & 3U;
}

// Admin opcodes (figure 139 of 1.4).
enum class AdminOpcode : std::uint8_t {
    kDeleteSubmissionQueue = 0x00,
    kCreateSubmissionQueue = 0x01,
    kGetLogPage = 0x02,
    kDeleteCompletionQueue = 0x04,
    kCreateCompletionQueue = 0x05,
    kIdentify = 0x06,
    kAbort = 0x08,
    kSetFeatures = 0x09,
    kGetFeatures = 0x0a,
    kAsynchronousEventRequest = 0x0c,
    kDoorbellBufferConfig = 0x7c,
};

// NVM command set opcodes (figure 346 of 1.4).
enum class Opcode : std::uint8_t {
    kFlush = 0x00,
    kWrite = 0x01,
    kRead = 0x02,
    kCompare = 0x05,
    kWriteZeroes = 0x08,
    kDatasetManagement = 0x09,
    kVerify = 0x0c,
};

// Read, Write, Write Zeroes, dword 12 (figures 364, 371 and 376 of 1.4).
inline constexpr std::uint32_t kForceUnitAccess = 1U << 30;
inline constexpr std::uint32_t kWriteZeroesDeallocate = 1U << 25;
inline constexpr std::uint32_t kMaxBlocksPerCommand = 65536;  // NLB has 16 bits, zero based

// Dataset Management (figures 354 to 356 of 1.4).
inline constexpr std::uint32_t kDatasetDeallocate = 1U << 2;
inline constexpr std::uint32_t kMaxDatasetRanges = 256;
struct DatasetRange {
    std::uint32_t context_attributes;
    std::uint32_t blocks;
    std::uint64_t start_lba;
};
static_assert(sizeof(DatasetRange) == 16);
static_assert(offsetof(DatasetRange, start_lba) == 8);

// Create I/O queue, dword 11 (figures 151 and 155 of 1.4).
inline constexpr std::uint32_t kQueueContiguous = 1;

// Features (figure 271 of 1.4).
enum class Feature : std::uint8_t {
    kTemperatureThreshold = 0x04,
    kVolatileWriteCache = 0x06,
    kNumberOfQueues = 0x07,
    kAsynchronousEventConfiguration = 0x0b,
    kHostBehaviorSupport = 0x16,
};

// Asynchronous events, completion dword 0 (figure 147 of 1.4).
enum class AsynchronousEventType : std::uint8_t { kError = 0, kHealth = 1, kNotice = 2 };
inline constexpr std::uint32_t kNoticeNamespaceChanged = 0;  // figure 150
inline constexpr std::uint32_t kNoticeFirmwareActivation = 1;
inline constexpr std::uint32_t kEventHealthWarnings = 0x1f;       // critical warnings, all
inline constexpr std::uint32_t kEventNamespaceChanged = 1U << 8;  // configuration, dword 11
inline constexpr std::uint32_t kEventFirmwareActivation = 1U << 9;

// Status codes, SCT << 8 | SC (figures 127 to 130 of 1.4). The ones that somebody here names.
enum class Status : std::uint16_t {
    kSuccess = 0x000,
    kInvalidOpcode = 0x001,
    kInvalidField = 0x002,
    kCommandIdConflict = 0x003,
    kDataTransferError = 0x004,
    kInternalError = 0x006,
    kAbortRequested = 0x007,
    kAbortedQueueDeleted = 0x008,
    kInvalidNamespace = 0x00b,
    kCommandSequenceError = 0x00c,
    kInvalidSglDescriptor = 0x00d,
    kInvalidSglCount = 0x00e,
    kInvalidSglLength = 0x00f,
    kInvalidSglType = 0x011,
    kInvalidPrpOffset = 0x013,
    kNamespaceWriteProtected = 0x020,
    kLbaOutOfRange = 0x080,
    kCapacityExceeded = 0x081,
    kNamespaceNotReady = 0x082,
    kCompletionQueueInvalid = 0x100,
    kInvalidQueueId = 0x101,
    kInvalidQueueSize = 0x102,
    kAbortLimitExceeded = 0x103,
    kEventRequestLimitExceeded = 0x105,
    kInvalidLogPage = 0x109,
    kInvalidQueueDeletion = 0x10c,
    kFeatureNotChangeable = 0x10e,
    kWriteToReadOnlyRange = 0x182,
    kWriteFault = 0x280,
    kUnrecoveredReadError = 0x281,
    kGuardCheckError = 0x282,
    kCompareFailure = 0x285,
    kAccessDenied = 0x286,
    kDeallocatedBlock = 0x287,
};

}  // namespace blobfs::driver::nvme
