#pragma once

// How fast a check may read, and whether it still may: for one that runs beside other work. The
// check's thread.

#include <cstddef>

#include "driver/base/result.h"
#include "driver/reactor/fiber.h"

namespace blobfs::fsck {

class Pace {
  public:
    virtual ~Pace() = default;
    // Waits until that many bytes may be read. An error ends the check. Suspends.
    virtual Result<void> before_reading(driver::Suspend& suspend, std::size_t bytes) = 0;
    // What was read means something; an error ends the check.
    virtual Result<void> after_reading() = 0;
};

}  // namespace blobfs::fsck
