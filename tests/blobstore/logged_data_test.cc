// Small data that the log carries (blobstore/README.md, "Small data in the log"): what fsync costs,
// and what is there when the power goes.

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "blobstore/blobstore.h"
#include "tests/blobstore/memory_device.h"

namespace blobfs::blobstore {
namespace {

using driver::DmaBuffer;
using driver::Suspend;

template <class T>
T must(Result<T> result) {
    EXPECT_TRUE(result) << result.error().message();
    CHECK(result);
    return std::move(*result);
}
void must(const Result<void>& result) { ASSERT_TRUE(result) << result.error().message(); }

class LoggedDataTest : public BlobstorePartTest {
  protected:
    static constexpr std::uint64_t kBlock = 4096;

    LoggedDataTest() {
        run([&](Suspend& suspend) {
            must(Blobstore::format(suspend, device_, {}));
            open(suspend);
            blob_ = store_->allocate_id();
            Transaction transaction;
            transaction.create_blob(blob_, "");
            must(store_->commit(suspend, transaction));
            write(suspend, 0, std::string(4 * kBlock, 'a'));
            must(store_->checkpoint(suspend));
            device_.events.clear();
            device_.writes.clear();
        });
    }
    ~LoggedDataTest() override {
        run([&](Suspend& suspend) { store_->abandon(suspend); });
    }
    void open(Suspend& suspend, bool read_only = false) {
        // No background commit: what happens is what the test does.
        store_ = must(Blobstore::open(
            suspend, device_,
            {.read_only = read_only, .commit_interval_ms = 0, .checkpoint_interval_ms = 0}));
    }
    void write(Suspend& suspend, std::uint64_t offset, const std::string& bytes) {
        const auto buffer = must(DmaBuffer::allocate(round_up(bytes.size(), kBlock)));
        std::memcpy(buffer.data(), bytes.data(), bytes.size());
        Transaction transaction;
        must(store_->write(suspend, blob_, offset, buffer.span().first(bytes.size()), transaction));
        must(store_->commit(suspend, transaction));
    }
    std::string read(Suspend& suspend) {
        const auto buffer = must(DmaBuffer::allocate(1u << 20));
        const std::size_t bytes = must(store_->read(suspend, blob_, 0, buffer.span()));
        return {reinterpret_cast<const char*>(buffer.data()), bytes};
    }
    // The power goes and comes back.
    void crash(Suspend& suspend, bool read_only = false) {
        store_->abandon(suspend);
        device_.lose_cache();
        open(suspend, read_only);
    }

    BlobId blob_{};
    MemoryDevice device_{32u << 20};
    std::unique_ptr<Blobstore> store_;
};

TEST_F(LoggedDataTest, AnAppendIsDurableWithOneWriteOfTheLog) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(500, 'b'));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WU");
        crash(suspend);
        EXPECT_EQ(read(suspend), std::string(4 * kBlock, 'a') + std::string(500, 'b'));
    });
}

TEST_F(LoggedDataTest, EachOfManyAppendsIsThere) {
    run([&](Suspend& suspend) {
        std::string whole(4 * kBlock, 'a');
        for (int i = 0; i < 50; ++i) {  // fewer than make a checkpoint
            const std::string more(300, static_cast<char>('b' + i % 20));
            write(suspend, whole.size(), more);
            whole += more;
            must(store_->sync(suspend));
        }
        EXPECT_EQ(device_.events.find('F'), std::string::npos);
        crash(suspend);
        EXPECT_EQ(read(suspend), whole);
    });
}

TEST_F(LoggedDataTest, LargeDataIsFlushedFirst) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(16 * kBlock, 'b'));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WFU");
        crash(suspend);
        EXPECT_EQ(read(suspend), std::string(4 * kBlock, 'a') + std::string(16 * kBlock, 'b'));
    });
}

// What is synced later by a flush alone must not be undone by what the log has from before.
TEST_F(LoggedDataTest, AnOverwriteInPlaceIsNotUndoneByTheLog) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(kBlock, 'b'));
        must(store_->sync(suspend));
        device_.events.clear();
        write(suspend, 4 * kBlock, std::string(kBlock, 'x'));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WU");  // a batch of nothing else
        device_.events.clear();
        write(suspend, 4 * kBlock, std::string(kBlock, 'c'));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WFU");  // the last is an empty batch
        device_.events.clear();
        write(suspend, 4 * kBlock, std::string(kBlock, 'd'));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WF");
        crash(suspend);
        EXPECT_EQ(read(suspend), std::string(4 * kBlock, 'a') + std::string(kBlock, 'd'));
    });
}

TEST_F(LoggedDataTest, AnOverwriteElsewhereNeedsNoBatch) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(kBlock, 'b'));
        must(store_->sync(suspend));
        device_.events.clear();
        write(suspend, 0, std::string(kBlock, 'c'));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WF");
        crash(suspend);
        EXPECT_EQ(read(suspend), std::string(kBlock, 'c') + std::string(3 * kBlock, 'a') +
                                     std::string(kBlock, 'b'));
    });
}

TEST_F(LoggedDataTest, LargeDataOverLoggedDataWins) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(kBlock, 'b'));
        must(store_->sync(suspend));
        write(suspend, 0, std::string(20 * kBlock, 'c'));
        must(store_->sync(suspend));
        crash(suspend);
        EXPECT_EQ(read(suspend), std::string(20 * kBlock, 'c'));
    });
}

TEST_F(LoggedDataTest, WhoOnlyReadsSeesItAndWritesNothing) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(700, 'b'));
        must(store_->sync(suspend));
        write(suspend, 4 * kBlock + 700, std::string(700, 'c'));
        must(store_->sync(suspend));
        const std::string whole =
            std::string(4 * kBlock, 'a') + std::string(700, 'b') + std::string(700, 'c');
        device_.writes.clear();
        crash(suspend, true);
        EXPECT_EQ(read(suspend), whole);
        EXPECT_TRUE(device_.writes.empty());
        crash(suspend);
        EXPECT_EQ(read(suspend), whole);
    });
}

TEST_F(LoggedDataTest, ACrashInTheRecoveryDoesNoHarm) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(700, 'b'));
        must(store_->sync(suspend));
        store_->abandon(suspend);
        device_.lose_cache();
        int left = 2;
        device_.fail_write = [&](std::uint64_t, std::size_t) { return left-- <= 0; };
        EXPECT_FALSE(Blobstore::open(suspend, device_, {.commit_interval_ms = 0}));
        device_.fail_write = nullptr;
        device_.lose_cache();
        open(suspend);
        EXPECT_EQ(read(suspend), std::string(4 * kBlock, 'a') + std::string(700, 'b'));
    });
}

// The log must not bring back what was in blocks that belong to somebody else by now.
TEST_F(LoggedDataTest, BlocksOfAFailedTransactionAreNotInTheLog) {
    run([&](Suspend& suspend) {
        const auto buffer = must(DmaBuffer::allocate(kBlock));
        {
            Transaction dropped;
            must(store_->write(suspend, blob_, 4 * kBlock, buffer.span(), dropped));
        }
        Transaction other;
        other.set_attribute_block(blob_, "other");
        must(store_->commit(suspend, other));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WFU");
    });
}

TEST_F(LoggedDataTest, ACheckpointEndsIt) {
    run([&](Suspend& suspend) {
        write(suspend, 4 * kBlock, std::string(kBlock, 'b'));
        must(store_->sync(suspend));
        must(store_->checkpoint(suspend));
        device_.events.clear();
        write(suspend, 4 * kBlock, std::string(kBlock, 'c'));
        must(store_->sync(suspend));
        EXPECT_EQ(device_.events, "WF");
        crash(suspend);
        EXPECT_EQ(read(suspend), std::string(4 * kBlock, 'a') + std::string(kBlock, 'c'));
    });
}

}  // namespace
}  // namespace blobfs::blobstore
