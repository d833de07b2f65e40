#pragma once

// fsck.blobfs as a call: reads the arguments, checks, prints, answers fsck(8)'s exit status. For
// main() and for tests.

#include <functional>
#include <iosfwd>
#include <string>

namespace blobfs::fsck {

// Exit status, fsck(8): a sum of these.
inline constexpr int kExitClean = 0;
inline constexpr int kExitRepaired = 1;
inline constexpr int kExitLeft = 4;
inline constexpr int kExitFailed = 8;
inline constexpr int kExitUsage = 16;

struct Surroundings {
    std::ostream& output;
    std::ostream& errors;
    bool progress = false;  // `errors` is a terminal: show there how far it is
    // Asks a person a question; empty when there is nobody.
    std::function<bool(const std::string& question)> ask;
};

int run_fsck(int argc, const char* const* argv, Surroundings surroundings);

}  // namespace blobfs::fsck
