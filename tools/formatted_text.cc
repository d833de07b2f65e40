#include "tools/formatted_text.h"

#include <cstdarg>
#include <cstdio>

namespace blobfs::tools {

void append(std::string& text, const char* format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const int bytes = std::vsnprintf(nullptr, 0, format, arguments);
    va_end(arguments);
    if (bytes > 0) {
        const std::size_t before = text.size();
        text.resize(before + static_cast<std::size_t>(bytes) + 1);
        (void)std::vsnprintf(text.data() + before, static_cast<std::size_t>(bytes) + 1, format,
                             again);
        text.pop_back();
    }
    va_end(again);
}

}  // namespace blobfs::tools
