#pragma once

// Loop devices: a block device that is a file in disguise. Any thread.

#include <string>

namespace blobfs::driver {

// The path of the file behind a loop device, or behind the loop device of which it is a partition;
// empty when the descriptor is of anything else.
std::string loop_backing_file(int descriptor);

}  // namespace blobfs::driver
