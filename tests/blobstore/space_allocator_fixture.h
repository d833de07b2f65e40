#pragma once

// An allocator over the map of a memory device, with its checkpoints.

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "blobstore/space_allocator.h"
#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {

inline constexpr std::uint64_t kLogEnd = kLogStartBlock + 256;
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

}  // namespace blobfs::blobstore
