// Listing directories: offsets that stay valid, attributes, references.

#include <sys/stat.h>

#include <map>
#include <set>

#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

class ReaddirTest : public FilesystemTest {
  protected:
    struct Listed {
        std::string name;
        InodeNumber inode;
        std::uint32_t type;
        std::uint64_t next_offset;
    };
    // At most `count` entries from the offset on.
    std::vector<Listed> list(Suspend& suspend, InodeNumber directory, std::uint64_t offset,
                             std::size_t count, bool with_attributes = false) {
        std::vector<Listed> result;
        must(fs->readdir(
            suspend, directory, offset, with_attributes, [&](const DirectoryEntry& entry) {
                if (result.size() == count) {
                    return false;
                }
                result.push_back(
                    {std::string(entry.name), entry.inode, entry.type, entry.next_offset});
                return true;
            }));
        return result;
    }
};

TEST_F(ReaddirTest, StartsWithDotAndDotDot) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        make_file(suspend, directory, "file");
        const auto all = list(suspend, directory, 0, 10);
        ASSERT_EQ(all.size(), 3u);
        EXPECT_EQ(all[0].name, ".");
        EXPECT_EQ(all[0].inode, directory);
        EXPECT_EQ(all[1].name, "..");
        EXPECT_EQ(all[1].inode, kRootInode);
        EXPECT_EQ(all[2].name, "file");
        EXPECT_EQ(all[2].type, static_cast<std::uint32_t>(S_IFREG));
        EXPECT_EQ(list(suspend, directory, all[0].next_offset, 10).size(), 2u);
        EXPECT_EQ(list(suspend, directory, all[1].next_offset, 10).size(), 1u);
        EXPECT_TRUE(list(suspend, directory, all[2].next_offset, 10).empty());
    });
}

TEST_F(ReaddirTest, EveryChunkSizeListsEachEntryOnce) {
    run([&](Suspend& suspend) {
        std::set<std::string> expected = {".", ".."};
        for (int i = 0; i < 300; ++i) {
            make_file(suspend, kRootInode, "file" + std::to_string(i));
            expected.insert("file" + std::to_string(i));
        }
        for (const bool plus : {false, true}) {
            for (const std::size_t chunk : {1, 2, 3, 7, 64, 65, 1000}) {
                std::set<std::string> seen;
                std::uint64_t offset = 0;
                for (;;) {
                    const auto part = list(suspend, kRootInode, offset, chunk, plus);
                    if (part.empty()) {
                        break;
                    }
                    for (const Listed& entry : part) {
                        EXPECT_TRUE(seen.insert(entry.name).second) << entry.name;
                        EXPECT_GT(entry.next_offset, offset);
                        EXPECT_LE(entry.next_offset, static_cast<std::uint64_t>(INT64_MAX));
                        offset = entry.next_offset;
                        if (plus && entry.name[0] != '.') {
                            fs->forget(entry.inode, 1);
                        }
                    }
                }
                EXPECT_EQ(seen, expected);
            }
        }
        EXPECT_EQ(fs->statistics().referenced_inodes, 0u);
    });
}

TEST_F(ReaddirTest, OffsetsStayValidWhileOthersCreateAndDelete) {
    run([&](Suspend& suspend) {
        std::set<std::string> staying;
        for (int i = 0; i < 200; ++i) {
            make_file(suspend, kRootInode, "stay" + std::to_string(i));
            make_file(suspend, kRootInode, "go" + std::to_string(i));
            staying.insert("stay" + std::to_string(i));
        }
        std::map<std::string, int> seen;
        std::uint64_t offset = 0;
        int step = 0;
        for (;;) {
            const auto part = list(suspend, kRootInode, offset, 5);
            if (part.empty()) {
                break;
            }
            for (const Listed& entry : part) {
                ++seen[entry.name];
                offset = entry.next_offset;
            }
            if (step < 200) {
                must(fs->unlink(suspend, kRootInode, "go" + std::to_string(step)));
                make_file(suspend, kRootInode, "new" + std::to_string(step));
                ++step;
            }
            if (step == 20) {
                remount(suspend);
            }
        }
        for (const auto& [name, count] : seen) {
            EXPECT_EQ(count, 1) << name;
        }
        for (const std::string& name : staying) {
            EXPECT_EQ(seen[name], 1) << name;
        }
    });
}

TEST_F(ReaddirTest, RemovingEverythingWhileListingWorks) {
    run([&](Suspend& suspend) {
        for (int i = 0; i < 500; ++i) {
            make_file(suspend, kRootInode, "file" + std::to_string(i));
        }
        std::uint64_t offset = 0;
        for (;;) {
            const auto part = list(suspend, kRootInode, offset, 9);
            if (part.empty()) {
                break;
            }
            for (const Listed& entry : part) {
                offset = entry.next_offset;
                if (entry.name[0] != '.') {
                    must(fs->unlink(suspend, kRootInode, entry.name));
                }
            }
        }
        EXPECT_TRUE(names(suspend, kRootInode).empty());
    });
}

TEST_F(ReaddirTest, WithAttributesCountsAReferenceForEachEntryTaken) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        for (int i = 0; i < 10; ++i) {
            const InodeNumber file = make_file(suspend, directory, "file" + std::to_string(i));
            must(write(suspend, file, 0, std::string(static_cast<std::size_t>(i) * 100, 'x')));
        }
        must(fs->sync(suspend));
        remount(suspend);
        std::vector<InodeNumber> taken;
        must(fs->readdir(suspend, directory, 0, true, [&](const DirectoryEntry& entry) {
            if (entry.name == "." || entry.name == "..") {
                EXPECT_EQ(entry.attributes, nullptr);
                return true;
            }
            if (taken.size() == 4) {
                return false;
            }
            EXPECT_NE(entry.attributes, nullptr);
            EXPECT_EQ(entry.attributes->inode, entry.inode);
            EXPECT_EQ(entry.attributes->size,
                      static_cast<std::uint64_t>(entry.name.back() - '0') * 100);
            taken.push_back(entry.inode);
            return true;
        }));
        EXPECT_EQ(fs->statistics().referenced_inodes, 4u);
        for (const InodeNumber inode : taken) {
            fs->forget(inode, 1);
        }
        EXPECT_EQ(fs->statistics().referenced_inodes, 0u);
    });
}

TEST_F(ReaddirTest, InodesOfAListingAreReadSideBySide) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        for (int i = 0; i < 200; ++i) {
            const InodeNumber file = make_file(suspend, directory, "file" + std::to_string(i));
            must(write(suspend, file, 0, std::string(1000, 'x')));
        }
        remount(suspend);
        device.most_reads_at_once = 0;
        std::vector<InodeNumber> taken;
        must(fs->readdir(suspend, directory, 2, true, [&](const DirectoryEntry& entry) {
            EXPECT_NE(entry.attributes, nullptr);
            taken.push_back(entry.inode);
            return true;
        }));
        EXPECT_EQ(taken.size(), 200u);
        for (const InodeNumber inode : taken) fs->forget(inode, 1);
        // The inodes of the first names are in nearly all of the leaves, fifteen or so.
        EXPECT_GT(device.most_reads_at_once, 10u);
    });
}

TEST_F(ReaddirTest, ErrorsOfWhatIsNoDirectory) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make_file(suspend, kRootInode, "file");
        const auto nothing = [](const DirectoryEntry&) { return true; };
        EXPECT_TRUE(fails_with(fs->readdir(suspend, file, 0, false, nothing), Errc::kNotDirectory));
        EXPECT_TRUE(
            fails_with(fs->readdir(suspend, kRootInode, std::uint64_t{1} << 63, false, nothing),
                       Errc::kInvalidArgument));
    });
}

}  // namespace
}  // namespace blobfs::fs
