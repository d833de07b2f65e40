#include "tools/nvme/controller_summary.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "mkfs/device_use.h"

namespace blobfs::tools {

namespace {

namespace files = std::filesystem;
using driver::PciFunction;

std::string first_line(const files::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    line.erase(line.find_last_not_of(" \n") + 1);
    return line;
}

std::uint64_t number(const files::path& path) {
    return std::strtoull(first_line(path).c_str(), nullptr, 10);
}

std::vector<files::path> entries(const files::path& directory) {
    std::vector<files::path> list;
    std::error_code error;
    for (files::directory_iterator i(directory, error), end; !error && i != end;
         i.increment(error)) {
        list.push_back(i->path());
    }
    std::sort(list.begin(), list.end());
    return list;
}

// nvme1n2 for the entry nvme1n2 and for nvme1c0n2, which is one path of a shared namespace; empty
// for what is no namespace.
std::string disk_name(const std::string& entry) {
    std::size_t at = 4;
    const auto digits = [&] {
        const std::size_t begin = at;
        while (at < entry.size() && entry[at] >= '0' && entry[at] <= '9') ++at;
        return entry.substr(begin, at - begin);
    };
    if (!entry.starts_with("nvme")) return {};
    const std::string controller = digits();
    if (at < entry.size() && entry[at] == 'c') {
        ++at;
        (void)digits();
    }
    if (controller.empty() || at >= entry.size() || entry[at] != 'n') return {};
    ++at;
    const std::string space = digits();
    if (space.empty() || at != entry.size()) return {};
    return "nvme" + controller + "n" + space;
}

void find_uses(const std::string& name, std::vector<std::string>& uses) {
    const std::string path = "/dev/" + name;
    if (const std::optional<std::string> use = mkfs::find_device_use(path, 0)) {
        uses.push_back(path + " is " + *use);
    }
}

Disk describe_disk(const std::string& name) {
    const files::path directory = "/sys/class/block/" + name;
    Disk disk{
        .path = "/dev/" + name,
        .bytes = number(directory / "size") * 512,
        .lba_bytes = static_cast<std::uint32_t>(number(directory / "queue/logical_block_size")),
        .uses = {}};
    find_uses(name, disk.uses);
    for (const files::path& entry : entries(directory)) {
        const std::string part = entry.filename().string();
        if (part.starts_with(name + "p")) find_uses(part, disk.uses);
    }
    return disk;
}

}  // namespace

ControllerSummary summarize(const PciFunction& function) {
    ControllerSummary summary{.address = function.address(),
                              .driver = function.driver(),
                              .vendor_id = function.attribute("vendor"),
                              .device_id = function.attribute("device"),
                              .model = {},
                              .serial = {},
                              .firmware = {},
                              .numa_node = function.attribute("numa_node"),
                              .iommu_group = function.iommu_group(),
                              .iommu = function.iommu(),
                              .disks = {}};
    if (summary.numa_node == "-1") summary.numa_node.clear();
    for (const files::path& controller : entries(function.directory() + "/nvme")) {
        summary.model = first_line(controller / "model");
        summary.serial = first_line(controller / "serial");
        summary.firmware = first_line(controller / "firmware_rev");
        for (const files::path& entry : entries(controller)) {
            const std::string name = disk_name(entry.filename().string());
            if (!name.empty()) summary.disks.push_back(describe_disk(name));
        }
    }
    return summary;
}

std::vector<Hugepages> hugepages() {
    std::vector<Hugepages> list;
    constexpr std::string_view kPrefix = "hugepages-";
    for (const files::path& entry : entries("/sys/kernel/mm/hugepages")) {
        const std::string name = entry.filename().string();
        if (!name.starts_with(kPrefix)) continue;
        list.push_back(
            {.page_bytes = std::strtoull(name.c_str() + kPrefix.size(), nullptr, 10) * 1024,
             .total = number(entry / "nr_hugepages"),
             .free = number(entry / "free_hugepages")});
    }
    return list;
}

std::vector<std::string> missing(const ControllerSummary& controller) {
    std::vector<std::string> list;
    if (controller.driver != "vfio-pci" && controller.driver != "uio_pci_generic") {
        list.push_back((controller.driver.empty()
                            ? "it is bound to no driver"
                            : "the kernel's driver " + controller.driver + " has it") +
                       ": blobfs-nvme bind " + controller.address);
    }
    for (const Disk& disk : controller.disks) {
        for (const std::string& use : disk.uses) list.push_back(use);
    }
    if (controller.iommu == PciFunction::Iommu::kNone) {
        list.push_back(
            "no IOMMU stands before it, which is less safe: intel_iommu=on, or the firmware's "
            "settings");
    }
    std::uint64_t free_bytes = 0;
    for (const Hugepages& pages : hugepages()) free_bytes += pages.free * pages.page_bytes;
    if (free_bytes < std::uint64_t{256} << 20) {
        list.push_back("there are only " + std::to_string(free_bytes >> 20) +
                       " MiB of free hugepages: blobfs-nvme bind --hugemem 1024 " +
                       controller.address);
    }
    return list;
}

}  // namespace blobfs::tools
