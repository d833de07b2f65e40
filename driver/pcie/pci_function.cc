#include "driver/pcie/pci_function.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace blobfs::driver {

namespace {

namespace files = std::filesystem;
constexpr const char* kDevices = "/sys/bus/pci/devices";

std::vector<std::string> names_in(const std::string& directory) {
    std::vector<std::string> names;
    std::error_code error;
    for (files::directory_iterator i(directory, error), end; !error && i != end;
         i.increment(error)) {
        names.push_back(i->path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
}

}  // namespace

std::string PciFunction::directory() const { return std::string(kDevices) + "/" + address_; }

bool PciFunction::exists() const {
    std::error_code error;
    return files::exists(directory(), error);
}

std::string PciFunction::attribute(const std::string& name) const {
    std::ifstream file(directory() + "/" + name);
    std::string line;
    std::getline(file, line);
    return line;
}

std::string PciFunction::link_name(const std::string& name) const {
    std::error_code error;
    const files::path target = files::read_symlink(directory() + "/" + name, error);
    return error ? std::string() : target.filename().string();
}

std::string PciFunction::driver() const { return link_name("driver"); }

std::uint32_t PciFunction::class_code() const {
    return static_cast<std::uint32_t>(std::strtoul(attribute("class").c_str(), nullptr, 16));
}

std::optional<unsigned> PciFunction::iommu_group() const {
    const std::string name = link_name("iommu_group");
    unsigned number = 0;
    const char* const end = name.data() + name.size();
    if (name.empty() || std::from_chars(name.data(), end, number).ptr != end) return std::nullopt;
    return number;
}

PciFunction::Iommu PciFunction::iommu() const {
    if (!iommu_group()) return Iommu::kNone;
    // VFIO's no-IOMMU mode makes a group of its own for a device that has no IOMMU.
    if (attribute("iommu_group/name") == "vfio-noiommu") return Iommu::kNone;
    const std::string type = attribute("iommu_group/type");
    return type == "identity" ? Iommu::kPassThrough : Iommu::kTranslating;
}

std::vector<std::string> PciFunction::iommu_group_peers() const {
    std::vector<std::string> peers = names_in(directory() + "/iommu_group/devices");
    std::erase(peers, address_);
    return peers;
}

std::uint64_t PciFunction::bar_bytes() const {
    std::istringstream line(attribute("resource"));
    std::string first, last;
    line >> first >> last;
    const std::uint64_t begin = std::strtoull(first.c_str(), nullptr, 16);
    const std::uint64_t end = std::strtoull(last.c_str(), nullptr, 16);
    return end > begin ? end - begin + 1 : 0;
}

std::vector<std::string> nvme_functions() {
    std::vector<std::string> addresses = names_in(kDevices);
    std::erase_if(addresses,
                  [](const std::string& address) { return !PciFunction(address).is_nvme(); });
    return addresses;
}

}  // namespace blobfs::driver
