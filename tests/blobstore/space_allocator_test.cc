#include "blobstore/space_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {
namespace {

constexpr std::uint64_t kLogEnd = kLogStartBlock + 256;
using Reservation = SpaceAllocator::Reservation;

struct Shape {
    std::uint64_t blocks = 4096;
    std::uint32_t page_bytes = 4096;
    SpaceAllocator::Options options{};
};

class SpaceAllocatorTest : public BlobstorePartTest {
  protected:
    void make(const Shape& shape) {
        shape_ = shape;
        device_ = std::make_unique<MemoryDevice>(shape.blocks * kBlockBytes);
        io_ = std::make_unique<PageIo>(*device_, PageIo::Geometry{.uuid = {7, 7},
                                                                  .page_bytes = shape.page_bytes,
                                                                  .block_count = shape.blocks});
        generation_ = 1;
        space_ = std::make_unique<SpaceAllocator>(*io_, shape_.options);
        const auto created = run([&](Suspend& s) {
            return space_->create(s, {Run{BlockIndex{0}, kLogEnd}}, Generation{generation_});
        });
        ASSERT_TRUE(created) << created.error().message();
    }
    Result<void> reopen() {
        space_ = std::make_unique<SpaceAllocator>(*io_, shape_.options);
        generation_ = durable_generation_ + 1;
        return run([&](Suspend& s) { return space_->open(s, root_, Generation{generation_}); });
    }
    Result<Reservation> reserve(std::uint64_t blocks, std::uint64_t near = 0) {
        return run([&](Suspend& s) {
            return space_->reserve(s, {.blocks = blocks, .near = BlockIndex{near}});
        });
    }
    Run allocate(std::uint64_t blocks, std::uint64_t near = 0) {
        auto reservation = reserve(blocks, near);
        EXPECT_TRUE(reservation) << reservation.error().message();
        if (!reservation) return {};
        const Run taken = reservation->run();
        space_->commit(std::move(*reservation));
        return taken;
    }
    Result<void> prepare() {
        return run([&](Suspend& s) -> Result<void> {
            for (int i = 0; !space_->ready_to_freeze(); ++i) {
                TRY(space_->prepare_freeze(s));
                if (i > 1000) return fail(Errc::kBusy, "never ready");
            }
            return {};
        });
    }
    void write(const SpaceAllocator::Frozen& frozen) {
        const auto written = run([&](Suspend& s) -> Result<void> {
            for (const auto& page : frozen.pages) {
                TRY(device_->write(s, value(page.block) * kBlockBytes,
                                   driver::ConstDmaSpan(page.bytes), driver::WriteFlags::kNone));
            }
            return device_->flush(s);
        });
        ASSERT_TRUE(written) << written.error().message();
    }
    Result<void> checkpoint() {
        TRY(prepare());
        const auto frozen = space_->freeze(Generation{generation_ + 1});
        write(frozen);
        become_durable(frozen);
        return {};
    }
    void become_durable(const SpaceAllocator::Frozen& frozen) {
        durable_generation_ = generation_++;
        root_ = frozen.root;
        space_->release();
    }
    bool used(std::uint64_t block) {
        const auto result = run([&](Suspend& s) { return space_->is_used(s, BlockIndex{block}); });
        EXPECT_TRUE(result);
        return result && *result;
    }
    std::uint64_t count_used() {
        return run([&](Suspend& s) {
            std::uint64_t count = 0;
            for (std::uint64_t block = 0; block < shape_.blocks; ++block) {
                const auto is_used = space_->is_used(s, BlockIndex{block});
                EXPECT_TRUE(is_used);
                count += is_used && *is_used ? 1 : 0;
            }
            return count;
        });
    }
    void verify() {
        const auto sound = run([&](Suspend& s) { return space_->verify(s); });
        ASSERT_TRUE(sound) << sound.error().message();
    }
    Result<void> reserve_pages(std::uint32_t pages, bool urgent = false) {
        return run([&](Suspend& s) { return space_->reserve_pages(s, pages, urgent); });
    }

    Shape shape_;
    std::unique_ptr<MemoryDevice> device_;
    std::unique_ptr<PageIo> io_;
    std::unique_ptr<SpaceAllocator> space_;
    std::uint64_t generation_ = 1;
    std::uint64_t durable_generation_ = 0;
    MapRoot root_;
};

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

// Damage.
// ------------------------------------------------------------------------------------------

TEST_F(SpaceAllocatorTest, DamagedPageIsDamageAndOnlyThere) {
    make({.blocks = 100000});
    const Run here = allocate(10, 1000);
    const Run there = allocate(10, 70000);
    ASSERT_EQ(there.first(), 70000u);
    ASSERT_TRUE(checkpoint());
    std::uint64_t damaged = 0;  // the address of the bitmap of group 2
    for (std::uint64_t block = kLogEnd; block < 4000; ++block) {
        PageHeader header;
        std::memcpy(&header, device_->at(block * kBlockBytes), sizeof(header));
        if (header.magic == kPageMagic && header.kind == PageKind::kBitmap &&
            header.map_index == 2) {
            damaged = block;
        }
    }
    ASSERT_NE(damaged, 0u);
    *device_->at(damaged * kBlockBytes + 2000) ^= std::byte{1};
    ASSERT_TRUE(reopen());
    const auto result = run([&](Suspend& s) { return space_->is_used(s, there.start); });
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::kCorrupt);
    EXPECT_EQ(result.error().address, damaged * kBlockBytes);
    EXPECT_TRUE(used(here.first()));
    // Space near the damage is found elsewhere.
    EXPECT_NE(allocate(10, 70010).first() / 32256, 2u);
    EXPECT_FALSE(run([&](Suspend& s) { return space_->verify(s); }));
    space_->free(there);
    EXPECT_EQ(prepare().error().code, Errc::kCorrupt);
}

// A page whose checksum is right though its content is not what the map above it says.
TEST_F(SpaceAllocatorTest, ForgedPagesAreDamage) {
    const auto with = [&](const std::function<void(PageHeader&, std::byte*, MapRoot&)>& change) {
        make({.blocks = 4090});
        (void)allocate(10);
        EXPECT_TRUE(checkpoint());
        auto page = driver::DmaBuffer::allocate(4096);
        std::byte* on_device = device_->at(root_.page.block * kBlockBytes);
        std::memcpy(page->data(), on_device, 4096);
        PageHeader header;
        std::memcpy(&header, page->data(), sizeof(header));
        change(header, page->data() + sizeof(header), root_);
        std::memcpy(page->data(), &header, sizeof(header));
        root_.page = io_->seal(page->span(), BlockIndex{root_.page.block},
                               Generation{root_.page.generation});
        std::memcpy(on_device, page->data(), 4096);
        return reopen();
    };
    EXPECT_TRUE(with([](PageHeader&, std::byte*, MapRoot&) {}));
    const auto code = [&](const std::function<void(PageHeader&, std::byte*, MapRoot&)>& change) {
        const auto result = with(change);
        return result ? Errc::kNotFound : result.error().code;
    };
    EXPECT_EQ(code([](PageHeader& h, std::byte*, MapRoot&) { h.kind = PageKind::kLeaf; }),
              Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader& h, std::byte*, MapRoot&) { h.level = 1; }), Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader& h, std::byte*, MapRoot&) { h.slot_count = 1; }), Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader& h, std::byte*, MapRoot&) { h.reserved = 1; }), Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader& h, std::byte*, MapRoot&) { h.map_index = 1; }), Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader&, std::byte* b, MapRoot&) { b[400] ^= std::byte{1}; }),
              Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader&, std::byte* b, MapRoot& r) {
                  b[4090 / 8] |= std::byte{0x80};  // block 4095
                  (void)r;
              }),
              Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader&, std::byte*, MapRoot& r) { ++r.free_blocks; }), Errc::kCorrupt);
    EXPECT_EQ(code([](PageHeader&, std::byte*, MapRoot& r) { r.height = 2; }), Errc::kCorrupt);
}

// Scale.
// -------------------------------------------------------------------------------------------

TEST_F(SpaceAllocatorTest, PebibyteIsMadeOpenedAndUsedWithAHandfulOfPages) {
    for (const std::uint32_t page_bytes : {4096u, 16384u}) {
        const auto start = std::chrono::steady_clock::now();
        make({.blocks = 1ull << 38, .page_bytes = page_bytes});
        ASSERT_TRUE(checkpoint());
        EXPECT_LT(device_->blocks_written(), 64u);
        ASSERT_TRUE(reopen());
        EXPECT_LE(device_->statistics().reads, 1u);
        EXPECT_EQ(root_.free_blocks, (1ull << 38) - kLogEnd - device_->blocks_written());
        const Run near_end = allocate(100, (1ull << 38) - 100);
        EXPECT_EQ(near_end.end(), 1ull << 38);
        const Run middle = allocate(1000, 1ull << 37);
        EXPECT_EQ(middle.first(), 1ull << 37);
        const std::uint64_t reads = device_->statistics().reads;
        for (int i = 0; i < 1000; ++i) (void)allocate(50000);
        EXPECT_LE(device_->statistics().reads, reads + 20);
        ASSERT_TRUE(checkpoint());
        verify();
        ASSERT_TRUE(reopen());
        EXPECT_TRUE(used(near_end.first()));
        space_->free(near_end);
        space_->free(middle);
        ASSERT_TRUE(checkpoint());
        ASSERT_TRUE(reopen());
        EXPECT_FALSE(used(near_end.first()));
        verify();
        EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
    }
}

TEST_F(SpaceAllocatorTest, MemoryIsBoundedByTheCache) {
    make({.blocks = 32256ull * 400, .options = {.cached_map_pages = 20}});
    for (std::uint64_t group = 0; group < 400; ++group) {
        (void)allocate(5, group * 32256 + 20000);
        if (group % 10 == 9) {
            ASSERT_TRUE(checkpoint());
        }
    }
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(reopen());
    for (std::uint64_t group = 0; group < 400; ++group) {
        EXPECT_TRUE(used(group * 32256 + 20004));
        EXPECT_FALSE(used(group * 32256 + 20005));
    }
    verify();
}

TEST_F(SpaceAllocatorTest, FrozenPagesAreNotReadBackBeforeTheyAreWritten) {
    make({.blocks = 32256ull * 60, .options = {.cached_map_pages = 16}});
    const Run run = allocate(5, 5 * 32256 + 100);
    ASSERT_TRUE(prepare());
    const auto frozen = space_->freeze(Generation{generation_ + 1});
    for (std::uint64_t group = 0; group < 60; ++group) EXPECT_FALSE(used(group * 32256 + 20000));
    EXPECT_TRUE(used(run.first()));
    write(frozen);
    become_durable(frozen);
    verify();
}

// The old address of a map page may lie in a group that nothing else of the checkpoint touches.
TEST_F(SpaceAllocatorTest, OldPlaceOfAMapPageIsFreedWhereverItLies) {
    constexpr std::uint64_t kGroup = 32256;
    make({.blocks = kGroup * 8});
    const Run front = allocate(kGroup, kLogEnd);
    (void)allocate(kGroup, kGroup);
    (void)allocate(kGroup, 2 * kGroup);
    (void)allocate(5, 5 * kGroup);
    ASSERT_TRUE(checkpoint());  // the map's pages are in group 3
    space_->free(front);
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(reopen());
    const std::uint64_t used_before = shape_.blocks - root_.free_blocks;
    (void)allocate(7, 5 * kGroup + 100);
    ASSERT_TRUE(checkpoint());  // they move to group 0
    EXPECT_LT(root_.page.block, kGroup);
    // As much as before, but for the data: no old place stays used.
    EXPECT_EQ(shape_.blocks - root_.free_blocks, used_before + 7);
    ASSERT_TRUE(reopen());
    verify();
}

// Model.
// -------------------------------------------------------------------------------------------

// Random operations against sets of blocks. Nothing is handed out that the durable root, the root
// being written, memory, or the log since the last durable root needs; what a reopened map shows
// used is just what was needed when its checkpoint froze.
class SpaceAllocatorModel : public SpaceAllocatorTest {
  protected:
    using Blocks = std::set<std::uint64_t>;

    static void insert(Blocks& blocks, const Run& run) {
        for (std::uint64_t b = run.first(); b < run.end(); ++b) blocks.insert(b);
    }
    static void erase(Blocks& blocks, const Run& run) {
        for (std::uint64_t b = run.first(); b < run.end(); ++b) blocks.erase(b);
    }
    void expect_handed_out(const Run& run, const char* what) {
        for (std::uint64_t b = run.first(); b < run.end(); ++b) {
            ASSERT_GE(b, kLogEnd) << what;
            ASSERT_LT(b, shape_.blocks) << what;
            ASSERT_EQ(live_.count(b), 0u) << what << " " << b << " is in use";
            ASSERT_EQ(reserved_blocks_.count(b), 0u) << what << " " << b << " is reserved";
            ASSERT_EQ(durable_.count(b), 0u) << what << " " << b << " is of the durable root";
            ASSERT_EQ(frozen_.count(b), 0u) << what << " " << b << " is of the root being written";
            ASSERT_EQ(freed_.count(b), 0u) << what << " " << b << " was freed since the freeze";
            ASSERT_EQ(freed_frozen_.count(b), 0u) << what << " " << b << " was freed before";
        }
    }
    [[nodiscard]] Run page(std::uint64_t block) const {
        return Run{BlockIndex{block}, shape_.page_bytes / kBlockBytes};
    }

    void step(std::mt19937& random) {
        switch (random() % 16) {
            case 0:
            case 1:
            case 2:
            case 3: {
                std::uint64_t near = 0;
                if (random() % 2 == 0 && !runs_.empty())
                    near = runs_[random() % runs_.size()].end();
                if (random() % 8 == 0) near = random() % shape_.blocks;
                const std::uint64_t blocks =
                    random() % 4 == 0 ? random() % 3000 + 1 : random() % 40 + 1;
                auto reservation = reserve(blocks, near);
                if (!reservation) {
                    ASSERT_EQ(reservation.error().code, Errc::kNoSpace);
                    break;
                }
                ASSERT_NO_FATAL_FAILURE(expect_handed_out(reservation->run(), "data"));
                insert(reserved_blocks_, reservation->run());
                reservations_.push_back(std::move(*reservation));
                break;
            }
            case 4:
            case 5:
            case 6: {
                if (reservations_.empty()) break;
                std::swap(reservations_[random() % reservations_.size()], reservations_.back());
                const Run run = reservations_.back().run();
                erase(reserved_blocks_, run);
                if (random() % 4 != 0) {
                    space_->commit(std::move(reservations_.back()));
                    insert(live_, run);
                    runs_.push_back(run);
                }
                reservations_.pop_back();
                break;
            }
            case 7:
            case 8:
            case 9: {
                if (runs_.empty()) break;
                std::swap(runs_[random() % runs_.size()], runs_.back());
                Run run = runs_.back();
                runs_.pop_back();
                if (run.blocks > 2 && random() % 3 == 0) {  // only the first part
                    const std::uint64_t cut = run.blocks / 2;
                    runs_.push_back(Run{BlockIndex{run.first() + cut}, run.blocks - cut});
                    run.blocks = cut;
                }
                space_->free(run);
                erase(live_, run);
                insert(freed_, run);
                break;
            }
            case 10:
            case 11: {
                const auto wanted = static_cast<std::uint32_t>(random() % 20 + 1);
                const auto result = run([&](Suspend& s) -> Result<void> {
                    while (space_->reserved_pages(false) < wanted) {
                        TRY(space_->reserve_pages(s, wanted, false));
                    }
                    return {};
                });
                if (!result) {
                    ASSERT_EQ(result.error().code, Errc::kNoSpace);
                    break;
                }
                for (std::uint32_t i = 0; i < wanted; ++i) {
                    const Run taken = page(value(space_->take_page()));
                    ASSERT_NO_FATAL_FAILURE(expect_handed_out(taken, "page"));
                    insert(live_, taken);
                    pages_[taken.first()] = generation_;
                }
                break;
            }
            case 12: {
                for (std::size_t n = random() % 20; n > 0 && !pages_.empty(); --n) {
                    auto it = pages_.lower_bound(random() % shape_.blocks);
                    if (it == pages_.end()) it = pages_.begin();
                    const Run returned = page(it->first);
                    space_->return_page(returned.start, Generation{it->second});
                    erase(live_, returned);
                    if (it->second != generation_) insert(freed_, returned);
                    pages_.erase(it);
                }
                break;
            }
            case 13:
                if (is_frozen_) break;
                ASSERT_NO_FATAL_FAILURE(freeze());
                break;
            case 14:
                if (!is_frozen_) break;
                ASSERT_NO_FATAL_FAILURE(release());
                break;
            default:
                if (random() % 8 != 0) break;
                ASSERT_NO_FATAL_FAILURE(crash());
        }
    }

    void freeze() {
        const auto ready = prepare();
        if (!ready) {
            ASSERT_EQ(ready.error().code, Errc::kNoSpace);
            return;
        }
        being_written_ = space_->freeze(Generation{generation_ + 1});
        for (const auto& frozen : being_written_.pages) {
            const Run moved = page(value(frozen.block));
            ASSERT_NO_FATAL_FAILURE(expect_handed_out(moved, "map page"));
            PageHeader header;
            std::memcpy(&header, frozen.bytes.data(), sizeof(header));
            map_pages_[{header.level, header.map_index}] = moved.first();
        }
        is_frozen_ = true;
        freed_frozen_.merge(freed_);
        freed_.clear();
        frozen_ = live_;
        for (const auto& [which, block] : map_pages_) insert(frozen_, page(block));
        frozen_runs_ = runs_;
        frozen_pages_ = pages_;
        frozen_map_pages_ = map_pages_;
        ++generation_;
        write(being_written_);
    }

    void release() {
        durable_generation_ = generation_ - 1;
        root_ = being_written_.root;
        space_->release();
        is_frozen_ = false;
        durable_ = std::move(frozen_);
        frozen_.clear();
        freed_frozen_.clear();
        durable_runs_ = frozen_runs_;
        durable_pages_ = frozen_pages_;
        durable_map_pages_ = frozen_map_pages_;
        ASSERT_EQ(root_.free_blocks, shape_.blocks - kLogEnd - durable_.size());
    }

    // Memory is lost; the durable root is found as it was.
    void crash() {
        reservations_.clear();
        reserved_blocks_.clear();
        is_frozen_ = false;
        const auto opened = reopen();
        ASSERT_TRUE(opened) << opened.error().message();
        ASSERT_NO_FATAL_FAILURE(verify());
        run([&](Suspend& s) {
            for (std::uint64_t block = kLogEnd; block < shape_.blocks; ++block) {
                const auto is_used = space_->is_used(s, BlockIndex{block});
                ASSERT_TRUE(is_used);
                ASSERT_EQ(*is_used, durable_.count(block) == 1) << block;
            }
        });
        runs_ = durable_runs_;
        pages_ = durable_pages_;
        map_pages_ = durable_map_pages_;
        frozen_.clear();
        freed_.clear();
        freed_frozen_.clear();
        live_.clear();
        for (const Run& run : runs_) insert(live_, run);
        for (const auto& [block, made] : pages_) insert(live_, page(block));
    }

    void play(const Shape& shape, unsigned seed, int steps) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937 random(seed);
        make(shape);
        ASSERT_NO_FATAL_FAILURE(freeze());
        ASSERT_NO_FATAL_FAILURE(release());
        for (int i = 0; i < steps; ++i) {
            ASSERT_NO_FATAL_FAILURE(step(random)) << "step " << i;
            if (i % 50 == 0) {
                ASSERT_NO_FATAL_FAILURE(verify()) << "step " << i;
            }
        }
        ASSERT_NO_FATAL_FAILURE(verify());
        reservations_.clear();
        reserved_blocks_.clear();
        for (Blocks* blocks : {&live_, &durable_, &frozen_, &freed_, &freed_frozen_}) {
            blocks->clear();
        }
        runs_.clear();
        pages_.clear();
        map_pages_.clear();
        is_frozen_ = false;
    }

    std::vector<Reservation> reservations_;
    Blocks reserved_blocks_, live_, durable_, frozen_;
    Blocks freed_, freed_frozen_;  // since the last freeze, and before it but not released
    std::vector<Run> runs_, durable_runs_, frozen_runs_;
    std::map<std::uint64_t, std::uint64_t> pages_, durable_pages_, frozen_pages_;  // -> generation
    std::map<std::pair<int, std::uint64_t>, std::uint64_t> map_pages_, durable_map_pages_,
        frozen_map_pages_;
    bool is_frozen_ = false;
    SpaceAllocator::Frozen being_written_;
};

TEST_F(SpaceAllocatorModel, OneSmallBitmap) {
    for (unsigned seed = 1; seed <= 3; ++seed) {
        ASSERT_NO_FATAL_FAILURE(play({.blocks = 4100}, seed, 1500));
    }
}

TEST_F(SpaceAllocatorModel, SeveralBitmaps) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        ASSERT_NO_FATAL_FAILURE(
            play({.blocks = 100003, .options = {.cached_map_pages = 16}}, seed, 1200));
    }
}

TEST_F(SpaceAllocatorModel, LargeClusters) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        ASSERT_NO_FATAL_FAILURE(
            play({.blocks = 40005, .options = {.cluster_blocks = 16, .reserve_blocks = 300}}, seed,
                 1200));
    }
}

TEST_F(SpaceAllocatorModel, LargePages) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        ASSERT_NO_FATAL_FAILURE(play({.blocks = 30001,
                                      .page_bytes = 16384,
                                      .options = {.cluster_blocks = 2, .reserve_blocks = 200}},
                                     seed, 1200));
    }
}

// Fibers that search at once, over a map most of which is not in memory.
TEST_F(SpaceAllocatorModel, ConcurrentFibersNeverShareBlocks) {
    make({.blocks = 32256ull * 60, .options = {.cached_map_pages = 16}});
    for (std::uint64_t group = 0; group < 60; ++group) (void)allocate(3, group * 32256 + 600);
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(reopen());
    Blocks taken;
    run([&](Suspend& suspend) {
        driver::WaitGroup group;
        for (unsigned i = 0; i < 30; ++i) {
            group.add();
            suspend.reactor().spawn([&, i](Suspend& inner) {
                std::mt19937 random(i);
                std::vector<Reservation> mine;
                for (int n = 0; n < 40; ++n) {
                    auto reservation = space_->reserve(
                        inner,
                        {.blocks = random() % 3000 + 1,
                         .near = BlockIndex{random() % 3 == 0 ? 0 : random() % shape_.blocks}});
                    ASSERT_TRUE(reservation);
                    const Run run = reservation->run();
                    for (std::uint64_t b = run.first(); b < run.end(); ++b) {
                        ASSERT_TRUE(taken.insert(b).second);
                    }
                    if (random() % 2 == 0) {
                        space_->commit(std::move(*reservation));
                    } else {
                        mine.push_back(std::move(*reservation));
                    }
                    if (random() % 4 == 0 && !mine.empty()) {
                        erase(taken, mine.back().run());
                        mine.pop_back();
                    }
                }
                for (auto& reservation : mine) erase(taken, reservation.run());
                mine.clear();
                group.done();
            });
        }
        group.wait(suspend);
    });
    verify();
}

}  // namespace
}  // namespace blobfs::blobstore
