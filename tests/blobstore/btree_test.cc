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

// Key i of a set that does not change, and one next to it that does.
Key steady_key(std::uint64_t i) { return Key(BlobId{i / 50}, KeyKind::kExtent, i % 50 * 2); }
Key moving_key(std::uint64_t i) { return Key(BlobId{i / 50}, KeyKind::kExtent, i % 50 * 2 + 1); }
std::string value_of(KeyView key, std::size_t bytes) {
    std::string value(key);
    while (value.size() < bytes) value += value;
    value.resize(bytes);
    return value;
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

void fill(TreeWorld& world, Suspend& suspend, std::uint64_t keys, std::size_t value_bytes) {
    for (std::uint64_t i = 0; i < keys; ++i) {
        const Key key = steady_key(i);
        ASSERT_TRUE(world.put(suspend, key, value_of(key, value_bytes)).has_value());
    }
    ASSERT_TRUE(world.checkpoint(suspend).has_value());
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

// Damage. ----------------------------------------------------------------------------------------

// The pointer to the leaf of a key, and its range.
struct Leaf {
    PagePointer pointer;
    std::string lower, upper;
};
Leaf leaf_of(TreeWorld& world, Suspend& suspend, KeyView key) {
    Leaf leaf;
    EXPECT_TRUE(
        world.tree
            ->walk(suspend,
                   [&](const Btree::WalkedPage& page) {
                       if (page.level == 0 && key >= page.lower &&
                           (page.upper.empty() || key < page.upper)) {
                           leaf = {page.pointer, std::string(page.lower), std::string(page.upper)};
                       }
                       return true;
                   })
            .has_value());
    return leaf;
}

TEST_F(BtreeTest, DamagedLeafIsAnErrorForItsKeysOnly) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        constexpr std::uint64_t kKeys = 5000;
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, kKeys, 100));
        const Leaf leaf = leaf_of(world, suspend, steady_key(2500));
        const std::uint64_t offset = leaf.pointer.block * kBlockBytes;
        *world.device.at(offset + 3000) ^= std::byte{1};
        world.open_tree();
        std::string value;
        for (int round = 0; round < 2; ++round) {
            std::uint64_t lost = 0;
            for (std::uint64_t i = 0; i < kKeys; ++i) {
                const Key key = steady_key(i);
                const bool in_leaf = key.view() >= leaf.lower && key.view() < leaf.upper;
                auto got = world.tree->get(suspend, key, value);
                ASSERT_EQ(got.has_value(), !in_leaf);
                if (!in_leaf) {
                    ASSERT_TRUE(*got);
                    continue;
                }
                ++lost;
                EXPECT_EQ(got.error().code, Errc::kCorrupt);
                EXPECT_EQ(got.error().address, offset);
                EXPECT_FALSE(world.tree->resident(key));
                EXPECT_EQ(world.tree->fetch(suspend, key).error().code, Errc::kCorrupt);
            }
            EXPECT_GT(lost, 5u);
        }
        std::uint64_t seen = 0;
        auto scanned = world.tree->scan(suspend, {}, {}, [&](KeyView key, ValueView) {
            EXPECT_LT(key, leaf.lower);
            ++seen;
            return true;
        });
        ASSERT_FALSE(scanned.has_value());
        EXPECT_EQ(scanned.error().code, Errc::kCorrupt);
        EXPECT_GT(seen, 1000u);
        // The walk names it and goes on behind it.
        std::size_t bad = 0;
        std::string last;
        ASSERT_TRUE(world.tree
                        ->walk(suspend,
                               [&](const Btree::WalkedPage& page) {
                                   if (page.page == nullptr) {
                                       ++bad;
                                       EXPECT_EQ(page.pointer, leaf.pointer);
                                       EXPECT_EQ(page.error.address, offset);
                                       EXPECT_EQ(page.lower, leaf.lower);
                                   }
                                   last = page.lower;
                                   return true;
                               })
                        .has_value());
        EXPECT_EQ(bad, 1u);
        EXPECT_GT(last, leaf.upper);
        // Changes elsewhere work, the neighbours of the damage included.
        for (std::uint64_t i = 0; i < kKeys; ++i) {
            const Key key = steady_key(i);
            if (key.view() >= leaf.lower && key.view() < leaf.upper) continue;
            ASSERT_TRUE(world.erase(suspend, key).value());
        }
        ASSERT_TRUE(world.checkpoint(suspend).has_value());
    });
}

TEST_F(BtreeTest, EveryKindOfWrongPageIsNoticed) {
    TreeWorld world({});
    world.reactor.block_on([&](Suspend& suspend) {
        ASSERT_NO_FATAL_FAILURE(fill(world, suspend, 5000, 100));
        const Key key = steady_key(100);
        const Leaf old_leaf = leaf_of(world, suspend, key);
        const Leaf other = leaf_of(world, suspend, steady_key(4000));
        const auto at = [&](const PagePointer& page) {
            return world.device.at(page.block * kBlockBytes);
        };
        ASSERT_TRUE(world.put(suspend, key, "newer").has_value());
        ASSERT_TRUE(world.checkpoint(suspend).has_value());
        const Leaf leaf = leaf_of(world, suspend, key);
        ASSERT_NE(leaf.pointer.block, old_leaf.pointer.block);
        const std::vector<std::byte> good(at(leaf.pointer), at(leaf.pointer) + 4096);
        const auto error = [&]() -> std::string {
            world.open_tree();
            std::string value;
            auto got = world.tree->get(suspend, key, value);
            return got ? "none" : got.error().what;
        };
        EXPECT_EQ(error(), "none");
        // Misdirected: another page of the same filesystem.
        std::copy_n(at(other.pointer), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: written for another place");
        // Never written: zeroes.
        std::fill_n(at(leaf.pointer), 4096, std::byte{0});
        EXPECT_EQ(error(), "metadata page: magic");
        // A lost write: what was there before, in an older generation.
        auto stale = driver::DmaBuffer::allocate(4096);
        ASSERT_TRUE(stale.has_value());
        std::copy(good.begin(), good.end(), stale->data());
        world.io.seal(stale->span(), BlockIndex{leaf.pointer.block}, Generation{1});
        std::copy_n(stale->data(), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: not the version that is wanted");
        // Of the same generation, but not the same.
        std::copy(good.begin(), good.end(), stale->data());
        stale->data()[4095] ^= std::byte{1};
        world.io.seal(stale->span(), BlockIndex{leaf.pointer.block},
                      Generation{leaf.pointer.generation});
        std::copy_n(stale->data(), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: not the version that is wanted");
        // Of another filesystem.
        PageIo::Geometry geometry = world.io.geometry();
        geometry.uuid[7] = 9;
        PageIo stranger(world.device, geometry);
        std::copy(good.begin(), good.end(), stale->data());
        stranger.seal(stale->span(), BlockIndex{leaf.pointer.block},
                      Generation{leaf.pointer.generation});
        std::copy_n(stale->data(), 4096, at(leaf.pointer));
        EXPECT_EQ(error(), "metadata page: of another filesystem");
        std::copy(good.begin(), good.end(), at(leaf.pointer));
        EXPECT_EQ(error(), "none");
    });
}

// Pages made by hand, with good checksums and bad intentions.
class HostileTree : public BtreeTest {
  protected:
    PagePointer write(Suspend& suspend, Page& page, const driver::DmaBuffer& memory,
                      std::uint64_t block) {
        (void)page;
        const PagePointer pointer = world_.io.seal(memory.span(), BlockIndex{block}, Generation{1});
        EXPECT_TRUE(
            world_.device
                .write(suspend, block * kBlockBytes, memory.span(), driver::WriteFlags::kNone)
                .has_value());
        return pointer;
    }
    PagePointer leaf(Suspend& suspend, std::uint64_t block,
                     std::initializer_list<const char*> keys) {
        auto memory = driver::DmaBuffer::allocate(4096);
        Page page(memory->span());
        page.format(0);
        for (const char* key : keys) EXPECT_TRUE(page.insert(page.size(), key, "value"));
        return write(suspend, page, *memory, block);
    }
    PagePointer interior(Suspend& suspend, std::uint64_t block, std::uint32_t level,
                         std::initializer_list<std::pair<const char*, PagePointer>> children) {
        auto memory = driver::DmaBuffer::allocate(4096);
        Page page(memory->span());
        page.format(level);
        for (const auto& [key, child] : children) {
            EXPECT_TRUE(page.insert(page.size(), key, bytes_of(child)));
        }
        return write(suspend, page, *memory, block);
    }
    void open(const PagePointer& root, std::uint32_t height) {
        world_.root = {.page = root, .height = height};
        world_.generation = Generation{2};
        world_.pages.set_current(Generation{2});
        world_.open_tree();
    }
    TreeWorld world_{{}};
};

TEST_F(HostileTree, LeafSharedByTwoParentsIsNotChanged) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer shared = leaf(suspend, 1000, {"b", "c"});
        open(interior(suspend, 1001, 1, {{"", shared}, {"m", shared}}), 2);
        std::string value;
        EXPECT_TRUE(world_.tree->get(suspend, "b", value).value());
        EXPECT_TRUE(world_.tree->fetch(suspend, "b").has_value());
        EXPECT_TRUE(world_.tree->resident("b"));
        EXPECT_EQ(world_.tree->fetch(suspend, "n").error().code, Errc::kCorrupt);
        EXPECT_FALSE(world_.tree->resident("n"));
        world_.open_tree();
        EXPECT_EQ(world_.tree->get(suspend, "n", value).error().code, Errc::kCorrupt);
        std::size_t good = 0;
        std::size_t bad = 0;
        ASSERT_TRUE(world_.tree
                        ->walk(suspend,
                               [&](const Btree::WalkedPage& page) {
                                   ++(page.page != nullptr ? good : bad);
                                   return true;
                               })
                        .has_value());
        EXPECT_EQ(good, 2u);
        EXPECT_EQ(bad, 1u);
    });
}

TEST_F(HostileTree, PageUsedOnTwoLevelsIsDamage) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer low = leaf(suspend, 1000, {"b", "c"});
        const PagePointer middle = interior(suspend, 1001, 1, {{"", low}, {"g", low}});
        open(interior(suspend, 1002, 2, {{"", middle}, {"m", low}}), 3);
        std::string value;
        EXPECT_TRUE(world_.tree->get(suspend, "b", value).value());
        const auto got = world_.tree->get(suspend, "n", value);
        ASSERT_FALSE(got.has_value());
        EXPECT_EQ(got.error().code, Errc::kCorrupt);
        EXPECT_STREQ(got.error().what, "tree page: used twice");
        EXPECT_EQ(got.error().address, low.block * kBlockBytes);
        EXPECT_EQ(world_.tree->fetch(suspend, "n").error().code, Errc::kCorrupt);
        EXPECT_EQ(world_.tree->scan(suspend, {}, {}, [](KeyView, ValueView) { return true; })
                      .error()
                      .code,
                  Errc::kCorrupt);
    });
}

TEST_F(HostileTree, KeysOutsideOfTheirRangeAreDamage) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer low = leaf(suspend, 1000, {"b", "z"});
        const PagePointer high = leaf(suspend, 1001, {"a", "y"});
        open(interior(suspend, 1002, 1, {{"", low}, {"m", high}}), 2);
        std::string value;
        EXPECT_EQ(world_.tree->get(suspend, "b", value).error().code, Errc::kCorrupt);
        EXPECT_EQ(world_.tree->get(suspend, "y", value).error().code, Errc::kCorrupt);
    });
}

TEST_F(HostileTree, RootThatCannotBeIsDamage) {
    world_.reactor.block_on([&](Suspend& suspend) {
        const PagePointer low = leaf(suspend, 1000, {"b", "z"});
        PagePointer newer = low;
        newer.generation = 2;
        const std::pair<PagePointer, std::uint32_t> roots[] = {
            {low, 0},
            {low, 2},
            {low, kMaxTreeHeight + 1},
            {low, ~0u},
            {PagePointer{}, 1},
            {newer, 1},
            {PagePointer{.block = ~0ull, .generation = 1, .checksum = 1}, 1}};
        for (const auto& [root, height] : roots) {
            open(root, height);
            std::string key, value;
            EXPECT_EQ(world_.tree->get(suspend, "b", value).error().code, Errc::kCorrupt);
            EXPECT_EQ(world_.tree->floor(suspend, "b", "c", key, value).error().code,
                      Errc::kCorrupt);
            EXPECT_EQ(world_.tree->fetch(suspend, "b").error().code, Errc::kCorrupt);
            EXPECT_FALSE(world_.tree->resident("b"));
            std::size_t bad = 0;
            EXPECT_TRUE(world_.tree
                            ->walk(suspend,
                                   [&](const Btree::WalkedPage& page) {
                                       bad += page.page == nullptr;
                                       return true;
                                   })
                            .has_value());
            EXPECT_EQ(bad, 1u);
        }
        open(low, 1);
        std::string value;
        EXPECT_TRUE(world_.tree->get(suspend, "b", value).value());
    });
}

}  // namespace
}  // namespace blobfs::blobstore
