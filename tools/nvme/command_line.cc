#include "tools/nvme/command_line.h"

#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

#include "driver/base/command_line.h"
#include "tools/nvme/controller_pages.h"
#include "tools/nvme/driver_binding.h"
#include "tools/nvme/inventory.h"
#include "tools/nvme/pages_report.h"

namespace blobfs::tools {

namespace {

constexpr const char* kProgram = "blobfs-nvme";

struct Arguments {
    std::string address;
    BindRequest request;
    bool json = false, dry_run = false;
};

class Session {
  public:
    Session(const Arguments& arguments, std::ostream& output, std::ostream& errors)
        : arguments_(arguments), output_(output), errors_(errors) {}

    int show(const nlohmann::json& json) {
        output_ << json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
        return finish();
    }
    int show(const std::string& text) {
        output_ << text;
        return finish();
    }
    int complain(const std::string& what) {
        errors_ << kProgram << ": " << what << "\n";
        return 1;
    }

    int inventory(bool status) {
        return arguments_.json ? show(inventory_json()) : show(describe_inventory(status));
    }

    template <class Describe, class ToJson>
    int pages(Describe describe, ToJson to_json) {
        const auto pages = read_pages(arguments_.address);
        if (!pages) return complain(pages.error());
        return arguments_.json ? show(to_json(*pages)) : show(describe(*pages));
    }

    int act(const BindingSteps& steps) {
        if (!steps) return complain(steps.error());
        if (arguments_.dry_run) {
            for (const BindingStep& step : *steps) output_ << step.describe() << "\n";
            return finish();
        }
        if (auto done = carry_out(*steps); !done) return complain(done.error());
        return 0;
    }

    // A step may succeed and the kernel still not follow: what counts is who has it now.
    int check_driver(bool wants_kernel) {
        const std::string driver = driver::PciFunction(arguments_.address).driver();
        if ((driver == "nvme") == wants_kernel && !driver.empty()) return 0;
        return complain(arguments_.address + " is now " +
                        (driver.empty() ? "bound to no driver" : driver) +
                        "; the kernel's log (dmesg) may say why");
    }

  private:
    int finish() {
        output_.flush();
        return output_.good() ? 0 : complain("the result could not be printed");
    }

    const Arguments& arguments_;
    std::ostream& output_;
    std::ostream& errors_;
};

}  // namespace

int run_nvme(int argc, const char* const* argv, std::ostream& output, std::ostream& errors) {
    command_line::Parser parser("The NVMe controllers of this machine, and who drives them",
                                kProgram);
    parser.requires_subcommand();
    parser.version(std::string(kProgram) + " (blobfs) " + BLOBFS_VERSION);
    Arguments arguments;

    command_line::Parser& list = parser.subcommand("list", "Every NVMe controller and its disks");
    command_line::Parser& status =
        parser.subcommand("status", "The same, and what is missing for blobfs to use it");
    command_line::Parser& identify =
        parser.subcommand("identify", "What a controller and its namespaces are");
    command_line::Parser& smart =
        parser.subcommand("smart", "Its health: temperature, wear, errors");
    command_line::Parser& error_log =
        parser.subcommand("error-log", "The errors that it remembers");
    command_line::Parser& bind =
        parser.subcommand("bind", "Take a controller over from the kernel");
    command_line::Parser& unbind = parser.subcommand("unbind", "Give it back to the kernel");
    command_line::Parser& reset = parser.subcommand("reset", "Reset the PCI function");
    // Before the subcommand and after it.
    parser.flag("--json", arguments.json, "For programs");
    for (command_line::Parser* command : {&list, &status, &identify, &smart, &error_log}) {
        command->flag("--json", arguments.json, "For programs");
    }
    for (command_line::Parser* command : {&identify, &smart, &error_log}) {
        command
            ->option("ADDRESS", arguments.address,
                     "PCI address, as 0000:03:00.0, or another device")
            .required();
    }
    for (command_line::Parser* command : {&bind, &unbind, &reset}) {
        command->option("ADDRESS", arguments.address, "PCI address, as 0000:03:00.0").required();
        command->flag("--dry-run", arguments.dry_run, "Only show what would be done");
    }
    bind.option("--driver", arguments.request.driver, "vfio-pci or uio_pci_generic")
        .one_of({"vfio-pci", "uio_pci_generic"});
    bind.option("--hugemem", arguments.request.hugemem_mib,
                "Have at least that many MiB in 2 MiB hugepages");
    bind.flag("--persist", arguments.request.persist,
              "Also when the machine is started again (needs driverctl)");
    unbind.flag("--persist", arguments.request.persist,
                "Forget what bind --persist has set (needs driverctl)");
    const command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict != command_line::Parsed::Verdict::kGoOn) {
        parsed.print(output, errors);
        return parsed.status == 0 ? 0 : 1;
    }

    Session session(arguments, output, errors);
    if (list.chosen() || status.chosen()) return session.inventory(status.chosen());
    if (identify.chosen()) return session.pages(describe_identify, identify_json);
    if (smart.chosen()) return session.pages(describe_health, health_json);
    if (error_log.chosen()) return session.pages(describe_errors, errors_json);
    const BindingSteps steps = bind.chosen() ? plan_bind(arguments.address, arguments.request)
                               : unbind.chosen()
                                   ? plan_unbind(arguments.address, arguments.request.persist)
                                   : plan_reset(arguments.address);
    const int result = session.act(steps);
    if (result != 0 || arguments.dry_run || reset.chosen()) return result;
    return session.check_driver(unbind.chosen());
}

}  // namespace blobfs::tools
