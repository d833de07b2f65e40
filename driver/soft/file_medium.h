#pragma once

// A medium in a file or a block device, by io_uring, flushes by a thread. Direct I/O where the file
// has it, for every transfer (memory that is not aligned for it is copied: BounceMemory), else the
// page cache. FLUSH is fdatasync, FUA a write with RWF_DSYNC, deallocate punches a hole. Holds an
// OFD lock for as long as it lives, exclusive for writing, shared for reading, and on the file
// behind a loop device, too; block devices are opened with O_EXCL, so that the kernel refuses one
// that is mounted. Where io_uring is not to be had, system calls that block take its place.

#include <liburing.h>

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "driver/base/result.h"
#include "driver/reactor/fiber.h"
#include "driver/soft/bounce_memory.h"
#include "driver/soft/flush_thread.h"
#include "driver/soft/medium.h"

namespace blobfs::driver {

class Reactor;

struct FileMediumOptions {
    bool read_only = false;
    std::uint64_t create_size = 0;  // bytes; makes the file, or grows it; 0: neither
    std::uint32_t lock_wait_ms = 3000;
    std::uint32_t lba_bytes = 0;  // 512 or 4096; 0: what direct I/O needs, else 512
    bool direct = true;           // use O_DIRECT where possible
    bool io_uring = true;         // false: blocking system calls (tests, fallback)
};

class FileMedium final : public Medium {
  public:
    // Suspends while the file is in use by another process, for lock_wait_ms; then kBusy.
    // kInvalidArgument for what is neither a file nor a block device, or too small.
    static Result<std::unique_ptr<FileMedium>> open(Suspend& suspend, const std::string& path,
                                                    const FileMediumOptions& options);
    // Waits for what is in flight, lets go of the lock.
    ~FileMedium() override;

    [[nodiscard]] const MediumProperties& properties() const override { return properties_; }
    void start(MediumOperation& operation) override;
    void submit() override;
    bool poll() override;
    [[nodiscard]] std::size_t in_flight() const override { return in_flight_; }
    // While the kernel takes no submissions, only another try helps.
    [[nodiscard]] int wake_descriptor() const override {
        return ring_ready_ && prepared_ == 0 ? ring_.ring_fd : -1;
    }

    [[nodiscard]] bool direct() const { return direct_; }

  private:
    FileMedium(Reactor& reactor, const FileMediumOptions& options)
        : reactor_(reactor), options_(options) {}
    Result<void> open_file(Suspend& suspend, const std::string& path);
    Result<void> lock(Suspend& suspend);
    Result<void> lock(Suspend& suspend, int descriptor);
    Result<void> measure();
    void open_direct();
    void start_ring();
    void prepare_zeroes();
    bool queue_flush(MediumOperation& operation);
    bool take_flushed();
    bool queue(MediumOperation& operation);
    void ended(MediumOperation& operation, int result);
    void finish(MediumOperation& operation, MediumStatus status);
    void run_blocking(MediumOperation& operation);
    // For transfers: all of them take the same.
    [[nodiscard]] int data_descriptor() const { return direct_ ? direct_descriptor_ : descriptor_; }
    [[nodiscard]] bool aligned(const MediumOperation& operation) const;
    [[nodiscard]] MediumStatus status_for(const MediumOperation& operation, int error);

    Reactor& reactor_;
    const FileMediumOptions options_;
    MediumProperties properties_;
    int descriptor_ = -1;                   // through the page cache; holds the lock
    int direct_descriptor_ = -1;            // O_DIRECT, or -1
    bool direct_ = false;                   // transfers take that one
    std::vector<int> backing_descriptors_;  // the files behind a loop device; locked, too
    std::uint32_t memory_align_ = 512;
    std::uint32_t offset_align_ = 512;
    bool block_device_ = false;
    bool punch_hole_ = true;  // until the file system says no
    bool zero_range_ = true;
    bool warned_ = false;
    bool full_told_ = false;
    bool transferred_ = false;  // a transfer has succeeded: direct I/O works, if it is used
    io_uring ring_{};
    bool ring_ready_ = false;
    unsigned prepared_ = 0;  // in the submission ring, not yet submitted
    std::size_t in_flight_ = 0;
    std::unique_ptr<FlushThread> flusher_;               // from the first flush on
    std::vector<MediumOperation*> flushing_, to_flush_;  // what its flush covers; what came later
    MediumOperation* backlog_head_ = nullptr;            // the submission ring was full
    MediumOperation* backlog_tail_ = nullptr;
    absl::flat_hash_map<MediumOperation*, std::unique_ptr<BounceMemory>> bounced_;
    std::unique_ptr<std::byte[]> zeroes_;  // kZeroBytes, from the first aligned address on
    std::byte* aligned_zeroes_ = nullptr;
};

}  // namespace blobfs::driver
