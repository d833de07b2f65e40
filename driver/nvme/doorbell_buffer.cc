#include "driver/nvme/doorbell_buffer.h"

#include <cstring>

#include "driver/base/check.h"

namespace blobfs::driver::nvme {

namespace {

volatile std::uint32_t* word(const DmaBuffer& page, std::uint32_t doorbell) {
    return reinterpret_cast<volatile std::uint32_t*>(page.data() + doorbell - kRegisterDoorbells);
}

}  // namespace

Result<std::unique_ptr<DoorbellBuffer>> DoorbellBuffer::create() {
    auto buffer = std::make_unique<DoorbellBuffer>();
    TRY_ASSIGN(buffer->shadows_, DmaBuffer::allocate(kPageBytes));
    TRY_ASSIGN(buffer->events_, DmaBuffer::allocate(kPageBytes));
    return buffer;
}

bool DoorbellBuffer::has_room_for(std::uint16_t queue_id, std::uint32_t stride) {
    return completion_doorbell(queue_id, stride) + sizeof(std::uint32_t) <=
           kRegisterDoorbells + kPageBytes;
}

Result<void> DoorbellBuffer::configure(Suspend& suspend, AdminQueue& admin,
                                       const Transport& transport) {
    std::memset(shadows_.data(), 0, kPageBytes);
    std::memset(events_.data(), 0, kPageBytes);
    SubmissionEntry command = admin_entry(AdminOpcode::kDoorbellBufferConfig);
    command.prp1 = transport.dma_address(shadows_.data());
    command.prp2 = transport.dma_address(events_.data());
    TRY(admin.send(suspend, command, {}, "giving the NVMe controller shadow doorbells"));
    return {};
}

QueuePair::ShadowWords DoorbellBuffer::words(std::uint16_t queue_id, std::uint32_t stride) const {
    CHECK(has_room_for(queue_id, stride));
    const std::uint32_t submission = submission_doorbell(queue_id, stride);
    const std::uint32_t completion = completion_doorbell(queue_id, stride);
    return {.submission = word(shadows_, submission),
            .completion = word(shadows_, completion),
            .submission_event = word(events_, submission),
            .completion_event = word(events_, completion)};
}

}  // namespace blobfs::driver::nvme
