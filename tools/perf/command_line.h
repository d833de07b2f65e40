#pragma once

// blobfs-perf as a call: reads the arguments, runs the benchmark, prints. For main() and for tests.

#include <atomic>
#include <iosfwd>

namespace blobfs::tools {

// The exit status: 0 when it was measured, 1 when not; then one message on `errors` says why.
// progress: show how far it is on `errors`, which is a terminal. interrupted: set by a signal
// handler to stop early.
int run_perf(int argc, const char* const* argv, std::ostream& output, std::ostream& errors,
             bool progress, const std::atomic<bool>* interrupted);

}  // namespace blobfs::tools
