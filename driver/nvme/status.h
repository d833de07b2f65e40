#pragma once

// NVMe status codes into our errors, once, on the way in. Any thread.

#include <cstdint>
#include <string_view>

#include "driver/base/result.h"
#include "driver/nvme/commands.h"

namespace blobfs::driver::nvme {

// code: SCT << 8 | SC, not success. what: a literal, what was being done; address: byte offset on
// the namespace, for the message.
[[nodiscard]] Error status_error(std::uint16_t code, const char* what, std::uint64_t address = 0);

// The name of a status in the specification's words; "unknown status" for those not listed.
[[nodiscard]] std::string_view status_name(std::uint16_t code);

}  // namespace blobfs::driver::nvme
