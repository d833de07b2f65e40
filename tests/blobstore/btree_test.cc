#include "blobstore/btree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/blobstore/tree_world.h"

namespace blobfs::blobstore {
namespace {

using Model = std::map<std::string, std::string>;

class BtreeTest : public TreeTest {};

std::string random_key(std::mt19937_64& random) {
    const BlobId blob{random() % 40};
    switch (random() % 4) {
        case 0:
            return std::string(Key(blob, KeyKind::kAttributes).view());
        case 1:
            return std::string(Key(blob, KeyKind::kExtent, random() % 400).view());
        case 2:
            return std::string(Key(blob, KeyKind::kRecord,
                                   std::string(random() % 3, 'n') + std::to_string(random() % 1000))
                                   .view());
        default:
            return std::string(Key(blob, KeyKind::kXattr,
                                   std::string(random() % 60, 'x') + std::to_string(random() % 30))
                                   .view());
    }
}

std::string random_value(std::mt19937_64& random, std::size_t limit) {
    const std::size_t bytes = random() % 8 == 0 ? random() % (limit + 1) : random() % 60;
    return std::string(bytes, static_cast<char>('a' + random() % 26));
}

void expect_reads_as(TreeWorld& world, Suspend& suspend, const Model& model,
                     std::mt19937_64& random) {
    const std::string from = random_key(random);
    const std::string to = random() % 4 == 0 ? std::string() : random_key(random);
    std::string key, found;
    // get
    auto got = world.tree->get(suspend, from, found);
    ASSERT_TRUE(got.has_value());
    const auto at = model.find(from);
    ASSERT_EQ(*got, at != model.end());
    if (*got) {
        ASSERT_EQ(found, at->second);
    }
    // floor
    auto floor = world.tree->floor(suspend, from, to, key, found);
    ASSERT_TRUE(floor.has_value());
    auto above = model.upper_bound(to);
    const bool any = above != model.begin() && std::prev(above)->first >= from && from <= to;
    ASSERT_EQ(*floor, any);
    if (any) {
        ASSERT_EQ(key, std::prev(above)->first);
        ASSERT_EQ(found, std::prev(above)->second);
    }
    // scan, to the end or a few entries
    std::size_t left = random() % 3 == 0 ? 1u << 30 : 1 + random() % 200;
    auto expected = model.lower_bound(from);
    const auto end = to.empty() ? model.end() : model.lower_bound(std::max(from, to));
    auto scanned = world.tree->scan(suspend, from, to, [&](KeyView k, ValueView v) {
        EXPECT_NE(expected, end);
        if (expected == end) return false;
        EXPECT_EQ(k, expected->first);
        EXPECT_EQ(v, expected->second);
        ++expected;
        return --left > 0;
    });
    ASSERT_TRUE(scanned.has_value());
    ASSERT_TRUE(left == 0 || expected == end);
}

class BtreeOfSize : public BtreeTest, public testing::WithParamInterface<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Btree, BtreeOfSize, testing::Values(4096u, 8192u, 16384u));

TEST_P(BtreeOfSize, BehavesAsAnOrderedMapThroughCheckpointsAndCrashes) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        SCOPED_TRACE(seed);
        TreeWorld world({.page_bytes = GetParam()});
        std::mt19937_64 random(seed * 101 + GetParam());
        world.reactor.block_on([&](Suspend& suspend) {
            Model model, durable;
            for (int step = 0; step < 12000; ++step) {
                // Phases in which it grows and shrinks, to nothing in the end.
                const std::uint64_t puts = step % 6000 < 3500 ? 75 : 15;
                const std::string key = random_key(random);
                if (random() % 100 < puts) {
                    const std::string value = random_value(random, world.tree->max_value_bytes());
                    ASSERT_TRUE(world.put(suspend, key, value).has_value());
                    model[key] = value;
                } else {
                    // Mostly keys that are there.
                    auto victim = model.lower_bound(key);
                    const std::string erased = victim != model.end() ? victim->first : key;
                    auto done = world.erase(suspend, erased);
                    ASSERT_TRUE(done.has_value());
                    ASSERT_EQ(*done, model.erase(erased) == 1);
                }
                ASSERT_EQ(world.tree->resident(key) && world.tree->peek(key).has_value(),
                          world.tree->resident(key) && model.contains(key));
                if (step % 10 == 0) {
                    ASSERT_NO_FATAL_FAILURE(expect_reads_as(world, suspend, model, random));
                }
                if (random() % 700 == 0) {
                    ASSERT_TRUE(world.checkpoint(suspend).has_value());
                    durable = model;
                }
                if (random() % 2500 == 0) {
                    world.crash();
                    model = durable;
                }
                if (step % 1500 == 0) {
                    ASSERT_NO_FATAL_FAILURE(world.expect_exact_accounts(suspend));
                }
            }
            ASSERT_NO_FATAL_FAILURE(world.expect_exact_accounts(suspend));
            while (!model.empty()) {
                ASSERT_TRUE(world.erase(suspend, model.begin()->first).value());
                model.erase(model.begin());
            }
            EXPECT_TRUE(world.pages.used().empty());
            ASSERT_TRUE(world.checkpoint(suspend).has_value());
            EXPECT_EQ(world.root.height, 0u);
        });
    }
}

TEST_F(BtreeTest, FibersReadWhatTheyShouldWhileOthersChangeAndCheckpoint) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        SCOPED_TRACE(seed);
        TreeWorld world({.shuffle_seed = seed});
        constexpr std::uint64_t kKeys = 8000;
        bool stop = false;
        std::uint64_t reads = 0;
        world.reactor.block_on([&](Suspend& suspend) {
            for (std::uint64_t i = 0; i < kKeys; ++i) {
                const Key key = steady_key(i);
                ASSERT_TRUE(world.put(suspend, key, value_of(key, 100)).has_value());
            }
            ASSERT_TRUE(world.checkpoint(suspend).has_value());
            ASSERT_GT(world.pages.used().size(), PageCache::kMinFrames);
            driver::WaitGroup fibers;
            fibers.add(25);
            for (std::uint64_t number = 0; number < 24; ++number) {
                world.reactor.spawn([&, number](Suspend& own) {
                    std::mt19937_64 random(seed * 100 + number);
                    std::string key, value;
                    while (!stop) {
                        const std::uint64_t i = random() % kKeys;
                        const Key steady = steady_key(i);
                        if (number % 3 == 0) {
                            EXPECT_TRUE(world.tree->get(own, steady, value).value());
                            EXPECT_EQ(value, value_of(steady, 100));
                            auto moving = world.tree->get(own, moving_key(i), value);
                            ASSERT_TRUE(moving.has_value());
                            if (*moving) {
                                EXPECT_EQ(value, value_of(moving_key(i), value.size()));
                            }
                        } else if (number % 3 == 1) {
                            const Key first(BlobId{i / 50}, KeyKind::kExtent, 0);
                            EXPECT_TRUE(
                                world.tree->floor(own, first, moving_key(i), key, value).value());
                            EXPECT_TRUE(key == steady.view() || key == moving_key(i).view());
                            EXPECT_EQ(value, value_of(key, value.size()));
                        } else {
                            std::uint64_t next = i;
                            std::string last;
                            ASSERT_TRUE(world.tree
                                            ->scan(own, steady, {},
                                                   [&](KeyView k, ValueView v) {
                                                       EXPECT_LT(last, k);
                                                       last = k;
                                                       EXPECT_EQ(v, value_of(k, v.size()));
                                                       if (k == steady_key(next).view()) ++next;
                                                       return next < i + 300;
                                                   })
                                            .has_value());
                            EXPECT_EQ(next, std::min(i + 300, kKeys));
                        }
                        ++reads;
                        own.yield();
                    }
                    fibers.done();
                });
            }
            world.reactor.spawn([&](Suspend& own) {
                while (!stop) {
                    ASSERT_TRUE(world.checkpoint(own).has_value());
                    own.yield();
                }
                fibers.done();
            });
            std::mt19937_64 random(seed);
            for (int step = 0; step < 3000; ++step) {
                const std::uint64_t i = random() % kKeys;
                if (step % 1000 < 600) {
                    const Key key = moving_key(i);
                    ASSERT_TRUE(
                        world.put(suspend, key, value_of(key, 50 + random() % 300)).has_value());
                } else {
                    ASSERT_TRUE(world.erase(suspend, moving_key(i)).has_value());
                }
                if (step % 4 == 0) suspend.yield();
            }
            stop = true;
            fibers.wait(suspend);
            ASSERT_NO_FATAL_FAILURE(world.expect_exact_accounts(suspend));
            const auto statistics = world.cache->statistics();
            EXPECT_GT(statistics.evictions, 1000u);
            EXPECT_GT(reads, 1000u);
        });
    }
}

TEST_F(BtreeTest, FibersThatWantOnePageReadItOnce) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, 5000, 100));
        world.open_tree();
        const auto before = world.device.statistics().reads;
        driver::WaitGroup fibers;
        fibers.add(50);
        for (int i = 0; i < 50; ++i) {
            world.reactor.spawn([&](Suspend& own) {
                std::string value;
                EXPECT_TRUE(world.tree->get(own, steady_key(777), value).value());
                fibers.done();
            });
        }
        fibers.wait(suspend);
        EXPECT_EQ(world.device.statistics().reads - before, world.root.height);
        EXPECT_EQ(world.cache->statistics().misses, world.root.height);
    });
}

TEST_F(BtreeTest, AscendingLoadFillsThePages) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, 20000, 40));
        std::size_t leaves = 0;
        std::size_t used = 0;
        ASSERT_TRUE(world.tree
                        ->walk(suspend,
                               [&](const Btree::WalkedPage& page) {
                                   if (page.level == 0) {
                                       ++leaves;
                                       used += page.page->used_bytes(4096);
                                   }
                                   return true;
                               })
                        .has_value());
        EXPECT_GT(used * 100, leaves * 4096 * 95);
    });
}

TEST_F(BtreeTest, AscendingLoadFillsThePagesAcrossRestarts) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        for (std::uint64_t i = 0; i < 900; ++i) {
            const Key key = steady_key(i);
            ASSERT_TRUE(world.put(suspend, key, value_of(key, 100)).has_value());
            // Fewer at a time than would show that they come in order.
            if (i % 6 == 5) {
                ASSERT_TRUE(world.checkpoint(suspend).has_value());
                world.open_tree();
            }
        }
        // 31 of the entries of 127 bytes fit in a leaf.
        EXPECT_LE(world.pages.used().size(), 900 / 31 + 3);
    });
}

TEST_F(BtreeTest, AscendingRunsInTheMiddleFillThePages) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        for (std::uint64_t blob = 1; blob <= 50; ++blob) {
            const Key key(BlobId{blob}, KeyKind::kAttributes);
            ASSERT_TRUE(world.put(suspend, key, std::string(200, 'a')).has_value());
        }
        for (const std::uint64_t blob : {40u, 3u, 22u}) {
            for (std::uint64_t i = 0; i < 4000; ++i) {
                const Key key(BlobId{blob}, KeyKind::kExtent, i);
                ASSERT_TRUE(world.put(suspend, key, std::string(16, 'e')).has_value());
            }
        }
        // 12,000 entries of 43 bytes, and the attributes.
        EXPECT_LT(world.pages.used().size(), 12000 * 43 / 4032 * 110 / 100 + 10);
    });
}

TEST_F(BtreeTest, FrozenPagesStayAsTheyAreUntilThaw) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, 3000, 60));
        for (std::uint64_t i = 0; i < 3000; i += 7) {
            ASSERT_TRUE(world.put(suspend, moving_key(i), "first").has_value());
        }
        world.generation = Generation{value(world.generation) + 1};
        world.tree->freeze(world.generation);
        world.pages.freeze(world.generation);
        const Btree::Frozen frozen = world.tree->seal(suspend);
        EXPECT_EQ(world.tree->dirty_pages(), 0u);
        std::vector<std::vector<std::byte>> copies;
        std::uint64_t last = 0;
        for (const auto& page : frozen.pages) {
            EXPECT_GT(value(page.block), last);
            last = value(page.block);
            copies.emplace_back(page.bytes.begin(), page.bytes.end());
        }
        for (std::uint64_t i = 0; i < 3000; ++i) {
            if (i % 3 == 0) {
                ASSERT_TRUE(world.put(suspend, moving_key(i), "second").has_value());
            } else {
                ASSERT_TRUE(world.erase(suspend, steady_key(i)).value());
            }
        }
        for (std::size_t i = 0; i < copies.size(); ++i) {
            ASSERT_TRUE(
                std::equal(copies[i].begin(), copies[i].end(), frozen.pages[i].bytes.begin()));
            ASSERT_TRUE(world.device
                            .write(suspend, value(frozen.pages[i].block) * kBlockBytes,
                                   frozen.pages[i].bytes, driver::WriteFlags::kNone)
                            .has_value());
        }
        world.root = frozen.root;
        world.tree->thaw();
        world.pages.release();
        ASSERT_NO_FATAL_FAILURE(world.expect_exact_accounts(suspend));
        std::string found;
        EXPECT_TRUE(world.tree->get(suspend, moving_key(3), found).value());
        EXPECT_EQ(found, "second");
        EXPECT_FALSE(world.tree->get(suspend, steady_key(1), found).value());
        // The root that was frozen has none of it.
        world.crash();
        EXPECT_TRUE(world.tree->get(suspend, moving_key(7), found).value());
        EXPECT_EQ(found, "first");
        EXPECT_FALSE(world.tree->get(suspend, moving_key(3), found).value());
        EXPECT_TRUE(world.tree->get(suspend, steady_key(1), found).value());
    });
}

// The whole tree is what the model says, and every page of it can be read.
void expect_all(TreeWorld& world, Suspend& suspend, const Model& model) {
    auto expected = model.begin();
    ASSERT_TRUE(world.tree
                    ->scan(suspend, {}, {},
                           [&](KeyView key, ValueView value) {
                               if (expected == model.end()) return false;
                               EXPECT_EQ(key, expected->first);
                               EXPECT_EQ(value, expected->second);
                               return key == (expected++)->first;
                           })
                    .has_value());
    EXPECT_EQ(expected, model.end());
}

TEST_F(BtreeTest, ChangesWhilePagesAreSealedHoldAndTheFrozenRootHasNoneOfThem) {
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        SCOPED_TRACE(seed);
        TreeWorld world({.shuffle_seed = seed});
        std::mt19937_64 random(seed);
        world.reactor.block_on([&](Suspend& suspend) {
            Model model, durable;
            const auto change = [&](std::uint64_t puts) {
                const Key key = steady_key(random() % 9000);
                if (random() % 100 < puts) {
                    const std::string value = value_of(key, random() % 300);
                    ASSERT_TRUE(world.put(suspend, key, value).has_value());
                    model[std::string(key.view())] = value;
                } else {
                    ASSERT_TRUE(world.erase(suspend, key).has_value());
                    model.erase(std::string(key.view()));
                }
            };
            for (int i = 0; i < 12000; ++i) ASSERT_NO_FATAL_FAILURE(change(100));
            std::uint64_t meanwhile = 0, merged = 0, evictions = 0;
            for (int round = 0; round < 24; ++round) {
                SCOPED_TRACE(round);
                // It grows, and then shrinks to little, so that frozen pages split and merge.
                const std::uint64_t puts = round < 8 ? 70 : 3;
                for (int i = 0; i < 500; ++i) ASSERT_NO_FATAL_FAILURE(change(puts));
                durable = model;
                world.generation = Generation{value(world.generation) + 1};
                world.tree->freeze(world.generation);
                world.pages.freeze(world.generation);
                Btree::Frozen frozen;
                bool sealed = false;
                world.reactor.spawn([&](Suspend& own) {
                    frozen = world.tree->seal(own);
                    sealed = true;
                });
                for (int i = 1; !sealed; ++i, ++meanwhile) {
                    const std::size_t used = world.pages.used().size();
                    ASSERT_NO_FATAL_FAILURE(change(puts));
                    if (world.pages.used().size() < used) ++merged;
                    if (i % 8 == 0) suspend.yield();
                }
                for (const auto& page : frozen.pages) {
                    ASSERT_TRUE(world.device
                                    .write(suspend, value(page.block) * kBlockBytes, page.bytes,
                                           driver::WriteFlags::kNone)
                                    .has_value());
                }
                world.root = frozen.root;
                world.tree->thaw();
                world.pages.release();
                ASSERT_NO_FATAL_FAILURE(expect_all(world, suspend, model));
                ASSERT_NO_FATAL_FAILURE(world.expect_exact_accounts(suspend));
                if (round % 3 == 2) {
                    evictions += world.cache->statistics().evictions;
                    world.crash();
                    model = durable;
                    ASSERT_NO_FATAL_FAILURE(expect_all(world, suspend, model));
                }
            }
            EXPECT_GT(meanwhile, 500u);
            EXPECT_GT(merged, 2u);
            EXPECT_GT(evictions, 100u);
        });
    }
}

TEST_F(BtreeTest, ACheckpointOfATreeThatDidNotChangeNamesTheSameRoot) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, 3000, 60));
        const PagePointer root = world.root.page;
        ASSERT_TRUE(world.checkpoint(suspend).has_value());
        EXPECT_EQ(world.root.page, root);
        world.crash();
        std::string found;
        EXPECT_TRUE(world.tree->get(suspend, steady_key(1), found).value());
    });
}

TEST_F(BtreeTest, ReplacingAFewValuesWritesTheirPathsOnly) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, 8000, 60));
        ASSERT_TRUE(world.put(suspend, steady_key(4000), "new").has_value());
        EXPECT_EQ(world.tree->dirty_pages(), world.root.height);
        ASSERT_TRUE(world.checkpoint(suspend).has_value());
        EXPECT_EQ(world.tree->dirty_pages(), 0u);
    });
}

}  // namespace
}  // namespace blobfs::blobstore
