#pragma once

// printf into a string, for what programs show. Any thread.

#include <string>

namespace blobfs::tools {

[[gnu::format(printf, 2, 3)]] void append(std::string& text, const char* format, ...);

}  // namespace blobfs::tools
