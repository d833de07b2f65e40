#pragma once

// Physical addresses of DMA memory, for controllers that no IOMMU stands before. A hugepage stays
// where it is as long as DPDK has it, so each is looked up once (/proc/self/pagemap, which takes
// root) and remembered until it is given back. Any thread.

#include <atomic>
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
    static constexpr unsigned kIndexBits = 10;
    static constexpr unsigned kFrameBits = 31;  // of 52-bit physical addresses
    // Direct-mapped by the hugepage's number, whose other bits and the frame are one word, so that
    // threads see both or neither; 0: nothing (frame 0 is never a hugepage of ours).
    std::vector<std::atomic<std::uint64_t>> entries_;
    std::string name_;  // of the callback
};

}  // namespace blobfs::driver
