// What the blobstore does when the device is full, broken up, or names space that cannot be.

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "blobstore/extent_map.h"
#include "blobstore/store_state.h"
#include "driver/memory/dma_buffer.h"
#include "store_fixture.h"

namespace blobfs::blobstore {
namespace {

driver::DmaBuffer filled(std::size_t bytes, int with) {
    driver::DmaBuffer buffer = must(driver::DmaBuffer::allocate(bytes));
    std::memset(buffer.data(), with, bytes);
    return buffer;
}

Result<BlobId> try_create(Suspend& suspend, Blobstore& store) {
    const BlobId blob = store.allocate_id();
    Transaction transaction;
    transaction.create_blob(blob, "x");
    TRY(store.commit(suspend, transaction));
    return blob;
}

Result<void> try_write(Suspend& suspend, Blobstore& store, BlobId blob, std::uint64_t offset,
                       ConstDmaSpan from) {
    Transaction transaction;
    TRY(store.write(suspend, blob, offset, from, transaction));
    TRY(store.commit(suspend, transaction));
    return {};
}

Result<void> try_truncate(Suspend& suspend, Blobstore& store, BlobId blob, std::uint64_t size) {
    Transaction transaction;
    TRY(store.truncate(suspend, blob, size, transaction));
    TRY(store.commit(suspend, transaction));
    return {};
}

void remove(Suspend& suspend, Blobstore& store, BlobId blob) {
    Transaction transaction;
    transaction.set_urgent();
    transaction.add_orphan(blob);
    must(store.commit(suspend, transaction));
    must(store.delete_blob(suspend, blob));
}

// Blobs of that data until the device is full.
std::vector<BlobId> fill(Suspend& suspend, Blobstore& store, ConstDmaSpan data) {
    std::vector<BlobId> blobs;
    for (;;) {
        const auto blob = try_create(suspend, store);
        const Result<void> written =
            blob ? try_write(suspend, store, *blob, 0, data) : fail(blob.error());
        if (blob) blobs.push_back(*blob);
        if (written) continue;
        EXPECT_EQ(written.error().code, Errc::kNoSpace) << written.error().message();
        return blobs;
    }
}

// An extent as a damaged or hostile image may have it.
void put_extent(Suspend& suspend, Blobstore& store, BlobId blob, std::uint64_t first,
                const ExtentValue& value) {
    Transaction transaction;
    transaction.state().put(Key(blob, KeyKind::kExtent, first), bytes_of(value));
    must(store.commit(suspend, transaction));
}

TEST(BlobstoreSpace, TakesSmallBlobsAgainAfterHolesWereMadeAmongThem) {
    for (const std::uint32_t page_bytes : {4096u, 16384u}) {
        StoreFixture fixture("mem:64MiB", {.page_bytes = page_bytes});
        fixture.run([&](Suspend& suspend) {
            const driver::DmaBuffer data = filled(4096, 1);
            std::vector<BlobId> blobs = fill(suspend, *fixture.store, data.span());
            EXPECT_GT(blobs.size(), 10'000u);
            std::size_t removed = 0;
            for (std::size_t i = 0; i < blobs.size(); i += 9, ++removed) {
                remove(suspend, *fixture.store, blobs[i]);
            }
            const std::vector<BlobId> again = fill(suspend, *fixture.store, data.span());
            EXPECT_GT(again.size(), removed * 9 / 10) << page_bytes;
            EXPECT_LT(fixture.store->space().available_bytes, 1u << 20);
            for (const BlobId blob : again) remove(suspend, *fixture.store, blob);
            must(fixture.store->checkpoint(suspend));
            fixture.expect_sound(suspend);
        });
    }
}

// Fills the device with small blobs and deletes them all: how many could not be.
std::size_t undeletable(Suspend& suspend, Blobstore& store) {
    const driver::DmaBuffer data = filled(4096, 1);
    std::vector<BlobId> blobs = fill(suspend, store, data.span());
    // Metadata, too, by transactions that need as little as any.
    for (std::uint64_t i = 0;; ++i) {
        Transaction transaction;
        transaction.put_record(blobs[0], std::to_string(i), std::string(100, 'r'));
        if (!store.commit(suspend, transaction)) break;
    }
    std::size_t failed = 0;
    for (const BlobId blob : blobs) {
        Transaction transaction;
        transaction.set_urgent();
        transaction.add_orphan(blob);
        const auto committed = store.commit(suspend, transaction);
        if (!committed || !store.delete_blob(suspend, blob)) ++failed;
        if (failed > 10) break;
    }
    return failed;
}

TEST(BlobstoreSpace, DeletesOnADeviceFullOfMetadataOnlyByItsReserve) {
    for (const bool kept : {true, false}) {
        OpenOptions options;
        if (!kept) options.broken_rule = OrderRule::kDeleteWhenFull;
        StoreFixture fixture("mem:24MiB", {.page_bytes = 16384}, options);
        fixture.run([&](Suspend& suspend) {
            const std::size_t failed = undeletable(suspend, *fixture.store);
            if (kept) {
                EXPECT_EQ(failed, 0u);
                fixture.expect_sound(suspend);
            } else {
                EXPECT_GT(failed, 0u) << "rule 5 is kept without a reserve?";
                fixture.store->abandon(suspend);
                fixture.store.reset();
            }
        });
    }
}

TEST(BlobstoreSpace, CutsInTheMiddleOfAClusterWithoutSpaceForAnother) {
    for (const bool clean : {true, false}) {
        StoreFixture fixture("mem:32MiB", {.cluster_bytes = 16384});
        fixture.run([&](Suspend& suspend) {
            Blobstore& store = *fixture.store;
            const BlobId blob = must(try_create(suspend, store));
            const driver::DmaBuffer data = filled(100'000, 7);
            must(try_write(suspend, store, blob, 0, data.span()));
            fill(suspend, store, data.span().first(16384));
            // Whatever cluster is left.
            for (int i = 0; i < 100; ++i) {
                const auto id = try_create(suspend, store);
                if (!id || !try_write(suspend, store, *id, 0, data.span().first(16384))) break;
            }
            must(try_truncate(suspend, store, blob, 20'001));
            must(try_truncate(suspend, store, blob, 40'000));
            must(fixture.store->sync(suspend));
            fixture.reopen(suspend, clean);
            const driver::DmaBuffer read = filled(49'152, 1);
            EXPECT_EQ(must(fixture.store->read(suspend, blob, 0, read.span())), 40'000u);
            EXPECT_EQ(std::count(read.data(), read.data() + 40'000, std::byte{7}), 20'001);
            EXPECT_EQ(std::count(read.data(), read.data() + 40'000, std::byte{0}), 19'999);
            fixture.expect_sound(suspend);
        });
    }
}

TEST(BlobstoreSpace, RefusesExtentsThatCannotBe) {
    StoreFixture fixture("mem:64MiB", {.cluster_bytes = 16384});
    fixture.run([&](Suspend& suspend) {
        Blobstore& store = *fixture.store;
        const driver::DmaBuffer data = filled(65'536, 7);
        const std::uint64_t blocks = store.info().bytes / kBlockBytes;
        struct Case {
            std::uint64_t first;
            ExtentValue value;
        };
        const Case cases[] = {
            {0, {.block = 8001, .blocks = 4, .flags = 0}},        // not at a cluster
            {0, {.block = 8000, .blocks = 5, .flags = 0}},        // not of clusters
            {1, {.block = 8000, .blocks = 4, .flags = 0}},        // not for a cluster
            {0, {.block = 8, .blocks = 4, .flags = 0}},           // in the log
            {0, {.block = blocks - 4, .blocks = 8, .flags = 0}},  // beyond the device
            {0, {.block = 8000, .blocks = 4, .flags = kExtentShared}},
            {0, {.block = 8000, .blocks = 4, .flags = 1u << 31}},
            {0, {.block = 8000, .blocks = 0, .flags = 0}},
        };
        for (const Case& wrong : cases) {
            const BlobId blob = must(try_create(suspend, store));
            must(try_write(suspend, store, blob, 1 << 20, data.span()));
            put_extent(suspend, store, blob, wrong.first, wrong.value);
            const driver::DmaBuffer read = filled(32'768, 1);
            EXPECT_EQ(store.read(suspend, blob, 0, read.span()).error().code, Errc::kCorrupt);
            EXPECT_EQ(try_write(suspend, store, blob, 100, data.span()).error().code,
                      Errc::kCorrupt);
            EXPECT_EQ(try_truncate(suspend, store, blob, 5).error().code, Errc::kCorrupt);
            EXPECT_FALSE(store.read_only());
        }
    });
}

TEST(BlobstoreSpace, RestOfATruncationThatCannotBeFreedConcernsItsBlobOnly) {
    StoreFixture fixture("mem:64MiB");
    fixture.run([&](Suspend& suspend) {
        const driver::DmaBuffer data = filled(4096, 7);
        const BlobId other = must(try_create(suspend, *fixture.store));
        const BlobId blob = must(try_create(suspend, *fixture.store));
        for (std::uint64_t i = 0; i < 80; ++i) {
            must(try_write(suspend, *fixture.store, blob, i * 8192, data.span()));
        }
        put_extent(suspend, *fixture.store, blob, 155, {.block = 1, .blocks = 1, .flags = 0});
        // The cut itself is made.
        must(try_truncate(suspend, *fixture.store, blob, 5000));
        for (const bool remounted : {false, true}) {
            if (remounted) fixture.reopen(suspend, false);
            Blobstore& store = *fixture.store;
            EXPECT_FALSE(store.read_only());
            EXPECT_EQ(must(store.attributes(suspend, blob)).size, 5000u);
            const driver::DmaBuffer read = filled(8192, 1);
            EXPECT_EQ(must(store.read(suspend, blob, 0, read.span())), 5000u);
            // Nothing may grow over what is still mapped behind the end.
            EXPECT_EQ(try_write(suspend, store, blob, 1 << 20, data.span()).error().code,
                      Errc::kCorrupt);
            EXPECT_EQ(try_truncate(suspend, store, blob, 1 << 20).error().code, Errc::kCorrupt);
            must(try_write(suspend, store, other, 0, data.span()));
        }
        // Repaired: the rest is freed when the blob is next written to.
        Blobstore& store = *fixture.store;
        Transaction repair;
        repair.state().erase(Key(blob, KeyKind::kExtent, 155));
        must(store.commit(suspend, repair));
        must(try_truncate(suspend, store, blob, 1 << 20));
        must(store.sync(suspend));
        EXPECT_EQ(must(store.attributes(suspend, blob)).allocated_bytes, 4096u);
        fixture.reopen(suspend, false);
        const driver::DmaBuffer read = filled(1 << 20, 1);
        EXPECT_EQ(must(fixture.store->read(suspend, blob, 0, read.span())), 1u << 20);
        EXPECT_EQ(std::count(read.data(), read.data() + (1 << 20), std::byte{7}), 4096);
        fixture.expect_sound(suspend);
    });
}

TEST(BlobstoreSpace, WhoWaitedForATruncationThatFailsDoesNotWriteOverItsRest) {
    StoreFixture fixture("mem:64MiB");
    fixture.run([&](Suspend& suspend) {
        Blobstore& store = *fixture.store;
        const driver::DmaBuffer data = filled(4096, 7);
        const BlobId blob = must(try_create(suspend, store));
        for (std::uint64_t i = 0; i < 80; ++i) {
            must(try_write(suspend, store, blob, i * 8192, data.span()));
        }
        put_extent(suspend, store, blob, 155, {.block = 1, .blocks = 1, .flags = 0});
        driver::WaitGroup both;
        both.add(2);
        fixture.reactor.spawn([&](Suspend& fiber) {
            must(try_truncate(fiber, store, blob, 9000));  // copies a cluster, so it takes time
            both.done();
        });
        fixture.reactor.spawn([&](Suspend& fiber) {
            EXPECT_TRUE(store.state().unfinished_truncations.empty()) << "came too late";
            const auto written = try_write(fiber, store, blob, 9000, data.span());
            EXPECT_TRUE(!written && written.error().code == Errc::kCorrupt);
            both.done();
        });
        both.wait(suspend);
        Transaction repair;
        repair.state().erase(Key(blob, KeyKind::kExtent, 155));
        must(store.commit(suspend, repair));
        must(try_write(suspend, store, blob, 9000, data.span()));
        EXPECT_EQ(must(store.attributes(suspend, blob)).size, 9000u + 4096u);
        fixture.expect_sound(suspend);
    });
}

TEST(BlobstoreSpace, WritesAMebibyteInPiecesIntoAFullMap) {
    // 256 extents in one transaction take few pages of the tree, and are not refused for many.
    StoreFixture fixture("mem:32MiB", {.page_bytes = 16384});
    fixture.run([&](Suspend& suspend) {
        const driver::DmaBuffer data = filled(4096, 1);
        const std::vector<BlobId> blobs = fill(suspend, *fixture.store, data.span());
        for (std::size_t i = 0; i < blobs.size(); i += 6) {
            remove(suspend, *fixture.store, blobs[i]);
        }
        must(fixture.store->checkpoint(suspend));
        const BlobId blob = must(try_create(suspend, *fixture.store));
        const driver::DmaBuffer large = filled(1 << 20, 3);
        must(try_write(suspend, *fixture.store, blob, 0, large.span()));
        fixture.expect_sound(suspend);
    });
}

}  // namespace
}  // namespace blobfs::blobstore
