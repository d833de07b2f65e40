#include "tools/scrub/mounted_filesystem.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>

namespace blobfs::scrub {

using fs::fuse::CheckProblem;
using fs::fuse::CheckStart;
using fs::fuse::CheckStatus;

MountedFilesystem::Answer<void> MountedFilesystem::call(std::uint32_t command,
                                                        void* argument) const {
    const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0) return tl::unexpected<int>(errno);
    const int result = ::ioctl(descriptor, command, argument);
    const int error = errno;
    ::close(descriptor);
    if (result < 0) return tl::unexpected<int>(error);
    return {};
}

MountedFilesystem::Answer<std::uint64_t> MountedFilesystem::start(
    std::uint64_t bytes_per_second) const {
    CheckStart start{.bytes_per_second = bytes_per_second, .run = 0};
    return call(fs::fuse::kIoctlCheckStart, &start).map([&] { return start.run; });
}

MountedFilesystem::Answer<CheckStatus> MountedFilesystem::status() const {
    CheckStatus status{};
    return call(fs::fuse::kIoctlCheckStatus, &status).map([&] {
        status.error[sizeof(status.error) - 1] = '\0';
        return status;
    });
}

MountedFilesystem::Answer<CheckProblem> MountedFilesystem::problem(std::uint64_t run,
                                                                   std::uint64_t index) const {
    CheckProblem problem{};
    problem.run = run;
    problem.index = index;
    return call(fs::fuse::kIoctlCheckProblem, &problem).map([&] {
        problem.code[sizeof(problem.code) - 1] = '\0';
        problem.remedy[sizeof(problem.remedy) - 1] = '\0';
        problem.text[sizeof(problem.text) - 1] = '\0';
        problem.path[sizeof(problem.path) - 1] = '\0';
        return problem;
    });
}

MountedFilesystem::Answer<void> MountedFilesystem::cancel() const {
    return call(fs::fuse::kIoctlCheckCancel, nullptr);
}

}  // namespace blobfs::scrub
