// Sound bytes of each kind, damaged at random, through each parser. The seed is printed; a few
// seconds in all. The same targets run for as long as one likes under libFuzzer (README.md), and
// begin with the same sound bytes: BLOBFS_FUZZ_SEEDS=FOLDER writes them there.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "blobstore/log_record.h"
#include "blobstore/page.h"
#include "blobstore/superblock.h"
#include "fs/directory.h"
#include "fs/inode_block.h"
#include "fs/posix_acl.h"
#include "tests/fuzz/mutation.h"
#include "tests/fuzz/targets.h"

namespace blobfs::fuzz {
namespace {

using blobstore::BlobId;
using blobstore::Key;
using blobstore::KeyKind;

// The name is that of the corpus, and in front of the bytes there comes what it has there.
struct Seeds {
    std::string corpus, prefix;
};

void write_seeds(const Seeds& seeds, const std::vector<std::string>& sound) {
    const char* folder = std::getenv("BLOBFS_FUZZ_SEEDS");
    if (folder == nullptr) return;
    const std::filesystem::path path = std::filesystem::path(folder) / seeds.corpus;
    std::filesystem::create_directories(path);
    for (const std::string& bytes : sound) {
        const std::string all = seeds.prefix + bytes;
        const std::string name = "sound-" + std::to_string(std::hash<std::string>()(all));
        std::ofstream(path / name, std::ios::binary) << all;
    }
}

void run(const Seeds& seeds, Target target, const std::vector<std::string>& sound, int rounds,
         bool keep_size) {
    write_seeds(seeds, sound);
    Mutation mutation(chosen_seed(20240607));
    for (const std::string& bytes : sound) target(bytes);
    for (int i = chosen_rounds(rounds); i > 0; --i) {
        std::string bytes = sound[mutation.below(sound.size())];
        mutation.damage(bytes, keep_size);
        target(bytes);
    }
}

std::string sound_superblock() {
    blobstore::Superblock superblock{};
    superblock.uuid[0] = 1;
    superblock.block_bytes = 4096;
    superblock.page_bytes = 4096;
    superblock.cluster_bytes = 4096;
    superblock.inline_bytes = 600;
    superblock.block_count = 1u << 16;
    superblock.log_start = 256;
    superblock.log_blocks = 256;
    superblock.generation = 4;
    superblock.epoch = 1;
    superblock.log_batch = 1;
    superblock.tree_root = {.block = 600, .generation = 3, .checksum = 9};
    superblock.tree_height = 2;
    superblock.map_root = {.block = 700, .generation = 3, .checksum = 9};
    superblock.map_height = blobstore::map_height_for(superblock.block_count, 4096);
    superblock.next_blob_id = 10;
    superblock.free_blocks = 1000;
    seal(superblock);
    return std::string(blobstore::bytes_of(superblock));
}

TEST(FuzzParsers, Superblock) {
    const std::string sound = sound_superblock();
    ASSERT_TRUE(blobstore::decode_superblock(std::as_bytes(std::span(sound)), 1ull << 28, 0));
    run({"superblock", {}}, fuzz_superblock, {sound}, 4000, true);
}

std::string sound_page(std::uint32_t level) {
    std::vector<std::byte> bytes(4096);
    blobstore::Page page(bytes);
    page.format(level);
    page.header().block = 999;
    page.header().generation = 7;
    const blobstore::PagePointer child{.block = 800, .generation = 5, .checksum = 3};
    for (std::uint64_t i = 0; i < 20; ++i) {
        const Key key(BlobId{i}, KeyKind::kExtent, i * 3);
        const blobstore::KeyView stored = level != 0 && i == 0 ? blobstore::KeyView() : key.view();
        const std::string value =
            level != 0 ? std::string(blobstore::bytes_of(child)) : std::string(i * 3, 'v');
        EXPECT_TRUE(page.insert(page.size(), stored, value));
    }
    if (level == 0) page.erase(3);
    EXPECT_EQ(blobstore::validate_page(bytes, {.level = level, .block_count = 1u << 20}), nullptr);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(FuzzParsers, TreePage) {
    run({"page", {}}, fuzz_page, {sound_page(0), sound_page(1)}, 20'000, true);
}

TEST(FuzzParsers, LogRecord) {
    blobstore::LogRecord record;
    std::string sound;
    for (int i = 0; i < 3; ++i) {
        record.clear();
        record.put(Key(BlobId{3}, KeyKind::kExtent, 5), std::string(16, 'e'));
        record.erase(Key(BlobId{4}, KeyKind::kAttributes));
        record.allocate({blobstore::BlockIndex{700}, 8});
        record.free({blobstore::BlockIndex{900}, 2});
        record.next_blob_id(BlobId{12});
        sound += record.finish();
    }
    run({"log", {}}, fuzz_log, {sound}, 20'000, false);
}

TEST(FuzzParsers, Extent) {
    const blobstore::ExtentValue extent{.block = 4096, .blocks = 8, .flags = 2};
    run({"values", std::string("\0", 1)}, fuzz_extent,
        {std::string(Key(BlobId{3}, KeyKind::kExtent, 64).view()) +
         std::string(blobstore::bytes_of(extent))},
        20'000, false);
}

std::vector<std::string> sound_inodes() {
    std::vector<std::string> sound;
    for (const std::uint32_t type : {S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFIFO}) {
        fs::InodeBlock block = fs::make_inode_block(type | 0644u, {.seconds = 1'700'000'000});
        block.nlink = S_ISDIR(type) ? 2 : 1;
        block.parent = S_ISDIR(type) ? 1 : 0;
        block.target_bytes = S_ISLNK(type) ? 6 : 0;
        sound.push_back(encode_inode(block, S_ISLNK(type) ? "target" : ""));
        EXPECT_TRUE(fs::decode_inode(sound.back(), fs::InodeNumber{5}));
    }
    return sound;
}

TEST(FuzzParsers, Inode) {
    run({"values", std::string("\1", 1)}, fuzz_inode, sound_inodes(), 20'000, false);
}

std::string sound_entry(std::uint64_t inode, std::uint32_t type, const std::string& name) {
    const fs::EntryHead head{.inode = inode,
                             .type = static_cast<std::uint8_t>(type >> 12),
                             .name_bytes = static_cast<std::uint8_t>(name.size()),
                             .reserved = 0,
                             .reserved1 = 0};
    return std::string(blobstore::bytes_of(head)) + name;
}

TEST(FuzzParsers, DirectoryEntry) {
    run({"values", std::string("\2", 1)}, fuzz_entry,
        {fs::big_endian_key(fs::first_key_of("name")) + sound_entry(7, S_IFREG, "name")}, 20'000,
        false);
}

TEST(FuzzParsers, AccessControlList) {
    const fs::PosixAcl acl = {{.tag = fs::AclTag::kUserObj, .permissions = 6, .id = 0},
                              {.tag = fs::AclTag::kUser, .permissions = 4, .id = 1000},
                              {.tag = fs::AclTag::kGroupObj, .permissions = 4, .id = 0},
                              {.tag = fs::AclTag::kMask, .permissions = 4, .id = 0},
                              {.tag = fs::AclTag::kOther, .permissions = 0, .id = 0}};
    run({"values", std::string("\3", 1)}, fuzz_acl, {encode_acl(acl)}, 20'000, false);
}

TEST(FuzzParsers, KeysOfAStore) {
    std::string stream;
    const auto add = [&](std::string_view key, std::string_view value) {
        for (const std::string_view part : {key, value}) {
            const auto size = static_cast<std::uint16_t>(part.size());
            stream += blobstore::bytes_of(size);
            stream += part;
        }
    };
    const auto attributes = [&](std::uint64_t inode, const std::string& block,
                                std::uint64_t blocks) {
        const blobstore::AttributesValue head{
            .size = blocks * 4096, .allocated_blocks = blocks, .flags = 0, .reserved = 0};
        add(Key(BlobId{inode}, KeyKind::kAttributes),
            std::string(blobstore::bytes_of(head)) + block);
    };
    add(Key(BlobId{0}, KeyKind::kOrphan, 9), "");
    fs::InodeBlock root = fs::make_inode_block(S_IFDIR | 0755u, {});
    root.nlink = 2;
    root.parent = 1;
    root.entries = 1;
    root.name_bytes = 4;
    attributes(1, encode_inode(root, {}), 0);
    const std::string name = fs::big_endian_key(fs::first_key_of("name"));
    add(Key(BlobId{1}, KeyKind::kRecord, name), sound_entry(2, S_IFREG, "name"));
    fs::InodeBlock file = fs::make_inode_block(S_IFREG | 0644u, {});
    file.nlink = 1;
    file.flags = fs::kInodeHasXattrs;
    attributes(2, encode_inode(file, {}), 4);
    Key piece(BlobId{2}, KeyKind::kXattr, std::string_view("user.a"));
    piece.append_byte(0);
    piece.append_byte(0);
    add(piece, "value");
    add(Key(BlobId{2}, KeyKind::kExtent, 0),
        blobstore::bytes_of(blobstore::ExtentValue{.block = 1000, .blocks = 4, .flags = 0}));
    file.nlink = 0;
    file.flags = 0;
    attributes(9, encode_inode(file, {}), 0);
    run({"keys", {}}, fuzz_keys, {stream}, 20'000, false);
}

}  // namespace
}  // namespace blobfs::fuzz
