#include "tools/nvme/inventory.h"

#include <nlohmann/json.hpp>

#include "tools/formatted_text.h"
#include "tools/nvme/controller_summary.h"

namespace blobfs::tools {

namespace {

using driver::PciFunction;

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

void describe(std::string& text, const ControllerSummary& controller, bool with_missing) {
    const auto or_dash = [](const std::string& word) { return word.empty() ? "-" : word.c_str(); };
    append(text, "%-13s  %-16s  %s:%s  %-24s  %-16s  %s\n", controller.address.c_str(),
           or_dash(controller.driver), controller.vendor_id.c_str(), controller.device_id.c_str(),
           or_dash(controller.model), or_dash(controller.serial), or_dash(controller.firmware));
    for (const Disk& disk : controller.disks) {
        append(text, "    %s  %.1f GB, blocks of %u bytes%s\n", disk.path.c_str(),
               static_cast<double>(disk.bytes) / 1e9, disk.lba_bytes,
               disk.uses.empty() ? ", not in use" : "");
        for (const std::string& use : disk.uses) append(text, "        %s\n", use.c_str());
    }
    if (!with_missing) return;
    if (!controller.numa_node.empty()) {
        append(text, "    NUMA node: %s\n", controller.numa_node.c_str());
    }
    append(text, "    IOMMU: %s%s\n", iommu_name(controller.iommu),
           controller.iommu_group ? (", group " + std::to_string(*controller.iommu_group)).c_str()
                                  : "");
    const std::vector<std::string> list = missing(controller);
    if (list.empty()) append(text, "    ready for blobfs\n");
    for (const std::string& item : list) append(text, "    to do: %s\n", item.c_str());
}

}  // namespace

std::string describe_inventory(bool status) {
    std::string text;
    for (const std::string& address : driver::nvme_functions()) {
        describe(text, summarize(PciFunction(address)), status);
    }
    if (!status) return text;
    for (const Hugepages& size : hugepages()) {
        append(text, "hugepages of %llu KiB: %llu, %llu of them free\n",
               static_cast<unsigned long long>(size.page_bytes >> 10),
               static_cast<unsigned long long>(size.total),
               static_cast<unsigned long long>(size.free));
    }
    return text;
}

nlohmann::json inventory_json() {
    nlohmann::json controllers = nlohmann::json::array();
    for (const std::string& address : driver::nvme_functions()) {
        controllers.push_back(to_json(summarize(PciFunction(address))));
    }
    nlohmann::json pages = nlohmann::json::array();
    for (const Hugepages& size : hugepages()) {
        pages.push_back(
            {{"page_bytes", size.page_bytes}, {"total", size.total}, {"free", size.free}});
    }
    return {{"controllers", controllers}, {"hugepages", pages}};
}

}  // namespace blobfs::tools
