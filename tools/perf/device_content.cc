#include "tools/perf/device_content.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <random>

#include "mkfs/existing_content.h"

namespace blobfs::tools {

namespace {

using driver::Device;
using driver::DmaBuffer;
using driver::DmaSpan;
using driver::Suspend;

constexpr std::size_t kSector = 512;
constexpr std::size_t kSampleBytes = 4096;
constexpr std::size_t kSamples = 256;  // for what is a warning
constexpr std::size_t kDataSamples = 1024;
constexpr std::size_t kSamplesAtOnce = 32;
constexpr std::uint64_t kEdgeBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kAllBytes = std::uint64_t{64} << 20;
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
std::vector<std::uint64_t> samples_of(const Device& device, DeviceRegion region,
                                      std::size_t samples) {
    std::vector<std::uint64_t> offsets;
    if (region.bytes < kSampleBytes) return offsets;
    const std::uint64_t lba = device.properties().lba_bytes;
    const std::uint64_t places = (region.bytes - kSampleBytes) / lba + 1;
    const std::uint64_t count = std::min<std::uint64_t>(samples, places);
    std::minstd_rand random(static_cast<std::uint32_t>(places));
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t begin = i * (places / count);
        offsets.push_back(region.offset +
                          (begin + random() % std::max<std::uint64_t>(1, places / count)) * lba);
    }
    return offsets;
}

// The first and the last MiB.
std::array<DeviceRegion, 2> edges_of(const Device& device) {
    const std::uint64_t size = device.properties().bytes / kSampleBytes * kSampleBytes;
    const std::uint64_t edge = std::min(kEdgeBytes, size);
    return {DeviceRegion{.offset = 0, .bytes = edge},
            DeviceRegion{.offset = device.properties().bytes - edge, .bytes = edge}};
}

void append_all(std::vector<std::uint64_t>& offsets, DeviceRegion region) {
    for (std::uint64_t at = 0; at < region.bytes; at += kSampleBytes) {
        offsets.push_back(region.offset + at);
    }
}

// What libblkid knows by the device's edges, which are shown to it as a sparse file in memory.
// Empty when it knows nothing, or cannot be asked: then it is just data.
std::string name_content(Suspend& suspend, Device& device) {
    const int file = ::memfd_create("device-content", MFD_CLOEXEC);
    if (file < 0) return {};
    bool good = ::ftruncate(file, static_cast<off_t>(device.properties().bytes)) == 0;
    for (const DeviceRegion& edge : edges_of(device)) {
        std::vector<std::uint64_t> offsets;
        append_all(offsets, edge);
        good = good && view(suspend, device, offsets,
                            [&](std::uint64_t offset, driver::ConstDmaSpan memory) {
                                good = good && ::pwrite(file, memory.data(), memory.size(),
                                                        static_cast<off_t>(offset)) ==
                                                   static_cast<ssize_t>(memory.size());
                                return !good;
                            });
    }
    std::string kind;
    if (good) {
        const auto signatures = mkfs::find_signatures(file);
        if (signatures && !signatures->empty()) kind = mkfs::describe(*signatures);
    }
    ::close(file);
    return kind;
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

Result<std::optional<ForeignData>> find_data(Suspend& suspend, Device& device,
                                             DeviceRegion region) {
    const std::uint64_t size = device.properties().bytes;
    std::vector<std::uint64_t> offsets;
    for (const DeviceRegion& edge : edges_of(device)) append_all(offsets, edge);
    if (region.bytes <= kAllBytes) {
        append_all(offsets, region);
    } else {
        const std::vector<std::uint64_t> within = samples_of(device, region, kDataSamples);
        offsets.insert(offsets.end(), within.begin(), within.end());
    }
    // A last block that is not whole: from the end of the device backwards.
    for (std::uint64_t& offset : offsets) {
        if (size >= kSampleBytes) offset = std::min(offset, size - kSampleBytes);
    }
    std::optional<ForeignData> found;
    TRY(view(suspend, device, offsets, [&](std::uint64_t offset, driver::ConstDmaSpan memory) {
        if (const std::optional<std::size_t> at = foreign_sector(memory)) {
            found = ForeignData{.offset = offset + *at, .kind = {}};
        }
        return found.has_value();
    }));
    if (found) found->kind = name_content(suspend, device);
    return found;
}

Result<unsigned> zeroes_percent(Suspend& suspend, Device& device, DeviceRegion region) {
    const std::vector<std::uint64_t> offsets = samples_of(device, region, kSamples);
    if (offsets.empty()) return 0U;
    std::size_t empty = 0;
    TRY(view(suspend, device, offsets, [&](std::uint64_t, driver::ConstDmaSpan memory) {
        empty += all_zero(memory) ? 1 : 0;
        return false;
    }));
    return static_cast<unsigned>((empty * 100 + offsets.size() - 1) / offsets.size());
}

}  // namespace blobfs::tools
