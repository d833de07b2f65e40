#pragma once

// A filesystem on a device of which the power can be cut, for one who works on it or for several.
// A run is the same for the same seeds, as no clock takes part. Reactor thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "driver/reactor/reactor.h"
#include "driver/soft/power_cut_medium.h"
#include "fs/filesystem.h"
#include "fs/fuse/early_answers.h"

namespace blobfs::fs {

inline constexpr std::uint64_t kCrashDeviceBytes = 24 << 20;

// For a reactor of such a world.
driver::ReactorOptions crash_reactor_options(std::optional<std::uint64_t> shuffle_seed);

struct CrashWorldOptions {
    // Not 0: the device ends its operations in any order, and some writes take long, or all.
    std::uint64_t shuffle_seed = 0;
    bool all_slow = false;
    // Not 0: nearly all but that is in use.
    std::uint64_t free_bytes = 0;
    std::optional<blobstore::OrderRule> broken_rule{};
    // The device does not take all that is written: writes fail. Only with a shuffle_seed.
    bool failing = false;
};

struct CrashWorld {
    // A new filesystem. Suspends.
    void make(Suspend& suspend, const CrashWorldOptions& with);
    // What a cut has left. Suspends.
    void recover(Suspend& suspend, driver::SparseImage image, const CrashWorldOptions& with);
    // From here on it may be cut, and its device may fail.
    void start(Suspend& suspend);
    // Whoever worked on it has ended.
    void end(Suspend& suspend);

    CrashWorldOptions options;
    driver::PowerCutMedium* medium = nullptr;
    std::unique_ptr<Device> device;
    std::unique_ptr<Filesystem> fs;
    fuse::EarlyAnswers early;  // who is answered early is counted and waited for as under FUSE
    std::size_t answered_early = 0;
    std::size_t failed_writes = 0;  // of data
    std::size_t started_at = 0, end_of_journal = 0;

  private:
    void open(Suspend& suspend);
    void let_writes_fail();

    std::int64_t seconds_ = 0;
};

}  // namespace blobfs::fs
