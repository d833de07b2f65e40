#pragma once

// A mounted filesystem as its control ioctls show it (fs/fuse/control.h). Each call opens the
// directory anew and lets go of it, so that nothing keeps the filesystem from being unmounted. One
// thread.

#include <cstdint>
#include <string>

#include <tl/expected.hpp>

#include "fs/fuse/control.h"

namespace blobfs::scrub {

class MountedFilesystem {
  public:
    // Any file or directory of it.
    explicit MountedFilesystem(std::string path) : path_(std::move(path)) {}
    [[nodiscard]] const std::string& path() const { return path_; }

    // Errors are errno. ENOTTY: it is no blobfs that is mounted there.
    template <class T>
    using Answer = tl::expected<T, int>;
    // The number of the run. EBUSY: one runs.
    [[nodiscard]] Answer<std::uint64_t> start(std::uint64_t bytes_per_second) const;
    [[nodiscard]] Answer<fs::fuse::CheckStatus> status() const;
    [[nodiscard]] Answer<fs::fuse::CheckProblem> problem(std::uint64_t run,
                                                         std::uint64_t index) const;
    [[nodiscard]] Answer<void> cancel() const;

  private:
    [[nodiscard]] Answer<void> call(std::uint32_t command, void* argument) const;
    std::string path_;
};

}  // namespace blobfs::scrub
