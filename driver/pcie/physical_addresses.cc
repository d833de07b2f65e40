#include "driver/pcie/physical_addresses.h"

#include <rte_memory.h>

namespace blobfs::driver {

// Hugepages come and go with what is allocated: at an address whose memory was given back there may
// be another page later. With memory that never changes there are no events and none are needed.
PhysicalAddresses::PhysicalAddresses()
    : entries_(std::size_t{1} << kIndexBits),
      name_("blobfs-" + std::to_string(reinterpret_cast<std::uintptr_t>(this))) {
    (void)rte_mem_event_callback_register(
        name_.c_str(),
        [](rte_mem_event event, const void*, std::size_t, void* self) {
            if (event == RTE_MEM_EVENT_FREE) static_cast<PhysicalAddresses*>(self)->forget();
        },
        this);
}

PhysicalAddresses::~PhysicalAddresses() {
    (void)rte_mem_event_callback_unregister(name_.c_str(), this);
}

void PhysicalAddresses::forget() {
    for (std::atomic<std::uint64_t>& entry : entries_) entry.store(0, std::memory_order_relaxed);
}

std::uint64_t PhysicalAddresses::find(const void* memory) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    const std::uint64_t page = address >> kPageShift;
    constexpr std::uint64_t kFrameMask = (std::uint64_t{1} << kFrameBits) - 1;
    std::atomic<std::uint64_t>& entry = entries_[page & ((std::uint64_t{1} << kIndexBits) - 1)];
    const std::uint64_t tag = page >> kIndexBits << kFrameBits;
    std::uint64_t found = entry.load(std::memory_order_relaxed);
    if (found == 0 || (found & ~kFrameMask) != tag) [[unlikely]] {
        const phys_addr_t physical =
            rte_mem_virt2phy(reinterpret_cast<const void*>(page << kPageShift));
        if (physical == RTE_BAD_IOVA || physical >> kPageShift > kFrameMask) return kUnknown;
        found = tag | physical >> kPageShift;
        entry.store(found, std::memory_order_relaxed);
    }
    return (found & kFrameMask) << kPageShift | (address & ((std::uint64_t{1} << kPageShift) - 1));
}

}  // namespace blobfs::driver
