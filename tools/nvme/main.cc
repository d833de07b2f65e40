// blobfs-nvme: the NVMe controllers of this machine, and who drives them (blobfs-nvme(8)).

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/nvme/controller_summary.h"
#include "tools/nvme/driver_binding.h"

namespace {

using namespace blobfs::tools;
using blobfs::driver::PciFunction;

const char* iommu_name(PciFunction::Iommu iommu) {
    switch (iommu) {
        case PciFunction::Iommu::kNone:
            return "none";
        case PciFunction::Iommu::kPassThrough:
            return "pass-through";
        case PciFunction::Iommu::kTranslating:
            return "translating";
    }
    return "none";
}

nlohmann::json to_json(const ControllerSummary& controller) {
    nlohmann::json disks = nlohmann::json::array();
    for (const Disk& disk : controller.disks) {
        disks.push_back({{"path", disk.path},
                         {"bytes", disk.bytes},
                         {"lba_bytes", disk.lba_bytes},
                         {"uses", disk.uses}});
    }
    nlohmann::json json = {{"address", controller.address},
                           {"driver", controller.driver},
                           {"vendor_id", controller.vendor_id},
                           {"device_id", controller.device_id},
                           {"model", controller.model},
                           {"serial", controller.serial},
                           {"firmware", controller.firmware},
                           {"iommu", iommu_name(controller.iommu)},
                           {"disks", disks},
                           {"missing", missing(controller)}};
    if (controller.iommu_group) json["iommu_group"] = *controller.iommu_group;
    if (!controller.numa_node.empty()) json["numa_node"] = std::stoi(controller.numa_node);
    return json;
}

void print(const ControllerSummary& controller, bool with_missing) {
    const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : text.c_str(); };
    std::printf("%-13s  %-16s  %s:%s  %-24s  %-16s  %s\n", controller.address.c_str(),
                or_dash(controller.driver), controller.vendor_id.c_str(),
                controller.device_id.c_str(), or_dash(controller.model), or_dash(controller.serial),
                or_dash(controller.firmware));
    for (const Disk& disk : controller.disks) {
        std::printf("    %s  %.1f GB, blocks of %u bytes%s\n", disk.path.c_str(),
                    static_cast<double>(disk.bytes) / 1e9, disk.lba_bytes,
                    disk.uses.empty() ? ", not in use" : "");
        for (const std::string& use : disk.uses) std::printf("        %s\n", use.c_str());
    }
    if (!with_missing) return;
    std::printf("    IOMMU: %s%s\n", iommu_name(controller.iommu),
                controller.iommu_group
                    ? (", group " + std::to_string(*controller.iommu_group)).c_str()
                    : "");
    const std::vector<std::string> list = missing(controller);
    if (list.empty()) std::printf("    ready for blobfs\n");
    for (const std::string& item : list) std::printf("    to do: %s\n", item.c_str());
}

int show(bool json, bool status) {
    nlohmann::json controllers = nlohmann::json::array();
    nlohmann::json pages = nlohmann::json::array();
    for (const std::string& address : blobfs::driver::nvme_functions()) {
        const ControllerSummary controller = summarize(PciFunction(address));
        if (json) {
            controllers.push_back(to_json(controller));
        } else {
            print(controller, status);
        }
    }
    for (const Hugepages& size : hugepages()) {
        if (json) {
            pages.push_back(
                {{"page_bytes", size.page_bytes}, {"total", size.total}, {"free", size.free}});
        } else if (status) {
            std::printf("hugepages of %llu KiB: %llu, %llu of them free\n",
                        static_cast<unsigned long long>(size.page_bytes >> 10),
                        static_cast<unsigned long long>(size.total),
                        static_cast<unsigned long long>(size.free));
        }
    }
    if (json) {
        const nlohmann::json all = {{"controllers", controllers}, {"hugepages", pages}};
        std::puts(all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    }
    return 0;
}

int act(const BindingSteps& steps, bool dry_run) {
    if (!steps) {
        std::fprintf(stderr, "blobfs-nvme: %s\n", steps.error().c_str());
        return 1;
    }
    if (dry_run) {
        for (const BindingStep& step : *steps) std::puts(step.describe().c_str());
        return 0;
    }
    if (auto done = carry_out(*steps); !done) {
        std::fprintf(stderr, "blobfs-nvme: %s\n", done.error().c_str());
        return 1;
    }
    return 0;
}

// A step may succeed and the kernel still not follow: what counts is who has the controller now.
int check_driver(const std::string& address, bool wants_kernel) {
    const std::string driver = PciFunction(address).driver();
    if ((driver == "nvme") == wants_kernel && !driver.empty()) return 0;
    std::fprintf(stderr, "blobfs-nvme: %s is now %s; the kernel's log (dmesg) may say why\n",
                 address.c_str(), driver.empty() ? "bound to no driver" : driver.c_str());
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("The NVMe controllers of this machine, and who drives them");
    app.require_subcommand(1);
    app.set_version_flag("-V,--version", "blobfs " BLOBFS_VERSION);
    bool json = false;
    bool dry_run = false;
    std::string address;
    BindRequest request;

    CLI::App* const list = app.add_subcommand("list", "Every NVMe controller and its disks");
    CLI::App* const status =
        app.add_subcommand("status", "The same, and what is missing for blobfs to use it");
    for (CLI::App* command : {list, status}) command->add_flag("--json", json, "For programs");
    CLI::App* const bind = app.add_subcommand("bind", "Take a controller over from the kernel");
    CLI::App* const unbind = app.add_subcommand("unbind", "Give it back to the kernel");
    CLI::App* const reset = app.add_subcommand("reset", "Reset the PCI function");
    for (CLI::App* command : {bind, unbind, reset}) {
        command->add_option("ADDRESS", address, "PCI address, as 0000:03:00.0")->required();
        command->add_flag("--dry-run", dry_run, "Only show what would be done");
    }
    bind->add_option("--driver", request.driver, "vfio-pci or uio_pci_generic")
        ->check(CLI::IsMember({"vfio-pci", "uio_pci_generic"}));
    bind->add_option("--hugemem", request.hugemem_mib,
                     "Have at least that many MiB in 2 MiB hugepages");
    CLI11_PARSE(app, argc, argv);

    if (list->parsed() || status->parsed()) return show(json, status->parsed());
    const BindingSteps steps = bind->parsed()     ? plan_bind(address, request)
                               : unbind->parsed() ? plan_unbind(address)
                                                  : plan_reset(address);
    const int result = act(steps, dry_run);
    if (result != 0 || dry_run || reset->parsed()) return result;
    return check_driver(address, unbind->parsed());
}
