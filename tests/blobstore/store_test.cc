// The blobstore's claims, one by one.

#include <algorithm>
#include <cstring>
#include <string>

#include "blobstore/superblock.h"
#include "driver/memory/dma_buffer.h"
#include "memory_device.h"
#include "store_fixture.h"

namespace blobfs::blobstore {
namespace {

BlobId create(Suspend& suspend, Blobstore& store, std::string_view attributes = "a") {
    const BlobId blob = store.allocate_id();
    Transaction transaction;
    transaction.create_blob(blob, attributes);
    must(store.commit(suspend, transaction));
    return blob;
}

Result<void> try_write(Suspend& suspend, Blobstore& store, BlobId blob, std::uint64_t offset,
                       ConstDmaSpan from) {
    Transaction transaction;
    TRY(store.write(suspend, blob, offset, from, transaction));
    TRY(store.commit(suspend, transaction));
    return {};
}

driver::DmaBuffer filled(std::size_t bytes, int with) {
    driver::DmaBuffer buffer = must(driver::DmaBuffer::allocate(bytes));
    std::memset(buffer.data(), with, bytes);
    return buffer;
}

void remove(Suspend& suspend, Blobstore& store, BlobId blob) {
    Transaction transaction;
    transaction.set_urgent();
    transaction.add_orphan(blob);
    must(store.commit(suspend, transaction));
    must(store.delete_blob(suspend, blob));
}

// Overwrites a superblock slot with rubbish.
void damage_slot(Suspend& suspend, Device& device, int slot) {
    const driver::DmaBuffer rubbish = filled(kBlockBytes, 0x5a);
    must(device.write(suspend, kSuperblockBlocks[slot] * kBlockBytes, rubbish.span()));
}

TEST(Blobstore, HoldsWhatWasSyncedAfterACrash) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        const BlobId blob = create(suspend, *fixture.store, "synced");
        const driver::DmaBuffer data = filled(100'000, 7);
        must(try_write(suspend, *fixture.store, blob, 0, data.span()));
        must(fixture.store->sync(suspend));
        fixture.reopen(suspend, false);
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).block, "synced");
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).size, 100'000u);
        fixture.expect_sound(suspend);
    });
}

// A read remembers where it found a blob's data; whatever changes that is seen by the next one.
TEST(Blobstore, ReadsDoNotGoByWhatIsNoLongerSo) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        Blobstore& store = *fixture.store;
        const driver::DmaBuffer ones = filled(64 * kBlockBytes, 1);
        const driver::DmaBuffer twos = filled(kBlockBytes, 2);
        const driver::DmaBuffer into = filled(kBlockBytes, 9);
        const auto byte_at = [&](BlobId blob, std::uint64_t block) {
            const std::size_t bytes =
                must(store.read(suspend, blob, block * kBlockBytes, into.span()));
            return bytes == kBlockBytes ? static_cast<int>(into.data()[100]) : -1;
        };
        const auto resize = [&](BlobId blob, std::uint64_t blocks) {
            Transaction transaction;
            must(store.truncate(suspend, blob, blocks * kBlockBytes, transaction));
            must(store.commit(suspend, transaction));
        };
        const BlobId blob = create(suspend, store), other = create(suspend, store);
        must(try_write(suspend, store, blob, 0, ones.span()));
        EXPECT_EQ(byte_at(blob, 3), 1);
        EXPECT_EQ(byte_at(blob, 50), 1);
        EXPECT_EQ(byte_at(other, 3), -1);
        resize(blob, 32);
        EXPECT_EQ(byte_at(blob, 50), -1);
        EXPECT_EQ(byte_at(blob, 31), 1);
        resize(blob, 64);
        EXPECT_EQ(byte_at(blob, 50), 0);
        EXPECT_EQ(byte_at(blob, 31), 1);
        must(try_write(suspend, store, blob, 50 * kBlockBytes, twos.span()));
        EXPECT_EQ(byte_at(blob, 50), 2);
        EXPECT_EQ(byte_at(blob, 51), 0);
        resize(blob, 0);
        must(try_write(suspend, store, other, 0, ones.span()));
        EXPECT_EQ(byte_at(blob, 3), -1);
        remove(suspend, store, blob);
        EXPECT_FALSE(store.read(suspend, blob, 0, into.span()).has_value());
    });
}

// Nor do writes, which would change what is another blob's by now.
TEST(Blobstore, OverwritesInPlaceOnlyWhereItsDataIs) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        Blobstore& store = *fixture.store;
        const BlobId blob = create(suspend, store);
        const auto ones = filled(65536, 1);
        const auto twos = filled(65536, 2);
        const auto into = filled(65536, 0);
        const auto overwrite = [&](std::uint64_t offset, std::size_t bytes, std::size_t skew = 0) {
            return must(store.overwrite(suspend, blob, offset, twos.span().subspan(skew, bytes)));
        };
        const auto byte_at = [&](std::uint64_t offset) {
            EXPECT_EQ(must(store.read(suspend, blob, offset, into.span().first(1))), 1U);
            return static_cast<int>(into.data()[0]);
        };
        const auto look = [&] {
            (void)must(store.read(suspend, blob, 0, into.span().first(4096)));
        };
        const auto commit = [&](auto&& change) {
            Transaction transaction;
            must(change(transaction));
            must(store.commit(suspend, transaction));
        };

        must(try_write(suspend, store, blob, 0, ones.span()));
        EXPECT_FALSE(overwrite(0, 4096)) << "nobody has looked where it is";
        look();
        EXPECT_TRUE(overwrite(4096, 8192));
        EXPECT_EQ(byte_at(4095), 1);
        EXPECT_EQ(byte_at(4096), 2);
        EXPECT_EQ(byte_at(12287), 2);
        EXPECT_EQ(byte_at(12288), 1);
        EXPECT_TRUE(overwrite(20480, 512)) << "a sector";
        EXPECT_EQ(byte_at(20991), 2);
        EXPECT_EQ(byte_at(20992), 1);
        EXPECT_FALSE(overwrite(24576, 511));
        EXPECT_FALSE(overwrite(24577, 512));
        EXPECT_FALSE(overwrite(24576, 512, 1)) << "memory that is not aligned";
        EXPECT_FALSE(overwrite(24576, 0));
        EXPECT_FALSE(overwrite(65536 - 4096, 8192)) << "beyond the end";
        EXPECT_FALSE(overwrite(std::uint64_t{0} - 4096, 4096 * 2)) << "around the end of numbers";
        EXPECT_EQ(byte_at(24576), 1);

        // A write in place tells as well as a read does.
        must(try_write(suspend, store, blob, 65536, ones.span()));
        EXPECT_FALSE(overwrite(0, 4096));
        must(try_write(suspend, store, blob, 0, ones.span().first(4096)));
        EXPECT_TRUE(overwrite(0, 4096));

        commit([&](Transaction& t) { return store.truncate(suspend, blob, 100'000, t); });
        EXPECT_FALSE(overwrite(102'400, 4096));
        look();
        EXPECT_FALSE(overwrite(102'400, 4096));
        EXPECT_FALSE(overwrite(98'304, 4096)) << "its end is within";
        EXPECT_TRUE(overwrite(94'208, 4096));
        commit([&](Transaction& t) { return store.deallocate(suspend, blob, 32768, 32768, t); });
        look();
        EXPECT_FALSE(overwrite(32768, 4096)) << "a hole";
        EXPECT_FALSE(overwrite(28672, 8192));
        EXPECT_EQ(byte_at(32768), 0);
        commit([&](Transaction& t) { return store.preallocate(suspend, blob, 32768, 32768, t); });
        look();
        EXPECT_FALSE(overwrite(32768, 4096)) << "allocated, never written";
        EXPECT_EQ(byte_at(32768), 0);
        remove(suspend, store, blob);
        EXPECT_FALSE(overwrite(0, 4096));
        fixture.expect_sound(suspend);
    });
}

TEST(Blobstore, DropsWhatWasNotSyncedAsOneSuffix) {
    OpenOptions options;
    options.commit_interval_ms = 0;
    StoreFixture fixture("mem:64MiB", {}, options);
    fixture.run([&](Suspend& suspend) {
        const BlobId first = create(suspend, *fixture.store);
        must(fixture.store->sync(suspend));
        const BlobId second = create(suspend, *fixture.store);
        fixture.reopen(suspend, false);
        EXPECT_TRUE(fixture.store->attributes(suspend, first).has_value());
        EXPECT_EQ(fixture.store->attributes(suspend, second).error().code, Errc::kNotFound);
        fixture.expect_sound(suspend);
    });
}

// A checkpoint is due by the size of the device and of the cache, not by how much of the cache a
// young store happens to use.
TEST(Blobstore, CheckpointsAreRareWhileThereIsRoom) {
    OpenOptions options;
    options.commit_interval_ms = 0;
    options.checkpoint_interval_ms = 1'000'000;
    StoreFixture fixture("mem:1GiB", {}, options);
    fixture.run([&](Suspend& suspend) {
        Blobstore& store = *fixture.store;
        const driver::DmaBuffer data = filled(1500, 7);
        std::vector<BlobId> blobs;
        for (int i = 0; i < 1500; ++i) {
            blobs.push_back(create(suspend, store));
            must(try_write(suspend, store, blobs.back(), 0, data.span()));
        }
        const std::uint64_t before = store.statistics().checkpoints;
        for (std::size_t i = 0; i < 3000; ++i) {
            must(try_write(suspend, store, blobs[i * 61 % blobs.size()], 0, data.span()));
        }
        EXPECT_LE(store.statistics().checkpoints - before, 3u);
        fixture.expect_sound(suspend);
    });
}

TEST(Blobstore, OneFiberWaitsForTheNextCheckpointHoweverManyCommitsAskForIt) {
    must(driver::start_environment({.memory_bytes = std::size_t{768} << 20}));
    driver::Reactor reactor;
    MemoryDevice device(64 << 20);
    reactor.block_on([&](Suspend& suspend) {
        must(Blobstore::format(suspend, device, {.log_bytes = 1 << 20}));
        OpenOptions options;
        options.commit_interval_ms = 0;
        const auto store = must(Blobstore::open(suspend, device, options));
        const BlobId blob = create(suspend, *store);
        const std::uint64_t before = store->statistics().checkpoints;
        // Each of the superblock's writes takes as many turns; there is a commit in each turn, and
        // from half of the log on each asks for a checkpoint.
        device.write_yields = 500;
        const std::string attributes(512, 'x');
        std::size_t most = 0, while_it_waits = 0;
        while (store->statistics().checkpoints < before + 2) {
            Transaction transaction;
            transaction.set_attribute_block(blob, attributes);
            must(store->commit(suspend, transaction));
            suspend.yield();
            most = std::max(most, reactor.live_fibers());
            if (reactor.live_fibers() > 1) ++while_it_waits;
        }
        EXPECT_GT(while_it_waits, 500u);
        EXPECT_LE(most, 2u);
        must(store->close(suspend));
    });
}

TEST(Blobstore, DirtyAndFrozenPagesLeaveRoomInTheCache) {
    must(driver::start_environment({.memory_bytes = std::size_t{768} << 20}));
    driver::Reactor reactor;
    MemoryDevice device(256 << 20);
    reactor.block_on([&](Suspend& suspend) {
        must(Blobstore::format(suspend, device, {.log_bytes = 32 << 20}));
        OpenOptions options;
        options.commit_interval_ms = 0;
        options.cache_bytes = 0;  // the least: 256 pages, 64 of which may be dirty
        const auto store = must(Blobstore::open(suspend, device, options));
        const std::string attributes(500, 'x');
        std::vector<BlobId> blobs;
        for (int i = 0; i < 6000; ++i) blobs.push_back(create(suspend, *store, attributes));
        must(store->checkpoint(suspend));
        device.write_yields = 5000;
        std::size_t next = 0;
        // Each in a page of its own.
        const auto change = [&] {
            Transaction transaction;
            transaction.set_attribute_block(blobs[next], attributes);
            next = (next + 17) % blobs.size();
            must(store->commit(suspend, transaction));
        };
        const std::uint64_t before = store->statistics().checkpoints;
        // The first checkpoint is under way, and nearly as many as may be are dirty behind it.
        while (store->statistics().dirty_pages < 65) change();
        while (store->statistics().dirty_pages >= 65) suspend.yield();
        while (store->statistics().dirty_pages < 120) change();
        ASSERT_EQ(store->statistics().checkpoints, before);
        // They are frozen in their turn.
        while (store->statistics().dirty_pages >= 65) suspend.yield();
        ASSERT_EQ(store->statistics().checkpoints, before + 1);
        std::size_t most = 0;
        while (store->statistics().checkpoints == before + 1) {
            most = std::max(most, store->statistics().dirty_pages);
            change();
        }
        EXPECT_GT(most, 60u);
        EXPECT_LE(most, 3 * 64 - 110u);
        // The change that waited did so for that checkpoint, and not for the next one, too.
        EXPECT_EQ(store->statistics().checkpoints, before + 2);
        must(store->close(suspend));
    });
}

TEST(Blobstore, NeverGivesAnIdTwiceAcrossACrash) {
    OpenOptions options;
    options.commit_interval_ms = 0;
    StoreFixture fixture("mem:64MiB", {}, options);
    fixture.run([&](Suspend& suspend) {
        const BlobId lost = create(suspend, *fixture.store);
        fixture.reopen(suspend, false);
        EXPECT_GT(value(fixture.store->allocate_id()), value(lost));
    });
}

TEST(Blobstore, FallsBackToTheOtherSuperblockSlotAtAnyTime) {
    for (const int slot : {0, 1}) {
        for (const bool clean : {true, false}) {
            StoreFixture fixture;
            fixture.run([&](Suspend& suspend) {
                const BlobId blob = create(suspend, *fixture.store);
                const driver::DmaBuffer data = filled(50'000, 3);
                // Enough checkpoints that an old root would reach blocks that were used again.
                for (int i = 0; i < 20; ++i) {
                    must(try_write(suspend, *fixture.store, blob, 0, data.span()));
                    remove(suspend, *fixture.store, create(suspend, *fixture.store));
                    must(fixture.store->checkpoint(suspend));
                }
                if (clean) {
                    must(fixture.store->close(suspend));
                } else {
                    fixture.store->abandon(suspend);
                }
                fixture.store.reset();
                damage_slot(suspend, *fixture.device, slot);
                fixture.store = must(Blobstore::open(suspend, *fixture.device, fixture.options));
                EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).size, 50'000u);
                fixture.expect_sound(suspend);
            });
        }
    }
}

TEST(Blobstore, SaysSoWhenBothSuperblocksAreDamaged) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        must(fixture.store->close(suspend));
        fixture.store.reset();
        damage_slot(suspend, *fixture.device, 0);
        damage_slot(suspend, *fixture.device, 1);
        const auto opened = Blobstore::open(suspend, *fixture.device, {});
        ASSERT_FALSE(opened.has_value());
        EXPECT_TRUE(opened.error().code == Errc::kCorrupt ||
                    opened.error().code == Errc::kWrongFormat)
            << opened.error().message();
    });
}

TEST(Blobstore, DeletesOnAFullDeviceAndGivesTheSpaceBack) {
    StoreFixture fixture("mem:32MiB");
    fixture.run([&](Suspend& suspend) {
        const driver::DmaBuffer data = filled(256 * 1024, 1);
        const std::uint64_t free_before = fixture.store->space().free_bytes;
        for (int round = 0; round < 3; ++round) {
            std::vector<BlobId> blobs;
            for (bool full = false; !full;) {
                const BlobId blob = fixture.store->allocate_id();
                Transaction transaction;
                transaction.create_blob(blob, "x");
                const auto created = fixture.store->commit(suspend, transaction);
                if (created) blobs.push_back(blob);
                const Result<void> written =
                    created ? try_write(suspend, *fixture.store, blob, 0, data.span())
                            : fail(created.error());
                if (!written) {
                    EXPECT_EQ(written.error().code, Errc::kNoSpace) << written.error().message();
                    full = true;
                }
            }
            EXPECT_GT(blobs.size(), 80u);
            fixture.expect_sound(suspend);
            for (const BlobId blob : blobs) remove(suspend, *fixture.store, blob);
            must(fixture.store->checkpoint(suspend));
            EXPECT_GT(fixture.store->space().free_bytes, free_before - (512 << 10));
        }
        fixture.expect_sound(suspend);
    });
}

TEST(Blobstore, CutsABlobOfManyExtentsAtomically) {
    StoreFixture fixture("mem:128MiB");
    fixture.run([&](Suspend& suspend) {
        const BlobId blob = create(suspend, *fixture.store);
        const driver::DmaBuffer data = filled(4096, 9);
        for (std::uint64_t i = 0; i < 300; ++i) {
            must(try_write(suspend, *fixture.store, blob, i * 2 * 4096, data.span()));
        }
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).allocated_bytes, 300u * 4096);
        Transaction transaction;
        must(fixture.store->truncate(suspend, blob, 5000, transaction));
        must(fixture.store->commit(suspend, transaction));
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).allocated_bytes, 4096u);
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).size, 5000u);
        fixture.expect_sound(suspend);
    });
}

TEST(Blobstore, ShowsZeroesWhereTruncateCutAndGrewAgain) {
    for (const std::uint32_t inline_bytes : {0u, 1u}) {
        StoreFixture fixture("mem:64MiB", {.inline_bytes = inline_bytes});
        fixture.run([&](Suspend& suspend) {
            const BlobId blob = create(suspend, *fixture.store);
            const driver::DmaBuffer data = filled(10'000, 0x77);
            must(try_write(suspend, *fixture.store, blob, 0, data.span()));
            for (const std::uint64_t size : {100u, 9'000u}) {
                Transaction transaction;
                must(fixture.store->truncate(suspend, blob, size, transaction));
                must(fixture.store->commit(suspend, transaction));
            }
            const driver::DmaBuffer read = filled(12'288, 1);
            EXPECT_EQ(must(fixture.store->read(suspend, blob, 0, read.span())), 9'000u);
            EXPECT_EQ(std::count(read.data(), read.data() + 9'000, std::byte{0x77}), 100);
            EXPECT_EQ(std::count(read.data(), read.data() + 9'000, std::byte{0}), 8'900);
        });
    }
}

TEST(Blobstore, NeverShowsAnAppendThatWasNotCommitted) {
    for (const bool grow_by_write : {false, true}) {
        StoreFixture fixture("mem:64MiB");
        fixture.run([&](Suspend& suspend) {
            const BlobId blob = create(suspend, *fixture.store);
            const driver::DmaBuffer data = filled(12'288, 9);
            must(try_write(suspend, *fixture.store, blob, 0, data.span().first(5000)));
            {
                Transaction dropped;
                must(fixture.store->write(suspend, blob, 5000, data.span().first(3192), dropped));
            }
            if (grow_by_write) {
                must(try_write(suspend, *fixture.store, blob, 12'000, data.span().first(100)));
            } else {
                Transaction transaction;
                must(fixture.store->truncate(suspend, blob, 12'100, transaction));
                must(fixture.store->commit(suspend, transaction));
            }
            const driver::DmaBuffer read = filled(16'384, 1);
            EXPECT_EQ(must(fixture.store->read(suspend, blob, 0, read.span())), 12'100u);
            EXPECT_EQ(std::count(read.data(), read.data() + 5000, std::byte{9}), 5000);
            EXPECT_EQ(std::count(read.data() + 5000, read.data() + 12'000, std::byte{0}), 7000);
            // Within the last cluster: the gap is smaller than a sector's edge.
            must(try_write(suspend, *fixture.store, blob, 12'200, data.span().first(10)));
            EXPECT_EQ(must(fixture.store->read(suspend, blob, 12'100, read.span())), 110u);
            EXPECT_EQ(std::count(read.data(), read.data() + 100, std::byte{0}), 100);
        });
    }
}

TEST(Blobstore, KeepsSmallBlobsInTheTree) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        const BlobId blob = create(suspend, *fixture.store);
        const driver::DmaBuffer data = filled(4096, 5);
        must(try_write(suspend, *fixture.store, blob, 0, data.span().first(600)));
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).allocated_bytes, 0u);
        must(try_write(suspend, *fixture.store, blob, 600, data.span()));
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).allocated_bytes, 8192u);
        const driver::DmaBuffer read = filled(8192, 0);
        EXPECT_EQ(must(fixture.store->read(suspend, blob, 0, read.span())), 4696u);
        EXPECT_EQ(std::count(read.data(), read.data() + 4696, std::byte{5}), 4696);
    });
}

TEST(Blobstore, FindsDataAndHoles) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        const BlobId blob = create(suspend, *fixture.store);
        const driver::DmaBuffer data = filled(4096, 5);
        must(try_write(suspend, *fixture.store, blob, 1 << 20, data.span()));
        must(try_write(suspend, *fixture.store, blob, 3 << 20, data.span()));
        Blobstore& store = *fixture.store;
        EXPECT_EQ(must(store.next_data(suspend, blob, 0)), 1u << 20);
        EXPECT_EQ(must(store.next_hole(suspend, blob, 0)), 0u);
        EXPECT_EQ(must(store.next_hole(suspend, blob, 1 << 20)), (1u << 20) + 4096);
        EXPECT_EQ(must(store.next_data(suspend, blob, (1 << 20) + 4096)), 3u << 20);
        const std::uint64_t size = (3u << 20) + 4096;
        EXPECT_EQ(must(store.next_hole(suspend, blob, 3 << 20)), size);
        EXPECT_EQ(must(store.next_data(suspend, blob, size)), size);
    });
}

TEST(Blobstore, OpensReadOnlyAfterACrashWithoutWriting) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        const BlobId blob = create(suspend, *fixture.store, "seen");
        must(fixture.store->sync(suspend));
        fixture.store->abandon(suspend);
        fixture.store.reset();
        const std::uint64_t writes = fixture.device->statistics().writes;
        OpenOptions options;
        options.read_only = true;
        fixture.store = must(Blobstore::open(suspend, *fixture.device, options));
        EXPECT_EQ(must(fixture.store->attributes(suspend, blob)).block, "seen");
        Transaction transaction;
        transaction.create_blob(fixture.store->allocate_id(), "");
        EXPECT_EQ(fixture.store->commit(suspend, transaction).error().code, Errc::kReadOnly);
        must(fixture.store->close(suspend));
        EXPECT_EQ(fixture.device->statistics().writes, writes);
        fixture.store = must(Blobstore::open(suspend, *fixture.device, {}));
    });
}

// One bit of the log, and fifty files that were synced would be gone without a word.
TEST(Blobstore, DamageInTheMiddleOfTheLogIsNotTakenForItsEnd) {
    OpenOptions options;
    options.commit_interval_ms = 0;
    StoreFixture f("mem:128MiB", {}, options);
    f.run([&](Suspend& suspend) {
        constexpr std::uint64_t kBlobs = 8;
        std::vector<BlobId> blobs;
        for (std::uint64_t i = 0; i < kBlobs; ++i) {
            blobs.push_back(f.store->allocate_id());
            Transaction transaction;
            transaction.create_blob(blobs.back(), "attributes");
            must(f.store->commit(suspend, transaction));
            must(f.store->sync(suspend));
        }
        const Superblock superblock = must(must(read_superblocks(suspend, *f.device)).newest());
        f.store->abandon(suspend);
        f.store.reset();
        const driver::DmaBuffer block = must(driver::DmaBuffer::allocate(kBlockBytes));
        const auto flip = [&](std::uint64_t batch) {
            const std::uint64_t at =
                (superblock.log_start + superblock.log_position + batch) * kBlockBytes;
            must(f.device->read(suspend, at, block.span()));
            block.data()[70] ^= std::byte{4};
            must(f.device->write(suspend, at, block.span()));
        };
        flip(3);
        const auto refused = Blobstore::open(suspend, *f.device, options);
        if (refused) (*refused)->abandon(suspend);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Errc::kCorrupt) << refused.error().message();
        // What lies before the damage can be looked at.
        OpenOptions read_only = options;
        read_only.read_only = true;
        auto before = must(Blobstore::open(suspend, *f.device, read_only));
        for (std::uint64_t i = 0; i < kBlobs; ++i) {
            EXPECT_EQ(before->attributes(suspend, blobs[i]).has_value(), i < 3) << i;
        }
        before->abandon(suspend);
        before.reset();
        // The last one of all: torn by a crash, as far as anybody can tell.
        flip(3);
        flip(kBlobs - 1);
        f.store = must(Blobstore::open(suspend, *f.device, options));
        for (std::uint64_t i = 0; i < kBlobs; ++i) {
            EXPECT_EQ(f.store->attributes(suspend, blobs[i]).has_value(), i < kBlobs - 1) << i;
        }
    });
}

TEST(Blobstore, ReadsWithoutAnAllocationMapWhenItIsDamaged) {
    StoreFixture f;
    f.run([&](Suspend& suspend) {
        const BlobId blob = create(suspend, *f.store);
        must(try_write(suspend, *f.store, blob, 0, filled(20'000, 'x').span()));
        must(f.store->close(suspend));
        f.store.reset();
        const Superblock superblock = must(must(read_superblocks(suspend, *f.device)).newest());
        const std::uint64_t at = superblock.map_root.block * kBlockBytes;
        const driver::DmaBuffer page = must(driver::DmaBuffer::allocate(kBlockBytes));
        const auto flip = [&] {
            must(f.device->read(suspend, at, page.span()));
            page.data()[2000] ^= std::byte{1};
            must(f.device->write(suspend, at, page.span()));
        };
        flip();
        const auto refused = Blobstore::open(suspend, *f.device, {});
        if (refused) (*refused)->abandon(suspend);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Errc::kCorrupt);
        {
            const auto store = must(Blobstore::open(suspend, *f.device, {.read_only = true}));
            const driver::DmaBuffer read = filled(20'000, 0);
            EXPECT_EQ(must(store->read(suspend, blob, 0, read.span())), 20'000u);
            EXPECT_EQ(std::memcmp(read.data(), filled(20'000, 'x').data(), 20'000), 0);
            EXPECT_LT(store->space().free_bytes, store->space().total_bytes);
            EXPECT_FALSE(store->check(suspend));
            must(store->close(suspend));
        }
        flip();
        f.store = must(Blobstore::open(suspend, *f.device, {}));
    });
}

TEST(Blobstore, AStoreMadeAnewWithItsOldUuidDoesNotReplayTheOldLog) {
    OpenOptions options;
    options.commit_interval_ms = 0;
    FormatOptions format;
    format.uuid.fill(7);
    StoreFixture f("mem:128MiB", format, options);
    f.run([&](Suspend& suspend) {
        const auto make = [&](int count) {
            for (int i = 0; i < count; ++i) {
                Transaction transaction;
                transaction.create_blob(f.store->allocate_id(), "attributes");
                must(f.store->commit(suspend, transaction));
                must(f.store->sync(suspend));
            }
            f.store->abandon(suspend);
            f.store.reset();
        };
        // Behind what formatting erases of the log.
        make(400);
        must(Blobstore::format(suspend, *f.device, format));
        f.store = must(Blobstore::open(suspend, *f.device, options));
        make(300);
        f.store = must(Blobstore::open(suspend, *f.device, options));
        EXPECT_EQ(f.store->space().blobs, 300u);
    });
}

TEST(Blobstore, RefusesWhatIsNotABlobfs) {
    StoreFixture fixture;
    fixture.run([&](Suspend& suspend) {
        auto other = must(Device::open(suspend, "mem:32MiB"));
        EXPECT_EQ(Blobstore::inspect(suspend, *other).error().code, Errc::kWrongFormat);
        EXPECT_EQ(Blobstore::open(suspend, *other, {}).error().code, Errc::kWrongFormat);
        must(other->close(suspend));
    });
}

}  // namespace
}  // namespace blobfs::blobstore
