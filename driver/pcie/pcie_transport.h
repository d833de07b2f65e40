#pragma once

// Reaches an NVMe controller over PCIe: its registers are BAR 0, mapped through VFIO or UIO, and it
// reaches our memory at the addresses that the IOMMU has for it, or at physical ones. The DPDK
// environment has been started with EnvironmentOptions::physical. Reactor thread.

#include <memory>
#include <string>

#include "driver/nvme/transport.h"
#include "driver/pcie/function_access.h"
#include "driver/pcie/physical_addresses.h"
#include "driver/reactor/fiber.h"

namespace blobfs::driver {

class PcieTransport final : public nvme::Transport {
  public:
    // Takes the controller at that address (0000:03:00.0) over; it is bound to vfio-pci or
    // uio_pci_generic, and nobody else uses it. The log says what is missing when this fails:
    // kNotFound (no such function), kBusy (the kernel's driver or another process has it),
    // kNotSupported, kAccess, kNoMemory (no hugepages). Another process that has it is waited for
    // that long: the daemon of a filesystem that was unmounted a moment ago.
    static Result<std::unique_ptr<PcieTransport>> open(Suspend& suspend, const std::string& address,
                                                       std::uint32_t wait_ms);
    // The controller has been disabled; ends its access to memory and gives it back to the kernel,
    // bound as it was.
    ~PcieTransport() override;
    PcieTransport(const PcieTransport&) = delete;
    PcieTransport& operator=(const PcieTransport&) = delete;

    [[nodiscard]] std::uint32_t read32(std::uint32_t offset) override;
    [[nodiscard]] std::uint64_t read64(std::uint32_t offset) override;
    void write32(std::uint32_t offset, std::uint32_t value) override;
    void write64(std::uint32_t offset, std::uint64_t value) override;
    [[nodiscard]] volatile std::uint32_t* doorbell(std::uint32_t offset) override;
    void stop_dma() override;
    [[nodiscard]] const std::string& name() const override { return name_; }

  private:
    PcieTransport(std::string name, std::unique_ptr<FunctionAccess> access, bool identity);
    [[nodiscard]] std::uint64_t translate(const void* memory) const override;
    void give_up();

    std::string name_;
    std::unique_ptr<FunctionAccess> access_;       // null once it has been given up
    std::unique_ptr<PhysicalAddresses> physical_;  // when the controller needs them
    RegisterWindow window_;
};

}  // namespace blobfs::driver
