#pragma once

// A controller's pages for people (lines of text with a newline each) and for programs. Texts of a
// controller are shown as far as they are printable. Any thread.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/nvme/controller_pages.h"

namespace blobfs::tools {

[[nodiscard]] std::string describe_identify(const ControllerPages& pages);
[[nodiscard]] std::string describe_health(const ControllerPages& pages);
[[nodiscard]] std::string describe_errors(const ControllerPages& pages);

// Sizes in bytes, temperatures in degrees Celsius, times as their names say. Counters of more than
// 64 bits are decimal strings.
[[nodiscard]] nlohmann::json identify_json(const ControllerPages& pages);
[[nodiscard]] nlohmann::json health_json(const ControllerPages& pages);
[[nodiscard]] nlohmann::json errors_json(const ControllerPages& pages);

}  // namespace blobfs::tools
