#pragma once

// What a power cut has left of a CrashWorld, held against what was promised to those who worked on
// it (crash_test.cc). Reactor thread.

#include <cstddef>
#include <random>

#include "driver/soft/sparse_image.h"
#include "tests/fs/crash_workload.h"

namespace blobfs::fs {

// Checks the image before anybody mounts it, opens it, checks it and what the histories say of it;
// with a depth the recovery is cut, too, at a random place, and what that leaves is checked. Fails
// the test. Suspends.
void check_image(Suspend& suspend, const CrashWorkloads& workloads, std::size_t cut,
                 driver::SparseImage image, int depth, std::mt19937_64& random);

}  // namespace blobfs::fs
