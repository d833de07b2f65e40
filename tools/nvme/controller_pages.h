#pragma once

// What a controller says about itself: Identify, SMART / Health, and the error log. Asks through
// whoever has the controller: the kernel's driver when that does, ours when it is bound to vfio-pci
// or uio_pci_generic, and the software controller when it is a file or memory. Starts the DPDK
// environment and a reactor for the latter two: call it from a thread without a reactor.

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "driver/nvme/spec.h"

namespace blobfs::tools {

struct NamespacePage {
    std::uint32_t id = 0;
    driver::nvme::IdentifyNamespace page{};
};

struct ControllerPages {
    driver::nvme::IdentifyController controller{};
    std::vector<NamespacePage> namespaces;  // the active ones, at most 1024
    driver::nvme::HealthLog health{};
    std::vector<driver::nvme::ErrorLogEntry> errors;  // newest first, those in use, at most 64
};

// device: a PCI address, or any other DEVICE. The error is a whole sentence: not there, no right,
// in use by another process, or what the controller answered.
tl::expected<ControllerPages, std::string> read_pages(const std::string& device);

}  // namespace blobfs::tools
