#include "fs/fsck/printable_text.h"

namespace blobfs::fsck {

std::string printable(std::string_view text) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string result;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f) {
            result += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
        } else {
            result += c;
        }
    }
    return result;
}

}  // namespace blobfs::fsck
