#pragma once

// The NVMe controllers of the system as `list` and `status` show them. Any thread.

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace blobfs::tools {

// Lines of text with a newline each. status: with what is missing for blobfs to use each, and the
// hugepages.
[[nodiscard]] std::string describe_inventory(bool status);
[[nodiscard]] nlohmann::json inventory_json();

}  // namespace blobfs::tools
