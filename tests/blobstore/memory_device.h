#pragma once

// A Device of sparse memory for unit tests of the blobstore's parts: any size, a volatile write
// cache whose loss can be played, counters, and errors on demand. Each call yields once, so that
// fibers interleave as they do over a real controller. (Whole-store tests use the software
// controller.)

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "blobstore/units.h"
#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"

namespace blobfs::blobstore {

class MemoryDevice final : public driver::Device {
  public:
    static constexpr std::uint64_t kBlock = 4096;
    using Block = std::vector<std::byte>;

    struct Write {
        std::uint64_t offset;
        std::size_t bytes;
        driver::WriteFlags flags;
    };

    explicit MemoryDevice(std::uint64_t bytes, bool volatile_cache = true) {
        properties_.name = "memory";
        properties_.bytes = bytes;
        properties_.lba_bytes = kBlock;
        properties_.max_transfer_bytes = 128 * 1024;
        properties_.volatile_write_cache = volatile_cache;
    }

    Result<void> close(driver::Suspend&) override { return {}; }
    void fence(driver::Suspend& suspend) override {
        fenced_ = true;
        suspend.yield();
    }
    // For opening it again.
    void end_fence() { fenced_ = false; }
    [[nodiscard]] const driver::DeviceProperties& properties() const override {
        return properties_;
    }
    Result<void> read(driver::Suspend& suspend, std::uint64_t offset,
                      driver::DmaSpan into) override {
        check_range(offset, into.size());
        most_reads_at_once = std::max(most_reads_at_once, ++reads_under_way_);
        suspend.yield();
        --reads_under_way_;
        return read_now(offset, into);
    }
    Result<void> read_now(std::uint64_t offset, driver::DmaSpan into) {
        if (fenced_) return fail(Errc::kIo, "reading behind a fence", offset);
        ++statistics_.reads;
        if (fail_read && fail_read(offset, into.size())) return fail(Errc::kIo, "reading", offset);
        for (std::size_t done = 0; done < into.size(); done += kBlock) {
            const auto found = blocks_.find((offset + done) / kBlock);
            if (found == blocks_.end()) {
                std::memset(into.data() + done, 0, kBlock);
            } else {
                std::memcpy(into.data() + done, found->second.data(), kBlock);
            }
        }
        return {};
    }
    Result<void> write(driver::Suspend& suspend, std::uint64_t offset, driver::ConstDmaSpan from,
                       driver::WriteFlags flags) override {
        check_range(offset, from.size());
        for (unsigned i = 0; i < write_yields; ++i) suspend.yield();
        return write_now(offset, from, flags);
    }
    Result<void> write_now(std::uint64_t offset, driver::ConstDmaSpan from,
                           driver::WriteFlags flags) {
        if (fenced_) return fail(Errc::kIo, "writing behind a fence", offset);
        ++statistics_.writes;
        writes.push_back({offset, from.size(), flags});
        events.push_back(flags == driver::WriteFlags::kForceUnitAccess ? 'U' : 'W');
        if (fail_write && fail_write(offset, from.size()))
            return fail(Errc::kIo, "writing", offset);
        const bool durable =
            !properties_.volatile_write_cache || flags == driver::WriteFlags::kForceUnitAccess;
        for (std::size_t done = 0; done < from.size(); done += kBlock) {
            const std::uint64_t block = (offset + done) / kBlock;
            if (!durable) before_.try_emplace(block, block_copy(block));
            if (durable) before_.erase(block);
            blocks_[block].assign(from.begin() + static_cast<std::ptrdiff_t>(done),
                                  from.begin() + static_cast<std::ptrdiff_t>(done + kBlock));
        }
        return {};
    }
    Result<void> write(driver::Suspend& suspend, std::uint64_t offset,
                       std::span<const driver::DmaSegment> from,
                       driver::WriteFlags flags) override {
        for (const auto& segment : from) {
            TRY(write(suspend, offset, driver::ConstDmaSpan(segment.data, segment.bytes), flags));
            offset += segment.bytes;
        }
        return {};
    }
    Result<void> flush(driver::Suspend& suspend) override {
        if (fenced_) return fail(Errc::kIo, "flushing behind a fence");
        auto covered = std::move(before_);
        before_.clear();
        suspend.yield();
        ++statistics_.flushes;
        events.push_back('F');
        if (fail_flush && fail_flush()) {
            before_.merge(covered);
            return fail(Errc::kIo, "flushing");
        }
        return {};
    }
    Result<void> write_zeroes(driver::Suspend& suspend, std::uint64_t offset,
                              std::uint64_t bytes) override {
        suspend.yield();
        for (std::uint64_t done = 0; done < bytes; done += kBlock) {
            blocks_.erase((offset + done) / kBlock);
        }
        return {};
    }
    Result<void> deallocate(driver::Suspend& suspend, std::uint64_t, std::uint64_t) override {
        suspend.yield();
        return {};
    }
    [[nodiscard]] Statistics statistics() const override { return statistics_; }

    // The power goes: what was written since the last flush is as it was before.
    void lose_cache() {
        for (auto& [block, content] : before_) {
            if (content.empty()) {
                blocks_.erase(block);
            } else {
                blocks_[block] = content;
            }
        }
        before_.clear();
    }
    [[nodiscard]] std::map<std::uint64_t, Block> image() const { return blocks_; }
    void set_image(std::map<std::uint64_t, Block> image) {
        blocks_ = std::move(image);
        before_.clear();
    }
    // The bytes at an offset, to be looked at or damaged.
    std::byte* at(std::uint64_t offset) {
        Block& block = blocks_[offset / kBlock];
        block.resize(kBlock);
        return block.data() + offset % kBlock;
    }
    [[nodiscard]] std::size_t blocks_written() const { return blocks_.size(); }

    std::vector<Write> writes;
    std::size_t most_reads_at_once = 0;
    std::string events;  // W write, U write with FUA, F flush
    std::function<bool(std::uint64_t offset, std::size_t bytes)> fail_read, fail_write;
    std::function<bool()> fail_flush;
    unsigned write_yields = 1;  // more: what is begun later may overtake a write

  protected:
    // Batches: all at once, in order.
    void start(const Transfer& transfer, Ended ended, void* context) override {
        Result<void> result;
        std::uint64_t offset = transfer.offset;
        for (const auto& segment : transfer.memory) {
            if (!result) break;
            const driver::DmaSpan memory(segment.data, segment.bytes);
            check_range(offset, segment.bytes);
            result = transfer.operation == Operation::kRead
                         ? read_now(offset, memory)
                         : write_now(offset, memory, transfer.flags);
            offset += segment.bytes;
        }
        ended(context, result ? nullptr : &result.error(), 0);
    }
    void send() override {}

  private:
    void check_range(std::uint64_t offset, std::size_t bytes) const {
        CHECK(offset % kBlock == 0 && bytes % kBlock == 0 && bytes > 0);
        CHECK(offset <= properties_.bytes && bytes <= properties_.bytes - offset);
    }
    [[nodiscard]] Block block_copy(std::uint64_t block) const {
        const auto found = blocks_.find(block);
        return found == blocks_.end() ? Block() : found->second;
    }

    driver::DeviceProperties properties_;
    std::size_t reads_under_way_ = 0;
    std::map<std::uint64_t, Block> blocks_;
    std::map<std::uint64_t, Block> before_;  // durable content of blocks written since
    Statistics statistics_;
    bool fenced_ = false;
};

// A reactor whose ready fibers run in random order, and DMA memory to go with it.
class BlobstorePartTest : public ::testing::Test {
  protected:
    using Run = blobstore::Run;  // not testing::Test::Run

    static void SetUpTestSuite() {
        const auto started =
            driver::start_environment({.memory_bytes = std::size_t{64} << 20, .hugepages = false});
        ASSERT_TRUE(started) << started.error().message();
    }
    template <class F>
    auto run(F&& function) {
        return reactor_.block_on(std::forward<F>(function));
    }

    driver::Reactor reactor_{driver::ReactorOptions{.shuffle_seed = 7}};
};

}  // namespace blobfs::blobstore
