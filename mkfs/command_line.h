#pragma once

// mkfs.blobfs as a call: reads the arguments, formats, prints. For main() and for tests.

#include <iosfwd>

namespace blobfs::mkfs {

// The exit status: 0 when everything is done (or would be, with -n), 1 when not; then one message
// on `errors` says why. progress: show how far it is on `errors`, which is a terminal.
int run_mkfs(int argc, const char* const* argv, std::ostream& output, std::ostream& errors,
             bool progress);

}  // namespace blobfs::mkfs
