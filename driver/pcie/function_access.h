#pragma once

// A PCI function taken over from the kernel, by one of the ways that there are: VFIO or UIO. The
// process has it for itself until the object ends. Reactor thread.

#include <cstdint>
#include <memory>

#include "driver/base/result.h"
#include "driver/pcie/pci_function.h"
#include "driver/pcie/register_window.h"

namespace blobfs::driver {

class FunctionAccess {
  public:
    virtual ~FunctionAccess() = default;

    // BAR 0.
    virtual Result<void> map_registers(RegisterWindow& window) = 0;
    // Answers to its registers and may reach memory; or may no longer reach memory.
    virtual Result<void> enable_bus_master(bool enable) = 0;
    // The kernel wants it back, because it is about to be pulled out.
    [[nodiscard]] virtual bool removal_requested() { return false; }
    // The controller has to be given physical addresses.
    [[nodiscard]] virtual bool needs_physical_addresses() const = 0;
};

// By VFIO, with an IOMMU or without. The function is bound to vfio-pci. A function is reset by the
// kernel when it is opened, so that what a previous owner left in it is gone. The log says what is
// missing when this fails.
Result<std::unique_ptr<FunctionAccess>> open_vfio(const PciFunction& function);

// By uio_pci_generic and sysfs; root, and no translating IOMMU. Nothing keeps the controller from
// any memory of the machine.
Result<std::unique_ptr<FunctionAccess>> open_uio(const PciFunction& function);

// Another process has it. Quiet.
[[nodiscard]] bool vfio_taken(const PciFunction& function);
[[nodiscard]] bool uio_taken(const PciFunction& function);

// PCI configuration space: the command register (PCI Local Bus 3.0, section 6.2.2).
inline constexpr std::uint32_t kPciCommandOffset = 4;
inline constexpr std::uint16_t kPciCommandMemory = 1U << 1;
inline constexpr std::uint16_t kPciCommandBusMaster = 1U << 2;

// Sets the command register for enable_bus_master(), in a configuration space that is a file at
// that offset of the descriptor.
Result<void> write_pci_command(int file, std::uint64_t config_offset, bool bus_master);

}  // namespace blobfs::driver
