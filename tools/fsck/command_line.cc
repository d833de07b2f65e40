#include "tools/fsck/command_line.h"

#include <unistd.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "driver/base/command_line.h"
#include "mkfs/byte_count.h"
#include "tools/fsck/check_device.h"

namespace blobfs::fsck {

namespace {

constexpr const char* kProgram = "fsck.blobfs";

struct Arguments {
    CheckRequest request;
    bool no = false, yes = false, preen = false, json = false, verbose = false, ask = false;
    int progress_descriptor = -1;
};

// Adds the options to the parser; the arguments outlive it.
void describe_options(command_line::Parser& parser, Arguments& arguments) {
    parser
        .option("DEVICE", arguments.request.device,
                "File, block device (/dev/...), or NVMe controller (pcie:ADDRESS)")
        .required();
    parser.flag("-n,--no", arguments.no, "Check only: open the device for reading, repair nothing");
    parser.flag("-y,--yes", arguments.yes, "Repair all that can be repaired, without asking");
    parser.flag("-p,-a,--preen", arguments.preen,
                "Repair what loses nothing, without asking; else ask for a person (exit 4)");
    parser.flag("-r", arguments.ask, "Ask before each repair (the default on a terminal)");
    parser.flag("-f,--force", arguments.request.force,
                "Check even if the filesystem says that it is clean");
    parser
        .option("-C", arguments.progress_descriptor,
                "Write progress to this descriptor (0: show it on the terminal)")
        .shown_as("FD");
    parser.flag("--json", arguments.json, "Print the result as JSON");
    parser.flag("-v,--verbose", arguments.verbose, "Print numbers about the filesystem");
    parser.version(std::string(kProgram) + " (blobfs) " + BLOBFS_VERSION);
    parser.help("Print this help");
}

nlohmann::ordered_json to_json(const CheckReport& report, int status) {
    nlohmann::ordered_json problems = nlohmann::ordered_json::array();
    for (const CheckedProblem& problem : report.problems) {
        nlohmann::ordered_json json = {{"code", problem.code},
                                       {"text", problem.text},
                                       {"remedy", problem.remedy},
                                       {"repaired", problem.repaired}};
        if (problem.inode != 0) json["inode"] = problem.inode;
        if (!problem.path.empty()) json["path"] = problem.path;
        if (problem.block != 0) json["block"] = problem.block;
        problems.push_back(std::move(json));
    }
    return {{"device", report.device},
            {"label", report.label},
            {"uuid", report.uuid},
            {"bytes", report.bytes},
            {"used_bytes", report.used_bytes},
            {"skipped", report.skipped},
            {"log_replayed", report.replayed},
            {"log_pending", report.log_pending},
            {"found", report.found},
            {"repaired", report.repaired},
            {"left", report.left},
            {"files", report.names.files},
            {"directories", report.names.directories},
            {"symbolic_links", report.names.links},
            {"special_files", report.names.others},
            {"deleted_files", report.names.orphans},
            {"problems", problems},
            {"notes", report.notes},
            {"exit_status", status}};
}

void print_numbers(const CheckReport& report, std::ostream& output) {
    output << "  label            " << (report.label.empty() ? "-" : report.label) << '\n'
           << "  UUID             " << report.uuid << '\n'
           << "  files            " << report.names.files << '\n'
           << "  directories      " << report.names.directories << '\n'
           << "  symbolic links   " << report.names.links << '\n'
           << "  special files    " << report.names.others << '\n'
           << "  to be deleted    " << report.names.orphans << '\n'
           << "  used             " << mkfs::describe_byte_count(report.used_bytes) << " of "
           << mkfs::describe_byte_count(report.bytes) << '\n';
}

void print_summary(const CheckReport& report, const Arguments& arguments, std::ostream& output) {
    const std::string& device = report.device;
    for (const std::string& note : report.notes) output << device << ": " << note << '\n';
    if (report.problems.size() < report.found) {
        output << device << ": " << report.found - report.problems.size()
               << " more problems are not shown\n";
    }
    if (report.replayed) output << device << ": replayed the log\n";
    if (report.log_pending) {
        output << device
               << ": the log holds changes; they were counted in, mounting replays them\n";
    }
    const std::uint64_t inodes =
        report.names.files + report.names.directories + report.names.links + report.names.others;
    if (report.skipped) {
        output << device << ": clean, " << inodes << " files, "
               << mkfs::describe_byte_count(report.used_bytes) << " of "
               << mkfs::describe_byte_count(report.bytes) << " used (-f checks all the same)\n";
    } else if (report.found == 0) {
        output << device << ": no errors, " << inodes << " files and directories, "
               << mkfs::describe_byte_count(report.used_bytes) << " of "
               << mkfs::describe_byte_count(report.bytes) << " used\n";
    } else if (report.left == 0) {
        output << device << ": all " << report.found << " problems were repaired\n";
    } else if (report.by_hand) {
        output << device << ": " << report.left
               << " problems; some repairs may lose data and need a decision: run " << kProgram
               << " " << device << " by hand (-n shows what would be done, -y does it all)\n";
    } else {
        output << device << ": " << report.left << " problems are left"
               << (arguments.no ? "; -y repairs all that can be repaired" : "") << '\n';
    }
    if (arguments.verbose && !report.skipped) print_numbers(report, output);
}

void show_progress(CheckRequest& request, const Arguments& arguments, Surroundings& surroundings) {
    const int descriptor = arguments.progress_descriptor;
    const bool terminal = surroundings.progress && (descriptor <= 0) && !arguments.json;
    if (descriptor <= 0 && !terminal) return;
    request.progress = [descriptor, terminal, &errors = surroundings.errors,
                        device = request.device,
                        last = -1](Phase phase, std::uint64_t done, std::uint64_t total) mutable {
        const std::uint64_t percent = total == 0 ? 100 : std::min(done, total) * 100 / total;
        const int step = static_cast<int>(phase) * 1000 + static_cast<int>(percent);
        if (step == last) return;
        last = step;
        if (terminal) {
            errors << "\r\033[K" << to_string(phase) << " ... " << percent << " %\r" << std::flush;
            return;
        }
        // As e2fsck does: what reads it knows the form.
        const std::string line = std::to_string(static_cast<int>(phase) + 1) + " " +
                                 std::to_string(done) + " " + std::to_string(total) + " " + device +
                                 "\n";
        // Whoever asked for it may have gone.
        [[maybe_unused]] const ssize_t written = ::write(descriptor, line.data(), line.size());
    };
}

// What is wrong with the choice of what to repair; empty when nothing is.
std::string choose_mode(Arguments& arguments, const Surroundings& surroundings) {
    const int chosen = (arguments.no ? 1 : 0) + (arguments.yes ? 1 : 0) +
                       (arguments.preen ? 1 : 0) + (arguments.ask ? 1 : 0);
    if (chosen > 1) return "only one of -n, -y, -p and -r can be given";
    RepairMode& mode = arguments.request.mode;
    mode = arguments.no      ? RepairMode::kNone
           : arguments.yes   ? RepairMode::kAll
           : arguments.preen ? RepairMode::kSafe
                             : RepairMode::kAsk;
    if (mode == RepairMode::kAsk && (!surroundings.ask || arguments.json)) {
        return "there is nobody to ask: give -n (check only), -p (repair what is safe) or -y "
               "(repair all)";
    }
    return {};
}

int exit_status(const CheckReport& report) {
    return (report.repaired != 0 ? kExitRepaired : kExitClean) +
           (report.left != 0 ? kExitLeft : kExitClean);
}

}  // namespace

int run_fsck(int argc, const char* const* argv, Surroundings surroundings) {
    std::ostream& output = surroundings.output;
    std::ostream& errors = surroundings.errors;
    command_line::Parser parser("Checks a blobfs filesystem that is not mounted, and repairs it.",
                                kProgram);
    Arguments arguments;
    describe_options(parser, arguments);
    const command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict == command_line::Parsed::Verdict::kAnswered) {
        parsed.print(output, errors);
        return kExitClean;
    }
    if (parsed.verdict == command_line::Parsed::Verdict::kWrong) {
        errors << kProgram << ": " << parsed.complaint << "; " << kProgram
               << " --help tells more\n";
        return kExitUsage;
    }
    if (const std::string wrong = choose_mode(arguments, surroundings); !wrong.empty()) {
        errors << kProgram << ": " << wrong << '\n';
        return arguments.request.mode == RepairMode::kAsk && !arguments.ask ? kExitFailed
                                                                            : kExitUsage;
    }
    CheckRequest& request = arguments.request;
    show_progress(request, arguments, surroundings);
    if (request.mode == RepairMode::kAsk) {
        request.ask = [&](const CheckedProblem& problem) {
            output << problem.text << '\n' << std::flush;
            return surroundings.ask("  " + problem.remedy + "?");
        };
    } else if (!arguments.json) {
        request.found = [&](const CheckedProblem& problem, bool repair) {
            output << problem.text << '\n'
                   << (repair ? "  repairing: " : "  remedy: ") << problem.remedy << '\n';
        };
    }
    const auto report = check_device(std::move(request));
    if (surroundings.progress) errors << "\r\033[K" << std::flush;
    if (!report) {
        errors << kProgram << ": " << report.error().text << '\n';
        return kExitFailed;
    }
    const int status = exit_status(*report);
    if (arguments.json) {
        output << to_json(*report, status)
                      .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
               << '\n';
    } else {
        print_summary(*report, arguments, output);
    }
    output.flush();
    if (!output) {
        errors << kProgram << ": the result could not be written\n";
        return status + kExitFailed;
    }
    return status;
}

}  // namespace blobfs::fsck
