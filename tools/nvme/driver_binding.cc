#include "tools/nvme/driver_binding.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "driver/pcie/function_access.h"

extern char** environ;

namespace blobfs::tools {

namespace {

using driver::PciFunction;
constexpr std::uint64_t kHugepageBytes = std::uint64_t{2} << 20;

tl::unexpected<std::string> cannot(const std::string& text) {
    return tl::unexpected<std::string>(text);
}

tl::expected<void, std::string> run(const std::vector<std::string>& program) {
    std::vector<char*> arguments;
    for (const std::string& word : program) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_t child = 0;
    const int error =
        ::posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ);
    if (error != 0) {
        return cannot("starting " + program[0] + ": " + std::strerror(error) +
                      (error == ENOENT ? ": is it installed?" : ""));
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return cannot("this failed: " +
                      BindingStep{.program = program, .file = {}, .text = {}}.describe());
    }
    return {};
}

tl::expected<void, std::string> write_file(const std::string& path, const std::string& text) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    const bool written =
        file >= 0 && ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    const int error = errno;
    if (file >= 0) ::close(file);
    if (written) return {};
    return cannot("writing to " + path + ": " + std::strerror(error) +
                  (error == EACCES || error == EPERM ? ": this needs root" : ""));
}

// The one who runs the machine has said that VFIO may do without an IOMMU.
bool vfio_allowed_without_iommu() {
    std::ifstream file("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    return file.get() == 'Y';
}

// Nobody, neither the kernel nor a process, is at work with the controller.
tl::expected<ControllerSummary, std::string> idle_controller(const std::string& address) {
    const PciFunction function(address);
    if (!function.exists()) return cannot(address + ": there is no such PCI device");
    if (!function.is_nvme()) return cannot(address + ": it is no NVMe controller");
    ControllerSummary summary = summarize(function);
    for (const Disk& disk : summary.disks) {
        if (!disk.uses.empty()) return cannot(address + " is in use: " + disk.uses.front());
    }
    if ((summary.driver == "vfio-pci" && driver::vfio_taken(function)) ||
        (summary.driver == "uio_pci_generic" && driver::uio_taken(function))) {
        return cannot(address + " is in use: a process drives it (a mounted blobfs?)");
    }
    return summary;
}

void hand_over(const ControllerSummary& controller, const std::string& driver,
               std::vector<BindingStep>& steps) {
    const PciFunction function(controller.address);
    if (!controller.driver.empty()) {
        steps.push_back({.program = {},
                         .file = function.directory() + "/driver/unbind",
                         .text = controller.address});
    }
    // An empty override makes the kernel choose by itself again.
    steps.push_back({.program = {},
                     .file = function.directory() + "/driver_override",
                     .text = driver.empty() ? "\n" : driver});
    steps.push_back(
        {.program = {}, .file = "/sys/bus/pci/drivers_probe", .text = controller.address});
}

}  // namespace

std::string BindingStep::describe() const {
    if (!program.empty()) {
        std::string line;
        for (const std::string& word : program) line += (line.empty() ? "" : " ") + word;
        return line;
    }
    return "echo " + (text == "\n" ? std::string() : text + " ") + "> " + file;
}

BindingSteps plan_bind(const std::string& address, const BindRequest& request) {
    auto controller = idle_controller(address);
    if (!controller) return cannot(controller.error());
    std::string driver = request.driver;
    const bool vfio_works =
        controller->iommu != PciFunction::Iommu::kNone || vfio_allowed_without_iommu();
    if (driver.empty()) driver = vfio_works ? "vfio-pci" : "uio_pci_generic";
    if (driver == "vfio-pci" && !vfio_works) {
        return cannot(address +
                      " has no IOMMU before it: turn the IOMMU on (intel_iommu=on, or the "
                      "firmware's settings), or use uio_pci_generic, or allow VFIO without an "
                      "IOMMU (modprobe vfio enable_unsafe_noiommu_mode=1); both are less safe");
    }
    if (driver == "uio_pci_generic" && controller->iommu == PciFunction::Iommu::kTranslating) {
        return cannot(address +
                      " is behind an IOMMU, through which uio_pci_generic cannot work; "
                      "use vfio-pci");
    }
    std::vector<BindingStep> steps;
    for (const Hugepages& pages : hugepages()) {
        const std::uint64_t wanted = (request.hugemem_mib << 20) / kHugepageBytes;
        if (pages.page_bytes == kHugepageBytes && pages.total < wanted) {
            steps.push_back({.program = {},
                             .file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                             .text = std::to_string(wanted)});
        }
    }
    if (controller->driver == driver && !request.persist) return steps;
    steps.push_back({.program = {"modprobe", driver}, .file = {}, .text = {}});
    if (request.persist) {
        // Hands it over as well.
        steps.push_back(
            {.program = {"driverctl", "set-override", address, driver}, .file = {}, .text = {}});
        return steps;
    }
    hand_over(*controller, driver, steps);
    return steps;
}

BindingSteps plan_unbind(const std::string& address, bool persist) {
    auto controller = idle_controller(address);
    if (!controller) return cannot(controller.error());
    std::vector<BindingStep> steps;
    if (persist) {
        steps.push_back(
            {.program = {"driverctl", "unset-override", address}, .file = {}, .text = {}});
        return steps;
    }
    if (controller->driver == "nvme") return steps;
    hand_over(*controller, "", steps);
    return steps;
}

BindingSteps plan_reset(const std::string& address) {
    auto controller = idle_controller(address);
    if (!controller) return cannot(controller.error());
    return std::vector<BindingStep>{
        {.program = {}, .file = PciFunction(address).directory() + "/reset", .text = "1"}};
}

tl::expected<void, std::string> carry_out(const std::vector<BindingStep>& steps) {
    for (const BindingStep& step : steps) {
        auto done = step.program.empty() ? write_file(step.file, step.text) : run(step.program);
        if (!done) return done;
    }
    return {};
}

}  // namespace blobfs::tools
