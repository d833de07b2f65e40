#include "blobstore/superblock.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>

#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {
namespace {

constexpr std::uint64_t kDeviceBytes = 64ull << 20;

Superblock sample(std::uint64_t generation = 4) {
    Superblock s{};
    s.state = static_cast<std::uint32_t>(SuperblockState::kInUse);
    s.uuid = {1, 2, 3, 4};
    std::memcpy(s.label.data(), "label", 5);
    s.block_bytes = kBlockBytes;
    s.page_bytes = 16384;
    s.cluster_bytes = 4096;
    s.inline_bytes = 1024;
    s.block_count = kDeviceBytes / kBlockBytes;
    s.log_start = kLogStartBlock;
    s.log_blocks = 1024;
    s.generation = generation;
    s.epoch = 2;
    s.log_position = 17;
    s.log_batch = 9;
    s.transaction = 100;
    s.tree_root = {.block = 2000, .generation = generation, .checksum = 5};
    s.map_root = {.block = 2004, .generation = generation, .checksum = 6};
    s.tree_height = 2;
    s.map_height = 1;
    s.next_blob_id = 12;
    s.free_blocks = 10000;
    return s;
}

Result<Superblock> decode(const Superblock& s, unsigned slot = 0,
                          std::uint64_t device_bytes = kDeviceBytes) {
    return decode_superblock(std::as_bytes(std::span(&s, 1)), device_bytes, slot);
}

Result<Superblock> decode_changed(const std::function<void(Superblock&)>& change) {
    Superblock s = sample();
    seal(s);  // before the change, for what seal() itself sets
    change(s);
    s.checksum = 0;
    Superblock resealed = s;
    seal(resealed);
    // seal() restores magic, version and reserved bytes; a hostile image has them as changed.
    if (std::memcmp(&resealed.reserved, &s.reserved, sizeof(s.reserved)) != 0 ||
        s.version != kFormatVersion || s.magic != kSuperblockMagic) {
        s.checksum = 0;
        s.checksum = XXH3_64bits(&s, sizeof(s));
        return decode(s);
    }
    return decode(resealed);
}

TEST(SuperblockTest, SealedSuperblockDecodes) {
    Superblock s = sample();
    seal(s);
    const auto decoded = decode(s);
    ASSERT_TRUE(decoded) << decoded.error().message();
    EXPECT_EQ(0, std::memcmp(&*decoded, &s, sizeof(s)));
}

TEST(SuperblockTest, EveryFlippedByteIsNoticed) {
    Superblock s = sample();
    seal(s);
    for (std::size_t i = 0; i < sizeof(s); ++i) {
        Superblock damaged = s;
        reinterpret_cast<unsigned char*>(&damaged)[i] ^= 0x10;
        const auto decoded = decode(damaged);
        ASSERT_FALSE(decoded) << i;
        EXPECT_EQ(decoded.error().code, i < 8 ? Errc::kWrongFormat : Errc::kCorrupt) << i;
    }
}

TEST(SuperblockTest, EveryWrongFieldIsDamageThoughTheChecksumIsRight) {
    struct Case {
        const char* expected;
        std::function<void(Superblock&)> change;
    };
    const Case cases[] = {
        {"version", [](auto& s) { s.version = 0; }},
        {"state", [](auto& s) { s.state = 2; }},
        {"UUID", [](auto& s) { s.uuid = {}; }},
        {"label", [](auto& s) { s.label[10] = 'x'; }},
        {"block size", [](auto& s) { s.block_bytes = 512; }},
        {"page size", [](auto& s) { s.page_bytes = 2048; }},
        {"page size", [](auto& s) { s.page_bytes = 12288; }},
        {"page size", [](auto& s) { s.page_bytes = 32768; }},
        {"cluster size", [](auto& s) { s.cluster_bytes = 0; }},
        {"cluster size", [](auto& s) { s.cluster_bytes = 8u << 20; }},
        {"inline limit", [](auto& s) { s.inline_bytes = 16385; }},
        {"number of blocks", [](auto& s) { s.block_count = 4095; }},
        {"number of blocks", [](auto& s) { s.block_count = ~0ull; }},
        {"shorter", [](auto& s) { s.block_count += 1; }},
        {"place of the log", [](auto& s) { s.log_start = 255; }},
        {"place of the log", [](auto& s) { s.log_start = s.block_count; }},
        {"place of the log", [](auto& s) { s.log_blocks = s.block_count - s.log_start; }},
        {"place of the log", [](auto& s) { s.log_blocks = ~0ull; }},
        {"place of the log", [](auto& s) { s.log_blocks = kMinLogBlocks - 1; }},
        {"generation 0", [](auto& s) { s.generation = 0; }},
        {"other slot", [](auto& s) { s.generation = 5; }},
        {"epoch", [](auto& s) { s.epoch = 0; }},
        {"counter", [](auto& s) { s.epoch = ~0ull; }},
        {"counter", [](auto& s) { s.generation = ~1ull; }},
        {"counter", [](auto& s) { s.log_batch = ~0ull; }},
        {"counter", [](auto& s) { s.transaction = (1ull << 62) + 1; }},
        {"next blob id", [](auto& s) { s.next_blob_id = ~0ull; }},
        {"next blob id", [](auto& s) { s.next_blob_id = kBlobIdEnd + 1; }},
        {"log position", [](auto& s) { s.log_position = s.log_blocks; }},
        {"log position", [](auto& s) { s.log_batch = 0; }},
        {"root of the tree", [](auto& s) { s.tree_root.block = 0; }},
        {"root of the tree", [](auto& s) { s.tree_height = 0; }},
        {"root of the tree", [](auto& s) { s.tree_height = 17; }},
        {"root of the tree", [](auto& s) { s.tree_root.block = kLogStartBlock + 4; }},
        {"root of the tree", [](auto& s) { s.tree_root.block = s.block_count; }},
        {"root of the tree", [](auto& s) { s.tree_root.block = ~3ull; }},
        {"root of the tree", [](auto& s) { s.tree_root.block = 2002; }},
        {"root of the tree", [](auto& s) { s.tree_root.generation = s.generation + 1; }},
        {"root of the tree", [](auto& s) { s.tree_root.generation = 0; }},
        {"root of the tree",
         [](auto& s) {
             s.tree_root.block = 0;
             s.tree_height = 0;
         }},
        {"allocation map", [](auto& s) { s.map_height = 2; }},
        {"allocation map", [](auto& s) { s.map_height = 0; }},
        {"allocation map", [](auto& s) { s.map_root.block = 0; }},
        {"allocation map", [](auto& s) { s.map_root.block = s.block_count - 2; }},
        {"allocation map", [](auto& s) { s.map_root.block = s.tree_root.block; }},
        {"blob id", [](auto& s) { s.next_blob_id = 0; }},
        {"free blocks", [](auto& s) { s.free_blocks = s.block_count; }},
        {"reserved", [](auto& s) { s.reserved[3783] = 1; }},
    };
    int number = 0;
    for (const auto& c : cases) {
        const auto decoded = decode_changed(c.change);
        ASSERT_FALSE(decoded) << number << " " << c.expected;
        EXPECT_EQ(decoded.error().code, Errc::kCorrupt) << number << " " << c.expected;
        EXPECT_NE(std::string(decoded.error().what).find(c.expected), std::string::npos)
            << number << ": " << decoded.error().what;
        ++number;
    }
}

TEST(SuperblockTest, NewerVersionAndUnknownFeatureAreNotDamage) {
    const auto newer = decode_changed([](auto& s) { s.version = 2; });
    ASSERT_FALSE(newer);
    EXPECT_EQ(newer.error().code, Errc::kWrongFormat);
    const auto feature = decode_changed([](auto& s) { s.incompatible = 1ull << 40; });
    ASSERT_FALSE(feature);
    EXPECT_EQ(feature.error().code, Errc::kWrongFormat);
    EXPECT_STRNE(newer.error().what, feature.error().what);
    EXPECT_TRUE(decode_changed([](auto& s) { s.compatible = ~0ull; }));
    const auto read_only = decode_changed([](auto& s) { s.read_only_compatible = 4; });
    ASSERT_TRUE(read_only);
    EXPECT_EQ(check_writable(*read_only).error().code, Errc::kReadOnly);
    EXPECT_TRUE(check_writable(sample()));
}

TEST(SuperblockTest, EmptyTreeIsValid) {
    EXPECT_TRUE(decode_changed([](auto& s) {
        s.tree_root = {};
        s.tree_height = 0;
    }));
}

TEST(SuperblockTest, MapHeightGrowsWithTheDevice) {
    EXPECT_EQ(map_height_for(130560, 16384), 1u);
    EXPECT_EQ(map_height_for(130561, 16384), 2u);
    EXPECT_EQ(map_height_for(1ull << 38, 16384), 4u);
    EXPECT_EQ(map_height_for(1ull << 38, 4096), 5u);
}

class SuperblockSlotsTest : public BlobstorePartTest {
  protected:
    void write(std::uint64_t generation, std::uint64_t transaction) {
        Superblock s = sample(generation);
        s.transaction = transaction;
        const auto written =
            run([&](driver::Suspend& suspend) { return write_superblock(suspend, device_, s); });
        ASSERT_TRUE(written) << written.error().message();
    }
    SuperblockSlots read() {
        auto slots =
            run([&](driver::Suspend& suspend) { return read_superblocks(suspend, device_); });
        EXPECT_TRUE(slots);
        return *slots;
    }
    MemoryDevice device_{kDeviceBytes};
};

TEST_F(SuperblockSlotsTest, NewestOfTwoWins) {
    write(4, 40);
    EXPECT_EQ(read().newest()->transaction, 40u);
    write(5, 50);
    EXPECT_EQ(read().newest()->transaction, 50u);
    write(6, 60);
    EXPECT_EQ(read().newest()->transaction, 60u);
    EXPECT_EQ(read().slots[1]->transaction, 50u);
}

TEST_F(SuperblockSlotsTest, TornWriteFallsBackToTheOther) {
    write(4, 40);
    write(5, 50);
    const auto before = device_.image();
    write(6, 60);
    const auto after = device_.image();
    for (std::size_t cut = 512; cut < 4096; cut += 512) {
        auto torn = after;
        const auto& old = before.at(kSuperblockBlocks[0]);
        std::copy(old.begin() + static_cast<std::ptrdiff_t>(cut), old.end(),
                  torn[kSuperblockBlocks[0]].begin() + static_cast<std::ptrdiff_t>(cut));
        const bool whole = torn.at(kSuperblockBlocks[0]) == after.at(kSuperblockBlocks[0]);
        device_.set_image(torn);
        const auto newest = read().newest();
        ASSERT_TRUE(newest);
        EXPECT_EQ(newest->transaction, whole ? 60u : 50u) << cut;
    }
}

TEST_F(SuperblockSlotsTest, BlankDeviceIsNotBlobfs) {
    const auto slots = read();
    EXPECT_EQ(slots.newest().error().code, Errc::kWrongFormat);
}

TEST_F(SuperblockSlotsTest, DamagedBesideBlankIsDamage) {
    write(4, 40);
    *device_.at(kSuperblockBlocks[0] * kBlockBytes + 200) ^= std::byte{1};
    const auto newest = read().newest();
    EXPECT_EQ(newest.error().code, Errc::kCorrupt);
    EXPECT_EQ(newest.error().address, kSuperblockBlocks[0] * kBlockBytes);
}

TEST_F(SuperblockSlotsTest, SlotOfANewerProgramIsNotFallenBackBehind) {
    write(4, 40);
    write(5, 50);
    Superblock newer = sample(6);
    seal(newer);
    newer.version = 2;
    newer.checksum = 0;
    newer.checksum = XXH3_64bits(&newer, sizeof(newer));
    std::memcpy(device_.at(kSuperblockBlocks[0] * kBlockBytes), &newer, sizeof(newer));
    EXPECT_EQ(read().newest().error().code, Errc::kWrongFormat);
}

TEST_F(SuperblockSlotsTest, SlotsOfTwoFilesystemsAreRefused) {
    write(4, 40);
    Superblock other = sample(5);
    other.uuid = {9};
    ASSERT_TRUE(run([&](driver::Suspend& s) { return write_superblock(s, device_, other); }));
    EXPECT_EQ(read().newest().error().code, Errc::kCorrupt);
}

TEST_F(SuperblockSlotsTest, UnreadableSlotFallsBackToTheOther) {
    write(4, 40);
    write(5, 50);
    device_.fail_read = [](std::uint64_t offset, std::size_t) {
        return offset == kSuperblockBlocks[1] * kBlockBytes;
    };
    EXPECT_EQ(read().newest()->transaction, 40u);
    device_.fail_read = [](std::uint64_t, std::size_t) { return true; };
    EXPECT_EQ(run([&](driver::Suspend& s) { return read_superblocks(s, device_); }).error().code,
              Errc::kIo);
}

TEST_F(SuperblockSlotsTest, WriteIsDurableAndAfterAllBeforeIt) {
    auto page = driver::DmaBuffer::allocate(4096);
    std::memset(page->data(), 7, 4096);
    ASSERT_TRUE(run([&](driver::Suspend& s) {
        return device_.write(s, 8u << 20, page->span(), driver::WriteFlags::kNone);
    }));
    write(4, 40);
    EXPECT_EQ(device_.events, "WFU");
    device_.lose_cache();
    EXPECT_EQ(read().newest()->transaction, 40u);
    EXPECT_EQ(*device_.at(8u << 20), std::byte{7});
}

TEST_F(SuperblockSlotsTest, ErasedIsNotBlobfs) {
    write(4, 40);
    write(5, 50);
    ASSERT_TRUE(run([&](driver::Suspend& s) { return erase_superblocks(s, device_); }));
    device_.lose_cache();
    EXPECT_EQ(read().newest().error().code, Errc::kWrongFormat);
}

TEST_F(SuperblockSlotsTest, TooSmallDeviceIsNotBlobfs) {
    MemoryDevice tiny(65536);
    EXPECT_EQ(run([&](driver::Suspend& s) { return read_superblocks(s, tiny); }).error().code,
              Errc::kWrongFormat);
}

}  // namespace
}  // namespace blobfs::blobstore
