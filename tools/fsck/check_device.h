#pragma once

// What fsck.blobfs does, as a library call: opens the device, checks, repairs what was asked for,
// and checks again until nothing is left that can be repaired. Starts the DPDK environment and a
// reactor of its own: call it from a thread without a reactor.

#include <absl/functional/any_invocable.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <tl/expected.hpp>

#include "fs/fsck/image_check.h"

namespace blobfs::fsck {

enum class RepairMode : std::uint8_t {
    kNone,  // nothing is written
    kSafe,  // what loses nothing; nothing at all when anything else is wrong, too
    kAll,
    kAsk,
};

// One finding, as it is told.
struct CheckedProblem {
    std::string code, text, remedy;
    std::string path;  // of the inode, if there is one and it has one
    std::uint64_t inode = 0, block = 0;
    bool repaired = false;
};

struct CheckRequest {
    std::string device;
    RepairMode mode = RepairMode::kNone;
    bool force = false;  // also when the filesystem says that it is clean
    std::uint32_t lock_wait_ms = 3000;
    // kAsk: whether to repair this one.
    absl::AnyInvocable<bool(const CheckedProblem& problem)> ask;
    // Called for each problem when it is found and decided on; `repair` says how. May be empty.
    absl::AnyInvocable<void(const CheckedProblem& problem, bool repair)> found;
    absl::AnyInvocable<void(Phase phase, std::uint64_t done, std::uint64_t total)> progress;
};

struct CheckReport {
    std::string device, label, uuid;
    std::uint64_t bytes = 0, used_bytes = 0;
    bool skipped = false;      // it is clean, and force was not asked for
    bool replayed = false;     // the log was; the filesystem is clean now
    bool log_pending = false;  // it holds changes, and nothing was to be written
    bool by_hand = false;      // kSafe, and something needs a decision
    std::uint64_t found = 0, repaired = 0, left = 0;
    std::vector<CheckedProblem> problems;  // the first ones
    std::vector<std::string> notes;        // what else was done
    NameTotals names;
};

struct CheckFailure {
    std::string text;  // for people: what was being done, on what, what to do
};

// The failure: the device could not be opened or read or written, or holds no filesystem that this
// program knows.
tl::expected<CheckReport, CheckFailure> check_device(CheckRequest request);

// The same on a device that is open, for writing unless the mode is kNone; from a fiber. Suspends.
tl::expected<CheckReport, CheckFailure> check_opened(driver::Suspend& suspend,
                                                     driver::Device& device, CheckRequest& request);

}  // namespace blobfs::fsck
