#pragma once

// What a software controller keeps its data on: a file, memory, or one of these wrapped for tests.
// Reactor thread only. An operation is started, and ends by its callback, from within start() or a
// later poll(), in any order. Nothing blocks.

#include <sys/uio.h>

#include <cstdint>
#include <string>

#include "driver/nvme/commands.h"

namespace blobfs::driver {

struct MediumProperties {
    std::string name;  // for messages: the path, "mem:..."
    std::string model = "blobfs software controller";
    std::uint64_t bytes = 0;            // capacity, a multiple of lba_bytes
    std::uint32_t lba_bytes = 512;      // 512 or 4096: the smallest write that is not torn apart
    bool volatile_write_cache = false;  // acknowledged writes need a flush to be durable
    bool deallocate = true;
    bool write_zeroes = true;
    bool read_only = false;
};

// The end of an operation as an NVMe status: SCT << 8 | SC, 0 for success.
struct MediumStatus {
    std::uint16_t code = 0;
    bool do_not_retry = true;

    MediumStatus() = default;
    explicit MediumStatus(nvme::Status status, bool final = true)
        : code(static_cast<std::uint16_t>(status)), do_not_retry(final) {}
};

// One operation. Belongs to whoever starts it, stays where it is until done() was called; done()
// may reuse it at once. offset and bytes are multiples of the LBA size and within the capacity.
struct MediumOperation {
    enum class Kind : std::uint8_t { kRead, kWrite, kFlush, kDeallocate, kWriteZeroes };

    Kind kind = Kind::kRead;
    bool force_unit_access = false;  // write, write zeroes: durable before done()
    bool may_deallocate = false;     // write zeroes: the space may be given back
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    iovec* memory = nullptr;  // read, write: `bytes` in all; the medium may consume it
    unsigned memory_count = 0;
    void (*done)(MediumOperation& operation, MediumStatus status) = nullptr;

    // The medium's own while it has the operation.
    MediumOperation* next = nullptr;
    std::uint64_t progress = 0;
    std::uint32_t stage = 0;
};

class Medium {
  public:
    virtual ~Medium() = default;

    [[nodiscard]] virtual const MediumProperties& properties() const = 0;
    virtual void start(MediumOperation& operation) = 0;
    // All operations of a batch have been started: send them.
    virtual void submit() {}
    // Takes what has ended. True when there was something.
    virtual bool poll() { return false; }
    // Ends an operation early with kAbortRequested, calling done(). False when that is not
    // possible: it then ends in its own time.
    virtual bool cancel(MediumOperation& operation) {
        (void)operation;
        return false;
    }
    // Operations that have been started and have not ended.
    [[nodiscard]] virtual std::size_t in_flight() const = 0;
    // Every operation ends within start(), and who waits for one need not wait for a turn of the
    // reactor.
    [[nodiscard]] virtual bool at_once() const { return false; }
    // Readable when poll() may find something, or -1.
    [[nodiscard]] virtual int wake_descriptor() const { return -1; }
    // The device has vanished: registers read all ones, nothing is answered any more.
    [[nodiscard]] virtual bool gone() const { return false; }
};

}  // namespace blobfs::driver
