#include "blobstore/log_record.h"

#include <algorithm>
#include <limits>

namespace blobfs::blobstore {
namespace {

constexpr std::size_t kUnit = 8;         // transactions are multiples of this
constexpr std::size_t kMinKeyBytes = 9;  // blob id and kind
constexpr std::size_t kMaxValueBytes = kMaxPageBytes;

tl::unexpected<Error> damaged(const char* what) { return fail(Errc::kCorrupt, what); }

// An operation with its key and value cut out, its content unchecked.
struct RawOperation {
    LogOperationHeader header;
    KeyView key;
    ValueView value;
};

Result<RawOperation> take_operation(std::string_view& bytes) {
    if (bytes.size() < sizeof(LogOperationHeader)) {
        return damaged("replaying the log: an operation is cut off");
    }
    RawOperation raw{.header = load<LogOperationHeader>(bytes), .key = {}, .value = {}};
    bytes.remove_prefix(sizeof(LogOperationHeader));
    if (raw.header.reserved != 0 || raw.header.key_bytes > bytes.size() ||
        raw.header.value_bytes > bytes.size() - raw.header.key_bytes) {
        return damaged("replaying the log: an operation is cut off");
    }
    raw.key = bytes.substr(0, raw.header.key_bytes);
    raw.value = bytes.substr(raw.header.key_bytes, raw.header.value_bytes);
    bytes.remove_prefix(raw.key.size() + raw.value.size());
    return raw;
}

bool valid_key(KeyView key) { return key.size() >= kMinKeyBytes && key.size() <= kMaxKeyBytes; }

Result<LogOperation> interpret(const RawOperation& raw) {
    LogOperation operation{.type = raw.header.type, .key = raw.key, .value = raw.value, .run = {}};
    switch (raw.header.type) {
        case LogOperationType::kPut:
            if (!valid_key(raw.key) || raw.value.size() > kMaxValueBytes) {
                return damaged("replaying the log: a put of the wrong size");
            }
            return operation;
        case LogOperationType::kErase:
            if (!valid_key(raw.key) || !raw.value.empty()) {
                return damaged("replaying the log: an erase of the wrong size");
            }
            return operation;
        case LogOperationType::kAllocate:
        case LogOperationType::kFree: {
            if (!raw.key.empty() || raw.value.size() != sizeof(LogRun)) {
                return damaged("replaying the log: a run of the wrong size");
            }
            const auto run = load<LogRun>(raw.value);
            constexpr std::uint64_t kBlocks = kMaxDeviceBytes / kBlockBytes;
            if (run.blocks == 0 || run.block >= kBlocks || run.blocks > kBlocks - run.block) {
                return damaged("replaying the log: a run beyond every device");
            }
            operation.run = Run{BlockIndex{run.block}, run.blocks};
            operation.value = {};
            return operation;
        }
        case LogOperationType::kNextBlobId:
            if (!raw.key.empty() || raw.value.size() != sizeof(std::uint64_t)) {
                return damaged("replaying the log: a blob id of the wrong size");
            }
            operation.next_blob_id = BlobId{load<std::uint64_t>(raw.value)};
            if (value(operation.next_blob_id) > kBlobIdEnd) {
                return damaged("replaying the log: a blob id that cannot be");
            }
            operation.value = {};
            return operation;
        case LogOperationType::kData: {
            if (!raw.key.empty() || raw.value.size() <= sizeof(LogData)) {
                return damaged("replaying the log: data of the wrong size");
            }
            operation.address = load<LogData>(raw.value).address;
            operation.value = raw.value.substr(sizeof(LogData));
            if (operation.address % kLogDataUnit != 0 || operation.address >= kMaxDeviceBytes ||
                operation.value.size() % kLogDataUnit != 0 ||
                operation.value.size() > kMaxLogDataBytes) {
                return damaged("replaying the log: data where none can be");
            }
            return operation;
        }
        case LogOperationType::kDataChecksum:
            break;
    }
    return damaged("replaying the log: an unknown operation");
}

}  // namespace

LogRecord::LogRecord() { clear(); }

void LogRecord::clear() {
    bytes_.assign(sizeof(LogTransactionHeader), '\0');
    operations_ = 0;
}

void LogRecord::append(LogOperationType type, KeyView key, ValueView value) {
    CHECK(value.size() <= kMaxValueBytes);
    const LogOperationHeader header{.type = type,
                                    .reserved = 0,
                                    .key_bytes = static_cast<std::uint16_t>(key.size()),
                                    .value_bytes = static_cast<std::uint32_t>(value.size())};
    bytes_.append(bytes_of(header)).append(key).append(value);
    ++operations_;
}

void LogRecord::put(KeyView key, ValueView value) {
    CHECK(valid_key(key));
    append(LogOperationType::kPut, key, value);
}

void LogRecord::erase(KeyView key) {
    CHECK(valid_key(key));
    append(LogOperationType::kErase, key, {});
}

void LogRecord::allocate(const Run& run) {
    CHECK(run.blocks > 0);
    append(LogOperationType::kAllocate, {}, bytes_of(LogRun{run.first(), run.blocks}));
}

void LogRecord::free(const Run& run) {
    CHECK(run.blocks > 0);
    append(LogOperationType::kFree, {}, bytes_of(LogRun{run.first(), run.blocks}));
}

void LogRecord::next_blob_id(BlobId next) {
    append(LogOperationType::kNextBlobId, {}, bytes_of(next));
}

void LogRecord::data(std::uint64_t address, std::string_view bytes) {
    CHECK(address % kLogDataUnit == 0 && bytes.size() % kLogDataUnit == 0);
    while (!bytes.empty()) {
        const std::string_view piece = bytes.substr(0, kMaxLogDataBytes);
        append(LogOperationType::kData, {},
               std::string(bytes_of(LogData{.address = address})).append(piece));
        address += piece.size();
        bytes.remove_prefix(piece.size());
    }
}

std::string_view LogRecord::finish() {
    CHECK(bytes_.size() <= std::numeric_limits<std::uint32_t>::max() - kUnit);
    bytes_.resize(round_up(bytes_.size(), kUnit), '\0');
    const LogTransactionHeader header{.bytes = static_cast<std::uint32_t>(bytes_.size()),
                                      .operations = operations_};
    bytes_.replace(0, sizeof(header), bytes_of(header));
    return bytes_;
}

Result<std::size_t> parse_transaction(std::string_view bytes, OperationVisit visit) {
    if (bytes.size() < sizeof(LogTransactionHeader)) {
        return damaged("replaying the log: a transaction is cut off");
    }
    const auto header = load<LogTransactionHeader>(bytes);
    if (header.bytes < sizeof(header) || header.bytes > bytes.size() || header.bytes % kUnit != 0) {
        return damaged("replaying the log: a transaction of the wrong size");
    }
    std::string_view rest = bytes.substr(sizeof(header), header.bytes - sizeof(header));
    for (std::uint32_t i = 0; i < header.operations; ++i) {
        TRY_ASSIGN(const RawOperation raw, take_operation(rest));
        TRY_ASSIGN(const LogOperation operation, interpret(raw));
        TRY(visit(operation));
    }
    if (rest.size() >= kUnit || std::ranges::any_of(rest, [](char c) { return c != '\0'; })) {
        return damaged("replaying the log: bytes behind the last operation");
    }
    return header.bytes;
}

}  // namespace blobfs::blobstore
