#pragma once

// blobfs-nvme as a call: reads the arguments, acts, prints. For main() and for tests.

#include <iosfwd>

namespace blobfs::tools {

// The exit status: 0 when it is done, 1 when it was refused or failed; then a message on `errors`
// says why.
int run_nvme(int argc, const char* const* argv, std::ostream& output, std::ostream& errors);

}  // namespace blobfs::tools
