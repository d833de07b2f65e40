#pragma once

// Names as people may see them. Any thread.

#include <string>
#include <string_view>

namespace blobfs::fsck {

// The text with control characters as \x1b and the like: names can hold anything.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace blobfs::fsck
