#pragma once

// Physical addresses of DMA memory, for controllers that no IOMMU stands before. A hugepage stays
// where it is as long as DPDK has it, so each is looked up once (/proc/self/pagemap, which takes
// root) and remembered until it is given back. Reactor thread, where DMA memory is allocated too.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace blobfs::driver {

class PhysicalAddresses {
  public:
    PhysicalAddresses();
    ~PhysicalAddresses();
    PhysicalAddresses(const PhysicalAddresses&) = delete;
    PhysicalAddresses& operator=(const PhysicalAddresses&) = delete;

    // The physical address of a byte of DMA memory; kUnknown when it cannot be told.
    static constexpr std::uint64_t kUnknown = ~std::uint64_t{0};
    [[nodiscard]] std::uint64_t find(const void* memory);

  private:
    void forget();

    static constexpr unsigned kPageShift = 21;  // the smallest hugepage
    static constexpr std::size_t kEntries = 1024;
    struct Entry {
        std::uint64_t page = ~std::uint64_t{0};
        std::uint64_t physical = 0;
    };
    std::vector<Entry> entries_;  // direct-mapped by the hugepage's number
    std::string name_;            // of the callback
};

}  // namespace blobfs::driver
