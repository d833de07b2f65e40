#include "fs/fuse/cache_write_back.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace blobfs::fs::fuse {

CacheWriteBack::~CacheWriteBack() {
    if (!thread_.joinable()) return;
    ::close(jobs_);
    thread_.join();
}

bool CacheWriteBack::start() {
    if (thread_.joinable()) return true;
    // A pipe, since the reactor takes no locks. It holds far more jobs than there are requests.
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        spdlog::warn("the kernel cannot be told to write its cache out: {}", std::strerror(errno));
        return false;
    }
    try {
        thread_ = std::thread([this, jobs = ends[0]] { work(jobs); });
    } catch (const std::system_error& error) {
        spdlog::warn("the kernel cannot be told to write its cache out: {}", error.what());
        ::close(ends[0]);
        ::close(ends[1]);
        return false;
    }
    jobs_ = ends[1];
    return true;
}

void CacheWriteBack::work(int jobs) const {
    Job* job = nullptr;
    while (::read(jobs, &job, sizeof(job)) == static_cast<ssize_t>(sizeof(job))) {
        for (const InodeNumber inode : job->inodes) {
            if (job->offset) {
                connection_.write_out_and_forget(inode, *job->offset);
            } else {
                connection_.forget_attributes(inode);
            }
        }
        while (!reactor_.post([job] { job->done.done(); })) std::this_thread::yield();
    }
    ::close(jobs);
}

void CacheWriteBack::write_out(driver::Suspend& suspend, InodeNumber inode, std::uint64_t offset) {
    work_on(suspend, std::span(&inode, 1), offset);
}

void CacheWriteBack::work_on(driver::Suspend& suspend, std::span<const InodeNumber> inodes,
                             std::optional<std::uint64_t> offset) {
    if (!start()) return;
    Job job{.inodes = inodes, .offset = offset};
    job.done.add();
    Job* const pointer = &job;
    CHECK(::write(jobs_, &pointer, sizeof(pointer)) == static_cast<ssize_t>(sizeof(pointer)));
    job.done.wait(suspend);
}

}  // namespace blobfs::fs::fuse
