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

// The same for commands that move data: kIo, kNoSpace or kReadOnly, and nothing that a layer above
// could take for an answer of its own ("not found" of a namespace for that of a name).
[[nodiscard]] Error transfer_error(std::uint16_t code, const char* what, std::uint64_t address);

// The name of a status in the specification's words; "unknown status" for those not listed.
[[nodiscard]] std::string_view status_name(std::uint16_t code);

}  // namespace blobfs::driver::nvme
