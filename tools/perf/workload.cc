#include "tools/perf/workload.h"

#include <charconv>
#include <string_view>

namespace blobfs::tools {

namespace {

constexpr unsigned kMaxCore = 4095;

bool parse_core(std::string_view text, unsigned& core) {
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, core);
    return error == std::errc{} && stop == end && core <= kMaxCore;
}

}  // namespace

std::vector<unsigned> parse_cores(const std::string& text) {
    std::vector<unsigned> cores;
    std::string_view rest = text;
    while (true) {
        const std::string_view item = rest.substr(0, rest.find(','));
        const std::size_t dash = item.find('-');
        unsigned first = 0;
        if (!parse_core(item.substr(0, dash), first)) return {};
        unsigned last = first;
        if (dash != std::string_view::npos && !parse_core(item.substr(dash + 1), last)) return {};
        if (last < first) return {};
        for (unsigned core = first; core <= last; ++core) cores.push_back(core);
        if (item.size() == rest.size()) return cores;
        rest.remove_prefix(item.size() + 1);
    }
}

IoStream::IoStream(const Workload& workload, std::uint32_t queue)
    : random_order_(workload.random),
      read_percent_(workload.read_percent),
      block_bytes_(workload.block_bytes),
      start_(workload.offset),
      blocks_(workload.region_bytes / workload.block_bytes),
      random_(workload.seed * 1'000'003 + queue) {
    if (!random_order_) {
        blocks_ /= workload.queues;
        start_ += queue * blocks_ * block_bytes_;
    }
}

IoStream::Io IoStream::next() {
    Io io;
    io.read = read_percent_ == 100 || (read_percent_ != 0 && below(100) < read_percent_);
    std::uint64_t block = at_;
    if (random_order_) {
        block = below(blocks_);
    } else if (++at_ == blocks_) {
        at_ = 0;
    }
    io.offset = start_ + block * block_bytes_;
    return io;
}

}  // namespace blobfs::tools
