#pragma once

// The one public face of the driver for the layers above: an opened DEVICE argument, that is an
// NVMe namespace reached through its controller and one I/O queue pair on one reactor. What is
// behind it (an SSD, a file, memory) shows only in its properties. All calls are made on the
// reactor's thread, those with Suspend& from a fiber; any number of fibers at once. Another thread
// joins with a queue pair of its own.

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "driver/base/result.h"
#include "driver/memory/dma_buffer.h"
#include "driver/memory/dma_segment.h"
#include "driver/reactor/fiber.h"

namespace blobfs::driver {

class Reactor;
class Medium;  // driver/soft/medium.h

struct DeviceOptions {
    bool read_only = false;  // the medium is opened for reading, writes fail with kReadOnly
    std::uint32_t queue_depth = 256;  // of each I/O queue pair, bounded by the controller's limit
    std::uint16_t io_queues = 1;      // this one and those that join() may take; may become fewer
    std::uint32_t namespace_id = 1;
    std::uint64_t create_size = 0;  // file: make it, or grow it, to this size in bytes; 0: do not
    // Memory: a transfer has ended when the call returns that starts it, mostly. False: in the
    // reactor's next turn, as others do. Tests of what happens meanwhile.
    bool at_once = true;
    std::uint32_t lock_wait_ms = 3000;  // a file in use: how long to wait for its lock
    // How long a command may take before it is aborted. 0: 30 s for a controller of its own, 10
    // minutes for files and memory, where a flush may take long and the kernel has timeouts too.
    std::uint32_t io_timeout_ms = 0;
};

struct DeviceProperties {
    std::string name;  // for messages: path, PCI address, "mem:..."
    std::string model, serial, firmware;
    std::uint64_t bytes = 0;  // capacity
    std::uint32_t lba_bytes = 512;
    std::uint32_t max_transfer_bytes = 0;  // MDTS; larger requests are split by the driver
    bool volatile_write_cache = false;     // flush() is needed for durability
    bool deallocate = false;               // deallocate() gives space back
    bool write_zeroes = false;
    bool compare = false, verify = false;  // the controller has these commands
    bool read_only = false;
    std::uint32_t io_queues = 1;  // that there are, this one included
};

enum class WriteFlags : std::uint8_t { kNone = 0, kForceUnitAccess = 1 };

class Device {
  public:
    // DEVICE: a PCI address (pcie:ADDR), a path (file:PATH), or mem:SIZE (design, section 2).
    static Result<std::unique_ptr<Device>> open(Suspend& suspend, const std::string& name,
                                                const DeviceOptions& options = {});
    // The software controller over any medium: tests, faults.
    static Result<std::unique_ptr<Device>> open(Suspend& suspend, std::unique_ptr<Medium> medium,
                                                const DeviceOptions& options = {});
    virtual ~Device() = default;

    // The same device for another thread: a fiber of that thread's reactor calls it, and the device
    // that it gets, on a queue pair of its own, belongs to that thread; it is closed there. The
    // device that was opened first is the last to be closed, and its reactor runs until then.
    // kBusy when all queue pairs are taken (DeviceOptions::io_queues), kDeviceGone, kNotSupported.
    // What is not data (namespaces, errors, resets) stays with the first. Suspends.
    virtual Result<std::unique_ptr<Device>> join(Suspend& suspend);

    // Ends I/O in order: waits for what is in flight, shuts the controller down (CC.SHN), lets go
    // of the lock. Called once, before destruction.
    virtual Result<void> close(Suspend& suspend) = 0;

    // From now on every transfer fails with kIo and nothing new goes to the device: for a
    // filesystem that stops at once, come what may. Suspends until what was started before has
    // ended, a few seconds at most. close() is still to be called. Of the device that was opened
    // first.
    virtual void fence(Suspend& suspend) = 0;

    [[nodiscard]] virtual const DeviceProperties& properties() const = 0;

    // offset and length in bytes, multiples of lba_bytes; memory is DMA memory, dword-aligned.
    // Any length: split as the controller needs. Suspend until done.
    virtual Result<void> read(Suspend&, std::uint64_t offset, DmaSpan into) = 0;
    virtual Result<void> write(Suspend&, std::uint64_t offset, ConstDmaSpan from,
                               WriteFlags flags = WriteFlags::kNone) = 0;
    virtual Result<void> write(Suspend&, std::uint64_t offset, std::span<const DmaSegment> from,
                               WriteFlags flags = WriteFlags::kNone) = 0;
    // All writes completed before the call are durable when it returns.
    virtual Result<void> flush(Suspend&) = 0;
    // The range reads as zeroes afterwards / may read as anything and gives its space back.
    virtual Result<void> write_zeroes(Suspend&, std::uint64_t offset, std::uint64_t bytes) = 0;
    virtual Result<void> deallocate(Suspend&, std::uint64_t offset, std::uint64_t bytes) = 0;

    // True when the device holds exactly that. kNotSupported without properties().compare.
    virtual Result<bool> compare(Suspend&, std::uint64_t offset, ConstDmaSpan with);
    // The device reads the range, and gives an error where it cannot; nothing is transferred.
    // kNotSupported without properties().verify.
    virtual Result<void> verify(Suspend&, std::uint64_t offset, std::uint64_t bytes);

    // Starting several transfers from one fiber and waiting for all: the first error, if any.
    // The object must stay until wait() returned; memory likewise. May be reused after wait().
    class Batch {
      public:
        explicit Batch(Device& device) : device_(device) {}
        ~Batch();  // CHECKs that nothing is in flight
        void read(std::uint64_t offset, DmaSpan into);
        void write(std::uint64_t offset, ConstDmaSpan from, WriteFlags flags = WriteFlags::kNone);
        void write(std::uint64_t offset, std::span<const DmaSegment> from,
                   WriteFlags flags = WriteFlags::kNone);
        void deallocate(std::uint64_t offset, std::uint64_t bytes);
        Result<void> wait(Suspend& suspend);

      private:
        friend class Device;
        static void ended(void* batch, const Error* error, std::uint32_t result);

        Device& device_;
        std::size_t in_flight_ = 0;
        Error first_error_{};
        bool failed_ = false;
        Fiber* waiter_ = nullptr;
    };

    struct Statistics {
        std::uint64_t reads = 0, writes = 0, flushes = 0, bytes_read = 0, bytes_written = 0;
    };
    [[nodiscard]] virtual Statistics statistics() const = 0;

  protected:
    enum class Operation : std::uint8_t {
        kRead,
        kWrite,
        kFlush,
        kWriteZeroes,
        kDeallocate,
        kCompare,
        kVerify
    };
    struct Transfer {
        Operation operation = Operation::kRead;
        WriteFlags flags = WriteFlags::kNone;
        std::uint64_t offset = 0;
        std::uint64_t bytes = 0;
        std::span<const DmaSegment> memory = {};  // copied; what it names is not
    };
    // error: null when it succeeded. The result is the completion's dword 0, not used here.
    using Ended = void (*)(void* context, const Error* error, std::uint32_t result);
    // Starts it and returns; ended() is called later, or before start() returns.
    virtual void start(const Transfer& transfer, Ended ended, void* context) = 0;
    // What has been started goes out now rather than at the reactor's next turn; it may have ended
    // when that returns.
    virtual void send() = 0;
};

}  // namespace blobfs::driver
