// Pages for the metadata, and a device that is nearly full.

#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/blobstore/space_allocator_fixture.h"

namespace blobfs::blobstore {
namespace {

TEST_F(SpaceAllocatorTest, PagesComeFromTheStash) {
    make({.blocks = 40000, .page_bytes = 16384});
    EXPECT_EQ(space_->reserved_pages(false), 0u);
    ASSERT_TRUE(reserve_pages(20));
    EXPECT_GE(space_->reserved_pages(false), 20u);
    std::set<std::uint64_t> pages;
    for (int i = 0; i < 20; ++i) {
        const std::uint64_t block = value(space_->take_page());
        EXPECT_EQ(block % 4, 0u);
        EXPECT_TRUE(pages.insert(block).second);
    }
    EXPECT_LT(*pages.rbegin() - *pages.begin(), 100u);
    verify();
    // One made in this generation is there again at once, an older one after the checkpoint.
    const std::uint64_t young = *pages.begin();
    space_->return_page(BlockIndex{young}, Generation{generation_});
    EXPECT_EQ(value(space_->take_page()), young);
    ASSERT_TRUE(checkpoint());
    EXPECT_TRUE(used(young) && used(young + 3));
    space_->return_page(BlockIndex{young}, Generation{generation_ - 1});
    EXPECT_TRUE(used(young));
    EXPECT_EQ(space_->pending_blocks(), 4u);
    ASSERT_TRUE(checkpoint());
    EXPECT_FALSE(used(young));
    verify();
}

TEST_F(SpaceAllocatorTest, FullDeviceKeepsTheReserveForTheUrgent) {
    make({.options = {.reserve_blocks = 100}});
    std::uint64_t taken = 0;
    for (;;) {
        auto reservation = reserve(64);
        if (!reservation) {
            EXPECT_EQ(reservation.error().code, Errc::kNoSpace);
            break;
        }
        taken += reservation->run().blocks;
        space_->commit(std::move(*reservation));
    }
    // Data stops first, then other metadata, and what frees space comes last.
    EXPECT_GT(taken, 4096 - kLogEnd - 230);
    EXPECT_GE(space_->stash_blocks(), 200u);
    ASSERT_TRUE(reserve_pages(80));
    for (int i = 0; i < 80; ++i) space_->take_page();
    EXPECT_EQ(reserve_pages(80).error().code, Errc::kNoSpace);
    ASSERT_TRUE(reserve_pages(80, true));
    EXPECT_GE(space_->reserved_pages(true), 80u);
    EXPECT_LT(space_->reserved_pages(false), 80u);
    for (int i = 0; i < 80; ++i) space_->take_page();
    EXPECT_EQ(reserve_pages(80, true).error().code, Errc::kNoSpace);
    ASSERT_TRUE(checkpoint());
    verify();
    ASSERT_TRUE(reopen());
    verify();
}

TEST_F(SpaceAllocatorTest, ReserveIsMadeOfWholePagesHoweverBrokenUpTheRestIs) {
    make({.page_bytes = 16384, .options = {.reserve_blocks = 100}});
    std::vector<Run> runs;
    for (;;) {
        auto reservation = reserve(1);
        if (!reservation) break;
        runs.push_back(reservation->run());
        space_->commit(std::move(*reservation));
    }
    EXPECT_GE(space_->reserved_pages(true), 100u / 4);
    // Every third block is free: no page fits between.
    for (std::size_t i = 0; i < runs.size(); i += 3) space_->free(runs[i]);
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(checkpoint());
    EXPECT_GT(space_->free_blocks(), 900u);
    EXPECT_EQ(reserve_pages(500).error().code, Errc::kNoSpace);
    ASSERT_TRUE(reserve_pages(20, true));
    // What no page fits into is still good for data, to the last block.
    std::uint64_t taken = 0;
    for (;; ++taken) {
        auto reservation = reserve(1);
        if (!reservation) break;
        space_->commit(std::move(*reservation));
    }
    EXPECT_GT(taken, 900u);
    EXPECT_EQ(space_->free_blocks(), 0u);
    EXPECT_GE(space_->reserved_pages(true), 20u);
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(reopen());
    ASSERT_TRUE(run([&](Suspend& s) { return space_->fill_reserve(s); }));
    EXPECT_GE(space_->reserved_pages(true), 20u);
    verify();
}

TEST_F(SpaceAllocatorTest, SmallDataGoesWhereNoPageFitsOnATightDevice) {
    make({.blocks = 40000, .page_bytes = 16384});
    std::vector<Run> runs;
    for (std::uint64_t i = 0; i < 36000; ++i) runs.push_back(allocate(1));
    std::uint64_t holes = 0;
    for (std::size_t i = 100; i < 30000; i += 9, ++holes) space_->free(runs[i]);
    ASSERT_TRUE(checkpoint());
    const std::uint64_t places = [&] {
        EXPECT_TRUE(reserve_pages(500));
        return space_->reserved_pages(false);
    }();
    EXPECT_GE(places, 500u);
    std::set<std::uint64_t> freed;
    for (std::size_t i = 100; i < 30000; i += 9) freed.insert(runs[i].first());
    std::uint64_t in_holes = 0;
    for (std::uint64_t i = 0; i < holes; ++i) in_holes += freed.contains(allocate(1).first());
    EXPECT_GT(in_holes, holes - 20);
    // A whole cluster of two blocks does not go into single ones.
    EXPECT_EQ(allocate(2).blocks, 2u);
    verify();
}

// What is known of a bitmap, that it has no long run, must not hide what became free meanwhile, nor
// be taken for the truth when its runs have become shorter.
TEST_F(SpaceAllocatorTest, PagesAreFoundHoweverShortTheRunsAndAgainWhenTheyAreLong) {
    make({.blocks = 4 * 32256, .page_bytes = 4096});
    const auto pages_of = [](const std::vector<Run>& runs) {
        std::uint64_t pages = 0;
        for (const Run& run : runs) pages += run.blocks;
        return pages;
    };
    // Everything is taken, in runs of 1 to 3 blocks.
    std::vector<Run> taken;
    std::mt19937_64 random(7);
    while (auto reservation = reserve(1 + random() % 3)) {
        taken.push_back(reservation->run());
        space_->commit(std::move(*reservation));
    }
    // Every other one goes: then there are short runs everywhere, and nothing else.
    std::vector<Run> rest;
    for (std::size_t i = 0; i < taken.size(); ++i) {
        if (i % 2 == 0) {
            space_->free(taken[i]);
        } else {
            rest.push_back(taken[i]);
        }
    }
    ASSERT_TRUE(checkpoint());
    verify();
    const std::uint64_t free = space_->free_blocks();
    ASSERT_GT(free, 40'000u);
    // Nearly all of it can be had for pages, over all bitmaps.
    std::vector<Run> pages;
    while (pages_of(pages) < free * 9 / 10) {
        const auto reserved = run([&](Suspend& s) { return space_->reserve_pages(s, 100, true); });
        ASSERT_TRUE(reserved) << pages_of(pages) << " of " << free;
        for (int i = 0; i < 100; ++i) pages.push_back(Run{space_->take_page(), 1});
    }
    verify();
    // What is freed between them makes long runs, and these are found again.
    for (const Run& run : rest) space_->free(run);
    for (const Run& page : pages) space_->return_page(page.start, Generation{generation_});
    ASSERT_TRUE(checkpoint());
    verify();
    const Run run = allocate(1000);
    EXPECT_EQ(run.blocks, 1000u);
    verify();
}

TEST_F(SpaceAllocatorTest, FullDeviceBecomesUsableByFreeing) {
    make({});
    std::vector<Run> runs;
    for (;;) {
        auto reservation = reserve(100);
        if (!reservation) break;
        runs.push_back(reservation->run());
        space_->commit(std::move(*reservation));
    }
    ASSERT_TRUE(checkpoint());
    space_->free(runs[3]);
    EXPECT_FALSE(reserve(100));
    EXPECT_GT(space_->pending_blocks(), 0u);
    ASSERT_TRUE(checkpoint());
    auto reservation = reserve(100);
    ASSERT_TRUE(reservation);
    EXPECT_GE(reservation->run().blocks, 80u);
    *reservation = Reservation();
    verify();
}

}  // namespace
}  // namespace blobfs::blobstore
