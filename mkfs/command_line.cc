#include "mkfs/command_line.h"

#include <unistd.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

#include "driver/base/command_line.h"
#include "mkfs/byte_count.h"
#include "mkfs/format_device.h"

namespace blobfs::mkfs {

namespace {

constexpr const char* kProgram = "mkfs.blobfs";

struct Arguments {
    FormatRequest request;
    std::string uuid, cluster_size, page_size, size, root_owner;
    bool quiet = false, json = false, no_discard = false;
};

// Adds the options to the parser; the arguments outlive it.
void describe_options(command_line::Parser& parser, Arguments& arguments) {
    FormatRequest& request = arguments.request;
    parser
        .option("DEVICE", request.device,
                "File, block device (/dev/...), or NVMe controller (pcie:ADDRESS)")
        .required();
    parser.option("-L,--label", request.label, "Name of the filesystem, at most 64 bytes");
    parser.option("-U,--uuid", arguments.uuid, "Its UUID; \"random\" is the default");
    parser.flag("-f,--force", request.force,
                "Overwrite another filesystem, partition table or data (never what is in use)");
    parser.flag("-n,--dry-run", request.dry_run, "Look and report, change nothing");
    parser.flag("-q,--quiet", arguments.quiet, "Print nothing but errors");
    parser.option("--size", arguments.size,
                  "Make the file, or grow it, to this size: 8G, 500MiB, ...");
    parser.option("--cluster-size", arguments.cluster_size,
                  "Unit of allocation, 4K to 4M (default 4K)");
    parser.option("--page-size", arguments.page_size,
                  "Metadata pages: 4K, 8K or 16K (default 16K)");
    parser.option("--root-owner", arguments.root_owner,
                  "UID:GID that own the root directory (default: who runs this)");
    parser.flag("--no-discard", arguments.no_discard,
                "Do not give the device's old blocks back first");
    parser.flag("--json", arguments.json, "Print the summary as JSON");
    parser.version(std::string(kProgram) + " (blobfs) " + BLOBFS_VERSION);
    parser.help("Print this help");
}

// Text options into numbers; an empty string when all is good, else what is wrong.
std::string interpret(Arguments& arguments) {
    FormatRequest& request = arguments.request;
    const auto size = [](const char* option, const std::string& text, auto& into) -> std::string {
        if (text.empty()) return {};
        const auto bytes = parse_byte_count(text);
        using Into = std::remove_reference_t<decltype(into)>;
        if (!bytes || *bytes == 0 || *bytes > std::numeric_limits<Into>::max()) {
            return std::string(option) + ": \"" + text +
                   "\" is not a size; write for example 4096, 64K, 8G or 2TiB";
        }
        into = static_cast<Into>(*bytes);
        return {};
    };
    if (auto wrong = size("--size", arguments.size, request.size_bytes); !wrong.empty())
        return wrong;
    if (auto wrong = size("--cluster-size", arguments.cluster_size, request.cluster_bytes);
        !wrong.empty()) {
        return wrong;
    }
    if (auto wrong = size("--page-size", arguments.page_size, request.page_bytes); !wrong.empty()) {
        return wrong;
    }
    if (!arguments.uuid.empty() && arguments.uuid != "random") {
        request.uuid = parse_uuid(arguments.uuid);
        if (!request.uuid) {
            return "--uuid: \"" + arguments.uuid +
                   "\" is not a UUID; write 8-4-4-4-12 hexadecimal digits or \"random\"";
        }
    }
    request.root_uid = geteuid();
    request.root_gid = getegid();
    if (const std::string& owner = arguments.root_owner; !owner.empty()) {
        const char* end = owner.data() + owner.size();
        const auto uid = std::from_chars(owner.data(), end, request.root_uid);
        const bool colon = uid.ec == std::errc{} && uid.ptr != end && *uid.ptr == ':';
        const auto gid = colon ? std::from_chars(uid.ptr + 1, end, request.root_gid) : uid;
        if (!colon || gid.ec != std::errc{} || gid.ptr != end) {
            return "--root-owner: \"" + owner + "\" is not UID:GID, for example 1000:1000";
        }
    }
    request.discard = !arguments.no_discard;
    return {};
}

void print_json(const FormatReport& report, std::ostream& output) {
    const nlohmann::ordered_json json = {
        {"device", report.device},
        {"bytes", report.bytes},
        {"label", report.label},
        {"uuid", to_string(report.uuid)},
        {"format_version", blobstore::kFormatVersion},
        {"cluster_bytes", report.cluster_bytes},
        {"page_bytes", report.page_bytes},
        {"inline_bytes", report.inline_bytes},
        {"log_bytes", report.log_bytes},
        {"replaced", report.replaced},
        {"created", report.created},
        {"grown", report.grown},
        {"dry_run", report.dry_run},
    };
    output << json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
}

void print_summary(const FormatReport& report, std::ostream& output) {
    output << (report.dry_run ? "Would make" : "Made") << " a blobfs filesystem on "
           << report.device << " (" << describe_byte_count(report.bytes) << ")\n";
    if (report.created) output << "  file           " << (report.dry_run ? "new" : "made") << '\n';
    if (report.grown) output << "  file           grown\n";
    if (!report.replaced.empty()) output << "  replaces       " << report.replaced << '\n';
    if (!report.label.empty()) output << "  label          " << report.label << '\n';
    output << "  UUID           " << to_string(report.uuid) << '\n'
           << "  cluster size   " << describe_byte_count(report.cluster_bytes) << '\n'
           << "  page size      " << describe_byte_count(report.page_bytes) << '\n';
    if (report.dry_run) {
        output << "Nothing was changed (dry run).\n";
        return;
    }
    output << "  log            " << describe_byte_count(report.log_bytes) << '\n'
           << "Mount it with: blobfs-fuse " << report.device << " MOUNTPOINT\n";
}

}  // namespace

int run_mkfs(int argc, const char* const* argv, std::ostream& output, std::ostream& errors,
             bool progress) {
    command_line::Parser parser(
        "Makes a blobfs filesystem on a file, a block device or an NVMe controller.", kProgram);
    Arguments arguments;
    describe_options(parser, arguments);
    const command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict == command_line::Parsed::Verdict::kAnswered) {
        parsed.print(output, errors);
        return 0;
    }
    if (parsed.verdict == command_line::Parsed::Verdict::kWrong) {
        errors << kProgram << ": " << parsed.complaint << "; " << kProgram
               << " --help tells more\n";
        return 1;
    }
    if (const std::string wrong = interpret(arguments); !wrong.empty()) {
        errors << kProgram << ": " << wrong << '\n';
        return 1;
    }
    if (progress && !arguments.quiet) {
        arguments.request.progress = [&errors](const char* what, unsigned percent) {
            errors << '\r' << what << " ... " << percent << " %" << (percent >= 100 ? "\n" : "")
                   << std::flush;
        };
    }
    const auto report = format_device(std::move(arguments.request));
    if (!report) {
        errors << kProgram << ": " << report.error() << '\n';
        return 1;
    }
    if (arguments.json) {
        print_json(*report, output);
    } else if (!arguments.quiet) {
        print_summary(*report, output);
    }
    output.flush();
    if (!output) {
        errors << kProgram << ": the filesystem was made, but the summary could not be written\n";
        return 1;
    }
    return 0;
}

}  // namespace blobfs::mkfs
