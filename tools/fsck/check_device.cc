#include "tools/fsck/check_device.h"

#include <absl/container/flat_hash_set.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "driver/device.h"
#include "driver/device_name.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "fs/fsck/printable_text.h"
#include "mkfs/device_use.h"
#include "mkfs/existing_content.h"
#include "mkfs/uuid.h"
#include "tools/fsck/repair.h"
#include "tools/fsck/superblock_search.h"

namespace blobfs::fsck {

using blobstore::Superblock;
using blobstore::SuperblockSlots;
using driver::Device;
using driver::Suspend;

namespace {

constexpr std::size_t kMemoryBytes = std::size_t{512} << 20;
// That much has to be free in hugepages; of them more is taken where it is needed.
constexpr std::size_t kHugepageBytes = std::size_t{192} << 20;
constexpr std::size_t kFiberStackBytes = std::size_t{256} << 10;
// Repairs show what they hid: the check goes on until nothing changes any more, so often at most.
constexpr int kMostRounds = 20;
// Problems beyond so many are repaired and counted, but not told one by one.
constexpr std::size_t kMostTold = 1000;

using Outcome = tl::expected<CheckReport, CheckFailure>;

tl::unexpected<CheckFailure> failure(const std::string& text) {
    return tl::unexpected<CheckFailure>(CheckFailure{text});
}

// Another filesystem or a partition table took the place of the superblocks: what is left of an
// older blobfs is not to be put into it. Of files and block devices; nothing is known of others.
bool holds_something_else(const std::string& device) {
    const auto name = driver::parse_device_name(device);
    if (!name || name->kind != driver::DeviceName::Kind::kFile) return false;
    const int descriptor = ::open(name->path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return false;
    const auto signatures = mkfs::find_signatures(descriptor);
    ::close(descriptor);
    return signatures && !signatures->empty();
}

class Session {
  public:
    Session(Suspend& suspend, Device& device, CheckRequest& request)
        : suspend_(suspend), device_(device), request_(request) {}

    Outcome run();

  private:
    // Of the superblock when both slots are lost; else the error of the slots.
    Result<Superblock> find_copy(const SuperblockSlots& slots);
    Outcome check_all(const SuperblockSlots& slots, Superblock newest);
    // Tells of the findings and chooses those to repair.
    std::vector<const Finding*> decide(ImageCheck& check);
    CheckedProblem describe(ImageCheck& check, const Finding& finding);
    bool wanted(const CheckedProblem& problem, const Finding& finding, bool all_safe);
    Outcome finish(ImageCheck& check, bool changed);
    tl::unexpected<CheckFailure> failed(const std::string& doing, const Error& error) {
        return failure(doing + " " + request_.device + ": " + error.message());
    }
    void progress(Phase phase, std::uint64_t done, std::uint64_t total) {
        if (request_.progress) request_.progress(phase, done, total);
    }

    Suspend& suspend_;
    Device& device_;
    CheckRequest& request_;
    CheckReport report_;
    absl::flat_hash_set<std::string> declined_;
};

CheckedProblem Session::describe(ImageCheck& check, const Finding& finding) {
    const ProblemInfo& info = info_of(finding.problem);
    CheckedProblem problem{.code = std::string(info.code),
                           .text = finding.text,
                           .remedy = std::string(info.remedy),
                           .path = {},
                           .inode = finding.inode,
                           .block = finding.block};
    if (report_.problems.size() < kMostTold && finding.inode != 0) {
        problem.path = printable(check.path_of(suspend_, finding.inode));
        const std::string name = inode_text(finding.inode);
        if (!problem.path.empty() && problem.text.starts_with(name + ":")) {
            problem.text.insert(name.size(), " (" + problem.path + ")");
        }
    }
    problem.text = printable(problem.text);
    return problem;
}

bool Session::wanted(const CheckedProblem& problem, const Finding& finding, bool all_safe) {
    if (!finding.curable) return false;
    switch (request_.mode) {
        case RepairMode::kNone:
            return false;
        case RepairMode::kSafe:
            return all_safe;
        case RepairMode::kAll:
            return true;
        case RepairMode::kAsk:
            if (declined_.contains(finding.text)) return false;
            if (request_.ask && request_.ask(problem)) return true;
            declined_.insert(finding.text);
            return false;
    }
    return false;
}

std::vector<const Finding*> Session::decide(ImageCheck& check) {
    const std::vector<Finding>& findings = check.findings().list();
    const auto safe = [](const Finding& finding) { return info_of(finding.problem).safe; };
    const bool all_safe = std::all_of(findings.begin(), findings.end(), safe);
    if (request_.mode == RepairMode::kSafe && !all_safe) report_.by_hand = true;
    std::vector<const Finding*> accepted;
    bool rewrite_declined = false;
    for (const Finding& finding : findings) {
        // What was said no to is not told again.
        if (declined_.contains(finding.text)) {
            rewrite_declined = rewrite_declined || info_of(finding.problem).rewrite;
            continue;
        }
        CheckedProblem problem = describe(check, finding);
        const bool repair = wanted(problem, finding, all_safe);
        if (repair) {
            accepted.push_back(&finding);
        } else {
            rewrite_declined = rewrite_declined || info_of(finding.problem).rewrite;
        }
        problem.repaired = repair;
        if (report_.problems.size() < kMostTold) {
            if (request_.found) request_.found(problem, repair);
            report_.problems.push_back(std::move(problem));
        }
    }
    const bool rewrites = std::any_of(accepted.begin(), accepted.end(), [](const Finding* finding) {
        return info_of(finding->problem).rewrite;
    });
    if (rewrite_declined && !rewrites && !accepted.empty()) {
        report_.notes.emplace_back(
            "nothing was repaired: the damage to the tree or the map has to be repaired first");
        for (CheckedProblem& problem : report_.problems) problem.repaired = false;
        accepted.clear();
    }
    return accepted;
}

Outcome Session::finish(ImageCheck& check, bool changed) {
    report_.left = check.findings().total();
    report_.names = check.names();
    report_.used_bytes = check.used_blocks() * blobstore::kBlockBytes;
    const bool dirty =
        check.log().batches != 0 ||
        check.superblock().state != static_cast<std::uint32_t>(blobstore::SuperblockState::kClean);
    if (report_.left != 0 || !dirty) return std::move(report_);
    if (request_.mode == RepairMode::kNone) {
        report_.log_pending = check.log().batches != 0;
        return std::move(report_);
    }
    if (const auto replayed = replay_log(suspend_, device_); !replayed) {
        return failed("replaying the log of", replayed.error());
    }
    report_.replayed = !changed;
    return std::move(report_);
}

Outcome Session::check_all(const SuperblockSlots& slots, Superblock newest) {
    SuperblockSlots current = slots;
    for (int round = 0;; ++round) {
        ImageCheck check(device_, current, newest);
        const auto ran =
            check.run(suspend_, [&](Phase phase, std::uint64_t done, std::uint64_t total) {
                progress(phase, done, total);
            });
        if (!ran) return failed("checking", ran.error());
        const std::uint64_t total = check.findings().total();
        if (round == 0) report_.found = total;
        const std::vector<const Finding*> accepted = decide(check);
        if (accepted.empty() || round == kMostRounds) return finish(check, round != 0);
        const auto repaired = repair(suspend_, device_, check, accepted,
                                     [&](Phase phase, std::uint64_t done, std::uint64_t all) {
                                         progress(phase, done, all);
                                     });
        if (!repaired) {
            if (repaired.error().code == Errc::kNoSpace) {
                return failure(
                    "repairing " + request_.device +
                    ": there is not enough free space for a second copy of the "
                    "metadata; the filesystem is as it was. Make the device (or the copy of it "
                    "that you repair) larger, and the filesystem will use that");
            }
            return failed("repairing", repaired.error());
        }
        if (!repaired->empty()) report_.notes.push_back(*repaired);
        report_.repaired += accepted.size();
        if (round != 0) report_.found += total;
        auto reread = blobstore::read_superblocks(suspend_, device_);
        if (!reread) return failed("reading", reread.error());
        auto again = reread->newest();
        if (!again) return failed("reading", again.error());
        current = *reread;
        newest = *again;
    }
}

Result<Superblock> Session::find_copy(const SuperblockSlots& slots) {
    const Error error = slots.newest().error();
    const bool damaged = error.code == Errc::kCorrupt;
    // A newer program's filesystem, or a device that does not answer.
    if (!damaged && (error.code != Errc::kWrongFormat || !slots.is_foreign())) return fail(error);
    if (!damaged && holds_something_else(request_.device)) return fail(error);
    auto copy = superblock_copy_at_end(suspend_, device_);
    // What may never have been a blobfs is not read as a whole unless that is asked for.
    if (!copy && (damaged || request_.force)) {
        copy =
            search_superblock_copy(suspend_, device_, [&](std::uint64_t done, std::uint64_t total) {
                progress(Phase::kSearch, done, total);
            });
    }
    if (!copy) return fail(error);
    return copy;
}

Outcome Session::run() {
    report_.device = request_.device;
    auto slots = blobstore::read_superblocks(suspend_, device_);
    if (!slots) return failed("reading", slots.error());
    auto newest = slots->newest();
    if (!newest && !slots->slots[0] && !slots->slots[1]) newest = find_copy(*slots);
    if (!newest) return failed("checking", newest.error());
    if (request_.mode != RepairMode::kNone) {
        if (const auto writable = check_writable(*newest); !writable) {
            return failed("checking", writable.error());
        }
    }
    report_.uuid = mkfs::to_string(newest->uuid);
    report_.label =
        printable({newest->label.data(), strnlen(newest->label.data(), newest->label.size())});
    report_.bytes = newest->block_count * blobstore::kBlockBytes;
    const bool clean =
        slots->slots[0] && slots->slots[1] &&
        newest->state == static_cast<std::uint32_t>(blobstore::SuperblockState::kClean);
    if (clean && !request_.force) {
        report_.skipped = true;
        report_.names.files = newest->blob_count;
        report_.used_bytes = (newest->block_count - newest->free_blocks) * blobstore::kBlockBytes;
        return std::move(report_);
    }
    return check_all(*slots, *newest);
}

tl::unexpected<CheckFailure> cannot_open(const CheckRequest& request, const Error& error) {
    if (error.code == Errc::kBusy) {
        const auto name = driver::parse_device_name(request.device);
        const bool file = name && name->kind == driver::DeviceName::Kind::kFile;
        const auto use = file ? mkfs::find_device_use(name->path, 0) : std::nullopt;
        return failure(request.device + " is " + use.value_or("used by another process") +
                       "; unmount it first" +
                       (request.mode == RepairMode::kNone
                            ? ", or check it where it is mounted: blobfs-scrub MOUNTPOINT"
                            : ""));
    }
    return failure("cannot open " + request.device + ": " + error.message());
}

}  // namespace

Outcome check_opened(Suspend& suspend, Device& device, CheckRequest& request) {
    return Session(suspend, device, request).run();
}

Outcome check_device(CheckRequest request) {
    const bool physical = driver::names_pcie(request.device);
    const driver::EnvironmentOptions environment{
        .memory_bytes = physical ? kHugepageBytes : kMemoryBytes, .physical = physical};
    if (const auto started = driver::start_environment(environment); !started) {
        return failure("starting failed: " + started.error().message());
    }
    driver::Reactor reactor({.fiber_stack_bytes = kFiberStackBytes});
    return reactor.block_on([&](Suspend& suspend) -> Outcome {
        auto device = Device::open(
            suspend, request.device,
            {.read_only = request.mode == RepairMode::kNone, .lock_wait_ms = request.lock_wait_ms});
        if (!device) return cannot_open(request, device.error());
        Outcome outcome = check_opened(suspend, **device, request);
        const auto closed = (*device)->close(suspend);
        if (outcome && !closed) {
            return failure("closing " + request.device + ": " + closed.error().message());
        }
        return outcome;
    });
}

}  // namespace blobfs::fsck
