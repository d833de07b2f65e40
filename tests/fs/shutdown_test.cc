// A filesystem that is shut down (FS_IOC_SHUTDOWN): it stops at once, and what was answered before
// is there when it is opened again.

#include <string>

#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

class Shutdown : public FilesystemTest {
  protected:
    OpenOptions open_options() override {
        OpenOptions options;
        options.store.commit_interval_ms = 0;  // only the shutdown makes anything durable
        return options;
    }
};

TEST_F(Shutdown, FlushesWhatWasAnsweredThenWritesNothing) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        must(write(suspend, file, 0, std::string(50'000, 'a')));
        must(fs->shut_down(suspend));
        EXPECT_TRUE(fs->is_shut_down());
        const std::uint64_t writes = device.statistics().writes;

        EXPECT_TRUE(fails_with(write(suspend, file, 0, std::string(50'000, 'b')), Errc::kIo));
        EXPECT_TRUE(
            fails_with(fs->create(suspend, kRootUser, kRootInode, "new", 0644, true), Errc::kIo));
        EXPECT_TRUE(fails_with(fs->unlink(suspend, kRootInode, "file"), Errc::kIo));
        EXPECT_TRUE(fails_with(fs->fsync(suspend, file, false), Errc::kIo));
        EXPECT_TRUE(fails_with(fs->sync(suspend), Errc::kIo));
        EXPECT_TRUE(fails_with(fs->store().checkpoint(suspend), Errc::kIo));
        EXPECT_TRUE(fails_with(fs->read(suspend, file, 0, buffer.span()), Errc::kIo));
        fs->abandon(suspend);
        fs.reset();
        EXPECT_EQ(device.statistics().writes, writes);

        device.end_fence();
        device.lose_cache();
        open(suspend);
        const InodeNumber again = must(lookup(suspend, kRootInode, "file"));
        EXPECT_EQ(read(suspend, again, 0, 60'000), std::string(50'000, 'a'));
        EXPECT_EQ(names(suspend, kRootInode), std::vector<std::string>{"file"});
    });
}

// Fibers that write, make and delete while it happens all end; of what they were told that it is
// durable nothing is missing.
TEST_F(Shutdown, InTheMiddleOfWorkEndsAllOfIt) {
    run([&](Suspend& suspend) {
        struct Worker {
            std::string durable;  // the last content that fsync promised
            bool ended = false;
        };
        constexpr int kWorkers = 8;
        std::vector<Worker> workers(kWorkers);
        driver::WaitGroup all;
        for (int i = 0; i < kWorkers; ++i) {
            all.add();
            reactor.spawn([&, i](Suspend& fiber) {
                Worker& worker = workers[static_cast<std::size_t>(i)];
                driver::DmaBuffer mine = must(driver::DmaBuffer::allocate(64 * 1024));
                const std::string name = "file" + std::to_string(i);
                for (int round = 0;; ++round) {
                    const auto made = fs->create(fiber, kRootUser, kRootInode, name, 0644, false);
                    if (!made) break;
                    fs->forget(made->inode, 1);
                    const char letter = static_cast<char>('a' + round % 26);
                    const std::size_t bytes = 1000 + static_cast<std::size_t>(round) % 40 * 1500;
                    std::memset(mine.data(), letter, bytes);
                    if (!fs->write(fiber, made->inode, 0, mine.span().first(bytes), {})) break;
                    if (!fs->setattr(fiber, kRootUser, made->inode, {.size = bytes})) break;
                    if (!fs->fsync(fiber, made->inode, false)) break;
                    worker.durable = std::string(bytes, letter);
                }
                worker.ended = true;
                all.done();
            });
        }
        for (int i = 0; i < 2000; ++i) suspend.yield();
        must(fs->shut_down(suspend));
        all.wait(suspend);
        fs->abandon(suspend);
        fs.reset();
        device.end_fence();
        device.lose_cache();
        open(suspend);
        int written = 0;
        for (int i = 0; i < kWorkers; ++i) {
            const Worker& worker = workers[static_cast<std::size_t>(i)];
            if (worker.durable.empty()) continue;
            ++written;
            const auto inode = lookup(suspend, kRootInode, "file" + std::to_string(i));
            ASSERT_TRUE(inode) << inode.error().message();
            // What was written in place since then may be there in part, never less.
            EXPECT_GE(attributes(suspend, *inode).size, 1000u);
        }
        EXPECT_GT(written, 0);
    });
}

}  // namespace
}  // namespace blobfs::fs
