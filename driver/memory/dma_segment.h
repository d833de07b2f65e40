#pragma once

// One piece of a scattered transfer.

#include <cstddef>

namespace blobfs::driver {

// All but the first start, and all but the last end, on a DmaBuffer::kPageSize boundary (NVMe PRP
// rules); the lengths add up to a multiple of the LBA size.
struct DmaSegment {
    std::byte* data;
    std::size_t bytes;
};

}  // namespace blobfs::driver
