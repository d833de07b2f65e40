// SGLs from both sides: what the host builds is what the controller walks; and doorbells with
// shadows.

#include "driver/nvme/sgl.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "driver/nvme/doorbell.h"
#include "driver/soft/host_memory.h"
#include "tests/driver/scripted_controller.h"

namespace blobfs::driver::nvme {
namespace {

// Pages of the process are anywhere else for the controller: every second one next to nothing.
class ScatteredTransport final : public Transport {
  public:
    ScatteredTransport() : Transport(false) {}
    std::uint32_t read32(std::uint32_t) override { return 0; }
    std::uint64_t read64(std::uint32_t) override { return 0; }
    void write32(std::uint32_t, std::uint32_t) override {}
    void write64(std::uint32_t, std::uint64_t) override {}
    volatile std::uint32_t* doorbell(std::uint32_t) override { return nullptr; }
    const std::string& name() const override { return name_; }
    static std::uint64_t address_of(std::uint64_t address) {
        return address + (address >> 13 << 20);
    }

  private:
    [[nodiscard]] std::uint64_t translate(const void* memory) const override {
        return address_of(reinterpret_cast<std::uintptr_t>(memory));
    }
    std::string name_ = "scattered";
};

struct alignas(kPageBytes) List {
    SglDescriptor entries[kSglListEntries];
};

std::byte* at(std::uintptr_t address) { return reinterpret_cast<std::byte*>(address); }

TEST(Sgl, OnePieceOfMemoryIsOneDescriptorOfAnyLength) {
    ScriptedTransport transport;
    List list{};
    const DmaSegment segments[] = {{at(0x10000), 0x3000}, {at(0x13000), 0x5000}};
    const auto whole =
        build_sgl(transport, segments, {.offset = 0, .bytes = 0x8000}, list.entries, 0x9000);
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole->identifier, kSglDataBlock);
    EXPECT_EQ(whole->address, 0x10000U);
    EXPECT_EQ(whole->bytes, 0x8000U);
    const auto part =
        build_sgl(transport, segments, {.offset = 0x3200, .bytes = 0x400}, list.entries, 0x9000);
    ASSERT_TRUE(part);
    EXPECT_EQ(part->address, 0x13200U);
    EXPECT_EQ(part->bytes, 0x400U);
    EXPECT_EQ(list.entries[0].bytes, 0U) << "the list is not touched";
}

TEST(Sgl, SeveralPiecesAreAListAndTooManyAreNone) {
    ScriptedTransport transport;
    List list{};
    std::vector<DmaSegment> segments;
    for (std::uintptr_t i = 0; i < kSglListEntries; ++i) {
        segments.push_back({at(0x100000 + i * 0x3000), 0x1000});
    }
    const auto sgl =
        build_sgl(transport, segments, {.offset = 0x800, .bytes = kSglListEntries * 0x1000 - 0x900},
                  list.entries, 0x9000);
    ASSERT_TRUE(sgl);
    EXPECT_EQ(sgl->identifier, kSglLastSegment);
    EXPECT_EQ(sgl->address, 0x9000U);
    EXPECT_EQ(sgl->bytes, kSglListEntries * 16);
    EXPECT_EQ(list.entries[0].address, 0x100800U);
    EXPECT_EQ(list.entries[0].bytes, 0x800U);
    EXPECT_EQ(list.entries[1].address, 0x103000U);
    EXPECT_EQ(list.entries[kSglListEntries - 1].bytes, 0xf00U);
    segments.push_back({at(0x1), 0x1000});
    EXPECT_FALSE(build_sgl(transport, segments, {.offset = 0, .bytes = segments.size() * 0x1000},
                           list.entries, 0x9000));
}

TEST(Sgl, ControllerWalksWhatTheHostHasBuilt) {
    std::mt19937 random(11);
    for (int round = 0; round < 300; ++round) {
        const bool scattered = round % 2 == 0;
        ScriptedTransport identity;
        ScatteredTransport elsewhere;
        const Transport& transport = scattered ? static_cast<const Transport&>(elsewhere)
                                               : static_cast<const Transport&>(identity);
        List list{};
        std::vector<DmaSegment> segments;
        std::size_t total = 0;
        for (unsigned i = 0; i < 1 + random() % 20; ++i) {
            segments.push_back(
                {at(0x1000000 + (random() % 64) * 0x1000), 0x1000 * (1 + random() % 3)});
            total += segments.back().bytes;
        }
        const TransferRange range{.offset = random() % total / 4 * 4, .bytes = 0};
        const TransferRange exact{.offset = range.offset,
                                  .bytes = 1 + random() % (total - range.offset)};
        const auto sgl = build_sgl(transport, segments, exact, list.entries,
                                   reinterpret_cast<std::uintptr_t>(list.entries));
        ASSERT_TRUE(sgl);
        SubmissionEntry entry{};
        set_sgl(entry, *sgl);
        EXPECT_EQ(entry.flags, kFlagsSgl);
        std::vector<iovec> pieces;
        ASSERT_EQ(map_host_memory(entry, exact.bytes, pieces), Status::kSuccess);
        // Byte for byte the same addresses.
        std::size_t piece = 0, in_piece = 0;
        for (std::size_t i = 0; i < exact.bytes; ++i) {
            const auto address =
                reinterpret_cast<std::uintptr_t>(segment_at(segments, exact.offset + i));
            ASSERT_LT(piece, pieces.size());
            ASSERT_EQ(reinterpret_cast<std::uintptr_t>(pieces[piece].iov_base) + in_piece,
                      scattered ? ScatteredTransport::address_of(address) : address);
            if (++in_piece == pieces[piece].iov_len) {
                ++piece;
                in_piece = 0;
            }
        }
        EXPECT_EQ(piece, pieces.size());
        EXPECT_NE(map_host_memory(entry, exact.bytes + 4, pieces), Status::kSuccess);
    }
}

TEST(Sgl, NonsenseIsAnsweredWithItsStatus) {
    List list{};
    std::vector<iovec> pieces;
    const auto address = reinterpret_cast<std::uintptr_t>(list.entries);
    const auto status = [&](SglDescriptor descriptor) {
        SubmissionEntry entry{};
        set_sgl(entry, descriptor);
        return map_host_memory(entry, 4096, pieces);
    };
    EXPECT_EQ(status({0x1000, 4096, {}, kSglDataBlock}), Status::kSuccess);
    EXPECT_EQ(status({0x1000, 4095, {}, kSglDataBlock}), Status::kInvalidSglLength);
    EXPECT_EQ(status({0x1000, 8192, {}, kSglDataBlock}), Status::kInvalidSglLength);
    EXPECT_EQ(status({0, 4096, {}, kSglDataBlock}), Status::kInvalidSglLength);
    EXPECT_EQ(status({address, 16, {}, 0x40}), Status::kInvalidSglType);
    EXPECT_EQ(status({address, 17, {}, kSglLastSegment}), Status::kInvalidSglDescriptor);
    EXPECT_EQ(status({address, 0, {}, kSglLastSegment}), Status::kInvalidSglDescriptor);
    EXPECT_EQ(status({0, 16, {}, kSglLastSegment}), Status::kInvalidSglDescriptor);
    list.entries[0] = {0x1000, 4096, {}, kSglLastSegment};
    EXPECT_EQ(status({address, 16, {}, kSglLastSegment}), Status::kInvalidSglType);
    // A chain that bites its own tail.
    list.entries[0] = {address, 16, {}, kSglSegment};
    EXPECT_EQ(status({address, 16, {}, kSglSegment}), Status::kInvalidSglCount);
    // Two segments.
    list.entries[0] = {0x1000, 1024, {}, kSglDataBlock};
    list.entries[1] = {address + 32, 16, {}, kSglLastSegment};
    list.entries[2] = {0x1400, 3072, {}, kSglDataBlock};
    EXPECT_EQ(status({address, 32, {}, kSglSegment}), Status::kSuccess);
    ASSERT_EQ(pieces.size(), 1U);
    EXPECT_EQ(pieces[0].iov_len, 4096U);
}

TEST(Doorbell, WithoutShadowEveryValueIsWritten) {
    volatile std::uint32_t word = 0;
    Doorbell doorbell(&word);
    EXPECT_TRUE(doorbell.ring(3));
    EXPECT_EQ(word, 3U);
}

TEST(Doorbell, RegisterIsWrittenOnlyWhenTheEventIndexIsPassed) {
    volatile std::uint32_t word = 100, shadow = 0, event = 0;
    Doorbell doorbell(&word);
    doorbell.set_shadow(&shadow, &event, false);
    event = 2;
    EXPECT_FALSE(doorbell.ring(1));
    EXPECT_FALSE(doorbell.ring(2)) << "reaching it is not passing it";
    EXPECT_EQ(word, 100U);
    EXPECT_EQ(shadow, 2U) << "the shadow always follows";
    EXPECT_TRUE(doorbell.ring(3));
    EXPECT_EQ(word, 3U);
    EXPECT_FALSE(doorbell.ring(9));
    event = 9;
    EXPECT_TRUE(doorbell.ring(0)) << "the queue wraps";
    EXPECT_EQ(word, 0U);
    event = 5;
    EXPECT_TRUE(doorbell.ring(8)) << "jumps over it";
    doorbell.set_shadow(&shadow, &event, true);
    event = 100;
    EXPECT_TRUE(doorbell.ring(9)) << "the admin queue's is always written";
    doorbell.set_shadow(nullptr, nullptr, false);
    EXPECT_TRUE(doorbell.ring(4));
    EXPECT_EQ(shadow, 9U);
}

// The controller's side of the bargain: it looks at the shadow once more after it has asked.
TEST(Doorbell, NothingIsEverLeftUnseen) {
    constexpr std::uint32_t kEntries = 8;
    std::mt19937 random(3);
    volatile std::uint32_t word = 0, shadow = 0, event = 0;
    Doorbell doorbell(&word);
    doorbell.set_shadow(&shadow, &event, false);
    std::uint32_t tail = 0, head = 0;
    bool awake = false;
    int written = 0, rung = 0;
    for (int i = 0; i < 100'000; ++i) {
        const std::uint32_t room = (head + kEntries - tail - 1) % kEntries;
        if (room != 0 && random() % 2 == 0) {
            tail = (tail + 1 + random() % room) % kEntries;
            ++rung;
            if (doorbell.ring(tail)) {
                ++written;
                awake = true;
            }
        } else if (awake) {
            // Takes all there is, asks to be told of the next, and sleeps if nothing has come.
            head = shadow;
            event = head;
            awake = shadow != head;
        }
        ASSERT_TRUE(awake || head == tail);
    }
    EXPECT_LT(written, rung);
    EXPECT_GT(written, 0);
}

}  // namespace
}  // namespace blobfs::driver::nvme
