#pragma once

// What is on a device, as far as a benchmark has to know: whether its writes would destroy data,
// and whether its reads would be of blocks that were never written. Both look at samples, through
// the driver, so that they work on every device. Fibers of the device's reactor.

#include <cstdint>
#include <optional>

#include "driver/device.h"

namespace blobfs::tools {

struct DeviceRegion {
    std::uint64_t offset = 0, bytes = 0;  // multiples of the LBA size
};

// Fills memory with what benchmarks write: bytes that do not compress, marked so that the next
// benchmark knows them for its own. A multiple of 512 bytes.
void fill_with_benchmark_data(driver::DmaSpan memory, std::uint64_t seed);

// The offset on the device of data that no benchmark has put there: its first and last 256 KiB,
// and 256 blocks of the region, are looked at. Nothing when there is none in them.
Result<std::optional<std::uint64_t>> find_data(driver::Suspend& suspend, driver::Device& device,
                                               DeviceRegion region);

// The share of 256 blocks of the region that hold zeroes only, in percent: as good as certainly
// they were never written, or given back.
Result<unsigned> zeroes_percent(driver::Suspend& suspend, driver::Device& device,
                                DeviceRegion region);

}  // namespace blobfs::tools
