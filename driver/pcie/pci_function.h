#pragma once

// A PCI function as sysfs shows it: who holds it, what it is, how it sits behind an IOMMU. A look
// changes nothing and needs no right. Any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "driver/base/result.h"

namespace blobfs::driver {

class PciFunction {
  public:
    // The address with its domain, as 0000:03:00.0. Nothing is looked at yet.
    explicit PciFunction(std::string address) : address_(std::move(address)) {}

    [[nodiscard]] const std::string& address() const { return address_; }
    // The folder in sysfs, with no slash at its end.
    [[nodiscard]] std::string directory() const;
    [[nodiscard]] bool exists() const;
    // The name of the kernel driver that holds it, empty when none does.
    [[nodiscard]] std::string driver() const;
    // Base class, subclass and programming interface in 24 bits; 0 when unknown.
    [[nodiscard]] std::uint32_t class_code() const;
    // Mass storage, non-volatile memory, NVM Express.
    [[nodiscard]] bool is_nvme() const { return class_code() == 0x010802; }

    enum class Iommu : std::uint8_t {
        kNone,         // device addresses are physical addresses
        kPassThrough,  // behind one that translates nothing
        kTranslating,  // what is not mapped cannot be reached
    };
    [[nodiscard]] Iommu iommu() const;
    // The number of the IOMMU group, which names the file in /dev/vfio.
    [[nodiscard]] std::optional<unsigned> iommu_group() const;
    // The addresses of the other functions of its group: VFIO hands over whole groups.
    [[nodiscard]] std::vector<std::string> iommu_group_peers() const;

    // A file of the folder on one line, without the newline; empty when it cannot be read.
    [[nodiscard]] std::string attribute(const std::string& name) const;
    // The name of what a symbolic link of the folder points at, empty when there is no such link.
    [[nodiscard]] std::string link_name(const std::string& name) const;
    // Length in bytes of BAR 0, 0 when unknown.
    [[nodiscard]] std::uint64_t bar_bytes() const;

  private:
    std::string address_;
};

// The addresses of all NVMe controllers of the system, in order.
[[nodiscard]] std::vector<std::string> nvme_functions();

}  // namespace blobfs::driver
