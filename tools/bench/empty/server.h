#pragma once

// Serves a mounted EmptyFilesystem from one thread, and counts what the kernel asks. What others
// may do meanwhile, from any thread: read the counts, and choose how the thread waits.

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "driver/base/result.h"
#include "fs/fuse/connection.h"
#include "fs/fuse/kernel_mount.h"
#include "tools/bench/empty/empty_filesystem.h"

namespace blobfs::bench {

// How the serving thread waits for the next request.
enum class Waiting : std::uint8_t {
    kBlocking,  // in read(2): the kernel wakes it, often on another core
    kSpinning,  // asks again and again, as a reactor does that serves the channel itself
};

class Server {
  public:
    // mount outlives the server.
    Server(const fs::fuse::KernelMount& mount, Waiting waiting);

    // Serves until the filesystem is unmounted; an error when the connection fails.
    Result<void> run();

    // Takes effect with the next request. Any thread.
    void wait_by(Waiting waiting) const;

    // {"requests": {"LOOKUP": 12, ...}, "bytes_read": ..., "bytes_written": ...} in one line.
    // Any thread.
    [[nodiscard]] std::string statistics() const;

  private:
    Result<void> greet(const fs::fuse::Request& request) const;
    Result<void> answer(const fs::fuse::Request& request);

    const fs::fuse::KernelMount& mount_;
    const fs::fuse::Connection connection_;
    EmptyFilesystem filesystem_;
    std::vector<std::byte> memory_;
    // Written by the serving thread only.
    std::array<std::atomic<std::uint64_t>, 64> by_opcode_{};
    std::atomic<std::uint64_t> bytes_read_ = 0, bytes_written_ = 0;
};

}  // namespace blobfs::bench
