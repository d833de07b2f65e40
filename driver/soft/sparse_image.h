#pragma once

// The contents of a device of any size as the pages that are not zero, shared copy-on-write: a copy
// costs a pointer per page. For media that keep many versions of a device. One thread.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>

namespace blobfs::driver {

class SparseImage {
  public:
    static constexpr std::size_t kPage = 4096;

    // Any offset and length.
    void read(std::uint64_t offset, std::span<std::byte> into) const;
    void write(std::uint64_t offset, std::span<const std::byte> from);
    void clear(std::uint64_t offset, std::uint64_t bytes);
    [[nodiscard]] std::size_t pages() const { return pages_.size(); }
    [[nodiscard]] bool operator==(const SparseImage& other) const;

  private:
    using Page = std::array<std::byte, kPage>;
    Page& writable(std::uint64_t index);

    std::unordered_map<std::uint64_t, std::shared_ptr<Page>> pages_;
};

}  // namespace blobfs::driver
