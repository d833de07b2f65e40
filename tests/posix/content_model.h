#pragma once

// Bytes of a file that are overwritten one by one, and appended, as a model for History.

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

namespace blobfs::posix {

struct ContentOperation {
    enum class Kind : std::uint8_t {
        kWrite,   // the byte of one cell
        kRead,    // the same
        kAppend,  // one byte; the size then, by the file offset
        kSize,    // fstat
        kReadLog  // all that was appended
    };
    Kind kind;
    std::uint8_t cell = 0;
    char byte = 0;
    std::uint64_t size = 0;
    std::array<char, 64> log{};  // kReadLog: size bytes of it
    std::int64_t begin_ns = 0;
    std::int64_t end_ns = 0;

    [[nodiscard]] std::string text() const;
};

class ContentModel {
  public:
    using Operation = ContentOperation;
    static constexpr std::size_t kCells = 2;

    bool apply(const ContentOperation& operation);

    auto operator<=>(const ContentModel&) const = default;

  private:
    std::array<char, kCells> cells_{};
    std::string log_;
};

}  // namespace blobfs::posix
