#pragma once

// Hands an NVMe controller from one kernel driver to another, through sysfs. The steps are made
// first and carried out afterwards, so that they can be shown instead. Root. Any thread.

#include <cstdint>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "tools/nvme/controller_summary.h"

namespace blobfs::tools {

// One step: a program to run, or a text to write into a file.
struct BindingStep {
    std::vector<std::string> program;  // and its arguments; empty: write
    std::string file, text;

    [[nodiscard]] std::string describe() const;
};

struct BindRequest {
    std::string driver;             // vfio-pci or uio_pci_generic; empty: the safest that works
    std::uint64_t hugemem_mib = 0;  // have at least that much in 2 MiB hugepages; 0: leave them
    bool persist = false;           // by driverctl, also when the machine is started again
};

// A refusal is a whole sentence: no NVMe controller, a disk of it is in use (and by whom), a
// process drives it.
using BindingSteps = tl::expected<std::vector<BindingStep>, std::string>;
[[nodiscard]] BindingSteps plan_bind(const std::string& address, const BindRequest& request);
[[nodiscard]] BindingSteps plan_unbind(const std::string& address, bool persist);
[[nodiscard]] BindingSteps plan_reset(const std::string& address);

// Carries the steps out until one fails.
[[nodiscard]] tl::expected<void, std::string> carry_out(const std::vector<BindingStep>& steps);

}  // namespace blobfs::tools
