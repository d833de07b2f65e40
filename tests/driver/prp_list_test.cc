// PRP building and splitting, without hardware.

#include "driver/nvme/prp_list.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace blobfs::driver::nvme {
namespace {

// Controller addresses are the host's plus a constant, so that a forgotten translation shows.
class ShiftedTransport final : public Transport {
  public:
    static constexpr std::uint64_t kShift = 0x7000'0000'0000'0000ULL;
    ShiftedTransport() : Transport(false) {}
    std::uint32_t read32(std::uint32_t) override { return 0; }
    std::uint64_t read64(std::uint32_t) override { return 0; }
    void write32(std::uint32_t, std::uint32_t) override {}
    void write64(std::uint32_t, std::uint64_t) override {}
    volatile std::uint32_t* doorbell(std::uint32_t) override { return nullptr; }
    const std::string& name() const override { return name_; }

  private:
    std::uint64_t translate(const void* memory) const override {
        return reinterpret_cast<std::uintptr_t>(memory) + kShift;
    }
    std::string name_ = "shifted";
};

constexpr std::uint64_t kListAddress = 0x1234'5000;

class PrpList : public testing::Test {
  protected:
    PrpList() : memory_(1200 * kPageBytes) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
        base_ = memory_.data() + (kPageBytes - address % kPageBytes) % kPageBytes;
    }

    // What the controller makes of the PRPs: its own walk, written independently of the builder.
    std::vector<std::byte*> walk(const PrpPair& pair, std::size_t bytes) const {
        std::vector<std::byte*> pages;
        const auto host = [](std::uint64_t address) {
            return reinterpret_cast<std::byte*>(address - ShiftedTransport::kShift);
        };
        pages.push_back(host(pair.prp1));
        const std::size_t first = kPageBytes - pair.prp1 % kPageBytes;
        const std::size_t rest = bytes <= first ? 0 : (bytes - first + kPageBytes - 1) / kPageBytes;
        if (rest == 1) pages.push_back(host(pair.prp2));
        if (rest > 1) {
            EXPECT_EQ(pair.prp2, kListAddress);
            for (std::size_t i = 0; i < rest; ++i) pages.push_back(host(list_[i]));
        }
        EXPECT_TRUE(rest != 0 || pair.prp2 == 0);
        for (std::size_t i = 1; i < pages.size(); ++i) {
            EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pages[i]) % kPageBytes, 0U);
        }
        return pages;
    }

    void expect_contiguous(std::size_t offset, std::size_t bytes) {
        const DmaSegment segment{.data = base_ + offset, .bytes = bytes};
        const PrpPair pair = build_prps(transport_, {&segment, 1}, {.offset = 0, .bytes = bytes},
                                        list_, kListAddress);
        const std::vector<std::byte*> pages = walk(pair, bytes);
        ASSERT_EQ(pages[0], base_ + offset);
        const std::byte* expected = base_ + offset / kPageBytes * kPageBytes;
        for (std::size_t i = 1; i < pages.size(); ++i) {
            expected += kPageBytes;
            ASSERT_EQ(pages[i], expected) << "page " << i << " of " << bytes << " at " << offset;
        }
    }

    ShiftedTransport transport_;
    std::vector<std::byte> memory_;
    std::byte* base_;
    std::uint64_t list_[kPrpListEntries] = {};
};

TEST_F(PrpList, EveryOffsetAndLengthEdgeNamesItsPages) {
    const std::size_t edges[] = {0, 4, 512, 2048, 4092};
    for (const std::size_t offset : edges) {
        for (std::size_t pages = 0; pages <= 4; ++pages) {
            for (const std::size_t end :
                 {std::size_t{4}, std::size_t{512}, std::size_t{4092}, std::size_t{4096}, offset}) {
                const std::size_t until = pages * kPageBytes + end;
                if (until <= offset) continue;
                expect_contiguous(offset, until - offset);
            }
        }
    }
}

TEST_F(PrpList, LongestCommandFillsTheListPage) {
    expect_contiguous(0, kMaxPrpPages * kPageBytes);
    EXPECT_EQ(list_[kPrpListEntries - 1] - ShiftedTransport::kShift,
              reinterpret_cast<std::uintptr_t>(base_ + (kMaxPrpPages - 1) * kPageBytes));
    expect_contiguous(4092, (kMaxPrpPages - 1) * kPageBytes + 4);
}

TEST_F(PrpList, ScatteredSegmentsAreNamedInOrder) {
    const DmaSegment segments[] = {{.data = base_ + 5 * kPageBytes + 1024, .bytes = 3072},
                                   {.data = base_ + 50 * kPageBytes, .bytes = 2 * kPageBytes},
                                   {.data = base_ + 9 * kPageBytes, .bytes = 512}};
    ASSERT_EQ(check_segments(segments).value(), 3072U + 8192 + 512);
    PrpPair pair = build_prps(transport_, segments, {.offset = 0, .bytes = 3072 + 8192 + 512},
                              list_, kListAddress);
    EXPECT_EQ(walk(pair, 3072 + 8192 + 512),
              (std::vector<std::byte*>{segments[0].data, segments[1].data,
                                       segments[1].data + kPageBytes, segments[2].data}));
    // A part of it that begins within the second segment.
    pair = build_prps(transport_, segments, {.offset = 3072 + 512, .bytes = 7680 + 512}, list_,
                      kListAddress);
    EXPECT_EQ(walk(pair, 7680 + 512),
              (std::vector<std::byte*>{segments[1].data + 512, segments[1].data + kPageBytes,
                                       segments[2].data}));
    // And one that begins with the second and ends in it.
    pair = build_prps(transport_, segments, {.offset = 3072, .bytes = 4096}, list_, kListAddress);
    EXPECT_EQ(walk(pair, 4096), (std::vector<std::byte*>{segments[1].data}));
    EXPECT_EQ(segment_at(segments, 3071), segments[0].data + 3071);
    EXPECT_EQ(segment_at(segments, 3072), segments[1].data);
}

TEST_F(PrpList, SegmentsThatBreakTheRulesAreRefused) {
    const auto refused = [](std::vector<DmaSegment> segments) {
        const Result<std::size_t> result = check_segments(segments);
        return !result && result.error().code == Errc::kInvalidArgument;
    };
    EXPECT_TRUE(refused({}));
    EXPECT_TRUE(refused({{base_, 0}}));
    EXPECT_TRUE(refused({{base_ + 2, 512}}));
    EXPECT_FALSE(refused({{base_ + 4, 512}}));
    EXPECT_TRUE(refused({{base_, 512}, {base_ + 4096, 512}})) << "the first ends within a page";
    EXPECT_TRUE(refused({{base_, 4096}, {base_ + 8192 + 512, 512}})) << "begins within a page";
    EXPECT_TRUE(refused({{base_, 4096}, {base_ + 8192, 512}, {base_ + 16384, 512}}));
    EXPECT_FALSE(refused({{base_ + 512, 3584}, {base_ + 8192, 4096}, {base_ + 16384, 512}}));
}

TEST(CommandSplitting, RespectsEveryLimit) {
    EXPECT_EQ(first_command_bytes({.lba_bytes = 512}, {}, 4096), 4096U);
    EXPECT_EQ(first_command_bytes({.lba_bytes = 512, .max_transfer_bytes = 8192}, {}, 1 << 20),
              8192U);
    // One page in PRP 1 and a full list.
    EXPECT_EQ(first_command_bytes({.lba_bytes = 512}, {}, 8 << 20), 513U * 4096);
    EXPECT_EQ(first_command_bytes({.lba_bytes = 512}, {.page_offset = 4}, 8 << 20),
              513U * 4096 - 512);
    EXPECT_EQ(first_command_bytes({.lba_bytes = 4096}, {.page_offset = 4}, 8 << 20), 512U * 4096);
    // To the boundary, wherever it begins.
    const CommandLimits bounded{.lba_bytes = 512, .boundary_bytes = 12288};
    EXPECT_EQ(first_command_bytes(bounded, {.device_offset = 0}, 1 << 20), 12288U);
    EXPECT_EQ(first_command_bytes(bounded, {.device_offset = 12288 - 512}, 1 << 20), 512U);
    EXPECT_EQ(first_command_bytes(bounded, {.device_offset = 12288}, 512), 512U);
}

TEST(CommandSplitting, PartsCoverTheWholeWithoutCrossingBoundaries) {
    std::mt19937 random(7);
    for (int round = 0; round < 2000; ++round) {
        const std::uint32_t lba = random() % 2 == 0 ? 512 : 4096;
        CommandLimits limits{.lba_bytes = lba,
                             .max_transfer_bytes = random() % 3 == 0 ? 0 : 4096U << random() % 9,
                             .boundary_bytes = random() % 2 == 0 ? 0 : (1 + random() % 600) * lba};
        const std::uint64_t start = random() % 5000 * lba;
        const std::size_t skew = random() % 1024 * 4;
        const std::size_t total = (1 + random() % (6 * 1024 * 1024 / lba)) * lba;
        for (std::size_t done = 0; done < total;) {
            const std::size_t page_offset = (skew + done) % kPageBytes;
            const std::size_t bytes = first_command_bytes(
                limits, {.device_offset = start + done, .page_offset = page_offset}, total - done);
            ASSERT_GT(bytes, 0U);
            ASSERT_EQ(bytes % lba, 0U);
            ASSERT_LE(bytes, total - done);
            ASSERT_LE((page_offset + bytes + kPageBytes - 1) / kPageBytes, kMaxPrpPages);
            ASSERT_LE(bytes / lba, kMaxBlocksPerCommand);
            if (limits.max_transfer_bytes != 0) {
                ASSERT_LE(bytes, limits.max_transfer_bytes);
            }
            if (limits.boundary_bytes != 0) {
                ASSERT_EQ((start + done) / limits.boundary_bytes,
                          (start + done + bytes - 1) / limits.boundary_bytes);
            }
            done += bytes;
        }
    }
}

}  // namespace
}  // namespace blobfs::driver::nvme
