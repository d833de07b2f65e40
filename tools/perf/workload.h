#pragma once

// What a benchmark does to a device, and the stream of I/Os that follows from it. Any thread; a
// stream belongs to one.

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace blobfs::tools {

struct Workload {
    std::uint32_t read_percent = 100;  // of the I/Os; 100: reads only, 0: writes only
    bool random = true;
    std::uint64_t block_bytes = 4096;  // of one I/O: a multiple of the LBA size
    std::uint32_t depth = 32;          // I/Os under way on each queue
    std::uint32_t queues = 1;          // a thread each
    std::vector<unsigned> cores = {};  // the threads are bound to these in turn; empty: to none
    std::uint64_t offset = 0;          // where on the device the region begins, bytes
    std::uint64_t region_bytes = 0;    // 0: to the end of the device
    double seconds = 10;               // of measuring
    double warm_up_seconds = 1;        // before it
    bool precondition = false;         // write the region twice first
    bool force = false;                // overwrite data
    std::uint64_t seed = 1;

    [[nodiscard]] bool writes() const { return read_percent < 100 || precondition; }
};

// "0,2-4" as 0, 2, 3, 4; empty when it is not such a list.
[[nodiscard]] std::vector<unsigned> parse_cores(const std::string& text);

// The I/Os of one queue, one after the other. Sequential: each queue goes through a part of the
// region of its own, again and again; random: each I/O is anywhere in the region.
class IoStream {
  public:
    struct Io {
        bool read = true;
        std::uint64_t offset = 0;  // bytes on the device
    };

    // The region holds at least one block for each queue; queue: 0 to workload.queues - 1.
    IoStream(const Workload& workload, std::uint32_t queue);
    [[nodiscard]] Io next();

  private:
    std::uint64_t below(std::uint64_t limit) {
        return static_cast<std::uint64_t>(static_cast<unsigned __int128>(random_()) * limit >> 64);
    }

    bool random_order_;
    std::uint32_t read_percent_;
    std::uint64_t block_bytes_;
    std::uint64_t start_;   // bytes
    std::uint64_t blocks_;  // of this queue's part
    std::uint64_t at_ = 0;
    std::mt19937_64 random_;
};

}  // namespace blobfs::tools
