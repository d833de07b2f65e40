#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "driver/reactor/reactor.h"
#include "fs/filesystem.h"
#include "mkfs/command_line.h"
#include "mkfs/existing_content.h"
#include "mkfs/format_device.h"
#include "tests/mkfs/scratch_file.h"

namespace blobfs::mkfs {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

FormatRequest request_for(const std::string& path) {
    FormatRequest request;
    request.device = path;
    request.lock_wait_ms = 0;
    return request;
}

std::string error_of(FormatRequest request) {
    auto report = format_device(std::move(request));
    EXPECT_FALSE(report);
    return report ? "" : report.error();
}

// The attributes of the root directory, as a mount would see them.
fs::Attributes root_of(const std::string& path) {
    driver::Reactor reactor;
    return reactor.block_on([&](driver::Suspend& suspend) {
        auto device = driver::Device::open(suspend, path);
        CHECK(device);
        auto filesystem = fs::Filesystem::open(suspend, **device);
        CHECK(filesystem);
        auto root = (*filesystem)->getattr(suspend, fs::InodeNumber{1});
        CHECK(root);
        CHECK((*filesystem)->close(suspend));
        CHECK((*device)->close(suspend));
        return *root;
    });
}

struct Snapshot {
    std::int64_t size, seconds, nanoseconds, changed_seconds, changed_nanoseconds;
    std::string content;
    friend bool operator==(const Snapshot&, const Snapshot&) = default;
};

Snapshot snapshot(const ScratchFile& file) {
    const struct stat status = file.status();
    return {.size = status.st_size,
            .seconds = status.st_mtim.tv_sec,
            .nanoseconds = status.st_mtim.tv_nsec,
            .changed_seconds = status.st_ctim.tv_sec,
            .changed_nanoseconds = status.st_ctim.tv_nsec,
            .content = file.get(0, 2 * kMiB)};
}

struct Outcome {
    int status;
    std::string output, errors;
};

Outcome run(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "mkfs.blobfs");
    std::ostringstream output, errors;
    const int status =
        run_mkfs(static_cast<int>(arguments.size()), arguments.data(), output, errors, false);
    return {.status = status, .output = output.str(), .errors = errors.str()};
}

TEST(FormatDevice, MakesAFilesystemThatOpens) {
    const ScratchFile file(64 * kMiB);
    FormatRequest request = request_for(file.path());
    request.label = "photos";
    request.root_uid = 1234;
    request.root_gid = 5678;
    request.cluster_bytes = 16384;
    const auto report = format_device(std::move(request));
    ASSERT_TRUE(report) << report.error();
    EXPECT_EQ(report->bytes, 64 * kMiB);
    EXPECT_EQ(report->cluster_bytes, 16384u);
    EXPECT_GT(report->log_bytes, 0u);
    const fs::Attributes root = root_of(file.path());
    EXPECT_TRUE(S_ISDIR(root.mode));
    EXPECT_EQ(root.uid, 1234u);
    EXPECT_EQ(root.gid, 5678u);
}

TEST(FormatDevice, SizeMakesTheFileOrGrowsItButNeverCutsIt) {
    const ScratchFile file(20 * kMiB);
    FormatRequest request = request_for(file.path());
    request.size_bytes = 64 * kMiB;
    auto report = format_device(std::move(request));
    ASSERT_TRUE(report) << report.error();
    EXPECT_TRUE(report->grown);
    EXPECT_EQ(file.status().st_size, static_cast<off_t>(64 * kMiB));

    FormatRequest smaller = request_for(file.path());
    smaller.size_bytes = 32 * kMiB;
    smaller.force = true;
    EXPECT_NE(error_of(std::move(smaller)).find("already"), std::string::npos);
    EXPECT_EQ(file.status().st_size, static_cast<off_t>(64 * kMiB));

    FormatRequest fresh = request_for(file.folder() + "/new");
    fresh.size_bytes = 16 * kMiB;
    report = format_device(std::move(fresh));
    ASSERT_TRUE(report) << report.error();
    EXPECT_TRUE(report->created);
    EXPECT_EQ(root_of(file.folder() + "/new").nlink, 2u);
}

TEST(FormatDevice, RefusalChangesNothing) {
    ScratchFile file(64 * kMiB);
    file.put(1080, "\x53\xef");  // not enough to be ext4, but somebody's data
    const Snapshot before = snapshot(file);
    EXPECT_NE(error_of(request_for(file.path())).find("--force"), std::string::npos);
    FormatRequest dry = request_for(file.path());
    dry.force = true;
    dry.dry_run = true;
    dry.size_bytes = 128 * kMiB;
    EXPECT_TRUE(format_device(std::move(dry)));
    FormatRequest bad = request_for(file.path());
    bad.force = true;
    bad.cluster_bytes = 5000;
    EXPECT_NE(error_of(std::move(bad)).find("cluster size"), std::string::npos);
    EXPECT_EQ(snapshot(file), before);
}

TEST(FormatDevice, OtherBlobfsIsRefusedAndNamed) {
    const ScratchFile file(64 * kMiB);
    FormatRequest request = request_for(file.path());
    request.label = "photos";
    ASSERT_TRUE(format_device(std::move(request)));
    const Snapshot before = snapshot(file);
    const std::string error = error_of(request_for(file.path()));
    EXPECT_NE(error.find("a blobfs filesystem labelled \"photos\""), std::string::npos) << error;
    EXPECT_EQ(snapshot(file), before);
}

TEST(FormatDevice, ForceLeavesNothingOfWhatWasThere) {
    ScratchFile file(64 * kMiB);
    std::string sector(512, '\0');
    sector[446 + 4] = '\x83';
    sector[446 + 9] = '\x08';
    sector[446 + 13] = '\x40';
    sector[510] = '\x55';
    sector[511] = '\xaa';
    file.put(0, sector);
    file.put(64 * kMiB - 512, "EFI PART");
    FormatRequest request = request_for(file.path());
    request.force = true;
    const auto report = format_device(std::move(request));
    ASSERT_TRUE(report) << report.error();
    EXPECT_NE(report->replaced.find("partition table"), std::string::npos);
    EXPECT_EQ(file.get(0, 512), std::string(512, '\0'));
    EXPECT_EQ(file.get(64 * kMiB - 512, 512), std::string(512, '\0'));
    const auto found = find_signatures(file.descriptor());
    ASSERT_TRUE(found);
    for (const Signature& signature : *found) EXPECT_EQ(signature.kind, "blobfs filesystem");
}

TEST(FormatDevice, FileThatCannotGrowIsAsBefore) {
    const ScratchFile file(20 * kMiB);
    struct rlimit old {};
    getrlimit(RLIMIT_FSIZE, &old);
    struct rlimit small = old;
    small.rlim_cur = 32 * kMiB;
    const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    FormatRequest grown = request_for(file.path());
    grown.size_bytes = 64 * kMiB;
    FormatRequest fresh = request_for(file.folder() + "/new");
    fresh.size_bytes = 64 * kMiB;
    const auto grown_report = format_device(std::move(grown));
    const auto fresh_report = format_device(std::move(fresh));
    setrlimit(RLIMIT_FSIZE, &old);
    std::signal(SIGXFSZ, old_handler);
    EXPECT_FALSE(grown_report);
    EXPECT_FALSE(fresh_report);
    EXPECT_EQ(file.status().st_size, static_cast<off_t>(20 * kMiB));
    EXPECT_NE(access((file.folder() + "/new").c_str(), F_OK), 0);
}

TEST(FormatDevice, MemoryIsSurveyedThroughItsController) {
    const auto report = format_device(request_for("mem:64MiB"));
    ASSERT_TRUE(report) << report.error();
    EXPECT_EQ(report->bytes, 64 * kMiB);
    EXPECT_NE(error_of(request_for("mem:1MiB")).find("too small"), std::string::npos);
}

TEST(MkfsCommandLine, SummaryAndJsonTellWhatWasMade) {
    const ScratchFile file(kMiB);
    const std::string path = file.folder() + "/new";
    const char* uuid = "01234567-89ab-cdef-0123-456789abcdef";
    const Outcome made = run({"--size", "32M", "-L", "mine", "-U", uuid, path.c_str()});
    ASSERT_EQ(made.status, 0) << made.errors;
    for (const char* text : {"32 MiB", "mine", uuid, "4 KiB", "blobfs-fuse"}) {
        EXPECT_NE(made.output.find(text), std::string::npos) << text << " in " << made.output;
    }
    const Outcome json = run({"--json", "--force", "-U", uuid, path.c_str()});
    ASSERT_EQ(json.status, 0) << json.errors;
    const auto parsed = nlohmann::json::parse(json.output);
    EXPECT_EQ(parsed["uuid"], uuid);
    EXPECT_EQ(parsed["bytes"], 32 * kMiB);
    EXPECT_EQ(parsed["created"], false);
    EXPECT_EQ(parsed["replaced"], "a blobfs filesystem labelled \"mine\"");
    const Outcome quiet = run({"-q", "--force", path.c_str()});
    EXPECT_EQ(quiet.status, 0);
    EXPECT_EQ(quiet.output + quiet.errors, "");
}

TEST(MkfsCommandLine, BadArgumentsAreToldInOneLine) {
    const ScratchFile file(64 * kMiB);
    const char* path = file.path().c_str();
    const std::vector<std::vector<const char*>> cases = {
        {},
        {path, "second"},
        {"--nonsense", path},
        {"--size", "8X", path},
        {"--size", "0", path},
        {"--size", "20000001", path},
        {"--cluster-size", "8M", path},
        {"--cluster-size", "8G", path},
        {"--page-size", "2K", path},
        {"-U", "nonsense", path},
        {"-U", "00000000-0000-0000-0000-000000000000", path},
        {"-L", "a\nb", path},
        {"-L", "\xff", path},
        {"--root-owner", "me", path},
        {"--root-owner", "1:x", path},
    };
    const Snapshot before = snapshot(file);
    for (const auto& arguments : cases) {
        const Outcome outcome = run(arguments);
        EXPECT_EQ(outcome.status, 1) << outcome.errors;
        EXPECT_EQ(outcome.errors.rfind("mkfs.blobfs: ", 0), 0u) << outcome.errors;
        EXPECT_EQ(outcome.errors.find('\n'), outcome.errors.size() - 1) << outcome.errors;
    }
    EXPECT_EQ(snapshot(file), before);
}

TEST(MkfsCommandLine, HelpAndVersionAreNoErrors) {
    EXPECT_EQ(run({"-h"}).status, 0);
    EXPECT_NE(run({"-h"}).output.find("--cluster-size"), std::string::npos);
    EXPECT_NE(run({"-V"}).output.find("mkfs.blobfs"), std::string::npos);
}

}  // namespace
}  // namespace blobfs::mkfs
