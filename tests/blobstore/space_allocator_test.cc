// Reservations, commits, freeing and checkpoints.

#include "blobstore/space_allocator.h"

#include <utility>

#include "tests/blobstore/space_allocator_fixture.h"

namespace blobfs::blobstore {
namespace {

TEST_F(SpaceAllocatorTest, NewMapHasAllFreeButWhatIsGiven) {
    make({});
    EXPECT_EQ(space_->free_blocks(), 4096 - kLogEnd);
    EXPECT_TRUE(used(kLogEnd - 1));
    EXPECT_FALSE(used(kLogEnd));
    verify();
    ASSERT_TRUE(checkpoint());
    EXPECT_EQ(root_.free_blocks, 4096 - kLogEnd - 1);  // the map's one page
    ASSERT_TRUE(reopen());
    verify();
    EXPECT_EQ(count_used(), kLogEnd + 1);
}

TEST_F(SpaceAllocatorTest, CommittedSurvivesReservedDoesNot) {
    make({});
    const Run kept = allocate(10);
    auto reservation = reserve(10);
    ASSERT_TRUE(reservation);
    const std::uint64_t dropped = reservation->run().first();
    ASSERT_TRUE(checkpoint());
    verify();
    *reservation = Reservation();
    ASSERT_TRUE(reopen());
    EXPECT_TRUE(used(kept.first()) && used(kept.end() - 1));
    EXPECT_FALSE(used(dropped));
    EXPECT_EQ(count_used(), kLogEnd + 10 + 1);
}

TEST_F(SpaceAllocatorTest, CancelledReservationIsFreeAgain) {
    make({});
    const std::uint64_t before = space_->free_blocks() + space_->stash_blocks();
    {
        auto reservation = reserve(100);
        ASSERT_TRUE(reservation);
        EXPECT_EQ(space_->free_blocks() + space_->stash_blocks(), before - 100);
        Reservation moved = std::move(*reservation);
        EXPECT_EQ(moved.run().blocks, 100u);
    }
    EXPECT_EQ(space_->free_blocks() + space_->stash_blocks(), before);
    verify();
}

TEST_F(SpaceAllocatorTest, ContinuesAtNearElseBehindIt) {
    make({});
    const Run first = allocate(10);
    const Run second = allocate(10, first.end());
    EXPECT_EQ(second.first(), first.end());
    const Run third = allocate(5, first.end());
    EXPECT_EQ(third.first(), second.end());
    // A short stretch at `near` is taken before a long one elsewhere.
    auto gap = reserve(3);
    auto wall = reserve(4, gap->run().end());
    ASSERT_EQ(wall->run().first(), gap->run().end());
    const std::uint64_t at = gap->run().first();
    *gap = Reservation();
    const Run filled = allocate(20, at);
    EXPECT_EQ(filled, (Run{BlockIndex{at}, 3}));
}

TEST_F(SpaceAllocatorTest, FillingIsSequential) {
    make({});
    Run last = allocate(7);
    for (int i = 0; i < 100; ++i) {
        const Run next = allocate(7);
        ASSERT_EQ(next.first(), last.end());
        last = next;
    }
}

TEST_F(SpaceAllocatorTest, FreedBlocksWaitForTheirCheckpoint) {
    make({});
    const Run run = allocate(50);
    ASSERT_TRUE(checkpoint());
    const std::uint64_t before = space_->free_blocks();
    space_->free(run);
    EXPECT_EQ(space_->free_blocks(), before);
    EXPECT_EQ(space_->pending_blocks(), 50u);
    EXPECT_EQ(space_->pending_runs(), 1u);
    ASSERT_TRUE(prepare());
    const auto frozen = space_->freeze(Generation{generation_ + 1});
    EXPECT_EQ(space_->pending_runs(), 0u);
    EXPECT_GE(space_->pending_blocks(), 50u);
    EXPECT_NE(allocate(10, run.first()).first(), run.first());
    verify();
    write(frozen);
    become_durable(frozen);
    EXPECT_EQ(space_->pending_blocks(), 0u);
    EXPECT_EQ(allocate(10, run.first()).first(), run.first());
    verify();
}

TEST_F(SpaceAllocatorTest, FreedAfterTheFreezeWaitsForTheNext) {
    make({});
    const Run run = allocate(50);
    ASSERT_TRUE(checkpoint());
    (void)allocate(1);
    ASSERT_TRUE(prepare());
    const auto frozen = space_->freeze(Generation{generation_ + 1});
    space_->free(run);
    write(frozen);
    become_durable(frozen);
    EXPECT_EQ(space_->pending_blocks(), 50u);
    EXPECT_NE(allocate(10, run.first()).first(), run.first());
    ASSERT_TRUE(checkpoint());
    EXPECT_EQ(allocate(10, run.first()).first(), run.first());
}

TEST_F(SpaceAllocatorTest, CheckpointsWithoutChangesWriteNothing) {
    make({});
    ASSERT_TRUE(checkpoint());
    const MapRoot before = root_;
    ASSERT_TRUE(prepare());
    const auto frozen = space_->freeze(Generation{generation_ + 1});
    EXPECT_TRUE(frozen.pages.empty());
    EXPECT_EQ(frozen.root.page, before.page);
    EXPECT_EQ(frozen.root.free_blocks, before.free_blocks);
    become_durable(frozen);
}

TEST_F(SpaceAllocatorTest, NoBlockLeaksOverManyCheckpoints) {
    make({.blocks = 40000});
    ASSERT_TRUE(checkpoint());
    const std::uint64_t used_at_first = count_used();
    for (int i = 0; i < 50; ++i) {
        const Run run = allocate(3);
        ASSERT_TRUE(checkpoint());
        space_->free(run);
        ASSERT_TRUE(checkpoint());
        ASSERT_TRUE(reopen());
    }
    EXPECT_EQ(count_used(), used_at_first);
    verify();
}

TEST_F(SpaceAllocatorTest, ClustersAreWholeAndAligned) {
    make({.blocks = 40001, .options = {.cluster_blocks = 16}});
    std::uint64_t total = 0;
    for (;;) {
        auto reservation = reserve(33, total % 3 == 0 ? 0 : 777);
        if (!reservation) break;
        const Run run = reservation->run();
        ASSERT_EQ(run.first() % 16, 0u);
        ASSERT_EQ(run.blocks % 16, 0u);
        ASSERT_LE(run.blocks, 48u);
        ASSERT_LE(run.end(), 40001u);
        total += run.blocks;
        space_->commit(std::move(*reservation));
    }
    EXPECT_GT(total, 40000 - kLogEnd - 200);
    verify();
}

TEST_F(SpaceAllocatorTest, FreeingWhatIsNotUsedIsDamage) {
    make({});
    ASSERT_TRUE(checkpoint());
    space_->free(Run{BlockIndex{2000}, 4});
    EXPECT_EQ(prepare().error().code, Errc::kCorrupt);
    EXPECT_EQ(prepare().error().address, 2000u * kBlockBytes);
    make({});
    space_->free(Run{BlockIndex{4090}, 7});
    EXPECT_EQ(prepare().error().code, Errc::kCorrupt);
    make({});
    space_->return_page(BlockIndex{~0ull - 1}, Generation{~0ull});
    EXPECT_EQ(prepare().error().code, Errc::kCorrupt);
}

TEST_F(SpaceAllocatorTest, FreeingTwiceFreesOnce) {
    make({});
    const Run run = allocate(8);
    ASSERT_TRUE(checkpoint());
    space_->free(run);
    space_->free(Run{BlockIndex{run.first() + 4}, 4});
    ASSERT_TRUE(checkpoint());
    verify();
    EXPECT_FALSE(used(run.first()));
}

TEST_F(SpaceAllocatorTest, ReplayMarksWhatTheLogSays) {
    make({.blocks = 40000});
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(reopen());
    const auto replay_allocate = [&](std::uint64_t block, std::uint64_t blocks) {
        return run([&](Suspend& s) {
            return space_->replay_allocate(s, Run{BlockIndex{block}, blocks});
        });
    };
    const auto replay_free = [&](std::uint64_t block, std::uint64_t blocks) {
        return run([&](Suspend& s) {
            return space_->replay_free(s, Run{BlockIndex{block}, blocks});
        });
    };
    ASSERT_TRUE(replay_allocate(32250, 12));  // over the boundary of two bitmaps
    EXPECT_TRUE(used(32255) && used(32256));
    EXPECT_EQ(replay_allocate(32261, 2).error().code, Errc::kCorrupt);
    EXPECT_EQ(replay_allocate(39999, 2).error().code, Errc::kCorrupt);
    EXPECT_EQ(replay_allocate(~0ull, 2).error().code, Errc::kCorrupt);
    ASSERT_TRUE(replay_free(32252, 6));
    EXPECT_EQ(replay_free(32260, 6).error().code, Errc::kCorrupt);
    EXPECT_EQ(replay_free(~0ull - 4, ~0ull).error().code, Errc::kCorrupt);
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(reopen());
    EXPECT_TRUE(used(32251) && used(32258));
    EXPECT_FALSE(used(32252) || used(32257));
    verify();
}

}  // namespace
}  // namespace blobfs::blobstore
