#include "tests/posix/content_model.h"

#include <string_view>

namespace blobfs::posix {

bool ContentModel::apply(const ContentOperation& operation) {
    using Kind = ContentOperation::Kind;
    switch (operation.kind) {
        case Kind::kWrite:
            cells_[operation.cell] = operation.byte;
            return true;
        case Kind::kRead:
            return cells_[operation.cell] == operation.byte;
        case Kind::kAppend:
            log_ += operation.byte;
            return log_.size() == operation.size;
        case Kind::kSize:
            return log_.size() == operation.size;
        case Kind::kReadLog:
            return log_ == std::string_view(operation.log.data(), operation.size);
    }
    return false;
}

std::string ContentOperation::text() const {
    static constexpr std::array<const char*, 5> kKinds = {"write", "read", "append", "size",
                                                          "read what was appended"};
    return "[" + std::to_string(begin_ns) + " " + std::to_string(end_ns) + "] " +
           kKinds[static_cast<std::size_t>(kind)] + ", cell " + std::to_string(cell) + ", byte " +
           std::to_string(static_cast<int>(byte)) + ", size " + std::to_string(size) + ", " +
           std::string(log.data(), kind == Kind::kReadLog ? size : 0);
}

}  // namespace blobfs::posix
