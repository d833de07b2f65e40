#pragma once

// One transaction as bytes of the log (FORMAT.md, "Log": transaction header, operations, padding to
// 8 bytes): the encoder that a transaction fills, and the parser that recovery uses, which takes
// any bytes whatever. Any thread.

#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "blobstore/key.h"
#include "driver/base/result.h"

namespace blobfs::blobstore {

// Encodes one transaction: operations in order, as bytes for the log.
class LogRecord {
  public:
    LogRecord();
    // REQUIRES 9 <= key.size() <= kMaxKeyBytes.
    void put(KeyView key, ValueView value);
    void erase(KeyView key);
    // REQUIRES run.blocks > 0.
    void allocate(const Run& run);
    void free(const Run& run);
    void next_blob_id(BlobId next);
    // Bytes that are at that byte of the device; both in units of kLogDataUnit. Any length.
    void data(std::uint64_t address, std::string_view bytes);
    [[nodiscard]] bool empty() const { return operations_ == 0; }
    // What finish() will return at least; the padding of at most 7 bytes comes on top.
    [[nodiscard]] std::size_t bytes() const { return bytes_.size(); }
    // Pads and fills the header; the bytes are then what the log stores. Valid until the next call.
    std::string_view finish();
    // Ready for the next transaction; keeps the memory.
    void clear();

  private:
    void append(LogOperationType type, KeyView key, ValueView value);

    std::string bytes_;
    std::uint32_t operations_ = 0;
};

struct LogOperation {
    LogOperationType type;
    KeyView key;      // kPut, kErase
    ValueView value;  // kPut
    Run run;          // kAllocate, kFree
    BlobId next_blob_id{};
    std::uint64_t address = 0;  // kData: byte on the device; `value` has the bytes
    std::uint64_t batch = 0;    // that it was read from
};

// Takes the first transaction off the bytes and calls visit for each operation; views point into
// the bytes. Nothing is visited beyond the first fault. Answers the length of the transaction.
// kCorrupt (without address) when it is not just what LogRecord makes. A visit error ends it.
using OperationVisit = absl::FunctionRef<Result<void>(const LogOperation&)>;
Result<std::size_t> parse_transaction(std::string_view bytes, OperationVisit visit);

}  // namespace blobfs::blobstore
