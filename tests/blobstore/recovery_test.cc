// How a store is recovered; what it must hold afterwards is the explorer's (store_crash_test).

#include <gtest/gtest.h>

#include <string>

#include "blobstore/blobstore.h"
#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {
namespace {

template <class T>
T must(Result<T> result) {
    EXPECT_TRUE(result) << result.error().message();
    CHECK(result);
    return std::move(*result);
}
void must(const Result<void>& result) { ASSERT_TRUE(result) << result.error().message(); }

class RecoveryTest : public BlobstorePartTest {
  protected:
    static constexpr int kBlobs = 6000;
    static constexpr std::uint32_t kPageBytes = 16384;

    // A tree of some hundred leaves, all of it durable; then the log names keys all over it.
    RecoveryTest() {
        run([&](Suspend& suspend) {
            must(Blobstore::format(suspend, device_, {.page_bytes = kPageBytes}));
            store_ = open(suspend);
            for (int i = 0; i < kBlobs; ++i) {
                Transaction transaction;
                transaction.create_blob(store_->allocate_id(), std::string(400, 'a'));
                must(store_->commit(suspend, transaction));
            }
            must(store_->checkpoint(suspend));
            for (int i = 0; i < kBlobs; i += 100) {
                Transaction transaction;
                transaction.set_attribute_block(BlobId{static_cast<std::uint64_t>(i + 1)},
                                                "changed");
                must(store_->commit(suspend, transaction));
            }
            must(store_->sync(suspend));
            store_->abandon(suspend);
            store_.reset();
            device_.lose_cache();
            device_.most_reads_at_once = 0;
        });
    }
    std::unique_ptr<Blobstore> open(Suspend& suspend, std::size_t cache_bytes = 32u << 20) {
        return must(Blobstore::open(
            suspend, device_,
            {.cache_bytes = cache_bytes, .commit_interval_ms = 0, .checkpoint_interval_ms = 0}));
    }
    void expect_changed(Suspend& suspend) {
        for (int i = 0; i < kBlobs; ++i) {
            const auto attributes =
                must(store_->attributes(suspend, BlobId{static_cast<std::uint64_t>(i + 1)}));
            ASSERT_EQ(attributes.block, i % 100 == 0 ? "changed" : std::string(400, 'a')) << i;
        }
    }

    MemoryDevice device_{64u << 20};
    std::unique_ptr<Blobstore> store_;
};

TEST_F(RecoveryTest, LeavesThatTheLogNamesAreReadSeveralAtATime) {
    run([&](Suspend& suspend) {
        store_ = open(suspend);
        EXPECT_GE(device_.most_reads_at_once, 16u);
        expect_changed(suspend);
        must(store_->close(suspend));
    });
}

TEST_F(RecoveryTest, ALeafThatCannotBeReadIsToldByTheReplay) {
    run([&](Suspend& suspend) {
        std::size_t leaves = 0;
        device_.fail_read = [&](std::uint64_t, std::size_t bytes) {
            return bytes == kPageBytes && ++leaves > 20;
        };
        const auto opened = Blobstore::open(suspend, device_, {.commit_interval_ms = 0});
        ASSERT_FALSE(opened);
        EXPECT_EQ(opened.error().code, Errc::kIo);
        device_.fail_read = {};
        store_ = open(suspend);
        expect_changed(suspend);
        must(store_->close(suspend));
    });
}

}  // namespace
}  // namespace blobfs::blobstore
