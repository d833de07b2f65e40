// Each kind of damage by itself: what is found and how the program ends, that -n changes nothing,
// that it can be repaired, and that everything else is as it was.

#include "fs/posix_acl.h"
#include "tests/fsck/fsck_fixture.h"

namespace blobfs::fsck {
namespace {

class RepairTest : public FsckTest {
  protected:
    void SetUp() override {
        format();
        with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
            directory_ = make_directory(suspend, filesystem, fs::kRootInode, "dir");
            inner_ = make_directory(suspend, filesystem, directory_, "inner");
            big_ = make_file(suspend, filesystem, directory_, "big", content_of(1, kBigBytes));
            other_ = make_file(suspend, filesystem, inner_, "other", content_of(2, kBigBytes));
            small_ = make_file(suspend, filesystem, directory_, "small", content_of(3, 300));
            const auto linked = must(filesystem.link(suspend, small_, fs::kRootInode, "linked"));
            filesystem.forget(linked.inode, 1);
            const auto link = must(
                filesystem.symlink(suspend, kRoot, fs::kRootInode, "link", std::string(1200, 't')));
            link_ = link.inode;
            filesystem.forget(link_, 1);
            must(filesystem.setxattr(suspend, big_, "user.long", std::string(1300, 'x'),
                                     fs::XattrMode::kAny));
            must(filesystem.setxattr(suspend, big_, "user.short", "y", fs::XattrMode::kAny));
        });
        expect_clean();
    }
    // Everything that was made is there; but what the test names.
    void expect_content(const std::set<std::string>& but = {}) {
        with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
            const auto holds = [&](const std::string& path, const std::string& content) {
                if (but.contains(path)) return;
                const InodeNumber inode = lookup(suspend, filesystem, path);
                ASSERT_NE(fs::value(inode), 0u) << path;
                EXPECT_EQ(read(suspend, filesystem, inode), content) << path;
            };
            holds("dir/big", content_of(1, kBigBytes));
            holds("dir/inner/other", content_of(2, kBigBytes));
            holds("dir/small", content_of(3, 300));
            holds("linked", content_of(3, 300));
            if (!but.contains("link")) {
                EXPECT_EQ(must(filesystem.readlink(suspend, link_)), std::string(1200, 't'));
            }
            if (!but.contains("xattr")) {
                EXPECT_EQ(must(filesystem.getxattr(suspend, big_, "user.long")),
                          std::string(1300, 'x'));
            }
            EXPECT_TRUE(must(filesystem.check(suspend)).empty());
            EXPECT_TRUE(must(filesystem.store().check(suspend)).empty());
        });
    }
    // Damage that -p repairs, too, tried on a copy.
    void expect_safe(const Codes& codes) {
        expect_finds(codes);
        std::filesystem::copy_file(path_, folder_ + "/copy");
        expect_repairs("-p");
        expect_content();
        std::filesystem::rename(folder_ + "/copy", path_);
        expect_repairs("-y");
        expect_content();
    }
    // Damage that -p leaves alone.
    void expect_unsafe(const Codes& codes, const std::set<std::string>& lost = {}) {
        expect_finds(codes);
        const std::uint64_t before = image_hash();
        const Outcome preen = run({"-p", "-f"});
        EXPECT_EQ(preen.status, kExitLeft) << preen.output;
        EXPECT_NE(preen.output.find("by hand"), std::string::npos) << preen.output;
        EXPECT_EQ(image_hash(), before) << "-p has changed the image";
        expect_repairs("-y");
        expect_content(lost);
    }
    [[nodiscard]] std::uint64_t big() const { return fs::value(big_); }
    [[nodiscard]] std::uint64_t other() const { return fs::value(other_); }
    [[nodiscard]] std::uint64_t small() const { return fs::value(small_); }
    [[nodiscard]] std::uint64_t directory() const { return fs::value(directory_); }
    [[nodiscard]] std::uint64_t inner() const { return fs::value(inner_); }
    // The names in lost+found.
    std::vector<std::string> lost_and_found() {
        std::vector<std::string> names;
        with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
            const InodeNumber inode = lookup(suspend, filesystem, "lost+found");
            ASSERT_NE(fs::value(inode), 0u);
            must(filesystem.readdir(suspend, inode, 2, false, [&](const fs::DirectoryEntry& entry) {
                names.emplace_back(entry.name);
                return true;
            }));
        });
        return names;
    }

    static constexpr std::size_t kBigBytes = 100'000;
    InodeNumber directory_{}, inner_{}, big_{}, other_{}, small_{}, link_{};
};

// Superblocks and log. ---------------------------------------------------------------------------

TEST_F(RepairTest, EitherSuperblockSlotComesBackFromTheOther) {
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
        flip(block * 4096 + 70);
        expect_finds({{"superblock-slot", 1}});
        expect_repairs("-p");
        expect_content();
    }
}

TEST_F(RepairTest, BothSuperblocksComeBackFromTheCopy) {
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) flip(block * 4096 + 70);
    expect_unsafe({{"superblocks-lost", 1}});
}

// The beginning of the device is overwritten, as by dd.
TEST_F(RepairTest, TheFirstMegabyteIsLostAndComesBack) {
    set_bytes(0, std::string(std::size_t{1} << 20, '\0'));
    expect_unsafe({{"superblocks-lost", 1}});
}

TEST_F(RepairTest, TheCopyComesBackFromTheSlots) {
    flip(kBytes - 4096 + 70);
    expect_safe({{"superblock-copy", 1}});
}

// The image was put on a larger device: the copy is not at its end.
TEST_F(RepairTest, TheCopyIsSearchedForWhereTheDeviceHasGrown) {
    std::filesystem::resize_file(path_, kBytes + (3 << 20) + 4096);
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) flip(block * 4096 + 70);
    expect_unsafe({{"superblocks-lost", 1}});
}

// A copy within a file is not that of the device.
TEST_F(RepairTest, AnImageInAFileIsNotTakenForTheDevice) {
    const std::string copy = bytes_at(kBytes - 4096, 4096);
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        make_file(suspend, filesystem, fs::kRootInode, "image", copy + copy);
    });
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) flip(block * 4096 + 70);
    set_bytes(kBytes - 4096, std::string(4096, '\0'));
    const std::uint64_t before = image_hash();
    const Outcome outcome = run({"-y", "-f"});
    EXPECT_EQ(outcome.status, kExitFailed) << outcome.output;
    EXPECT_NE(outcome.errors.find("superblock"), std::string::npos) << outcome.errors;
    EXPECT_EQ(image_hash(), before);
}

// Somebody made another filesystem here: what is left of ours is not put into it.
TEST_F(RepairTest, AnotherFilesystemIsNotOverwrittenFromTheCopy) {
    set_bytes(0, std::string(std::size_t{1} << 20, '\0'));
    set_bytes(4086, "SWAPSPACE2");
    set_bytes(1024, std::string_view("\x01\0\0\0\xff\x1f\0\0", 8));
    const std::uint64_t before = image_hash();
    const Outcome outcome = run({"-y"});
    EXPECT_EQ(outcome.status, kExitFailed) << outcome.output;
    EXPECT_EQ(image_hash(), before);
}

TEST_F(RepairTest, CountersOfTheSuperblock) {
    edit_superblocks([](Superblock& superblock) { superblock.blob_count += 5; });
    expect_safe({{"superblock-counts", 1}});
    edit_superblocks([](Superblock& superblock) { superblock.next_blob_id = 3; });
    expect_safe({{"superblock-counts", 1}});
}

TEST_F(RepairTest, AnUnmountedLogIsNoErrorAndIsReplayed) {
    change(
        [&](Suspend&, Blobstore&, Transaction& transaction) {
            transaction.put_record(BlobId{directory()}, "x", "y");
            transaction.erase_record(BlobId{directory()}, "x");
            transaction.put_record(BlobId{big()}, "x", "y");
            transaction.erase_record(BlobId{big()}, "x");
        },
        true);
    const std::uint64_t before = image_hash();
    const Outcome looked = run({"-n", "--json"});
    EXPECT_EQ(looked.status, kExitClean) << looked.output;
    EXPECT_EQ(looked.json["log_pending"], true);
    EXPECT_EQ(image_hash(), before);
    const Outcome replayed = run({"-p", "--json"});
    EXPECT_EQ(replayed.status, kExitClean) << replayed.output;
    EXPECT_EQ(replayed.json["log_replayed"], true);
    EXPECT_EQ(run({"-n", "--json"}).json["skipped"], true);
    expect_content();
}

TEST_F(RepairTest, ALogThatIsDamagedInTheMiddleIsCutThere) {
    const auto mount = [&] {
        bool mounted = false;
        with_device([&](Suspend& suspend, driver::Device& device) {
            const auto store = Blobstore::open(suspend, device, {.commit_interval_ms = 0});
            mounted = store.has_value();
            if (mounted) must((*store)->close(suspend));
        });
        return mounted;
    };
    with_device([&](Suspend& suspend, driver::Device& device) {
        const auto store = must(Blobstore::open(suspend, device, {.commit_interval_ms = 0}));
        for (int i = 0; i < 5; ++i) {
            Transaction transaction;
            transaction.put_record(BlobId{big()}, std::to_string(i), "x");
            must(store->commit(suspend, transaction));
            must(store->sync(suspend));
        }
        store->abandon(suspend);
    });
    const Superblock before = superblock();
    flip((before.log_start + before.log_position) * 4096 + 80);
    EXPECT_FALSE(mount());
    expect_unsafe({{"log-damaged", 1}});
    EXPECT_TRUE(mount());
}

TEST_F(RepairTest, KeysOfInodesThatCannotBeAreRemoved) {
    put(Key(BlobId{~std::uint64_t{0}}, KeyKind::kRecord, std::string_view("what")), "?");
    put(Key(BlobId{blobstore::kBlobIdEnd}, KeyKind::kRecord, std::string_view("what")), "?");
    expect_unsafe({{"strange-key", 2}});
    EXPECT_LT(superblock().next_blob_id, blobstore::kBlobIdEnd);
}

TEST_F(RepairTest, DamageThatTheLogBringsIsFoundAndRepaired) {
    const Key key(BlobId{small()}, KeyKind::kAttributes);
    std::string value = value_of(key);
    value[sizeof(blobstore::AttributesValue) + offsetof(fs::InodeBlock, nlink)] = 7;
    change([&](Suspend&, Blobstore&,
               Transaction& transaction) { transaction.state().put(key, value); },
           true);
    expect_safe({{"link-count", 1}});
}

// Pages. -----------------------------------------------------------------------------------------

TEST_F(RepairTest, APageOfTheMapIsRebuiltFromTheTree) {
    flip(superblock().map_root.block * 4096 + 200);
    expect_safe({{"map-page", 1}});
}

TEST_F(RepairTest, BlocksThatAreInUseAreMarkedSo) {
    change([&](Suspend& suspend, Blobstore& store, Transaction& transaction) {
        std::string value;
        must(store.state().tree.get(suspend, extent_key(big(), 0), value));
        const auto extent = blobstore::load<blobstore::ExtentValue>(value);
        transaction.state().frees.push_back({blobstore::BlockIndex{extent.block}, 2});
    });
    expect_safe({{"blocks-not-marked", 1}});
}

// A mount refuses such a log.
TEST_F(RepairTest, BlocksThatTheLogFreesAreInUse) {
    const std::uint64_t last = superblock().block_count - 1;
    change(
        [&](Suspend&, Blobstore&, Transaction& transaction) {
            transaction.state().frees.push_back({blobstore::BlockIndex{last}, 1});
        },
        true);
    expect_safe({{"blocks-not-marked", 1}});
}

TEST_F(RepairTest, BlocksThatNobodyUsesAreFreed) {
    const std::uint64_t before = superblock().free_blocks;
    change([&](Suspend& suspend, Blobstore& store, Transaction& transaction) {
        auto reservation = must(store.state().space.reserve(suspend, {.blocks = 100}));
        transaction.state().reservations.push_back(std::move(reservation));
    });
    expect_safe({{"blocks-leaked", 1}});
    EXPECT_EQ(superblock().free_blocks, before);
}

TEST_F(RepairTest, BlocksOfTwoFilesAreCopied) {
    std::string value;
    change([&](Suspend& suspend, Blobstore& store, Transaction& transaction) {
        std::string mine;
        must(store.state().tree.get(suspend, extent_key(big(), 0), value));
        must(store.state().tree.get(suspend, extent_key(other(), 0), mine));
        const auto old = blobstore::load<blobstore::ExtentValue>(mine);
        transaction.state().put(extent_key(other(), 0), value);
        transaction.state().frees.push_back({blobstore::BlockIndex{old.block}, old.blocks});
    });
    expect_unsafe({{"blocks-twice", 1}}, {"dir/inner/other"});
    // Both read the same now, and changing one leaves the other.
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        EXPECT_EQ(read(suspend, filesystem, other_), content_of(1, kBigBytes));
        const auto buffer = must(driver::DmaBuffer::allocate(4096));
        std::memset(buffer.data(), 'z', 4096);
        must(filesystem.write(suspend, other_, 0, buffer.span(), {}));
        EXPECT_EQ(read(suspend, filesystem, big_), content_of(1, kBigBytes));
    });
}

TEST_F(RepairTest, AFileThatClaimsMetadataLosesTheBlocks) {
    // In the log only: a checkpoint would move the page away.
    change(
        [&](Suspend&, Blobstore& store, Transaction& transaction) {
            const blobstore::ExtentValue extent{.block = store.state().superblock.map_root.block,
                                                .blocks = 1,
                                                .flags = blobstore::kExtentUnwritten};
            transaction.state().put(extent_key(big(), 1000), blobstore::bytes_of(extent));
        },
        true);
    expect_unsafe({{"blocks-of-metadata", 1}, {"block-count", 1}});
}

// Keys of the store. -----------------------------------------------------------------------------

TEST_F(RepairTest, KeysOfUnknownKindsAreRemoved) {
    put(Key(BlobId{big()}, static_cast<KeyKind>(99), std::string_view("what")), "?");
    put(Key(BlobId{0}, KeyKind::kSharedRun, 77), "?");
    expect_unsafe({{"strange-key", 2}});
}

TEST_F(RepairTest, AttributesThatAreGoneAreMadeAnew) {
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.state().erase(Key(BlobId{big()}, KeyKind::kAttributes));
    });
    expect_unsafe({{"no-attributes", 1}}, {"dir/big", "xattr"});
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        // The size is not known any more: whole blocks.
        const std::string content =
            read(suspend, filesystem, lookup(suspend, filesystem, "dir/big"));
        EXPECT_EQ(content.substr(0, kBigBytes), content_of(1, kBigBytes));
    });
}

TEST_F(RepairTest, ImpossibleAttributesAreMadeAnew) {
    edit_head(small(), [](blobstore::AttributesValue& head) { head.reserved = 1; });
    expect_unsafe({{"bad-attributes", 1}});
}

TEST_F(RepairTest, AWrongNumberOfBlocks) {
    edit_head(big(), [](blobstore::AttributesValue& head) { head.allocated_blocks = 3; });
    expect_safe({{"block-count", 1}});
}

TEST_F(RepairTest, ExtentsOffTheDeviceGo) {
    put(extent_key(big(), 5000), blobstore::bytes_of(blobstore::ExtentValue{
                                     .block = ~std::uint64_t{0} >> 1, .blocks = 1, .flags = 0}));
    expect_unsafe({{"bad-extent", 1}});
}

TEST_F(RepairTest, ExtentsThatOverlapGo) {
    put(extent_key(big(), 1), value_of(extent_key(other(), 0)));
    expect_unsafe({{"extents-overlap", 1}});
}

TEST_F(RepairTest, SharedIsNothingThatThisVersionKnows) {
    auto extent = blobstore::load<blobstore::ExtentValue>(value_of(extent_key(big(), 0)));
    extent.flags |= blobstore::kExtentShared;
    put(extent_key(big(), 0), blobstore::bytes_of(extent));
    expect_safe({{"shared-extent", 1}});
}

TEST_F(RepairTest, DataBehindTheEndAreFreed) {
    edit_head(big(), [](blobstore::AttributesValue& head) { head.size = 5; });
    expect_finds({});  // the extent begins before the end
    edit_head(big(), [](blobstore::AttributesValue& head) { head.size = 0; });
    expect_finds({{"extent-behind-end", 1}});
    expect_repairs("-p");
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        EXPECT_EQ(must(filesystem.getattr(suspend, big_)).allocated_bytes, 0u);
    });
    expect_content({"dir/big"});
}

TEST_F(RepairTest, InlineDataThatNobodyAskedFor) {
    put(Key(BlobId{big()}, KeyKind::kInlineData), "abc");
    expect_unsafe({{"inline-and-extents", 1}});
    edit_head(big(), [](blobstore::AttributesValue& head) { head.flags = blobstore::kBlobInline; });
    expect_unsafe({{"inline-and-extents", 1}});
}

TEST_F(RepairTest, InlineDataThatAreTooLong) {
    put(Key(BlobId{big()}, KeyKind::kInlineData),
        std::string(superblock().inline_bytes + 1, 'x').substr(0, 600));
    expect_unsafe(
        {{superblock().inline_bytes < 600 ? "bad-inline-data" : "inline-and-extents", 1}});
}

TEST_F(RepairTest, ExtendedAttributesInPieces) {
    Key middle(BlobId{big()}, KeyKind::kXattr, std::string_view("user.long"));
    middle.append_byte(0);
    middle.append_byte(1);
    erase(middle);
    expect_unsafe({{"bad-xattr", 1}}, {"xattr"});
    put(Key(BlobId{big()}, KeyKind::kXattr, std::string_view("noend")), "x");
    expect_unsafe({{"bad-xattr", 1}}, {"xattr"});
}

TEST_F(RepairTest, TheListOfFilesToDelete) {
    put(Key(BlobId{0}, KeyKind::kOrphan, 4711), "");
    put(Key(BlobId{0}, KeyKind::kOrphan, 4712), "with a value");
    expect_safe({{"bad-orphan", 2}});
}

// Rounded up to a cluster it would be 0, and all of the file would go.
TEST_F(RepairTest, ATruncationToMoreThanThereCanBe) {
    const blobstore::TruncationValue rest{.size = ~std::uint64_t{0} - 100};
    put(Key(BlobId{0}, KeyKind::kTruncation, big()), blobstore::bytes_of(rest));
    with_device([&](Suspend& suspend, driver::Device& device) {
        const auto opened = Filesystem::open(suspend, device);
        ASSERT_FALSE(opened);
        EXPECT_EQ(opened.error().code, Errc::kCorrupt) << opened.error().message();
    });
    expect_safe({{"bad-orphan", 1}});
}

// Inodes and names. ------------------------------------------------------------------------------

TEST_F(RepairTest, ARootThatIsGone) {
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.state().erase(Key(BlobId{1}, KeyKind::kAttributes));
    });
    // Its entries are there: they tell what it was.
    expect_unsafe({{"no-attributes", 1}});
}

TEST_F(RepairTest, ARootWithoutATrace) {
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.state().erase(Key(BlobId{1}, KeyKind::kAttributes));
        for (const char* name : {"dir", "linked", "link"}) {
            transaction.state().erase(entry_key(1, name));
        }
    });
    expect_finds({{"no-root", 1}, {"lost-inode", 2}, {"link-count", 1}});
    expect_repairs();
    EXPECT_EQ(lost_and_found().size(), 2u);
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        const std::string name = "lost+found/#" + std::to_string(directory()) + "-from-1";
        EXPECT_EQ(read(suspend, filesystem, lookup(suspend, filesystem, name + "/big")),
                  content_of(1, kBigBytes));
    });
}

TEST_F(RepairTest, AnInodeOfNonsenseKeepsItsContent) {
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.set_attribute_block(BlobId{big()}, "nonsense");
    });
    expect_unsafe({{"bad-inode", 1}}, {"xattr"});
}

TEST_F(RepairTest, ADirectoryOfNonsenseKeepsItsNames) {
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.set_attribute_block(BlobId{directory()}, "nonsense");
    });
    expect_unsafe({{"bad-inode", 1}});
}

TEST_F(RepairTest, EntriesOfNonsenseGo) {
    put(entry_key(directory(), "nonsense"), "nonsense");
    expect_unsafe({{"bad-entry", 1}});
}

TEST_F(RepairTest, ANameInTheWrongPlaceIsMoved) {
    const std::string value = value_of(entry_key(directory(), "big"));
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.state().erase(entry_key(directory(), "big"));
        transaction.state().put(entry_key(directory(), "elsewhere"), value);
    });
    expect_safe({{"entry-place", 1}});
}

TEST_F(RepairTest, ANameThatIsThereTwice) {
    std::string key = entry_key(directory(), "big");
    ++key.back();
    put(key, entry(small(), S_IFREG, "big"));
    edit_inode(small(), [](fs::InodeBlock& block) { ++block.nlink; });
    edit_inode(directory(), [](fs::InodeBlock& block) {
        ++block.entries;
        block.name_bytes += 3;
    });
    expect_unsafe({{"name-twice", 1}});
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        EXPECT_EQ(lookup(suspend, filesystem, "dir/big#" + std::to_string(small())), small_);
    });
}

TEST_F(RepairTest, ANameThatLeadsNowhere) {
    put(entry_key(directory(), "ghost"), entry(4711, S_IFREG, "ghost"));
    edit_inode(directory(), [](fs::InodeBlock& block) {
        ++block.entries;
        block.name_bytes += 5;
    });
    expect_unsafe({{"dangling-entry", 1}});
    put(entry_key(directory(), "ghost"), entry(4711, S_IFDIR, "ghost"));
    expect_unsafe({{"dangling-entry", 1}, {"directory-counts", 1}, {"link-count", 1}});
}

TEST_F(RepairTest, AnEntryOfTheWrongType) {
    put(entry_key(directory(), "big"), entry(big(), S_IFIFO, "big"));
    expect_safe({{"entry-type", 1}});
}

TEST_F(RepairTest, ADirectoryWithTwoNames) {
    put(entry_key(1, "again"), entry(inner(), S_IFDIR, "again"));
    edit_inode(1, [](fs::InodeBlock& block) {
        ++block.entries;
        ++block.nlink;
        block.name_bytes += 5;
    });
    expect_unsafe({{"directory-twice", 1}});
}

TEST_F(RepairTest, DirectoriesInARingAreCutOut) {
    // "inner" holds "dir", which holds "inner"; nothing leads there from the root.
    const std::string value = value_of(entry_key(1, "dir"));
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.state().erase(entry_key(1, "dir"));
        transaction.state().put(entry_key(inner(), "dir"), value);
    });
    edit_inode(1, [](fs::InodeBlock& block) {
        --block.entries;
        --block.nlink;
        block.name_bytes -= 3;
    });
    edit_inode(inner(), [](fs::InodeBlock& block) {
        ++block.entries;
        ++block.nlink;
        block.name_bytes += 3;
    });
    edit_inode(directory(), [&](fs::InodeBlock& block) { block.parent = inner(); });
    expect_finds({{"directory-ring", 1}});
    expect_repairs();
    EXPECT_EQ(lost_and_found().size(), 1u);
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        EXPECT_EQ(read(suspend, filesystem, other_), content_of(2, kBigBytes));
        EXPECT_TRUE(must(filesystem.check(suspend)).empty());
    });
}

TEST_F(RepairTest, AWrongParent) {
    edit_inode(inner(), [](fs::InodeBlock& block) { block.parent = 1; });
    expect_safe({{"parent", 1}});
    edit_inode(1, [&](fs::InodeBlock& block) { block.parent = inner(); });
    expect_safe({{"parent", 1}});
}

TEST_F(RepairTest, WrongCountsOfADirectory) {
    edit_inode(directory(), [](fs::InodeBlock& block) { block.entries = 0; });
    expect_safe({{"directory-counts", 1}});
    edit_inode(directory(), [](fs::InodeBlock& block) {
        block.name_bytes = 0;
        block.nlink = 9;
    });
    expect_safe({{"directory-counts", 1}, {"link-count", 1}});
}

TEST_F(RepairTest, AWrongLinkCount) {
    edit_inode(small(), [](fs::InodeBlock& block) { block.nlink = 1; });
    expect_safe({{"link-count", 1}});
}

TEST_F(RepairTest, AFileToDeleteThatHasANameIsKept) {
    put(Key(BlobId{0}, KeyKind::kOrphan, big()), "");
    expect_safe({{"orphan-with-name", 1}});
}

TEST_F(RepairTest, FilesWithoutNamesGoToLostAndFound) {
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.state().erase(entry_key(directory(), "big"));
        transaction.state().erase(entry_key(directory(), "inner"));
    });
    expect_finds({{"lost-inode", 2}, {"directory-counts", 1}, {"link-count", 1}});
    expect_repairs("-p");
    const auto names = lost_and_found();
    EXPECT_EQ(names.size(), 2u);
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        EXPECT_EQ(read(suspend, filesystem,
                       lookup(suspend, filesystem, "lost+found/#" + std::to_string(big()))),
                  content_of(1, kBigBytes));
        const std::string from =
            "lost+found/#" + std::to_string(inner()) + "-from-" + std::to_string(directory());
        EXPECT_EQ(read(suspend, filesystem, lookup(suspend, filesystem, from + "/other")),
                  content_of(2, kBigBytes));
        EXPECT_TRUE(must(filesystem.check(suspend)).empty());
    });
    // Once more: the directory is there already.
    change([&](Suspend&, Blobstore&, Transaction& transaction) {
        transaction.state().erase(entry_key(directory(), "small"));
        transaction.state().erase(entry_key(1, "linked"));
    });
    expect_repairs();
    EXPECT_EQ(lost_and_found().size(), 3u);
}

TEST_F(RepairTest, RecordsOfAFileGo) {
    put(Key(BlobId{big()}, KeyKind::kRecord, std::string_view("what")), "?");
    expect_unsafe({{"strange-records", 1}});
}

TEST_F(RepairTest, ALinkWithoutItsTargetGoes) {
    const std::string piece = fs::big_endian_key(512);
    erase(Key(BlobId{fs::value(link_)}, KeyKind::kRecord, piece));
    expect_unsafe({{"bad-target", 1}}, {"link"});
}

TEST_F(RepairTest, ExtendedAttributesThatDoNotShow) {
    edit_inode(big(), [](fs::InodeBlock& block) { block.flags = 0; });
    expect_safe({{"xattr-flag", 1}});
}

TEST_F(RepairTest, AccessControlLists) {
    change([&](Suspend& suspend, Blobstore& store, Transaction& transaction) {
        must(store.set_xattr(suspend, BlobId{big()}, "system.posix_acl_access", "nonsense",
                             transaction));
    });
    expect_unsafe({{"bad-acl", 1}});
    with_filesystem([&](Suspend& suspend, Filesystem& filesystem) {
        fs::PosixAcl acl = {{.tag = fs::AclTag::kUserObj, .permissions = 6},
                            {.tag = fs::AclTag::kUser, .permissions = 4, .id = 1000},
                            {.tag = fs::AclTag::kGroupObj, .permissions = 4},
                            {.tag = fs::AclTag::kMask, .permissions = 4},
                            {.tag = fs::AclTag::kOther, .permissions = 0}};
        must(filesystem.setxattr(suspend, big_, "system.posix_acl_access", fs::encode_acl(acl),
                                 fs::XattrMode::kAny));
    });
    expect_clean();
    edit_inode(big(), [](fs::InodeBlock& block) { block.mode = S_IFREG | 0777u; });
    expect_safe({{"acl-mode", 1}});
}

}  // namespace
}  // namespace blobfs::fsck
