#pragma once

// What the tests of the tree stand on: a device in memory that suspends at every read and write, a
// source of pages that accounts for each address, and a tree that can be checkpointed, crashed and
// opened again. Reactor thread.

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "blobstore/btree.h"
#include "blobstore/page.h"
#include "blobstore/page_cache.h"
#include "blobstore/page_io.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {

// Hands out page-aligned addresses, and insists on the order of things: only free ones are taken,
// only used ones are returned, with the generation that they were taken in; those of older
// generations are reused only after the next checkpoint.
class AccountedPages final : public PageSource {
  public:
    AccountedPages(std::uint32_t blocks_per_page, std::uint64_t block_count)
        : blocks_per_page_(blocks_per_page), end_(block_count) {}

    BlockIndex take_page() override {
        std::uint64_t block;
        if (free_.empty()) {
            block = next_;
            next_ += blocks_per_page_;
            CHECK(next_ <= end_);
        } else {
            block = *free_.begin();
            free_.erase(free_.begin());
        }
        CHECK(used_.emplace(block, current_).second);
        ++taken_;
        return BlockIndex{block};
    }
    void return_page(BlockIndex block, Generation made) override {
        const auto at = used_.find(value(block));
        CHECK(at != used_.end());
        CHECK(at->second == made);
        used_.erase(at);
        (made == current_ ? free_ : pending_).insert(value(block));
    }
    void freeze(Generation next) {
        CHECK(quarantined_.empty());
        current_ = next;
        frozen_used_ = used_;
        quarantined_.swap(pending_);
    }
    void release() {
        free_.merge(quarantined_);
        quarantined_.clear();
        durable_used_ = frozen_used_;
    }
    // As a crash leaves it: what the last durable root uses is used, all else is free.
    void crash(Generation current) {
        used_ = durable_used_;
        free_.clear();
        pending_.clear();
        quarantined_.clear();
        for (std::uint64_t block = kLogStartBlock; block < next_; block += blocks_per_page_) {
            if (!used_.contains(block)) free_.insert(block);
        }
        current_ = current;
    }
    [[nodiscard]] const std::map<std::uint64_t, Generation>& used() const { return used_; }
    [[nodiscard]] std::uint64_t taken() const { return taken_; }
    void set_current(Generation current) { current_ = current; }

  private:
    std::uint32_t blocks_per_page_;
    std::uint64_t end_;
    std::uint64_t next_ = kLogStartBlock;
    std::uint64_t taken_ = 0;
    Generation current_{1};
    std::map<std::uint64_t, Generation> used_, frozen_used_, durable_used_;
    std::set<std::uint64_t> free_, pending_, quarantined_;
};

struct TreeWorld {
    struct Options {
        std::uint32_t page_bytes = 4096;
        std::size_t cache_bytes = 0;
        std::uint64_t device_bytes = 64 << 20;
        std::optional<std::uint64_t> shuffle_seed{};
    };

    explicit TreeWorld(const Options& given)
        : options(given),
          reactor(driver::ReactorOptions{.shuffle_seed = given.shuffle_seed}),
          device(options.device_bytes),
          io(device, {.uuid = {1, 2, 3, 4},
                      .page_bytes = options.page_bytes,
                      .block_count = options.device_bytes / kBlockBytes}),
          pages(options.page_bytes / kBlockBytes, options.device_bytes / kBlockBytes) {
        open_tree();
    }

    // A cache and a tree that know the durable root only.
    void open_tree() {
        tree.reset();
        cache.reset();
        auto made = PageCache::create(options.cache_bytes, options.page_bytes);
        CHECK(made.has_value());
        cache = std::move(*made);
        tree = std::make_unique<Btree>(io, *cache, pages);
        tree->open(root, generation);
    }
    void crash() {
        generation = Generation{value(generation) + 1};
        pages.crash(generation);
        open_tree();
    }
    Result<void> checkpoint(Suspend& suspend) {
        generation = Generation{value(generation) + 1};
        tree->freeze(generation);
        pages.freeze(generation);
        const Btree::Frozen frozen = tree->seal(suspend);
        for (const auto& page : frozen.pages) {
            TRY(device.write(suspend, value(page.block) * kBlockBytes, page.bytes,
                             driver::WriteFlags::kNone));
        }
        root = frozen.root;
        tree->thaw();
        pages.release();
        return {};
    }
    // Fetches and puts as a transaction does: until the path is there without a suspension.
    Result<void> put(Suspend& suspend, KeyView key, ValueView value) {
        while (!tree->resident(key)) TRY(tree->fetch(suspend, key));
        const std::uint64_t before = pages.taken();
        const std::uint32_t allowed = tree->max_pages_per_change();
        tree->put(key, value);
        CHECK(pages.taken() - before <= allowed);
        return {};
    }
    Result<bool> erase(Suspend& suspend, KeyView key) {
        while (!tree->resident(key)) TRY(tree->fetch(suspend, key));
        const std::uint64_t before = pages.taken();
        const std::uint32_t allowed = tree->max_pages_per_change();
        const bool erased = tree->erase(key);
        CHECK(pages.taken() - before <= allowed);
        return erased;
    }
    // Every page of the tree is one that the source knows as used, once, and the other way round.
    void expect_exact_accounts(Suspend& suspend) {
        std::map<std::uint64_t, Generation> seen;
        std::string last;
        auto walked = tree->walk(suspend, [&](const Btree::WalkedPage& page) {
            EXPECT_NE(page.page, nullptr) << page.error.message();
            EXPECT_TRUE(
                seen.emplace(page.pointer.block, Generation{page.pointer.generation}).second);
            if (page.page != nullptr && page.level == 0) {
                for (std::size_t i = 0; i < page.page->size(); ++i) {
                    EXPECT_LT(last, page.page->key(i));
                    last = page.page->key(i);
                }
            }
            return true;
        });
        EXPECT_TRUE(walked.has_value());
        EXPECT_EQ(seen, pages.used());
    }

    Options options;
    driver::Reactor reactor;
    MemoryDevice device;
    PageIo io;
    AccountedPages pages;
    Generation generation{1};
    TreeRoot root;
    std::unique_ptr<PageCache> cache;
    std::unique_ptr<Btree> tree;
};

// Starts the DMA environment once for the program.
class TreeTest : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        auto started =
            driver::start_environment({.memory_bytes = std::size_t{512} << 20, .hugepages = false});
        ASSERT_TRUE(started.has_value()) << started.error().message();
    }
};

// Key i of a set that does not change, and one next to it that does.
inline Key steady_key(std::uint64_t i) { return Key(BlobId{i / 50}, KeyKind::kExtent, i % 50 * 2); }
inline Key moving_key(std::uint64_t i) {
    return Key(BlobId{i / 50}, KeyKind::kExtent, i % 50 * 2 + 1);
}
inline std::string value_of(KeyView key, std::size_t bytes) {
    std::string value(key);
    while (value.size() < bytes) value += value;
    value.resize(bytes);
    return value;
}

// The steady keys below that number, of that many bytes each, and a checkpoint.
inline void fill(TreeWorld& world, Suspend& suspend, std::uint64_t keys, std::size_t value_bytes) {
    for (std::uint64_t i = 0; i < keys; ++i) {
        const Key key = steady_key(i);
        ASSERT_TRUE(world.put(suspend, key, value_of(key, value_bytes)).has_value());
    }
    ASSERT_TRUE(world.checkpoint(suspend).has_value());
}

}  // namespace blobfs::blobstore
