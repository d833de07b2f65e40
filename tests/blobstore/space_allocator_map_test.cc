// The map on the device: damaged, large, partly in memory.

#include <chrono>
#include <cstring>
#include <functional>

#include "tests/blobstore/space_allocator_fixture.h"

namespace blobfs::blobstore {
namespace {

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

}  // namespace
}  // namespace blobfs::blobstore
