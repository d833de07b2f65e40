#include "tools/perf/device_content.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>

namespace blobfs::tools {

namespace {

using driver::Device;
using driver::DmaBuffer;
using driver::DmaSpan;
using driver::Suspend;

constexpr std::size_t kSector = 512;
constexpr std::size_t kSampleBytes = 4096;
constexpr std::size_t kSamples = 256;
constexpr std::size_t kSamplesAtOnce = 32;
constexpr std::uint64_t kEdgeBytes = std::uint64_t{256} << 10;
constexpr char kMark[] = "blobfs-perf data";  // at the start of each sector
constexpr std::size_t kMarkBytes = sizeof kMark - 1;

bool all_zero(driver::ConstDmaSpan memory) {
    return memory[0] == std::byte{} &&
           std::memcmp(memory.data(), memory.data() + 1, memory.size() - 1) == 0;
}

// The first sector that is neither empty nor a benchmark's.
std::optional<std::size_t> foreign_sector(driver::ConstDmaSpan memory) {
    for (std::size_t at = 0; at + kSector <= memory.size(); at += kSector) {
        const driver::ConstDmaSpan sector = memory.subspan(at, kSector);
        if (std::memcmp(sector.data(), kMark, kMarkBytes) != 0 && !all_zero(sector)) return at;
    }
    return std::nullopt;
}

// Reads pieces of kSampleBytes at those offsets and shows them, until the viewer has seen enough.
using Viewer = std::function<bool(std::uint64_t offset, driver::ConstDmaSpan memory)>;
Result<void> view(Suspend& suspend, Device& device, const std::vector<std::uint64_t>& offsets,
                  const Viewer& viewer) {
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(kSamplesAtOnce * kSampleBytes));
    for (std::size_t first = 0; first < offsets.size(); first += kSamplesAtOnce) {
        const std::size_t count = std::min(kSamplesAtOnce, offsets.size() - first);
        Device::Batch batch(device);
        for (std::size_t i = 0; i < count; ++i) {
            batch.read(offsets[first + i], buffer.span().subspan(i * kSampleBytes, kSampleBytes));
        }
        TRY(batch.wait(suspend));
        for (std::size_t i = 0; i < count; ++i) {
            if (viewer(offsets[first + i], buffer.span().subspan(i * kSampleBytes, kSampleBytes))) {
                return {};
            }
        }
    }
    return {};
}

// Evenly spread over the region, and never where a pattern of powers of two would put them.
std::vector<std::uint64_t> samples_of(const Device& device, DeviceRegion region) {
    std::vector<std::uint64_t> offsets;
    if (region.bytes < kSampleBytes) return offsets;
    const std::uint64_t lba = device.properties().lba_bytes;
    const std::uint64_t places = (region.bytes - kSampleBytes) / lba + 1;
    const std::uint64_t count = std::min<std::uint64_t>(kSamples, places);
    std::minstd_rand random(static_cast<std::uint32_t>(places));
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t begin = i * (places / count);
        offsets.push_back(region.offset +
                          (begin + random() % std::max<std::uint64_t>(1, places / count)) * lba);
    }
    return offsets;
}

}  // namespace

void fill_with_benchmark_data(DmaSpan memory, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (std::size_t at = 0; at + sizeof(std::uint64_t) <= memory.size();
         at += sizeof(std::uint64_t)) {
        const std::uint64_t value = random();
        std::memcpy(memory.data() + at, &value, sizeof value);
    }
    for (std::size_t at = 0; at + kSector <= memory.size(); at += kSector) {
        std::memcpy(memory.data() + at, kMark, kMarkBytes);
    }
}

Result<std::optional<std::uint64_t>> find_data(Suspend& suspend, Device& device,
                                               DeviceRegion region) {
    const std::uint64_t size = device.properties().bytes / kSampleBytes * kSampleBytes;
    const std::uint64_t edge = std::min(kEdgeBytes, size);
    std::vector<std::uint64_t> offsets;
    for (std::uint64_t at = 0; at < edge; at += kSampleBytes) offsets.push_back(at);
    for (std::uint64_t at = size - edge; at < size; at += kSampleBytes) offsets.push_back(at);
    const std::vector<std::uint64_t> within = samples_of(device, region);
    offsets.insert(offsets.end(), within.begin(), within.end());
    std::optional<std::uint64_t> found;
    TRY(view(suspend, device, offsets, [&](std::uint64_t offset, driver::ConstDmaSpan memory) {
        if (const std::optional<std::size_t> at = foreign_sector(memory)) found = offset + *at;
        return found.has_value();
    }));
    return found;
}

Result<unsigned> zeroes_percent(Suspend& suspend, Device& device, DeviceRegion region) {
    const std::vector<std::uint64_t> offsets = samples_of(device, region);
    if (offsets.empty()) return 0U;
    std::size_t empty = 0;
    TRY(view(suspend, device, offsets, [&](std::uint64_t, driver::ConstDmaSpan memory) {
        empty += all_zero(memory) ? 1 : 0;
        return false;
    }));
    return static_cast<unsigned>((empty * 100 + offsets.size() - 1) / offsets.size());
}

}  // namespace blobfs::tools
