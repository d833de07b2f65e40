// The attribute block: what was encoded is decoded, everything else is refused.

#include "fs/inode_block.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>

namespace blobfs::fs {
namespace {

InodeBlock directory_block() {
    InodeBlock block = make_inode_block(S_IFDIR | 0755u, {.seconds = -5, .nanoseconds = 7});
    block.nlink = 2;
    block.parent = 1;
    return block;
}

TEST(InodeBlock, ComesBackFromItsBytes) {
    const auto decoded = decode_inode(encode_inode(directory_block(), {}), InodeNumber{3});
    ASSERT_TRUE(decoded);
    EXPECT_EQ(
        std::memcmp(&decoded->block, std::array{directory_block()}.data(), sizeof(InodeBlock)), 0);
    EXPECT_EQ(mtime_of(decoded->block), (Timestamp{-5, 7}));
}

TEST(InodeBlock, AnInlineTargetComesBack) {
    InodeBlock block = make_inode_block(S_IFLNK | 0777u, {});
    block.nlink = 1;
    const std::string target(kMaxInlineTargetBytes, 't');
    block.target_bytes = static_cast<std::uint16_t>(target.size());
    const std::string bytes = encode_inode(block, target);
    EXPECT_EQ(bytes.size(), 512u);
    EXPECT_EQ(decode_inode(bytes, InodeNumber{3})->inline_target, target);
    EXPECT_FALSE(decode_inode(bytes.substr(0, 511), InodeNumber{3}));
    EXPECT_FALSE(decode_inode(bytes + "x", InodeNumber{3}));
    std::string zero = bytes;
    zero[200] = '\0';
    EXPECT_FALSE(decode_inode(zero, InodeNumber{3}));
}

TEST(InodeBlock, WhatCannotBeIsCorrupt) {
    const std::vector<std::function<void(InodeBlock&)>> damages = {
        [](InodeBlock& b) { b.magic ^= 1; },
        [](InodeBlock& b) { b.version = 2; },
        [](InodeBlock& b) { b.reserved0 = 1; },
        [](InodeBlock& b) { b.reserved1 = 1; },
        [](InodeBlock& b) { b.flags = 0x80; },
        [](InodeBlock& b) { b.mode = 0755; },
        [](InodeBlock& b) { b.mode = 0xf000; },
        [](InodeBlock& b) { b.mode |= 0x10000; },
        [](InodeBlock& b) { b.atime_nanoseconds = 1'000'000'000; },
        [](InodeBlock& b) { b.mtime_nanoseconds = 0xffff'ffff; },
        [](InodeBlock& b) { b.ctime_nanoseconds = 1'000'000'000; },
        [](InodeBlock& b) { b.btime_nanoseconds = 1'000'000'000; },
        [](InodeBlock& b) { b.parent = 0; },
        [](InodeBlock& b) { b.mode = S_IFREG | 0644; },  // and still a parent
        [](InodeBlock& b) { b.rdev = 1; },
        [](InodeBlock& b) { b.target_bytes = 1; },
        [](InodeBlock& b) { b.nlink = kMaxLinks + 1; },
        [](InodeBlock& b) {
            b.mode = S_IFLNK | 0777;
            b.parent = 0;
        },
        [](InodeBlock& b) {
            b.mode = S_IFLNK | 0777;
            b.parent = 0;
            b.target_bytes = 4096;
        },
    };
    for (std::size_t i = 0; i < damages.size(); ++i) {
        InodeBlock block = directory_block();
        damages[i](block);
        std::string bytes(sizeof(block), '\0');
        std::memcpy(bytes.data(), &block, sizeof(block));
        const auto decoded = decode_inode(bytes, InodeNumber{3});
        ASSERT_FALSE(decoded) << i;
        EXPECT_EQ(decoded.error().code, Errc::kCorrupt) << i;
    }
}

TEST(InodeBlock, RandomBytesAreRefusedWithoutReadingBeyondThem) {
    std::mt19937_64 random(5);
    const std::string good = encode_inode(directory_block(), {});
    for (int round = 0; round < 20'000; ++round) {
        std::string bytes = good;
        bytes.resize(random() % 600, static_cast<char>(random()));
        for (std::uint64_t n = random() % 4; n-- != 0 && !bytes.empty();) {
            bytes[random() % bytes.size()] = static_cast<char>(random());
        }
        const std::string exact(bytes);  // its own allocation, so that ASan sees its end
        const auto decoded = decode_inode(exact, InodeNumber{3});
        if (decoded) {
            EXPECT_EQ(encode_inode(decoded->block, decoded->inline_target), exact);
        }
    }
}

}  // namespace
}  // namespace blobfs::fs
