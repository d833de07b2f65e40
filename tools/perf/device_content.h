#pragma once

// What is on a device, as far as a benchmark has to know: whether its writes would destroy data,
// and whether its reads would be of blocks that were never written. Both look through the driver,
// so that they work on every device. Fibers of the device's reactor.

#include <cstdint>
#include <optional>
#include <string>

#include "driver/device.h"

namespace blobfs::tools {

struct DeviceRegion {
    std::uint64_t offset = 0, bytes = 0;  // multiples of the LBA size
};

// Fills memory with what benchmarks write: bytes that do not compress, marked so that the next
// benchmark knows them for its own. A multiple of 512 bytes.
void fill_with_benchmark_data(driver::DmaSpan memory, std::uint64_t seed);

// Data that no benchmark has put there.
struct ForeignData {
    std::uint64_t offset = 0;  // of the first that was found, bytes on the device
    std::string kind;          // "an ext4 filesystem": what libblkid knows it for; may be empty
};

// Looks at the first and the last MiB of the device, where whatever has a signature has it, and at
// the region: all of it up to 64 MiB, else 1,024 blocks in as many equal parts, so that data which
// lies together on a 512th of it is found. Nothing when there is none.
Result<std::optional<ForeignData>> find_data(driver::Suspend& suspend, driver::Device& device,
                                             DeviceRegion region);

// The share of 256 blocks of the region that hold zeroes only, in percent: as good as certainly
// they were never written, or given back.
Result<unsigned> zeroes_percent(driver::Suspend& suspend, driver::Device& device,
                                DeviceRegion region);

}  // namespace blobfs::tools
