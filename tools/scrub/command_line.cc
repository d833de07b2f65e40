#include "tools/scrub/command_line.h"

#include <ctime>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <ostream>
#include <vector>

#include "driver/base/command_line.h"
#include "fs/fsck/online_check.h"
#include "mkfs/byte_count.h"
#include "tools/scrub/mounted_filesystem.h"

namespace blobfs::scrub {

using fs::fuse::CheckProblem;
using fs::fuse::CheckStatus;
using fsck::OnlineCheck;
using Outcome = OnlineCheck::Outcome;

namespace {

constexpr const char* kProgram = "blobfs-scrub";
constexpr const char* kDefaultRate = "64MiB";
constexpr long kPollNanoseconds = 100'000'000;

struct Arguments {
    std::string mountpoint;
    std::string rate = kDefaultRate;
    bool json = false, status = false, cancel = false;
};

void describe_options(command_line::Parser& parser, Arguments& arguments) {
    parser.option("MOUNTPOINT", arguments.mountpoint, "Where the filesystem is mounted").required();
    parser
        .option("-r,--rate", arguments.rate,
                "Read that many bytes of metadata a second at most; 0: no limit (default " +
                    std::string(kDefaultRate) + ")")
        .shown_as("SIZE");
    parser.flag("--status", arguments.status,
                "Do not start one: tell of the check that runs, or of the last one");
    parser.flag("--cancel", arguments.cancel, "Do not start one: end the one that runs");
    parser.flag("--json", arguments.json, "Print the result as JSON");
    parser.version(std::string(kProgram) + " (blobfs) " + BLOBFS_VERSION);
    parser.help("Print this help");
}

std::string_view name_of(Outcome outcome) {
    switch (outcome) {
        case Outcome::kNone:
            return "none";
        case Outcome::kRunning:
            return "running";
        case Outcome::kComplete:
            return "complete";
        case Outcome::kCancelled:
            return "cancelled";
        case Outcome::kGivenUp:
            return "given-up";
        case Outcome::kFailed:
            return "failed";
    }
    return "unknown";
}

class Session {
  public:
    Session(const Arguments& arguments, const Surroundings& surroundings)
        : arguments_(arguments), surroundings_(surroundings), mounted_(arguments.mountpoint) {}

    int start_and_wait(std::uint64_t rate);
    int tell();  // of what runs or ran
    int cancel();

  private:
    int failed(const std::string& doing, int error);
    void show_progress(const CheckStatus& status);
    int report(const CheckStatus& status);
    void print(const CheckStatus& status, const std::vector<CheckProblem>& problems);
    [[nodiscard]] nlohmann::ordered_json json(const CheckStatus& status,
                                              const std::vector<CheckProblem>& problems,
                                              int exit_status) const;

    const Arguments& arguments_;
    const Surroundings& surroundings_;
    MountedFilesystem mounted_;
};

int Session::failed(const std::string& doing, int error) {
    std::string why;
    switch (error) {
        case ENOTTY:
            why = "no blobfs is mounted there (of one that is not mounted fsck.blobfs takes care)";
            break;
        case EPERM:
        case EACCES:
            why = "only root may ask for it";
            break;
        case EBUSY:
            why = "it is being checked already; --status tells how far it is, --cancel ends it";
            break;
        case EROFS:
        case EIO:
            why = std::string(std::strerror(error)) +
                  "; the filesystem has failed or was shut down, see its log";
            break;
        default:
            why = std::strerror(error);
            break;
    }
    surroundings_.errors << kProgram << ": " << doing << ' ' << mounted_.path() << ": " << why
                         << '\n';
    return kExitFailed;
}

void Session::show_progress(const CheckStatus& status) {
    if (!surroundings_.progress || arguments_.json) return;
    const std::uint64_t percent =
        status.total == 0 ? 0 : std::min(status.done, status.total) * 100 / status.total;
    surroundings_.errors << "\r\033[K" << to_string(static_cast<fsck::Phase>(status.phase))
                         << " ... " << percent << " %, "
                         << mkfs::describe_byte_count(status.pages * status.page_bytes) << " read, "
                         << status.found << " problems\r" << std::flush;
}

int Session::start_and_wait(std::uint64_t rate) {
    const auto run = mounted_.start(rate);
    if (!run) return failed("checking", run.error());
    bool asked_to_end = false;
    for (;;) {
        const auto status = mounted_.status();
        const bool another = status && status->run != *run;
        if (!status || another) {
            if (surroundings_.progress) surroundings_.errors << "\r\033[K";
            surroundings_.errors << kProgram << ": " << mounted_.path()
                                 << " was unmounted before the check had ended\n";
            return kExitFailed;
        }
        if (static_cast<Outcome>(status->outcome) != Outcome::kRunning) {
            if (surroundings_.progress) surroundings_.errors << "\r\033[K" << std::flush;
            return report(*status);
        }
        show_progress(*status);
        if (!asked_to_end && surroundings_.cancelled && surroundings_.cancelled()) {
            asked_to_end = true;
            static_cast<void>(mounted_.cancel());
        }
        const timespec pause{.tv_sec = 0, .tv_nsec = kPollNanoseconds};
        ::nanosleep(&pause, nullptr);
    }
}

int Session::tell() {
    const auto status = mounted_.status();
    return status ? report(*status) : failed("asking for the check of", status.error());
}

int Session::cancel() {
    const auto cancelled = mounted_.cancel();
    return cancelled ? kExitClean : failed("ending the check of", cancelled.error());
}

nlohmann::ordered_json Session::json(const CheckStatus& status,
                                     const std::vector<CheckProblem>& problems,
                                     int exit_status) const {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const CheckProblem& problem : problems) {
        nlohmann::ordered_json one = {
            {"code", problem.code}, {"text", problem.text}, {"remedy", problem.remedy}};
        if (problem.inode != 0) one["inode"] = problem.inode;
        if (problem.path[0] != '\0') one["path"] = problem.path;
        if (problem.block != 0) one["block"] = problem.block;
        list.push_back(std::move(one));
    }
    return {{"mountpoint", mounted_.path()},
            {"outcome", name_of(static_cast<Outcome>(status.outcome))},
            {"phase", to_string(static_cast<fsck::Phase>(status.phase))},
            {"done", status.done},
            {"total", status.total},
            {"pages", status.pages},
            {"bytes", status.pages * status.page_bytes},
            {"milliseconds", status.elapsed_ms},
            {"inodes", status.inodes},
            {"names_checked", status.names_checked != 0},
            {"found", status.found},
            {"problems", list},
            {"error", status.error},
            {"exit_status", exit_status}};
}

void Session::print(const CheckStatus& status, const std::vector<CheckProblem>& problems) {
    std::ostream& output = surroundings_.output;
    for (const CheckProblem& problem : problems) {
        output << problem.text << (problem.path[0] == '\0' ? "" : " (") << problem.path
               << (problem.path[0] == '\0' ? "" : ")") << '\n';
    }
    if (problems.size() < status.found) {
        output << status.found - problems.size() << " more problems are not shown\n";
    }
    output << mounted_.path() << ": ";
    const std::string so_far = std::to_string(status.found) + " problems so far";
    switch (static_cast<Outcome>(status.outcome)) {
        case Outcome::kNone:
            output << "was not checked since it was mounted\n";
            return;
        case Outcome::kRunning:
            output << to_string(static_cast<fsck::Phase>(status.phase)) << ", "
                   << mkfs::describe_byte_count(status.pages * status.page_bytes) << " read, "
                   << so_far << '\n';
            return;
        case Outcome::kCancelled:
            output << "the check was cancelled; " << so_far << '\n';
            return;
        case Outcome::kGivenUp:
            output << "the check was given up: the device is too full to keep what was to be read; "
                   << so_far << '\n';
            return;
        case Outcome::kFailed:
            output << "the check failed: " << status.error << '\n';
            return;
        case Outcome::kComplete:
            break;
    }
    if (status.found == 0) {
        output << "no errors, " << status.inodes << " files and directories, "
               << mkfs::describe_byte_count(status.pages * status.page_bytes) << " read in "
               << (status.elapsed_ms + 500) / 1000 << " s\n";
    } else {
        output << status.found << " problems; unmount it and run fsck.blobfs\n";
    }
    if (status.names_checked == 0) {
        output << "names were not held against files: there are too many of them for a check "
                  "beside a mount; fsck.blobfs does it\n";
    }
}

int Session::report(const CheckStatus& status) {
    const auto outcome = static_cast<Outcome>(status.outcome);
    int exit_status = status.found != 0 ? kExitFound : kExitClean;
    if (outcome == Outcome::kCancelled) exit_status += kExitCancelled;
    if (outcome == Outcome::kFailed || outcome == Outcome::kGivenUp) exit_status += kExitFailed;
    std::vector<CheckProblem> problems;
    for (std::uint64_t i = 0; i < status.told; ++i) {
        auto problem = mounted_.problem(status.run, i);
        if (!problem) break;
        problems.push_back(*problem);
    }
    if (arguments_.json) {
        surroundings_.output << json(status, problems, exit_status)
                                    .dump(2, ' ', false,
                                          nlohmann::ordered_json::error_handler_t::replace)
                             << '\n';
    } else {
        print(status, problems);
    }
    surroundings_.output.flush();
    if (!surroundings_.output) {
        surroundings_.errors << kProgram << ": the result could not be written\n";
        return exit_status | kExitFailed;
    }
    return exit_status;
}

}  // namespace

int run_scrub(int argc, const char* const* argv, const Surroundings& surroundings) {
    command_line::Parser parser("Checks a mounted blobfs filesystem, beside all other work on it.",
                                kProgram);
    Arguments arguments;
    describe_options(parser, arguments);
    const command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict == command_line::Parsed::Verdict::kAnswered) {
        parsed.print(surroundings.output, surroundings.errors);
        return kExitClean;
    }
    if (parsed.verdict == command_line::Parsed::Verdict::kWrong) {
        surroundings.errors << kProgram << ": " << parsed.complaint << "; " << kProgram
                            << " --help tells more\n";
        return kExitUsage;
    }
    const auto rate = mkfs::parse_byte_count(arguments.rate);
    if (!rate || (arguments.status && arguments.cancel)) {
        surroundings.errors << kProgram << ": "
                            << (rate ? "only one of --status and --cancel can be given"
                                     : "--rate is a number of bytes, for example 16MiB")
                            << '\n';
        return kExitUsage;
    }
    Session session(arguments, surroundings);
    if (arguments.cancel) return session.cancel();
    return arguments.status ? session.tell() : session.start_and_wait(*rate);
}

}  // namespace blobfs::scrub
