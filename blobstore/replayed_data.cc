#include "blobstore/replayed_data.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>

namespace blobfs::blobstore {

using driver::DmaBuffer;
using driver::Suspend;

Result<void> ReplayedData::add(Suspend& suspend, driver::Device& device,
                               const Superblock& superblock, const LogOperation& operation) {
    std::uint64_t at = operation.address;
    const std::uint64_t end = at + operation.value.size();
    total_bytes_ += operation.value.size();
    if (at < log_end(superblock) * kBlockBytes || end > superblock.block_count * kBlockBytes ||
        total_bytes_ > kMaxLoggedDataBytes) {
        return fail(Errc::kCorrupt, "replaying the log: data where none can be", at);
    }
    while (at < end) {
        const std::uint64_t block = at / kBlockBytes;
        const std::uint64_t within = at % kBlockBytes;
        const std::size_t length = std::min(end - at, kBlockBytes - within);
        auto found = blocks_.find(block);
        if (found == blocks_.end()) {
            TRY_ASSIGN(DmaBuffer buffer, DmaBuffer::allocate(kBlockBytes));
            const Result<void> read =
                length == kBlockBytes
                    ? Result<void>()
                    : device.read(suspend, block * kBlockBytes, buffer.span());
            if (read) {
                found = blocks_.emplace(block, std::move(buffer)).first;
            } else {
                spdlog::error("{}: {}: data that the log has for it is lost",
                              device.properties().name, read.error().message());
            }
        }
        if (found != blocks_.end()) {
            std::memcpy(found->second.data() + within,
                        operation.value.data() + (at - operation.address), length);
        }
        at += length;
    }
    return {};
}

void ReplayedData::patch(std::uint64_t address, driver::DmaSpan bytes) const {
    for (std::uint64_t done = 0; done < bytes.size(); done += kBlockBytes) {
        const auto found = blocks_.find((address + done) / kBlockBytes);
        if (found == blocks_.end()) continue;
        std::memcpy(bytes.data() + done, found->second.data(),
                    std::min<std::size_t>(kBlockBytes, bytes.size() - done));
    }
}

}  // namespace blobfs::blobstore
