#pragma once

// The shadow doorbells and event indices of all queues: two pages that a controller which offers it
// is given once (Doorbell Buffer Config, 1.4 section 5.7). The controller's thread; the words are
// used by the threads of their queues.

#include <cstdint>
#include <memory>

#include "driver/base/result.h"
#include "driver/memory/dma_buffer.h"
#include "driver/nvme/admin_queue.h"
#include "driver/nvme/queue_pair.h"

namespace blobfs::driver::nvme {

class DoorbellBuffer {
  public:
    static Result<std::unique_ptr<DoorbellBuffer>> create();

    // True when a queue with that id has its words within the pages.
    [[nodiscard]] static bool has_room_for(std::uint16_t queue_id, std::uint32_t stride);

    // Zeroes both pages and gives them to the controller, which has just been enabled and has no
    // I/O queues yet. Suspends.
    Result<void> configure(Suspend& suspend, AdminQueue& admin, const Transport& transport);

    // REQUIRES: has_room_for().
    [[nodiscard]] QueuePair::ShadowWords words(std::uint16_t queue_id, std::uint32_t stride) const;

  private:
    DmaBuffer shadows_, events_;
};

}  // namespace blobfs::driver::nvme
