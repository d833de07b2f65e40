#pragma once

// The admin queue as fibers use it: one call for a command and its answer. The controller's thread.

#include <cstdint>
#include <memory>
#include <span>

#include "driver/base/result.h"
#include "driver/memory/dma_buffer.h"
#include "driver/nvme/queue_pair.h"
#include "driver/nvme/spec.h"
#include "driver/reactor/fiber.h"

namespace blobfs::driver::nvme {

[[nodiscard]] SubmissionEntry admin_entry(AdminOpcode opcode);

class AdminQueue {
  public:
    // As QueuePair::create().
    static Result<std::unique_ptr<AdminQueue>> create(Transport& transport,
                                                      QueueSupervisor& supervisor,
                                                      const QueuePairOptions& options);

    [[nodiscard]] QueuePair& pair() { return *pair_; }

    // A command as it is, with DMA memory or none; suspends until its answer: completion dword 0.
    // what: a literal for the error.
    Result<std::uint32_t> send(Suspend& suspend, const SubmissionEntry& command, DmaSpan data,
                               const char* what);
    // The same with up to a page of any memory, copied in the direction that is said; a multiple of
    // 4 bytes, else kInvalidArgument.
    enum class Direction : std::uint8_t { kToHost, kToController };
    Result<std::uint32_t> send_copied(Suspend& suspend, const SubmissionEntry& command,
                                      std::span<std::byte> data, Direction direction,
                                      const char* what);

    // Identify; into: at most a page.
    Result<void> identify(Suspend& suspend, IdentifyKind kind, std::uint32_t namespace_id,
                          std::span<std::byte> into, const char* what);
    // Get Log Page; at most 4096 bytes, a multiple of 4.
    Result<void> get_log_page(Suspend& suspend, LogPage page, std::span<std::byte> into);
    // Set Features with a value, and a page's worth of data where the feature has it.
    Result<std::uint32_t> set_feature(Suspend& suspend, Feature feature, std::uint32_t value,
                                      std::span<std::byte> data, const char* what);

  private:
    struct Call;
    explicit AdminQueue(QueueSupervisor& supervisor) : supervisor_(supervisor) {}

    QueueSupervisor& supervisor_;
    std::unique_ptr<QueuePair> pair_;
    DmaBuffer page_;
    FiberMutex page_mutex_;
};

}  // namespace blobfs::driver::nvme
