// Leaves that are read ahead: those that are wanted in order are, and nothing else is; what goes
// wrong with them is for who needs them.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "blobstore/leaf_runs.h"
#include "tests/blobstore/store_fixture.h"
#include "tests/blobstore/tree_world.h"

namespace blobfs::blobstore {
namespace {

Key key_of(std::uint64_t number) { return Key(BlobId{number}, KeyKind::kAttributes); }

class ReadAheadTest : public TreeTest {
  protected:
    static constexpr std::uint64_t kKeys = 4000;  // some 300 leaves

    template <class F>
    void with_cold_tree(const TreeWorld::Options& options, F&& function) {
        TreeWorld world(options);
        world.reactor.block_on([&](Suspend& suspend) {
            for (std::uint64_t i = 1; i <= kKeys; ++i) {
                ASSERT_TRUE(world.put(suspend, key_of(i), std::string(250, 'v')).has_value());
                if (i % 200 == 0) {
                    ASSERT_TRUE(world.checkpoint(suspend).has_value());
                }
            }
            ASSERT_TRUE(world.checkpoint(suspend).has_value());
            count_leaves(world, suspend);
            world.open_tree();
            driver::Gate gate;
            world.tree->read_ahead_inside(&gate);
            const std::uint64_t before = world.device.statistics().reads;
            world.device.most_reads_at_once = 0;
            function(world, suspend);
            gate.close(suspend);
            reads_ = world.device.statistics().reads - before;
        });
    }
    void count_leaves(TreeWorld& world, Suspend& suspend) {
        blocks_.clear();
        pages_ = 0;
        ASSERT_TRUE(world.tree
                        ->walk(suspend,
                               [&](const Btree::WalkedPage& page) {
                                   ++pages_;
                                   if (page.level == 0) blocks_.push_back(page.pointer.block);
                                   return true;
                               })
                        .has_value());
    }
    static void expect_found(TreeWorld& world, Suspend& suspend, std::uint64_t number) {
        std::string found;
        const auto got = world.tree->get(suspend, key_of(number), found);
        ASSERT_TRUE(got.has_value()) << got.error().message();
        EXPECT_TRUE(*got);
    }

    static constexpr TreeWorld::Options kOptions{.cache_bytes = 16 << 20};
    std::uint64_t reads_ = 0;
    std::uint64_t pages_ = 0;
    std::vector<std::uint64_t> blocks_;  // of the leaves, in order
};

TEST_F(ReadAheadTest, LeavesWantedInOrderAreReadSideBySideAndOnce) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        for (std::uint64_t i = 1; i <= kKeys; ++i) expect_found(world, suspend, i);
        const auto statistics = world.cache->statistics();
        // Someone waited for a few only.
        EXPECT_GT(statistics.read_ahead, blocks_.size() * 9 / 10);
        EXPECT_LT(statistics.misses, blocks_.size() / 10);
        EXPECT_GT(world.device.most_reads_at_once, 16u);
    });
    EXPECT_EQ(reads_, pages_);
}

TEST_F(ReadAheadTest, ScansAreReadAhead) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        std::uint64_t seen = 0;
        const auto scanned = world.tree->scan(suspend, key_of(1), {}, [&](KeyView, ValueView) {
            ++seen;
            return true;
        });
        ASSERT_TRUE(scanned.has_value());
        EXPECT_EQ(seen, kKeys);
        EXPECT_GT(world.cache->statistics().read_ahead, blocks_.size() * 9 / 10);
    });
    EXPECT_EQ(reads_, pages_);
}

TEST_F(ReadAheadTest, RandomLookupsOfALargeTreeReadNothingElse) {
    // 256 frames: more leaves than a quarter of them are many.
    with_cold_tree({.cache_bytes = 0}, [&](TreeWorld& world, Suspend& suspend) {
        std::mt19937_64 random(1);
        for (int i = 0; i < 60; ++i) expect_found(world, suspend, 1 + random() % kKeys);
        EXPECT_EQ(world.cache->statistics().read_ahead, 0u);
    });
    EXPECT_LT(reads_, 80u);
}

TEST_F(ReadAheadTest, SmallTreeIsReadSideBySideWhateverTheOrder) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        std::vector<std::uint64_t> numbers(kKeys);
        std::iota(numbers.begin(), numbers.end(), std::uint64_t{1});
        std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(1));
        for (const std::uint64_t number : numbers) expect_found(world, suspend, number);
        const auto statistics = world.cache->statistics();
        EXPECT_GT(statistics.read_ahead, blocks_.size() * 2 / 3);
        EXPECT_LT(statistics.misses, blocks_.size() / 3);
    });
    EXPECT_EQ(reads_, pages_);
}

TEST_F(ReadAheadTest, FewRandomLookupsOfASmallTreeReadNothingElse) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        // Leaves below one page.
        for (const std::uint64_t number : {700, 100, 500, 300, 600, 200, 400, 50}) {
            expect_found(world, suspend, number);
        }
        EXPECT_EQ(world.cache->statistics().misses, world.root.height + 7u);
        EXPECT_EQ(world.cache->statistics().read_ahead, 0u);
        expect_found(world, suspend, 250);
        EXPECT_GT(world.cache->statistics().read_ahead, 0u);
    });
}

TEST_F(ReadAheadTest, RunAmongRandomLookupsOfAnotherKindIsNoticed) {
    LeafRuns runs;
    std::uint32_t window = 0;
    for (std::uint64_t i = 0; i < 3; ++i) {
        window = runs.missed(KeyKind::kAttributes, key_of(i), key_of(i + 1));
        for (std::uint64_t other = 0; other < 100; ++other) {
            EXPECT_EQ(
                runs.missed(KeyKind::kRecord, key_of(1000 + 2 * other), key_of(1001 + 2 * other)),
                0u);
        }
    }
    EXPECT_EQ(window, LeafRuns::kFirstWindow);
}

TEST_F(ReadAheadTest, WindowDoublesToItsLimitAndBeginsAnewElsewhere) {
    LeafRuns runs;
    std::vector<std::uint32_t> windows;
    for (std::uint64_t i = 0; i < 8; ++i) {
        windows.push_back(runs.missed(KeyKind::kAttributes, key_of(i), key_of(i + 1)));
    }
    EXPECT_EQ(windows, (std::vector<std::uint32_t>{0, 0, 4, 8, 16, 32, 32, 32}));
    EXPECT_EQ(runs.missed(KeyKind::kAttributes, key_of(100), key_of(101)), 0u);
}

TEST_F(ReadAheadTest, ErrorsOfReadingAheadAreNobodys) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        // All fails behind the first read that others accompany, which somebody waits for.
        std::set<std::uint64_t> failed;
        int reads = 0;
        world.device.fail_read = [&](std::uint64_t offset, std::size_t) {
            if (world.cache->statistics().read_ahead == 0 || ++reads == 1) return false;
            return failed.insert(offset).second;
        };
        std::uint64_t next = 1;
        while (world.cache->statistics().read_ahead == 0) expect_found(world, suspend, next++);
        for (int i = 0; i < 10; ++i) suspend.yield();
        EXPECT_GE(failed.size(), LeafRuns::kFirstWindow);
        world.device.fail_read = {};
        for (; next <= kKeys; ++next) expect_found(world, suspend, next);
    });
}

TEST_F(ReadAheadTest, WhoWaitsForAPageThatFailsWhenReadAheadReadsItItself) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        expect_found(world, suspend, 50);  // the pages above
        int reads = 0;
        world.device.fail_read = [&](std::uint64_t, std::size_t) { return ++reads == 1; };
        EXPECT_TRUE(world.tree->read_ahead(suspend, key_of(1)));
        expect_found(world, suspend, 1);
        EXPECT_EQ(reads, 2);
    });
}

TEST_F(ReadAheadTest, DamagedLeafIsReportedToWhoNeedsItOnly) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        const std::size_t damaged = blocks_.size() / 2;
        *world.device.at(blocks_[damaged] * kBlockBytes + 2000) ^= std::byte{1};
        int wrong = 0;
        std::uint64_t good = 0;
        for (std::uint64_t i = 1; i <= kKeys; ++i) {
            std::string found;
            const auto got = world.tree->get(suspend, key_of(i), found);
            if (got) {
                good += *got ? 1 : 0;
            } else {
                EXPECT_EQ(got.error().code, Errc::kCorrupt);
                EXPECT_EQ(got.error().address, blocks_[damaged] * kBlockBytes);
                ++wrong;
            }
        }
        EXPECT_GT(wrong, 0);
        EXPECT_LT(wrong, 30);
        EXPECT_EQ(good + static_cast<std::uint64_t>(wrong), kKeys);
        EXPECT_GT(world.cache->statistics().read_ahead, blocks_.size() / 2);
    });
}

TEST_F(ReadAheadTest, SmallCacheIsNotOverrun) {
    // 256 frames: less than the leaves, and no frames beyond them are taken.
    with_cold_tree({.cache_bytes = 0}, [&](TreeWorld& world, Suspend& suspend) {
        for (int round = 0; round < 2; ++round) {
            for (std::uint64_t i = 1; i <= kKeys; ++i) expect_found(world, suspend, i);
        }
        EXPECT_EQ(world.cache->statistics().extra, 0u);
    });
    EXPECT_LE(reads_, 2 * pages_ + 10);
}

TEST_F(ReadAheadTest, CacheFullOfChangedPagesIsLeftAlone) {
    with_cold_tree({.cache_bytes = 0}, [&](TreeWorld& world, Suspend& suspend) {
        const std::size_t capacity = world.cache->capacity();
        for (std::uint64_t i = 0; i < capacity; ++i) world.cache->make(1'000'000 + i);
        EXPECT_TRUE(world.tree->read_ahead(suspend, key_of(1)));
        for (int i = 0; i < 10; ++i) suspend.yield();
        EXPECT_EQ(world.cache->statistics().read_ahead, 0u);
        EXPECT_EQ(world.cache->statistics().extra, 0u);
        expect_found(world, suspend, 1);
    });
}

TEST_F(ReadAheadTest, ManyKeysAreReadSideBySideEachLeafOnce) {
    with_cold_tree(kOptions, [&](TreeWorld& world, Suspend& suspend) {
        expect_found(world, suspend, 1);
        for (std::uint64_t i = 0; i < 32; ++i) {
            EXPECT_TRUE(world.tree->read_ahead(suspend, key_of(1 + i * 100)));
            EXPECT_TRUE(world.tree->read_ahead(suspend, key_of(2 + i * 100)));
        }
        for (std::uint64_t i = 0; i < 32; ++i) expect_found(world, suspend, 1 + i * 100);
        EXPECT_GT(world.device.most_reads_at_once, 16u);
    });
    EXPECT_LT(reads_, 60u);
}

TEST_F(ReadAheadTest, ReadsWhatChangesMeanwhile) {
    TreeWorld::Options options = kOptions;
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        options.shuffle_seed = seed;
        with_cold_tree(options, [&](TreeWorld& world, Suspend& suspend) {
            std::mt19937_64 random(seed);
            bool done = false;
            driver::WaitGroup changing;
            changing.add();
            world.reactor.spawn([&](Suspend& fiber) {
                for (int n = 0; !done; ++n) {
                    const std::uint64_t number = 1 + random() % kKeys;
                    if (number % 2 == 0) {
                        EXPECT_TRUE(world.erase(fiber, key_of(number)).has_value());
                    } else {
                        EXPECT_TRUE(
                            world.put(fiber, key_of(number), std::string(250, 'w')).has_value());
                    }
                    if (n % 100 == 99) {
                        EXPECT_TRUE(world.checkpoint(fiber).has_value());
                    }
                    fiber.yield();
                }
                changing.done();
            });
            for (std::uint64_t i = 1; i <= kKeys; i += 2) expect_found(world, suspend, i);
            done = true;
            changing.wait(suspend);
            world.expect_exact_accounts(suspend);
            EXPECT_GT(world.cache->statistics().read_ahead, 0u);
        });
    }
}

TEST_F(ReadAheadTest, LeafReadAheadStaysWhileTheTransactionThatNeedsItTakesFrames) {
    constexpr std::uint64_t kBlobs = 4000;
    const std::string attributes(200, 'a');
    OpenOptions open;
    open.cache_bytes = 0;  // 256 frames
    open.commit_interval_ms = 0;
    StoreFixture fixture("mem:256MiB", {}, open);
    fixture.run([&](Suspend& suspend) {
        for (std::uint64_t i = 0; i < kBlobs; ++i) {
            Transaction transaction;
            transaction.create_blob(fixture.store->allocate_id(), attributes);
            must(fixture.store->commit(suspend, transaction));
        }
        must(fixture.store->sync(suspend));
        must(fixture.store->checkpoint(suspend));
        fixture.reopen(suspend, true);
        Blobstore& store = *fixture.store;
        const std::string value(500, 'v');
        std::mt19937_64 random(1);
        for (std::uint64_t trial = 0; trial < 1000; ++trial) {
            if (trial % 10 == 0) must(store.checkpoint(suspend));
            const BlobId grows{kBlobs - random() % 100};
            const BlobId ahead{1 + random() % 500};
            store.read_attributes_ahead(suspend, std::span(&ahead, 1));
            // Others take frames until those of the leaf's age go next.
            for (std::uint64_t n = 100 + random() % 200; n > 0; --n) {
                must(store.attributes(suspend, BlobId{700 + random() % 3000}));
            }
            must(store.attributes(suspend, grows));
            Transaction transaction;
            for (char name = 'a'; name <= 'z'; ++name) {
                transaction.put_record(grows, std::string(1, name) + std::to_string(trial), value);
            }
            transaction.put_record(ahead, "name", value);
            must(store.commit(suspend, transaction));
        }
        fixture.expect_sound(suspend);
    });
}

}  // namespace
}  // namespace blobfs::blobstore
