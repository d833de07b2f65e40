// Many fibers on the same names and files, run in random order: no deadlock, no lost update, and a
// sound filesystem afterwards. BLOBFS_SEED chooses the order.

#include <sys/stat.h>

#include <cstdlib>
#include <random>

#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

std::uint64_t seed() {
    const char* text = std::getenv("BLOBFS_SEED");
    return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

class ConcurrencyTest : public FilesystemTest {
  protected:
    ConcurrencyTest() : FilesystemTest(std::uint64_t{256} << 20, seed()) {
        RecordProperty("seed", std::to_string(seed()));
    }
    // Runs `count` fibers and waits for all.
    template <class F>
    void in_parallel(Suspend& suspend, int count, F&& body) {
        driver::WaitGroup running;
        for (int i = 0; i < count; ++i) {
            running.add();
            reactor.spawn([&, i](Suspend& fiber) {
                body(fiber, i);
                running.done();
            });
        }
        running.wait(suspend);
    }
};

TEST_F(ConcurrencyTest, OnlyOneOfManyExclusiveCreatesWins) {
    run([&](Suspend& suspend) {
        for (int round = 0; round < 20; ++round) {
            int winners = 0;
            in_parallel(suspend, 8, [&](Suspend& fiber, int) {
                const auto made =
                    fs->create(fiber, kUser, kRootInode, "n" + std::to_string(round), 0644, true);
                if (made) {
                    ++winners;
                    fs->forget(made->inode, 1);
                } else {
                    EXPECT_EQ(made.error().code, Errc::kExists);
                }
            });
            EXPECT_EQ(winners, 1);
        }
        EXPECT_EQ(names(suspend, kRootInode).size(), 20u);
    });
}

TEST_F(ConcurrencyTest, ParallelWritesToOneFileAllArrive) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        in_parallel(suspend, 16, [&](Suspend& fiber, int i) {
            auto memory = must(driver::DmaBuffer::allocate(8192));
            std::memset(memory.data(), 'a' + i, memory.size());
            for (int part = 0; part < 6; ++part) {
                const auto at = static_cast<std::uint64_t>(part * 16 + i) * 5000;
                EXPECT_EQ(must(fs->write(fiber, file, at, memory.span().first(5000), {})).bytes,
                          5000u);
                if (part == 3) {
                    must(fs->fsync(fiber, file, false));
                }
                attributes(fiber, file);
            }
        });
        EXPECT_EQ(attributes(suspend, file).size, 96u * 5000);
        for (std::size_t i = 0; i < 96; ++i) {
            EXPECT_EQ(read(suspend, file, i * 5000, 5000),
                      std::string(5000, static_cast<char>('a' + i % 16)));
        }
        crash(suspend, false);
    });
}

TEST_F(ConcurrencyTest, RenamesInAllDirectionsNeverDeadlockOrLoseAName) {
    run([&](Suspend& suspend) {
        // A small forest whose directories and files move about.
        std::vector<InodeNumber> directories = {kRootInode};
        for (int i = 0; i < 6; ++i) {
            directories.push_back(make_directory(
                suspend, directories[static_cast<std::size_t>(i) / 2], "d" + std::to_string(i)));
        }
        int files = 0;
        for (const InodeNumber directory : directories) {
            for (int i = 0; i < 3; ++i) {
                make_file(suspend, directory, "f" + std::to_string(files++));
            }
        }
        std::size_t done = 0;
        in_parallel(suspend, 12, [&](Suspend& fiber, int i) {
            std::mt19937_64 random(seed() * 1000 + static_cast<std::uint64_t>(i));
            const auto any_name = [&] {
                return random() % 2 == 0 ? "d" + std::to_string(random() % 6)
                                         : "f" + std::to_string(random() % 21);
            };
            for (int step = 0; step < 150; ++step) {
                const InodeNumber from = directories[random() % directories.size()];
                const InodeNumber to = directories[random() % directories.size()];
                switch (random() % 4) {
                    case 0:
                    case 1:
                        done += fs->rename(fiber, from, any_name(), to, any_name(),
                                           random() % 2 == 0 ? RenameMode::kNoReplace
                                                             : RenameMode::kExchange)
                                        .has_value()
                                    ? 1u
                                    : 0u;
                        break;
                    case 2: {
                        const auto found = fs->lookup(fiber, from, any_name());
                        if (found) {
                            fs->forget(found->inode, 1);
                        }
                        break;
                    }
                    default:
                        must(fs->readdir(fiber, from, 0, true, [&](const DirectoryEntry& entry) {
                            if (entry.attributes != nullptr) {
                                fiber.reactor().spawn([this, inode = entry.inode](Suspend&) {
                                    fs->forget(inode, 1);
                                });
                            }
                            return true;
                        }));
                }
            }
        });
        EXPECT_GT(done, 20u);
        std::size_t found = 0;
        for (const InodeNumber directory : directories) {
            found += names(suspend, directory).size();
        }
        EXPECT_EQ(found, static_cast<std::size_t>(files) + 6);
        expect_sound(suspend);
    });
}

TEST_F(ConcurrencyTest, EverythingAtOnceLeavesASoundFilesystem) {
    run([&](Suspend& suspend) {
        std::vector<InodeNumber> directories = {kRootInode};
        for (int i = 0; i < 4; ++i) {
            directories.push_back(make_directory(suspend, kRootInode, "dir" + std::to_string(i)));
        }
        in_parallel(suspend, 24, [&](Suspend& fiber, int i) {
            std::mt19937_64 random(seed() * 77 + static_cast<std::uint64_t>(i));
            auto memory = must(driver::DmaBuffer::allocate(32 * 1024));
            const auto any_directory = [&] { return directories[random() % directories.size()]; };
            const auto any_name = [&] { return "n" + std::to_string(random() % 8); };
            const auto forget = [&](const Result<Attributes>& made) {
                if (made) {
                    fs->forget(made->inode, 1);
                }
            };
            for (int step = 0; step < 120; ++step) {
                const auto found = fs->lookup(fiber, any_directory(), any_name());
                const InodeNumber inode = found ? found->inode : kRootInode;
                switch (random() % 14) {
                    case 0:
                    case 1:
                        forget(fs->create(fiber, kUser, any_directory(), any_name(), 0666, false));
                        break;
                    case 2:
                        forget(fs->mkdir(fiber, kUser, any_directory(), any_name(), 0777));
                        break;
                    case 3:
                        forget(fs->symlink(fiber, kUser, any_directory(), any_name(), "target"));
                        break;
                    case 4:
                        forget(fs->link(fiber, inode, any_directory(), any_name()));
                        break;
                    case 5:
                        static_cast<void>(fs->unlink(fiber, any_directory(), any_name()));
                        break;
                    case 6:
                        static_cast<void>(fs->rmdir(fiber, any_directory(), any_name()));
                        break;
                    case 7:
                        static_cast<void>(fs->rename(fiber, any_directory(), any_name(),
                                                     any_directory(), any_name(),
                                                     RenameMode::kReplace));
                        break;
                    case 8:
                    case 9:
                        static_cast<void>(fs->write(fiber, inode, random() % 60'000,
                                                    memory.span().first(1 + random() % 30'000),
                                                    {.kill_privileges = random() % 4 == 0}));
                        break;
                    case 10:
                        static_cast<void>(fs->setattr(fiber, kUser, inode,
                                                      {.mode = 04777, .size = random() % 70'000}));
                        break;
                    case 11:
                        static_cast<void>(fs->setxattr(fiber, inode, "user.x",
                                                       std::string(random() % 2000, 'v'),
                                                       XattrMode::kAny));
                        static_cast<void>(fs->removexattr(fiber, inode, "user.x"));
                        break;
                    case 12:
                        static_cast<void>(fs->fsync(fiber, inode, random() % 2 == 0));
                        break;
                    default: {
                        const auto temporary = fs->tmpfile(fiber, kUser, any_directory(), 0600);
                        if (temporary) {
                            forget(fs->link(fiber, temporary->inode, any_directory(), any_name()));
                            fs->forget(temporary->inode, 1);
                        }
                    }
                }
                if (found) {
                    fs->forget(found->inode, 1);
                }
            }
        });
        EXPECT_EQ(fs->statistics().referenced_inodes, 0u);
        expect_sound(suspend);
        must(fs->sync(suspend));
        crash(suspend);
        expect_sound(suspend);
    });
}

}  // namespace
}  // namespace blobfs::fs
