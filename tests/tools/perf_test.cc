// blobfs-perf: its arithmetic, and the whole program on files and memory. How fast anything is does
// not matter here.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <vector>

#include "tools/perf/command_line.h"
#include "tools/perf/latency_histogram.h"
#include "tools/perf/workload.h"

namespace blobfs::tools {
namespace {

TEST(LatencyHistogram, PercentilesAreRightWithinTwoPercent) {
    LatencyHistogram histogram;
    std::mt19937_64 random(7);
    std::vector<std::uint64_t> all;
    for (int i = 0; i < 20'000; ++i) {
        const std::uint64_t ns = random() >> (24 + random() % 39);
        all.push_back(ns);
        histogram.record(ns);
    }
    std::sort(all.begin(), all.end());
    for (const double percent : {0.0, 1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0}) {
        const auto rank = static_cast<std::size_t>(
            std::max(1.0, std::ceil(percent / 100 * static_cast<double>(all.size()))));
        const auto exact = static_cast<double>(all[rank - 1]);
        const auto found = static_cast<double>(histogram.percentile_ns(percent));
        EXPECT_GE(found, exact) << percent;
        EXPECT_LE(found, exact * 1.016 + 1) << percent;
    }
    EXPECT_EQ(histogram.count(), all.size());
    EXPECT_EQ(histogram.min_ns(), all.front());
    EXPECT_EQ(histogram.max_ns(), all.back());
}

TEST(LatencyHistogram, EveryTimeHasAPlaceAndBarsCountAll) {
    LatencyHistogram histogram, other;
    std::uint64_t count = 0;
    for (unsigned bit = 0; bit < 64; ++bit) {
        for (const std::int64_t step : {-1, 0, 1}) {
            (count % 2 == 0 ? histogram : other)
                .record((std::uint64_t{1} << bit) + static_cast<std::uint64_t>(step));
            ++count;
        }
    }
    histogram.merge(other);
    EXPECT_EQ(histogram.count(), count);
    EXPECT_EQ(histogram.max_ns(), LatencyHistogram::kLongestNs);
    std::uint64_t in_bars = 0, end = 0;
    for (const LatencyHistogram::Bar& bar : histogram.bars()) {
        EXPECT_GE(bar.from_ns, end);
        end = bar.to_ns;
        in_bars += bar.count;
    }
    EXPECT_EQ(in_bars, count);
}

TEST(Workload, CoresAreReadOrRefused) {
    EXPECT_EQ(parse_cores("0,2-4,7"), (std::vector<unsigned>{0, 2, 3, 4, 7}));
    for (const char* wrong : {"", ",", "1,", "a", "3-1", "1-", "-1", "1-2-3", "99999", " 1"}) {
        EXPECT_TRUE(parse_cores(wrong).empty()) << wrong;
    }
}

TEST(IoStream, SequentialQueuesShareTheRegionWithoutOverlap) {
    const Workload workload{.random = false,
                            .block_bytes = 4096,
                            .queues = 3,
                            .offset = 8192,
                            .region_bytes = 10 * 4096};
    std::set<std::uint64_t> seen;
    for (std::uint32_t queue = 0; queue < 3; ++queue) {
        IoStream stream(workload, queue);
        const std::uint64_t first = stream.next().offset;
        for (int i = 1; i < 3; ++i) EXPECT_TRUE(seen.insert(stream.next().offset).second);
        EXPECT_TRUE(seen.insert(first).second);
        EXPECT_EQ(stream.next().offset, first) << "and from the beginning again";
    }
    EXPECT_EQ(*seen.begin(), 8192U);
    EXPECT_EQ(*seen.rbegin(), 8192U + 8 * 4096);
}

TEST(IoStream, RandomOnesReachTheWholeRegionInTheMixAskedFor) {
    const Workload workload{
        .read_percent = 30, .block_bytes = 512, .offset = 512, .region_bytes = 20 * 512};
    IoStream stream(workload, 0);
    std::set<std::uint64_t> seen;
    int reads = 0;
    for (int i = 0; i < 10'000; ++i) {
        const IoStream::Io io = stream.next();
        seen.insert(io.offset);
        reads += io.read ? 1 : 0;
    }
    EXPECT_EQ(seen.size(), 20U);
    EXPECT_EQ(*seen.begin(), 512U);
    EXPECT_EQ(*seen.rbegin(), 20U * 512);
    EXPECT_NEAR(reads, 3000, 300);
}

class Perf : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        spdlog::set_default_logger(std::make_shared<spdlog::logger>(
            "test", std::make_shared<spdlog::sinks::stderr_color_sink_mt>()));
    }
    void SetUp() override {
        path = std::filesystem::temp_directory_path() /
               ("perf_test." + std::to_string(::getpid()) + ".img");
        std::ofstream(path).close();
        std::filesystem::resize_file(path, 4 << 20);
    }
    void TearDown() override { std::filesystem::remove(path); }

    int run(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), {"blobfs-perf", "--time", "0.05", "--warm-up", "0.01"});
        std::vector<const char*> pointers;
        for (const std::string& one : arguments) pointers.push_back(one.c_str());
        output.str({});
        errors.str({});
        return run_perf(static_cast<int>(pointers.size()), pointers.data(), output, errors, false,
                        &interrupted);
    }
    nlohmann::json result() { return nlohmann::json::parse(output.str()); }
    void put(std::uint64_t offset, const std::string& text) {
        std::fstream file(path);
        file.seekp(static_cast<std::streamoff>(offset));
        file << text;
    }
    std::string contents() {
        std::ifstream file(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }

    std::filesystem::path path;
    std::ostringstream output, errors;
    std::atomic<bool> interrupted = false;
};

TEST_F(Perf, MeasuresReadsAndWarnsOfBlocksThatWereNeverWritten) {
    ASSERT_EQ(run({"mem:8M", "--json", "-d", "7"}), 0) << errors.str();
    const nlohmann::json json = result();
    EXPECT_GT(json["read"]["ios"], 0);
    EXPECT_GT(json["read"]["iops"], 0);
    EXPECT_GT(json["cycles_per_io"], 0);
    EXPECT_FALSE(json.contains("write"));
    EXPECT_LE(json["read"]["latency_ns"]["percentiles"]["50"],
              json["read"]["latency_ns"]["percentiles"]["99.9"]);
    std::uint64_t in_histogram = 0;
    for (const auto& bar : json["read"]["latency_ns"]["histogram"]) {
        in_histogram += bar["count"].get<std::uint64_t>();
    }
    EXPECT_EQ(in_histogram, json["read"]["ios"]);
    ASSERT_EQ(json["warnings"].size(), 1U);
    EXPECT_NE(errors.str().find("never written"), std::string::npos) << errors.str();
}

TEST_F(Perf, PreconditioningWritesAllOfTheRegionAndNothingElse) {
    ASSERT_EQ(run({path, "--precondition", "--offset", "1M", "--size", "1M", "--json"}), 0)
        << errors.str();
    EXPECT_TRUE(result()["warnings"].empty());
    const std::string bytes = contents();
    EXPECT_EQ(bytes.size(), 4U << 20);
    EXPECT_EQ(bytes.find_first_not_of('\0'), 1U << 20);
    EXPECT_EQ(bytes.find_last_not_of('\0') >> 9, (2U << 20) / 512 - 1);
    for (std::size_t at = 1 << 20; at < 2 << 20; at += 512) {
        ASSERT_NE(bytes[at], '\0') << at;
    }
}

TEST_F(Perf, WritesOnlyWhereNoDataIsUnlessForced) {
    const std::vector<std::string> write = {path, "-w", "write", "-b", "8K", "--json"};
    // A benchmark's own data is no obstacle to the next one.
    EXPECT_EQ(run(write), 0) << errors.str();
    EXPECT_EQ(run(write), 0) << errors.str();
    EXPECT_GT(result()["write"]["ios"], 0);
    EXPECT_FALSE(result().contains("read"));
    for (const std::uint64_t offset : {0U, 150'000U, 2'654'321U, (4U << 20) - 3}) {
        std::filesystem::resize_file(path, 0);
        std::filesystem::resize_file(path, 4 << 20);
        put(offset, "my");
        const std::string before = contents();
        EXPECT_EQ(run(write), 1);
        EXPECT_NE(errors.str().find("holds data"), std::string::npos) << errors.str();
        EXPECT_NE(errors.str().find("--force"), std::string::npos);
        EXPECT_TRUE(output.str().empty());
        EXPECT_TRUE(contents() == before) << "refused, and yet written to";
    }
    std::vector<std::string> forced = write;
    forced.push_back("--force");
    EXPECT_EQ(run(forced), 0) << errors.str();
}

// Only what is looked at entirely, or in parts that are small enough, cannot be missed.
TEST_F(Perf, DataInTheMiddleOfALargeRegionIsFound) {
    constexpr std::uint64_t kSize = 200 << 20;
    for (const std::uint64_t place : {50ULL << 20, (120ULL << 20) + 4711, (190ULL << 20) + 1}) {
        std::filesystem::resize_file(path, 0);
        std::filesystem::resize_file(path, kSize);
        put(place, std::string(kSize / 512, 'x'));
        EXPECT_EQ(run({path, "-w", "write"}), 1);
        EXPECT_NE(errors.str().find("holds data"), std::string::npos) << errors.str();
    }
}

TEST_F(Perf, WhatIsFoundIsNamed) {
    // A swap area (mkswap(8)): header in the second KiB, magic at the end of the page.
    put(1024, std::string("\1\0\0\0\377\3\0\0\0\0\0\0", 12));
    put(1024 + 28, "mine");
    put(4086, "SWAPSPACE2");
    EXPECT_EQ(run({path, "-w", "write", "--offset", "2M"}), 1);
    EXPECT_NE(errors.str().find("swap"), std::string::npos) << errors.str();
    EXPECT_NE(errors.str().find("mine"), std::string::npos) << errors.str();
    EXPECT_NE(errors.str().find("--force"), std::string::npos);
    // One whose only trace is at its end.
    std::filesystem::resize_file(path, 0);
    std::filesystem::resize_file(path, 200 << 20);
    put((200 << 20) - (900 << 10), "x");
    EXPECT_EQ(run({path, "-w", "write", "--offset", "2M", "--size", "8M"}), 1);
    EXPECT_NE(errors.str().find("holds data"), std::string::npos) << errors.str();
}

TEST_F(Perf, ReadsOfDataAreNoDanger) {
    put(0, "my data");
    const std::string before = contents();
    EXPECT_EQ(run({path, "-p", "sequential", "-b", "64K"}), 0) << errors.str();
    EXPECT_NE(output.str().find("sequential read"), std::string::npos) << output.str();
    EXPECT_TRUE(contents() == before);
}

TEST_F(Perf, MixedWorkloadDoesBoth) {
    // A slow machine may measure one I/O only.
    bool both = false;
    for (int i = 0; i < 50 && !both; ++i) {
        ASSERT_EQ(run({path, "-w", "mixed", "--read-percent", "50", "--seed", std::to_string(i),
                       "--json"}),
                  0)
            << errors.str();
        both = result()["read"]["ios"] > 0 && result()["write"]["ios"] > 0;
    }
    EXPECT_TRUE(both);
}

TEST_F(Perf, QueuesHaveThreadsOfTheirOwn) {
    ASSERT_EQ(run({"mem:4M", "-Q", "3", "--cores", "0", "--json"}), 0) << errors.str();
    const nlohmann::json json = result();
    ASSERT_EQ(json["queues"].size(), 3U);
    std::uint64_t ios = 0;
    for (const auto& queue : json["queues"]) {
        ios += queue["ios"].get<std::uint64_t>();
        EXPECT_EQ(queue["core"], 0);
    }
    EXPECT_EQ(json["read"]["ios"], ios);
    EXPECT_EQ(run({"mem:64K", "-Q", "17"}), 1) << "a region of 16 blocks";
}

TEST_F(Perf, WhatMakesNoSenseIsRefused) {
    for (const std::vector<std::string>& wrong : {std::vector<std::string>{"/does/not/exist"},
                                                  {path, "-b", "1000"},
                                                  {path, "-b", "100M"},
                                                  {path, "--size", "8M"},
                                                  {path, "--offset", "4M"},
                                                  {path, "--offset", "5"},
                                                  {path, "--cores", "x"},
                                                  {path, "-w", "delete"},
                                                  {},
                                                  {path, "-d", "0"},
                                                  {path, "-Q", "0"}}) {
        EXPECT_EQ(run(wrong), 1);
        EXPECT_FALSE(errors.str().empty());
        EXPECT_TRUE(output.str().empty());
    }
}

TEST_F(Perf, InterruptedShowsWhatItHas) {
    interrupted = true;
    EXPECT_EQ(run({path, "--time", "1000", "--warm-up", "1000"}), 1) << "given twice";
    std::vector<const char*> arguments = {"blobfs-perf", path.c_str(), "--time", "1000", "--json"};
    output.str({});
    EXPECT_EQ(run_perf(static_cast<int>(arguments.size()), arguments.data(), output, errors, false,
                       &interrupted),
              0);
    EXPECT_TRUE(result()["interrupted"]);
}

}  // namespace
}  // namespace blobfs::tools
