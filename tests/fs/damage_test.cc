// What a broken or malicious image may hold: every operation answers with an error, none crashes or
// hangs, and the check says what is wrong. Damage is made by changing the store underneath.

#include <sys/stat.h>

#include <functional>
#include <random>

#include "fs/directory.h"
#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

class DamageTest : public FilesystemTest {
  protected:
    void TearDown() override {
        reactor.block_on([&](Suspend& suspend) {
            if (fs != nullptr) {
                must(fs->close(suspend));
                fs.reset();
            }
        });
    }
    void change(Suspend& suspend, const std::function<void(blobstore::Transaction&)>& fill) {
        blobstore::Transaction transaction;
        fill(transaction);
        must(fs->store().commit(suspend, transaction));
    }
    void set_block(Suspend& suspend, InodeNumber inode, const std::string& bytes) {
        change(suspend, [&](blobstore::Transaction& transaction) {
            transaction.set_attribute_block(to_blob(inode), bytes);
        });
    }
    InodeBlock block_of(Suspend& suspend, InodeNumber inode) {
        const auto stored = must(fs->store().attributes(suspend, to_blob(inode)));
        return must(decode_inode(stored.block, inode)).block;
    }
    std::uint64_t key_of(Suspend& suspend, InodeNumber directory, std::string_view name) {
        return must(fs->state().directory().find(suspend, directory, name)).key;
    }
    // Nothing is remembered from before the damage.
    void reopen(Suspend& suspend) { remount(suspend); }
    std::size_t findings(Suspend& suspend) { return must(fs->check(suspend)).size(); }

    // Every operation on these inodes: whatever they answer, they answer.
    void try_everything(Suspend& suspend, const std::vector<InodeNumber>& inodes,
                        const std::vector<std::string>& file_names) {
        const auto ignore = [](const auto&) {};
        for (const InodeNumber inode : inodes) {
            ignore(fs->getattr(suspend, inode));
            ignore(fs->readlink(suspend, inode));
            ignore(fs->listxattr(suspend, inode));
            ignore(fs->getxattr(suspend, inode, "user.a"));
            ignore(fs->getxattr(suspend, inode, "system.posix_acl_access"));
            ignore(fs->read(suspend, inode, 0, buffer.span().first(4096)));
            ignore(write(suspend, inode, 10, "x", {.kill_privileges = true}));
            ignore(fs->setattr(suspend, kRootUser, inode, {.mode = 0777, .uid = 3}));
            ignore(fs->setattr(suspend, kRootUser, inode, {.size = 100}));
            ignore(fs->seek(suspend, inode, 0, SeekFor::kHole));
            ignore(fs->lookup(suspend, inode, ".."));
            for (const bool plus : {false, true}) {
                ignore(fs->readdir(suspend, inode, 0, plus,
                                   [](const DirectoryEntry&) { return true; }));
            }
            for (const std::string& name : file_names) {
                ignore(fs->lookup(suspend, inode, name));
                ignore(fs->create(suspend, kUser, inode, name, 0644, false));
                ignore(
                    fs->rename(suspend, inode, name, kRootInode, "moved", RenameMode::kExchange));
                ignore(fs->rename(suspend, kRootInode, "moved", inode, name, RenameMode::kReplace));
                ignore(fs->unlink(suspend, inode, name));
                ignore(fs->rmdir(suspend, inode, name));
            }
        }
        ignore(fs->check(suspend));
    }
};

TEST_F(DamageTest, ADamagedInodeIsCorruptForWhoNeedsItOnly) {
    run([&](Suspend& suspend) {
        const InodeNumber bad = make_file(suspend, kRootInode, "bad");
        const InodeNumber good = make_file(suspend, kRootInode, "good");
        set_block(suspend, bad, "nonsense");
        reopen(suspend);
        EXPECT_TRUE(fails_with(fs->getattr(suspend, bad), Errc::kCorrupt));
        EXPECT_TRUE(fails_with(lookup(suspend, kRootInode, "bad"), Errc::kCorrupt));
        EXPECT_TRUE(fails_with(write(suspend, bad, 0, "x"), Errc::kCorrupt));
        EXPECT_TRUE(fails_with(fs->unlink(suspend, kRootInode, "bad"), Errc::kCorrupt));
        EXPECT_EQ(must(lookup(suspend, kRootInode, "good")), good);
        // Its name is listed without attributes.
        int listed = 0;
        must(fs->readdir(suspend, kRootInode, 2, true, [&](const DirectoryEntry& entry) {
            ++listed;
            EXPECT_EQ(entry.attributes == nullptr, entry.name == "bad");
            return true;
        }));
        EXPECT_EQ(listed, 2);
        EXPECT_GE(findings(suspend), 1u);
    });
}

TEST_F(DamageTest, ANameWithoutAnInodeIsCorrupt) {
    run([&](Suspend& suspend) {
        change(suspend, [&](blobstore::Transaction& transaction) {
            Directory::put(transaction, kRootInode, fs->state().directory().first_key("ghost"),
                           "ghost", InodeNumber{777}, S_IFREG);
        });
        EXPECT_TRUE(fails_with(lookup(suspend, kRootInode, "ghost"), Errc::kCorrupt));
        EXPECT_TRUE(fails_with(fs->unlink(suspend, kRootInode, "ghost"), Errc::kCorrupt));
        EXPECT_GE(findings(suspend), 1u);
    });
}

TEST_F(DamageTest, DamagedEntriesAreCorruptAndOthersGoOn) {
    run([&](Suspend& suspend) {
        make_file(suspend, kRootInode, "good");
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        const std::uint64_t key = fs->state().directory().first_key("bad");
        const std::string head("\x05\0\0\0\0\0\0\0\x08\x03\0\0\0\0\0\0", 16);
        const std::vector<std::pair<std::string, std::string>> records = {
            {big_endian_key(key), ""},
            {big_endian_key(key), "short"},
            {big_endian_key(key), head + "toolong"},
            {big_endian_key(key), head + "a/b"},
            {big_endian_key(key), std::string(16, '\0') + "bad"},
            {big_endian_key(key), std::string(500, '\xff')},
            {std::string(1, '\xff'), head + "bad"},
            {big_endian_key(~std::uint64_t{0}), head + "bad"},
            {big_endian_key(key) + "more", head + "bad"},
            {"", head + "bad"},
        };
        for (const auto& [record_key, bytes] : records) {
            change(suspend, [&](blobstore::Transaction& transaction) {
                transaction.put_record(to_blob(directory), record_key, bytes);
            });
            EXPECT_TRUE(fails_with(fs->readdir(suspend, directory, 0, false,
                                               [](const DirectoryEntry&) { return true; }),
                                   Errc::kCorrupt) ||
                        record_key.empty());
            try_everything(suspend, {directory}, {"bad"});
            EXPECT_GE(findings(suspend), 1u);
            EXPECT_TRUE(lookup(suspend, kRootInode, "good"));
            change(suspend, [&](blobstore::Transaction& transaction) {
                transaction.erase_record(to_blob(directory), record_key);
            });
        }
    });
}

TEST_F(DamageTest, DirectoriesInACircleNeverHangAnybody) {
    run([&](Suspend& suspend) {
        const InodeNumber a = make_directory(suspend, kRootInode, "a");
        const InodeNumber b = make_directory(suspend, a, "b");
        const InodeNumber c = make_directory(suspend, b, "c");
        make_directory(suspend, kRootInode, "d");
        const std::vector<std::pair<InodeNumber, InodeNumber>> entries = {
            {a, a}, {c, a}, {kRootInode, kRootInode}, {b, kRootInode}};
        for (const auto& [directory, target] : entries) {
            change(suspend, [&](blobstore::Transaction& transaction) {
                Directory::put(transaction, directory, fs->state().directory().first_key("ring"),
                               "ring", target, S_IFDIR);
            });
        }
        reopen(suspend);
        for (const auto& [directory, target] : entries) {
            EXPECT_TRUE(fails_with(lookup(suspend, directory, "ring"), Errc::kCorrupt));
        }
        EXPECT_GE(findings(suspend), 4u);
        // And one whose parents agree with it, cut off from the root.
        InodeBlock block = block_of(suspend, a);
        block.parent = value(c);
        set_block(suspend, a, encode_inode(block, {}));
        reopen(suspend);
        EXPECT_TRUE(fails_with(fs->rename(suspend, b, "c", kRootInode, "x", RenameMode::kReplace),
                               Errc::kCorrupt));
        EXPECT_TRUE(fails_with(lookup(suspend, kRootInode, "a"), Errc::kCorrupt));
        try_everything(suspend, {a, b, c, kRootInode}, {"ring", "a", "b", "c", "d"});
    });
}

TEST_F(DamageTest, WrongCountsAreFoundAndDoNoHarm) {
    run([&](Suspend& suspend) {
        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        const InodeNumber inner = make_directory(suspend, directory, "inner");
        const InodeNumber file = make_file(suspend, directory, "file");
        EXPECT_EQ(findings(suspend), 0u);
        const auto damage = [&](InodeNumber inode, const std::function<void(InodeBlock&)>& how) {
            const InodeBlock good = block_of(suspend, inode);
            InodeBlock bad = good;
            how(bad);
            set_block(suspend, inode, encode_inode(bad, {}));
            reopen(suspend);
            EXPECT_EQ(findings(suspend), 1u);
            set_block(suspend, inode, encode_inode(good, {}));
            reopen(suspend);
            EXPECT_EQ(findings(suspend), 0u);
        };
        damage(file, [](InodeBlock& block) { block.nlink = 2; });
        damage(directory, [](InodeBlock& block) { block.nlink = 2; });
        damage(directory, [](InodeBlock& block) { block.entries = 0; });
        damage(directory, [](InodeBlock& block) { block.name_bytes = 1; });
        damage(inner, [](InodeBlock& block) { block.parent = 1; });
        damage(kRootInode, [](InodeBlock& block) { block.parent = 5; });
        // Removing everything under counts of nothing.
        InodeBlock block = block_of(suspend, directory);
        block.nlink = 1;
        block.entries = 0;
        block.name_bytes = 0;
        set_block(suspend, directory, encode_inode(block, {}));
        reopen(suspend);
        must(fs->rmdir(suspend, directory, "inner"));
        must(fs->unlink(suspend, directory, "file"));
        must(fs->rmdir(suspend, kRootInode, "dir"));
        EXPECT_EQ(findings(suspend), 0u);
    });
}

TEST_F(DamageTest, AnInodeWithoutANameIsFound) {
    run([&](Suspend& suspend) {
        make_file(suspend, kRootInode, "file");
        const std::uint64_t key = key_of(suspend, kRootInode, "file");
        change(suspend, [&](blobstore::Transaction& transaction) {
            Directory::erase(transaction, kRootInode, key);
        });
        // The counts of the root, the number of inodes, and which one it is.
        EXPECT_EQ(findings(suspend), 3u);
    });
}

TEST_F(DamageTest, DamagedTargetsAndListsAreCorrupt) {
    run([&](Suspend& suspend) {
        const std::string target(2000, 't');
        const InodeNumber link =
            unreferenced(must(fs->symlink(suspend, kRootUser, kRootInode, "link", target)));
        change(suspend, [&](blobstore::Transaction& transaction) {
            transaction.erase_record(to_blob(link), big_endian_key(512));
        });
        EXPECT_TRUE(fails_with(fs->readlink(suspend, link), Errc::kCorrupt));
        change(suspend, [&](blobstore::Transaction& transaction) {
            transaction.put_record(to_blob(link), big_endian_key(512), std::string(512, '\0'));
        });
        EXPECT_TRUE(fails_with(fs->readlink(suspend, link), Errc::kCorrupt));
        EXPECT_GE(findings(suspend), 1u);

        const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
        must(fs->setxattr(suspend, directory, "user.a", "x", XattrMode::kAny));
        blobstore::Transaction transaction;
        must(fs->store().set_xattr(suspend, to_blob(directory), "system.posix_acl_default",
                                   "nonsense", transaction));
        must(fs->store().set_xattr(suspend, to_blob(directory), "system.posix_acl_access",
                                   "nonsense", transaction));
        must(fs->store().commit(suspend, transaction));
        EXPECT_TRUE(
            fails_with(fs->create(suspend, kUser, directory, "file", 0644, true), Errc::kCorrupt));
        EXPECT_TRUE(
            fails_with(fs->setattr(suspend, kRootUser, directory, {.mode = 0700}), Errc::kCorrupt));
    });
}

TEST_F(DamageTest, RandomDamageNeverCrashesAnybody) {
    run([&](Suspend& suspend) {
        std::mt19937_64 random(11);
        const std::vector<std::string> file_names = {"file", "dir", "link", "inner", "moved"};
        for (int round = 0; round < 60; ++round) {
            const InodeNumber file = make_file(suspend, kRootInode, "file");
            const InodeNumber directory = make_directory(suspend, kRootInode, "dir");
            const InodeNumber link = unreferenced(
                must(fs->symlink(suspend, kRootUser, kRootInode, "link", std::string(900, 'x'))));
            const InodeNumber inner = make_directory(suspend, directory, "inner");
            const std::vector<InodeNumber> inodes = {file, directory, link, inner};
            for (std::uint64_t n = 1 + random() % 3; n-- != 0;) {
                const InodeNumber inode = inodes[random() % inodes.size()];
                std::string bytes = must(fs->store().attributes(suspend, to_blob(inode))).block;
                if (random() % 2 == 0) {
                    // A valid block with another number in one of its fields.
                    const std::size_t at = random() % (bytes.size() / 4) * 4;
                    const std::uint32_t number = static_cast<std::uint32_t>(random() % 6);
                    std::memcpy(bytes.data() + at, &number, sizeof(number));
                } else {
                    bytes[random() % bytes.size()] = static_cast<char>(random());
                }
                set_block(suspend, inode, bytes);
            }
            reopen(suspend);
            try_everything(suspend, inodes, file_names);
            must(fs->close(suspend));
            fs.reset();
            must(Filesystem::format(suspend, device, make_options));
            open(suspend);
        }
    });
}

TEST_F(DamageTest, AStoreWithoutARootIsRefused) {
    run([&](Suspend& suspend) {
        must(fs->close(suspend));
        fs.reset();
        must(blobstore::Blobstore::format(suspend, device, {}));
        const auto opened = Filesystem::open(suspend, device, {});
        EXPECT_TRUE(fails_with(opened, Errc::kWrongFormat));
        // And a root that is not a directory.
        must(Filesystem::format(suspend, device, make_options));
        open(suspend);
        InodeBlock block = make_inode_block(S_IFREG | 0644u, clock);
        block.nlink = 1;
        set_block(suspend, kRootInode, encode_inode(block, {}));
        must(fs->close(suspend));
        fs.reset();
        EXPECT_TRUE(fails_with(Filesystem::open(suspend, device, {}), Errc::kCorrupt));
    });
}

}  // namespace
}  // namespace blobfs::fs
