#include "mkfs/target.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cstring>

#include "blobstore/format.h"
#include "tests/mkfs/scratch_file.h"

namespace blobfs::mkfs {
namespace {

using namespace std::string_view_literals;

constexpr std::uint64_t kMiB = 1u << 20;
const SurveyOptions kAtOnce = {.may_create = false, .lock_wait_ms = 0};

std::string first_kind(const ScratchFile& file) {
    const auto target = survey(file.path(), kAtOnce);
    EXPECT_TRUE(target) << target.error();
    return target && !target->signatures.empty() ? target->signatures.front().kind : "";
}

// What the survey says no with.
std::string refusal(const std::string& device, const SurveyOptions& options = kAtOnce) {
    const auto target = survey(device, options);
    EXPECT_FALSE(target) << device;
    return target ? "" : target.error();
}

void put_superblock(ScratchFile& file, std::uint64_t block, const char* label) {
    blobstore::Superblock superblock{};
    superblock.magic = blobstore::kSuperblockMagic;
    std::memcpy(superblock.label.data(), label, std::strlen(label));
    file.put(block * blobstore::kBlockBytes,
             {reinterpret_cast<const char*>(&superblock), sizeof(superblock)});
}

// A partition table as fdisk makes it: one Linux partition.
void put_dos_partition_table(ScratchFile& file) {
    std::string sector(512, '\0');
    sector[446 + 4] = '\x83';
    sector[446 + 9] = '\x08';  // starts at sector 2048
    sector[446 + 13] = '\x40';
    sector[510] = '\x55';
    sector[511] = '\xaa';
    file.put(0, sector);
}

TEST(Target, EmptyFileIsFree) {
    const ScratchFile file(64 * kMiB);
    const auto target = survey(file.path(), kAtOnce);
    ASSERT_TRUE(target) << target.error();
    EXPECT_EQ(target->kind, Target::Kind::kFile);
    EXPECT_EQ(target->bytes, 64 * kMiB);
    EXPECT_TRUE(target->signatures.empty());
    EXPECT_FALSE(target->unknown_data);
}

TEST(Target, FilePrefixIsAPath) {
    const ScratchFile file(64 * kMiB);
    const auto target = survey("file:" + file.path(), kAtOnce);
    ASSERT_TRUE(target) << target.error();
    EXPECT_EQ(target->path, file.path());
}

TEST(Target, MissingFileNeedsASize) {
    const ScratchFile file(kMiB);
    EXPECT_NE(refusal(file.folder() + "/none").find("--size"), std::string::npos);
    const auto target = survey(file.folder() + "/none", {.may_create = true, .lock_wait_ms = 0});
    ASSERT_TRUE(target) << target.error();
    EXPECT_EQ(target->kind, Target::Kind::kNewFile);
    EXPECT_NE(access((file.folder() + "/none").c_str(), F_OK), 0) << "the survey made the file";
    refusal(file.folder() + "/no/folder", {.may_create = true, .lock_wait_ms = 0});
}

TEST(Target, WhatIsNoFileOrBlockDeviceIsRefused) {
    const ScratchFile file(kMiB);
    EXPECT_NE(refusal(file.folder()).find("directory"), std::string::npos);
    EXPECT_NE(refusal("/dev/null").find("neither"), std::string::npos);
    const std::string fifo = file.folder() + "/fifo";
    ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
    EXPECT_NE(refusal(fifo).find("neither"), std::string::npos);
    refusal("");
}

TEST(Target, ControllerIsOnlyNamed) {
    for (const char* name : {"pcie:0000:03:00.0", "0000:03:00.0", "mem:64MiB"}) {
        const auto target = survey(name, kAtOnce);
        ASSERT_TRUE(target) << target.error();
        EXPECT_EQ(target->kind, Target::Kind::kController) << name;
    }
}

TEST(Target, EitherSuperblockIsRecognised) {
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
        ScratchFile file(64 * kMiB);
        put_superblock(file, block, "photos");
        EXPECT_EQ(first_kind(file), "blobfs filesystem");
        EXPECT_EQ(survey(file.path(), kAtOnce)->signatures.front().label, "photos");
    }
}

TEST(Target, LabelsCannotGarbleTheTerminal) {
    ScratchFile file(64 * kMiB);
    put_superblock(file, blobstore::kSuperblockBlocks[0], "a\x1b[2Jb");
    EXPECT_EQ(survey(file.path(), kAtOnce)->signatures.front().label, "a?[2Jb");
}

TEST(Target, PartitionTableIsRecognised) {
    ScratchFile file(64 * kMiB);
    put_dos_partition_table(file);
    EXPECT_EQ(first_kind(file), "DOS (MBR) partition table");
}

TEST(Target, SwapAreaIsRecognised) {
    ScratchFile file(64 * kMiB);
    std::string page(4096, '\0');
    page[1024] = 1;       // version
    page[1028] = '\xff';  // last page
    page[1029] = '\x3f';
    page.replace(4096 - 10, 10, "SWAPSPACE2");
    file.put(0, page);
    EXPECT_EQ(first_kind(file), "swap area");
}

TEST(Target, AllSignaturesAreFoundWithTheirPlaces) {
    ScratchFile file(64 * kMiB);
    put_superblock(file, blobstore::kSuperblockBlocks[0], "");
    put_dos_partition_table(file);
    const auto target = survey(file.path(), kAtOnce);
    ASSERT_TRUE(target) << target.error();
    ASSERT_EQ(target->signatures.size(), 2u);
    EXPECT_EQ(target->signatures[0].offset, 4096u);
    EXPECT_EQ(target->signatures[1].offset, 510u);
    EXPECT_EQ(describe(target->signatures), "a blobfs filesystem and a DOS (MBR) partition table");
}

TEST(Target, DataOfAnyKindInAFileIsNotFreeSpace) {
    ScratchFile file(64 * kMiB);
    file.put(900'000, "my thesis");
    EXPECT_TRUE(survey(file.path(), kAtOnce)->unknown_data);
}

TEST(Target, LockedFileIsInUse) {
    const ScratchFile file(64 * kMiB);
    const int other = open(file.path().c_str(), O_RDWR | O_CLOEXEC);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    ASSERT_EQ(fcntl(other, F_OFD_SETLK, &lock), 0);
    EXPECT_NE(refusal(file.path()).find("locked by another process"), std::string::npos);
    close(other);
    EXPECT_TRUE(survey(file.path(), kAtOnce));
}

}  // namespace
}  // namespace blobfs::mkfs
