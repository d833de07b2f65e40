#pragma once

// What the system knows about its NVMe controllers, whatever driver holds them. Out of sysfs:
// nothing is changed or asked of the hardware, and only the search for users of a disk wants
// the right to read it. Any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "driver/pcie/pci_function.h"

namespace blobfs::tools {

// A block device that the kernel has on a namespace.
struct Disk {
    std::string path;         // /dev/nvme0n1
    std::uint64_t bytes = 0;  // its size
    std::uint32_t lba_bytes = 0;
    // Each use of it or of one of its partitions: "/dev/nvme0n1p1 is mounted on /".
    std::vector<std::string> uses;
};

struct ControllerSummary {
    std::string address;
    std::string driver;                   // empty: bound to none
    std::string vendor_id, device_id;     // as 0x1234
    std::string model, serial, firmware;  // empty while another driver than nvme has it
    std::string numa_node;                // empty when the machine has only one
    std::optional<unsigned> iommu_group;
    driver::PciFunction::Iommu iommu = driver::PciFunction::Iommu::kNone;
    std::vector<Disk> disks;
};

[[nodiscard]] ControllerSummary summarize(const driver::PciFunction& function);

struct Hugepages {
    std::uint64_t page_bytes = 0;
    std::uint64_t total = 0, free = 0;  // pages
};
[[nodiscard]] std::vector<Hugepages> hugepages();

// What stands in the way of blobfs using that controller, one sentence each with what to do; empty
// when nothing does.
[[nodiscard]] std::vector<std::string> missing(const ControllerSummary& controller);

}  // namespace blobfs::tools
