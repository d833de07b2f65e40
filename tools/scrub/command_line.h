#pragma once

// blobfs-scrub as a call: has the daemon of a mounted filesystem check it, waits, prints what was
// found, answers fsck(8)'s exit status. For main() and for tests.

#include <functional>
#include <iosfwd>

namespace blobfs::scrub {

inline constexpr int kExitClean = 0;
inline constexpr int kExitFound = 4;
inline constexpr int kExitFailed = 8;
inline constexpr int kExitUsage = 16;
inline constexpr int kExitCancelled = 32;

struct Surroundings {
    std::ostream& output;
    std::ostream& errors;
    bool progress = false;            // `errors` is a terminal: show there how far it is
    std::function<bool()> cancelled;  // the user wants it to end; sleeping ends with that
};

int run_scrub(int argc, const char* const* argv, const Surroundings& surroundings);

}  // namespace blobfs::scrub
