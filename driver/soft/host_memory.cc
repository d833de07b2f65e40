#include "driver/soft/host_memory.h"

#include <algorithm>

#include "driver/nvme/sgl.h"

namespace blobfs::driver {

namespace {

using nvme::kPageBytes;
using nvme::SglDescriptor;
using nvme::Status;

constexpr std::size_t kPageWords = kPageBytes / sizeof(std::uint64_t);
constexpr std::size_t kMaxSglSegments = 1024;  // in a chain: one that has no end ends here

class Pieces {
  public:
    explicit Pieces(std::vector<iovec>& pieces) : pieces_(pieces) { pieces_.clear(); }

    void add(std::uint64_t address, std::size_t bytes) {
        if (!pieces_.empty()) {
            iovec& last = pieces_.back();
            if (reinterpret_cast<std::uintptr_t>(last.iov_base) + last.iov_len == address) {
                last.iov_len += bytes;
                return;
            }
        }
        pieces_.push_back({.iov_base = reinterpret_cast<void*>(address), .iov_len = bytes});
    }

  private:
    std::vector<iovec>& pieces_;
};

const std::uint64_t* words_at(std::uint64_t address) {
    return reinterpret_cast<const std::uint64_t*>(address);
}

// Section 4.3.
Status map_prps(const nvme::SubmissionEntry& entry, std::uint64_t bytes, Pieces& pieces) {
    const std::uint64_t page_offset = entry.prp1 & (kPageBytes - 1);
    if (entry.prp1 == 0) [[unlikely]]
        return Status::kDataTransferError;
    if (entry.prp1 % 4 != 0) [[unlikely]]
        return Status::kInvalidPrpOffset;
    const std::uint64_t first = std::min<std::uint64_t>(bytes, kPageBytes - page_offset);
    pieces.add(entry.prp1, first);
    std::uint64_t left = bytes - first;
    if (left == 0) return Status::kSuccess;
    if (left <= kPageBytes) {
        if (entry.prp2 % kPageBytes != 0 || entry.prp2 == 0) [[unlikely]]
            return Status::kInvalidPrpOffset;
        pieces.add(entry.prp2, left);
        return Status::kSuccess;
    }
    // A list; its last entry in a page points to the next list page when more than one is left.
    if (entry.prp2 % 8 != 0 || entry.prp2 == 0) [[unlikely]]
        return Status::kInvalidPrpOffset;
    const std::uint64_t* list = words_at(entry.prp2);
    std::size_t room = kPageWords - (entry.prp2 % kPageBytes) / sizeof(std::uint64_t);
    while (left != 0) {
        const std::uint64_t address = *list++;
        --room;
        if (address % kPageBytes != 0 || address == 0) [[unlikely]]
            return Status::kInvalidPrpOffset;
        if (room == 0 && left > kPageBytes) {
            list = words_at(address);
            room = kPageWords;
            continue;
        }
        const std::uint64_t length = std::min<std::uint64_t>(left, kPageBytes);
        pieces.add(address, length);
        left -= length;
    }
    return Status::kSuccess;
}

// Section 4.4. Only data blocks, segments and last segments, by address.
Status map_sgl(const nvme::SubmissionEntry& entry, std::uint64_t bytes, Pieces& pieces) {
    const auto identifier = static_cast<std::uint8_t>(entry.prp2 >> 56);
    SglDescriptor next{.address = entry.prp1,
                       .bytes = static_cast<std::uint32_t>(entry.prp2),
                       .reserved12 = {},
                       .identifier = identifier};
    const auto add = [&](const SglDescriptor& block) {
        if (block.bytes > bytes) return false;
        if (block.bytes != 0) pieces.add(block.address, block.bytes);
        bytes -= block.bytes;
        return block.bytes == 0 || block.address != 0;
    };
    const auto end = [&] { return bytes == 0 ? Status::kSuccess : Status::kInvalidSglLength; };
    if (identifier == nvme::kSglDataBlock) {
        if (!add(next)) [[unlikely]]
            return Status::kInvalidSglLength;
        return end();
    }
    for (std::size_t segments = 0; segments < kMaxSglSegments; ++segments) {
        const bool last = next.identifier == nvme::kSglLastSegment;
        if (!last && next.identifier != nvme::kSglSegment) [[unlikely]]
            return Status::kInvalidSglType;
        if (next.bytes == 0 || next.bytes % sizeof(SglDescriptor) != 0 || next.address == 0 ||
            next.address % alignof(SglDescriptor) != 0) [[unlikely]] {
            return Status::kInvalidSglDescriptor;
        }
        const auto* list = reinterpret_cast<const SglDescriptor*>(next.address);
        const std::size_t count = next.bytes / sizeof(SglDescriptor);
        const std::size_t blocks = last ? count : count - 1;
        for (std::size_t i = 0; i < blocks; ++i) {
            if (list[i].identifier != nvme::kSglDataBlock) [[unlikely]]
                return Status::kInvalidSglType;
            if (!add(list[i])) [[unlikely]]
                return Status::kInvalidSglLength;
        }
        if (last) return end();
        next = list[count - 1];
    }
    return Status::kInvalidSglCount;
}

}  // namespace

Status map_host_memory(const nvme::SubmissionEntry& entry, std::uint64_t bytes,
                       std::vector<iovec>& pieces) {
    Pieces into(pieces);
    if (entry.flags == nvme::kFlagsSgl) return map_sgl(entry, bytes, into);
    return map_prps(entry, bytes, into);
}

}  // namespace blobfs::driver
