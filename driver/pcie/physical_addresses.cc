#include "driver/pcie/physical_addresses.h"

#include <rte_memory.h>

#include <algorithm>

namespace blobfs::driver {

// Hugepages come and go with what is allocated: at an address whose memory was given back there may
// be another page later. With memory that never changes there are no events and none are needed.
PhysicalAddresses::PhysicalAddresses()
    : entries_(kEntries),
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

void PhysicalAddresses::forget() { std::fill(entries_.begin(), entries_.end(), Entry{}); }

std::uint64_t PhysicalAddresses::find(const void* memory) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    const std::uint64_t page = address >> kPageShift;
    Entry& entry = entries_[page % kEntries];
    if (entry.page != page) [[unlikely]] {
        const phys_addr_t found =
            rte_mem_virt2phy(reinterpret_cast<const void*>(page << kPageShift));
        if (found == RTE_BAD_IOVA) return kUnknown;
        entry = {.page = page, .physical = found};
    }
    return entry.physical + (address & ((std::uint64_t{1} << kPageShift) - 1));
}

}  // namespace blobfs::driver
