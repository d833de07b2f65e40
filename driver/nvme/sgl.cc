#include "driver/nvme/sgl.h"

#include <algorithm>

#include "driver/base/check.h"

namespace blobfs::driver::nvme {

namespace {

// Collects runs of memory, neighbours joined; nothing more once there are too many.
class Runs {
  public:
    explicit Runs(SglDescriptor* list) : list_(list) {}

    void add(std::uint64_t address, std::size_t bytes) {
        if (count_ != 0 && last_.address + last_.bytes == address) {
            last_.bytes += static_cast<std::uint32_t>(bytes);
            return;
        }
        if (count_ != 0) put();
        last_ = {.address = address,
                 .bytes = static_cast<std::uint32_t>(bytes),
                 .reserved12 = {},
                 .identifier = kSglDataBlock};
        ++count_;
    }
    void end() {
        if (count_ > 1) put();
    }
    [[nodiscard]] std::size_t count() const { return count_; }
    [[nodiscard]] const SglDescriptor& last() const { return last_; }

  private:
    void put() {
        if (count_ <= kSglListEntries) list_[count_ - 1] = last_;
    }

    SglDescriptor* list_;
    SglDescriptor last_{};
    std::size_t count_ = 0;
};

}  // namespace

std::optional<SglDescriptor> build_sgl(const Transport& transport,
                                       std::span<const DmaSegment> segments, TransferRange range,
                                       SglDescriptor* list, std::uint64_t list_address) {
    Runs runs(list);
    std::size_t left = range.bytes;
    for (const DmaSegment& segment : segments) {
        if (range.offset >= segment.bytes) {
            range.offset -= segment.bytes;
            continue;
        }
        const std::byte* memory = segment.data + range.offset;
        std::size_t run = std::min(left, segment.bytes - range.offset);
        range.offset = 0;
        left -= run;
        if (transport.identity()) {
            runs.add(transport.dma_address(memory), run);
        } else {
            while (run != 0) {
                const std::size_t in_page =
                    kPageBytes - (reinterpret_cast<std::uintptr_t>(memory) & (kPageBytes - 1));
                const std::size_t step = std::min(run, in_page);
                runs.add(transport.dma_address(memory), step);
                memory += step;
                run -= step;
            }
        }
        if (left == 0 || runs.count() > kSglListEntries) break;
    }
    if (runs.count() > kSglListEntries) return std::nullopt;
    CHECK(left == 0 && runs.count() != 0);
    if (runs.count() == 1) return runs.last();
    runs.end();
    return SglDescriptor{.address = list_address,
                         .bytes = static_cast<std::uint32_t>(runs.count() * sizeof(SglDescriptor)),
                         .reserved12 = {},
                         .identifier = kSglLastSegment};
}

}  // namespace blobfs::driver::nvme
