#pragma once

// The memory that a command names, by PRPs or by an SGL, laid out as pieces of the process's own
// memory: the device's side of driver/nvme/prp_list.h and sgl.h. What is wrong with the description
// is answered with the status that the specification has for it. Pure functions.

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "driver/nvme/spec.h"

namespace blobfs::driver {

// Replaces the pieces, neighbours joined; `bytes` in all. kSuccess, or what is wrong.
[[nodiscard]] nvme::Status map_host_memory(const nvme::SubmissionEntry& entry, std::uint64_t bytes,
                                           std::vector<iovec>& pieces);

}  // namespace blobfs::driver
