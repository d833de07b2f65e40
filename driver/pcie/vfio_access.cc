#include <fcntl.h>
#include <linux/vfio.h>
#include <rte_vfio.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "driver/pcie/function_access.h"

namespace blobfs::driver {

namespace {

constexpr const char* kSysfs = "/sys/bus/pci/devices";

class VfioAccess final : public FunctionAccess {
  public:
    VfioAccess(std::string address, int device, bool physical)
        : address_(std::move(address)), device_(device), physical_(physical) {}
    ~VfioAccess() override {
        // Closing makes the kernel end the function's access to memory and reset it.
        rte_vfio_release_device(kSysfs, address_.c_str(), device_);
        if (removal_ >= 0) ::close(removal_);
    }
    VfioAccess(const VfioAccess&) = delete;
    VfioAccess& operator=(const VfioAccess&) = delete;

    Result<void> map_registers(RegisterWindow& window) override;
    Result<void> enable_bus_master(bool enable) override;
    bool removal_requested() override {
        std::uint64_t count = 0;
        return removal_ >= 0 && ::read(removal_, &count, sizeof count) == sizeof count;
    }
    [[nodiscard]] bool needs_physical_addresses() const override { return physical_; }

    // The kernel, wanting the function back, waits for us: it says so by an eventfd.
    void watch_for_removal();

  private:
    Result<vfio_region_info> region(std::uint32_t index);

    std::string address_;
    int device_;
    bool physical_;
    int removal_ = -1;
};

Result<vfio_region_info> VfioAccess::region(std::uint32_t index) {
    vfio_region_info info{};
    info.argsz = sizeof info;
    info.index = index;
    if (::ioctl(device_, VFIO_DEVICE_GET_REGION_INFO, &info) != 0) {
        return fail(errno_error(errno, "asking VFIO for a region of the controller"));
    }
    return info;
}

Result<void> VfioAccess::map_registers(RegisterWindow& window) {
    TRY_ASSIGN(const vfio_region_info info, region(VFIO_PCI_BAR0_REGION_INDEX));
    if (info.size == 0 || (info.flags & VFIO_REGION_INFO_FLAG_MMAP) == 0) {
        return fail(Errc::kNotSupported, "mapping the controller's registers through VFIO");
    }
    return window.map(device_, static_cast<off_t>(info.offset), info.size);
}

Result<void> VfioAccess::enable_bus_master(bool enable) {
    TRY_ASSIGN(const vfio_region_info info, region(VFIO_PCI_CONFIG_REGION_INDEX));
    return write_pci_command(device_, info.offset, enable);
}

void VfioAccess::watch_for_removal() {
    removal_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (removal_ < 0) return;
    alignas(vfio_irq_set) std::array<char, sizeof(vfio_irq_set) + sizeof(std::int32_t)> bytes{};
    auto* const request = reinterpret_cast<vfio_irq_set*>(bytes.data());
    request->argsz = bytes.size();
    request->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    request->index = VFIO_PCI_REQ_IRQ_INDEX;
    request->count = 1;
    std::memcpy(request->data, &removal_, sizeof removal_);
    if (::ioctl(device_, VFIO_DEVICE_SET_IRQS, request) != 0) {
        spdlog::debug("{}: this kernel does not announce removal", address_);
    }
}

std::string group_file(const PciFunction& function) {
    const bool no_iommu = function.iommu() == PciFunction::Iommu::kNone;
    return "/dev/vfio/" + std::string(no_iommu ? "noiommu-" : "") +
           std::to_string(function.iommu_group().value_or(0));
}

// What is missing for VFIO, in words; the first thing that somebody can do something about.
Result<void> check_vfio(const PciFunction& function) {
    constexpr const char* kWhat = "opening a PCIe controller through VFIO";
    const std::optional<unsigned> group = function.iommu_group();
    if (!group) {
        spdlog::error(
            "{}: it is in no IOMMU group: turn the IOMMU on (intel_iommu=on or the "
            "firmware's settings), or bind it to uio_pci_generic, which is less safe",
            function.address());
        return fail(Errc::kNotSupported, kWhat);
    }
    const std::string path = group_file(function);
    for (const std::string& file : {std::string("/dev/vfio/vfio"), path}) {
        if (::access(file.c_str(), R_OK | W_OK) == 0) continue;
        const int error = errno;
        spdlog::error("{}: {}: {}: run as root or make the file yours (chown)", function.address(),
                      file, std::strerror(error));
        return fail(errno_error(error, kWhat));
    }
    // A group can be open once: this tells somebody else's use from all other failures.
    const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0 && errno == EBUSY) {
        spdlog::error("{}: another process uses it ({} is open)", function.address(), path);
        return fail(Errc::kBusy, kWhat);
    }
    if (file >= 0) {
        vfio_group_status status{};
        status.argsz = sizeof status;
        const bool known = ::ioctl(file, VFIO_GROUP_GET_STATUS, &status) == 0;
        ::close(file);
        if (known && (status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0) {
            std::string peers;
            for (const std::string& peer : function.iommu_group_peers()) {
                if (!peers.empty()) peers += ", ";
                peers += peer;
            }
            spdlog::error(
                "{}: the kernel uses others of its IOMMU group {}: {}: a group is handed "
                "over as a whole",
                function.address(), *group, peers);
            return fail(Errc::kBusy, kWhat);
        }
    }
    return {};
}

}  // namespace

// A group can be open once.
bool vfio_taken(const PciFunction& function) {
    const int file = ::open(group_file(function).c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0) return errno == EBUSY;
    ::close(file);
    return false;
}

Result<std::unique_ptr<FunctionAccess>> open_vfio(const PciFunction& function) {
    constexpr const char* kWhat = "opening a PCIe controller through VFIO";
    TRY(check_vfio(function));
    // The EAL looked for VFIO when it started; the module may have come later.
    if (rte_vfio_is_enabled("vfio") == 0 && rte_vfio_enable("vfio") != 0) {
        spdlog::error("{}: VFIO cannot be used; is the module vfio_pci loaded?",
                      function.address());
        return fail(Errc::kNotSupported, kWhat);
    }
    int device = -1;
    vfio_device_info info{};
    info.argsz = sizeof info;
    const int result = rte_vfio_setup_device(kSysfs, function.address().c_str(), &device, &info);
    if (result != 0) {
        spdlog::error(
            "{}: VFIO does not hand it over ({}); the log at debug level has DPDK's "
            "reasons. Not root: is the limit for locked memory (ulimit -l) high enough?",
            function.address(), result < 0 ? "it failed" : "it is not managed by VFIO");
        return fail(Errc::kSystem, kWhat);
    }
    const bool no_iommu =
        rte_vfio_noiommu_is_enabled() == 1 && function.iommu() == PciFunction::Iommu::kNone;
    if (no_iommu) {
        spdlog::warn(
            "{}: VFIO without an IOMMU: nothing keeps the controller from any memory of "
            "this machine",
            function.address());
    }
    auto access = std::make_unique<VfioAccess>(function.address(), device, no_iommu);
    access->watch_for_removal();
    return access;
}

}  // namespace blobfs::driver
