#pragma once

// How a controller is reached: its registers, its doorbells, and the addresses by which it sees
// host memory. The host driver knows nothing else about what is behind. Used from the reactor's
// thread, but for dma_address(), which any thread may call, and rung_from_elsewhere().

#include <cstddef>
#include <cstdint>
#include <string>

namespace blobfs::driver {
class Reactor;
}

namespace blobfs::driver::nvme {

class Transport {
  public:
    virtual ~Transport() = default;

    // Controller registers below the doorbells (driver/nvme/registers.h); offset in bytes. A read
    // gives all ones when the controller is no longer there.
    [[nodiscard]] virtual std::uint32_t read32(std::uint32_t offset) = 0;
    [[nodiscard]] virtual std::uint64_t read64(std::uint32_t offset) = 0;
    virtual void write32(std::uint32_t offset, std::uint32_t value) = 0;
    virtual void write64(std::uint32_t offset, std::uint64_t value) = 0;

    // The doorbell word at that register offset (submission_doorbell(), completion_doorbell()),
    // for the transport's lifetime; null when the offset is beyond what is mapped. The driver
    // stores to it with 32-bit stores (shared_word.h).
    [[nodiscard]] virtual volatile std::uint32_t* doorbell(std::uint32_t offset) = 0;

    // The address by which the controller reaches that byte of DMA memory. Valid for the bytes up
    // to the end of the memory page.
    [[nodiscard]] std::uint64_t dma_address(const void* memory) const {
        return identity_ ? reinterpret_cast<std::uintptr_t>(memory) : translate(memory);
    }

    // The controller uses the process's own addresses: memory that lies together for us does so for
    // the controller.
    [[nodiscard]] bool identity() const { return identity_; }

    // A queue pair of another thread than the transport's has written to a doorbell. That thread.
    virtual void rung_from_elsewhere() {}

    // The controller is in this process: it looks at its doorbells once in a turn of the reactor,
    // and when it is asked to. The transport's thread.
    [[nodiscard]] virtual bool works_when_asked() const { return false; }
    virtual void work_now() {}
    // And its commands are done, and their completions posted, when work_now() returns.
    [[nodiscard]] virtual bool at_once() const { return false; }

    // From now on that reactor is notified whenever completions have been posted to that queue, so
    // that it may sleep while it waits for one; null: no longer. False where nothing can do so:
    // then they are found by polling only.
    virtual bool notify_of_completions(std::uint16_t queue_id, Reactor* reactor) {
        (void)queue_id, (void)reactor;
        return false;
    }

    // A descriptor that becomes readable when a completion may have been posted, or -1 when
    // completions are found by polling only.
    [[nodiscard]] virtual int wake_descriptor() const { return -1; }

    // Ends the controller's access to host memory, whatever state it is in: it has been given up,
    // and the memory of its requests goes to others.
    virtual void stop_dma() {}

    // For messages: a path, a PCI address, "mem:...".
    [[nodiscard]] virtual const std::string& name() const = 0;

  protected:
    // identity: the controller uses the process's own virtual addresses.
    explicit Transport(bool identity) : identity_(identity) {}
    Transport(const Transport&) = default;
    Transport& operator=(const Transport&) = default;

  private:
    [[nodiscard]] virtual std::uint64_t translate(const void* memory) const {
        return reinterpret_cast<std::uintptr_t>(memory);
    }

    bool identity_;
};

}  // namespace blobfs::driver::nvme
