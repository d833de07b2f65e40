#include "driver/pcie/pcie_transport.h"

#include <rte_eal.h>
#include <rte_memory.h>
#include <spdlog/spdlog.h>

#include "driver/memory/dma_buffer.h"
#include "driver/memory/environment.h"
#include "driver/nvme/registers.h"

namespace blobfs::driver {

namespace {

constexpr const char* kOpening = "opening a PCIe controller";

bool taken_by_another(const PciFunction& function) {
    const std::string driver = function.driver();
    return (driver == "vfio-pci" && vfio_taken(function)) ||
           (driver == "uio_pci_generic" && uio_taken(function));
}

Result<std::unique_ptr<FunctionAccess>> open_access(const PciFunction& function) {
    const std::string& address = function.address();
    if (!function.exists()) {
        spdlog::error("{}: there is no such PCI device", address);
        return fail(Errc::kNotFound, kOpening);
    }
    if (!function.is_nvme()) {
        spdlog::error("{}: it is no NVMe controller (class {:06x})", address,
                      function.class_code());
        return fail(Errc::kNotSupported, kOpening);
    }
    const std::string driver = function.driver();
    if (driver == "vfio-pci") return open_vfio(function);
    if (driver == "uio_pci_generic") return open_uio(function);
    spdlog::error(
        "{}: {}; blobfs-nvme bind {} hands it over", address,
        driver.empty() ? "it is bound to no driver" : "the kernel's driver " + driver + " has it",
        address);
    return fail(Errc::kBusy, kOpening);
}

}  // namespace

PcieTransport::PcieTransport(std::string name, std::unique_ptr<FunctionAccess> access,
                             bool identity)
    : Transport(identity),
      name_(std::move(name)),
      access_(std::move(access)),
      physical_(access_->needs_physical_addresses() ? std::make_unique<PhysicalAddresses>()
                                                    : nullptr) {}

Result<std::unique_ptr<PcieTransport>> PcieTransport::open(Suspend& suspend,
                                                           const std::string& address,
                                                           std::uint32_t wait_ms) {
    if (!environment_has_hugepages()) {
        spdlog::error("{}: a PCIe controller needs hugepages (sysctl vm.nr_hugepages)", address);
        return fail(Errc::kNoMemory, kOpening);
    }
    const PciFunction function(address);
    constexpr std::uint32_t kStepMs = 50;
    for (std::uint32_t waited = 0; waited < wait_ms && taken_by_another(function);
         waited += kStepMs) {
        suspend.sleep_us(kStepMs * 1000);
    }
    TRY_ASSIGN(std::unique_ptr<FunctionAccess> access, open_access(function));
    const bool identity = !access->needs_physical_addresses() && rte_eal_iova_mode() == RTE_IOVA_VA;
    std::unique_ptr<PcieTransport> transport(
        new PcieTransport(address, std::move(access), identity));
    TRY(transport->access_->map_registers(transport->window_));
    if (transport->window_.bytes() < nvme::kRegisterDoorbells + 16) {
        spdlog::error("{}: its registers are only {} bytes", address, transport->window_.bytes());
        return fail(Errc::kNotSupported, kOpening);
    }
    if (transport->physical_ != nullptr) {
        TRY_ASSIGN(const DmaBuffer probe, DmaBuffer::allocate(DmaBuffer::kPageSize));
        if (transport->physical_->find(probe.data()) == PhysicalAddresses::kUnknown) {
            spdlog::error("{}: physical addresses are needed, which takes root (CAP_SYS_ADMIN)",
                          address);
            return fail(Errc::kAccess, kOpening);
        }
    }
    TRY(transport->access_->enable_bus_master(true));
    return transport;
}

PcieTransport::~PcieTransport() {
    if (access_ != nullptr) (void)access_->enable_bus_master(false);
}

// The kernel waits with the removal until nobody has the device open any more, so it is let go of
// at once; not before it has lost its access to memory, which others will use again.
void PcieTransport::give_up() {
    stop_dma();
    window_.abandon();
    access_.reset();
}

void PcieTransport::stop_dma() {
    // A device that is no longer there reaches nothing.
    if (access_ != nullptr) (void)access_->enable_bus_master(false);
}

std::uint32_t PcieTransport::read32(std::uint32_t offset) {
    if (window_.gone() || offset + sizeof(std::uint32_t) > window_.bytes()) return nvme::kAllOnes32;
    if (offset == nvme::kRegisterCsts && access_->removal_requested()) {
        spdlog::error("{}: the device is being removed", name_);
        give_up();
        return nvme::kAllOnes32;
    }
    return *window_.word(offset);
}

// Two words: the specification allows it, and not every bridge passes on a quadword whole.
std::uint64_t PcieTransport::read64(std::uint32_t offset) {
    const std::uint64_t low = read32(offset);
    const std::uint64_t high = read32(offset + 4);
    return high << 32 | low;
}

void PcieTransport::write32(std::uint32_t offset, std::uint32_t value) {
    if (window_.gone() || offset + sizeof(std::uint32_t) > window_.bytes()) return;
    *window_.word(offset) = value;
}

void PcieTransport::write64(std::uint32_t offset, std::uint64_t value) {
    write32(offset, static_cast<std::uint32_t>(value));
    write32(offset + 4, static_cast<std::uint32_t>(value >> 32));
}

volatile std::uint32_t* PcieTransport::doorbell(std::uint32_t offset) {
    if (offset + sizeof(std::uint32_t) > window_.bytes()) return nullptr;
    return window_.word(offset);
}

std::uint64_t PcieTransport::translate(const void* memory) const {
    return physical_ != nullptr ? physical_->find(memory) : rte_mem_virt2iova(memory);
}

}  // namespace blobfs::driver
