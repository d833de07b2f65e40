#include "tools/nvme/command_line.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

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
    CLI::App app("The NVMe controllers of this machine, and who drives them", kProgram);
    app.require_subcommand(1);
    app.set_version_flag("-V,--version", std::string(kProgram) + " (blobfs) " + BLOBFS_VERSION,
                         "Print the version");
    Arguments arguments;

    CLI::App* const list = app.add_subcommand("list", "Every NVMe controller and its disks");
    CLI::App* const status =
        app.add_subcommand("status", "The same, and what is missing for blobfs to use it");
    CLI::App* const identify =
        app.add_subcommand("identify", "What a controller and its namespaces are");
    CLI::App* const smart = app.add_subcommand("smart", "Its health: temperature, wear, errors");
    CLI::App* const error_log = app.add_subcommand("error-log", "The errors that it remembers");
    CLI::App* const bind = app.add_subcommand("bind", "Take a controller over from the kernel");
    CLI::App* const unbind = app.add_subcommand("unbind", "Give it back to the kernel");
    CLI::App* const reset = app.add_subcommand("reset", "Reset the PCI function");
    // Before the subcommand and after it.
    app.add_flag("--json", arguments.json, "For programs");
    for (CLI::App* command : {list, status, identify, smart, error_log}) {
        command->add_flag("--json", arguments.json, "For programs");
    }
    for (CLI::App* command : {identify, smart, error_log}) {
        command
            ->add_option("ADDRESS", arguments.address,
                         "PCI address, as 0000:03:00.0, or another device")
            ->required();
    }
    for (CLI::App* command : {bind, unbind, reset}) {
        command->add_option("ADDRESS", arguments.address, "PCI address, as 0000:03:00.0")
            ->required();
        command->add_flag("--dry-run", arguments.dry_run, "Only show what would be done");
    }
    bind->add_option("--driver", arguments.request.driver, "vfio-pci or uio_pci_generic")
        ->check(CLI::IsMember({"vfio-pci", "uio_pci_generic"}));
    bind->add_option("--hugemem", arguments.request.hugemem_mib,
                     "Have at least that many MiB in 2 MiB hugepages");
    bind->add_flag("--persist", arguments.request.persist,
                   "Also when the machine is started again (needs driverctl)");
    unbind->add_flag("--persist", arguments.request.persist,
                     "Forget what bind --persist has set (needs driverctl)");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error, output, errors) == 0 ? 0 : 1;
    }

    Session session(arguments, output, errors);
    if (list->parsed() || status->parsed()) return session.inventory(status->parsed());
    if (identify->parsed()) return session.pages(describe_identify, identify_json);
    if (smart->parsed()) return session.pages(describe_health, health_json);
    if (error_log->parsed()) return session.pages(describe_errors, errors_json);
    const BindingSteps steps = bind->parsed() ? plan_bind(arguments.address, arguments.request)
                               : unbind->parsed()
                                   ? plan_unbind(arguments.address, arguments.request.persist)
                                   : plan_reset(arguments.address);
    const int result = session.act(steps);
    if (result != 0 || arguments.dry_run || reset->parsed()) return result;
    return session.check_driver(unbind->parsed());
}

}  // namespace blobfs::tools
