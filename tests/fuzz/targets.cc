#include "tests/fuzz/targets.h"

#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "blobstore/extent_map.h"
#include "blobstore/log_record.h"
#include "blobstore/page.h"
#include "blobstore/superblock.h"
#include "driver/base/check.h"
#include "fs/directory.h"
#include "fs/inode_block.h"
#include "fs/posix_acl.h"
#include "fs/fsck/key_check.h"

namespace blobfs::fuzz {

using blobstore::Key;
using blobstore::KeyView;
using blobstore::Page;
using blobstore::PageHeader;
using blobstore::PageView;
using blobstore::Superblock;
using blobstore::ValueView;

namespace {

constexpr std::uint64_t kDeviceBlocks = 1u << 20;

std::string resized(std::string_view bytes, std::size_t size) {
    std::string result(bytes.substr(0, size));
    result.resize(size, '\0');
    return result;
}

}  // namespace

void seal_superblock(std::string& bytes) {
    const std::uint64_t zero = 0;
    std::memcpy(bytes.data() + offsetof(Superblock, checksum), &zero, sizeof(zero));
    const std::uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
    std::memcpy(bytes.data() + offsetof(Superblock, checksum), &checksum, sizeof(checksum));
}

void fuzz_superblock(std::string_view bytes) {
    std::string whole = resized(bytes, sizeof(Superblock));
    for (const bool sealed : {false, true}) {
        if (sealed) seal_superblock(whole);
        for (const unsigned slot : {0u, 1u}) {
            const auto decoded = blobstore::decode_superblock(
                std::as_bytes(std::span(whole)), kDeviceBlocks * blobstore::kBlockBytes, slot);
            if (!decoded) continue;
            CHECK(decoded->block_count <= kDeviceBlocks);
            CHECK(log_end(*decoded) <= decoded->block_count);
            CHECK(decoded->map_height ==
                  blobstore::map_height_for(decoded->block_count, decoded->page_bytes));
            CHECK(decoded->tree_height <= blobstore::kMaxTreeHeight);
            CHECK(decoded->inline_bytes <= decoded->page_bytes);
        }
    }
}

void fuzz_page(std::string_view bytes) {
    constexpr std::size_t kBytes = blobstore::kMinPageBytes;
    // On the heap, just as long: AddressSanitizer sees a byte too far.
    std::vector<std::byte> page(kBytes);
    const std::string whole = resized(bytes, kBytes);
    for (const std::uint32_t level : {0u, 1u}) {
        std::memcpy(page.data(), whole.data(), kBytes);
        if (blobstore::validate_page(page, {.level = level, .block_count = kDeviceBlocks}) !=
            nullptr)
            continue;
        const PageView view(page.data());
        std::size_t sum = 0;
        for (std::size_t i = 0; i < view.size(); ++i) {
            sum += view.key(i).size() + view.value(i).size();
            if (i >= 1 || level == 0) {
                const auto position = view.find(view.key(i));
                CHECK(position.found && position.index == i);
            }
            if (level != 0) CHECK(view.child(i).block < kDeviceBlocks);
        }
        CHECK(sum <= kBytes);
        // What is valid can be changed, and stays so.
        Page changed(page);
        const std::string key(1 + sum % 30, 'k');
        const std::string value(level == 0 ? sum % 100 : sizeof(blobstore::PagePointer), '\0');
        const auto at = changed.find(key);
        if (level == 0 && !at.found) {
            static_cast<void>(changed.insert(at.index, key, value));
        }
        if (changed.size() > 1) changed.erase(sum % changed.size());
        CHECK(blobstore::validate_page(page, {.level = level, .block_count = kDeviceBlocks}) ==
              nullptr);
    }
}

void fuzz_log(std::string_view bytes) {
    // Each transaction as deep as it goes, then what comes behind it.
    while (!bytes.empty()) {
        std::size_t operations = 0;
        const auto taken = blobstore::parse_transaction(
            bytes, [&](const blobstore::LogOperation& operation) -> Result<void> {
                ++operations;
                CHECK(operation.key.size() <= blobstore::kMaxKeyBytes);
                CHECK(operation.value.size() <= blobstore::kMaxPageBytes);
                return {};
            });
        if (!taken) return;
        CHECK(*taken > 0 && *taken <= bytes.size() && operations <= *taken);
        bytes.remove_prefix(*taken);
    }
}

void fuzz_extent(std::string_view bytes) {
    const std::size_t split = bytes.size() < 17 ? bytes.size() : 17;
    const blobstore::ExtentBounds bounds{
        .first_block = 512, .end_block = kDeviceBlocks, .cluster_blocks = 4};
    const auto extent =
        blobstore::decode_extent(bytes.substr(0, split), bytes.substr(split), bounds);
    if (!extent) return;
    CHECK(extent->blocks > 0 && extent->device >= 512 &&
          extent->device + extent->blocks <= kDeviceBlocks);
    CHECK(extent->end() > extent->first && extent->device % 4 == 0 && extent->blocks % 4 == 0);
}

void fuzz_inode(std::string_view bytes) {
    const auto inode = fs::decode_inode(bytes, fs::InodeNumber{5});
    if (!inode) return;
    CHECK(encode_inode(inode->block, inode->inline_target) == bytes);
    CHECK(fs::valid_mode(inode->block.mode) && inode->block.nlink <= fs::kMaxLinks);
}

void fuzz_entry(std::string_view bytes) {
    const std::size_t split = bytes.size() < 8 ? bytes.size() : 8;
    const auto entry =
        fs::decode_entry(fs::InodeNumber{5}, bytes.substr(0, split), bytes.substr(split));
    if (!entry) return;
    CHECK(fs::check_name(entry->name).has_value() && fs::value(entry->inode) != 0);
    CHECK(static_cast<std::int64_t>(entry->key + 1) > 2 && fs::valid_mode(entry->type));
}

void fuzz_acl(std::string_view bytes) {
    const auto acl = fs::parse_acl(bytes);
    if (!acl) return;
    const auto again = fs::parse_acl(encode_acl(*acl));
    CHECK(again && *again == *acl);
    if (acl->empty()) return;
    fs::PosixAcl changed = *acl;
    const std::uint32_t mode = fs::mode_by_acl(changed, S_IFREG);
    chmod_acl(changed, mode ^ 0222u);
    std::uint32_t asked = 0664;
    inherit_acl(changed, asked);
    CHECK(fs::valid_mode(mode | S_IFREG));
}

void fuzz_values(std::string_view bytes) {
    if (bytes.empty()) return;
    constexpr std::array<Target, 4> kOfValues = {fuzz_extent, fuzz_inode, fuzz_entry, fuzz_acl};
    kOfValues[static_cast<std::uint8_t>(bytes[0]) % kOfValues.size()](bytes.substr(1));
}

void fuzz_keys(std::string_view bytes) {
    // A tree's keys are ascending and each there once, whatever they are.
    std::map<std::string, std::string> entries;
    const auto take = [&](std::size_t most) {
        std::uint16_t size = 0;
        if (bytes.size() >= 2) std::memcpy(&size, bytes.data(), 2);
        bytes.remove_prefix(std::min<std::size_t>(2, bytes.size()));
        const std::string_view part =
            bytes.substr(0, std::min<std::size_t>(size % (most + 1), bytes.size()));
        bytes.remove_prefix(part.size());
        return std::string(part);
    };
    while (!bytes.empty()) {
        const std::string key = take(blobstore::kMaxKeyBytes);
        entries[key] = take(600);
    }
    Superblock superblock{};
    superblock.page_bytes = 4096;
    superblock.cluster_bytes = 4096;
    superblock.inline_bytes = 700;
    superblock.block_count = kDeviceBlocks;
    superblock.log_start = 256;
    superblock.log_blocks = 256;
    fsck::Findings findings;
    fsck::NameCheck names(findings);
    fsck::KeyCheck keys(superblock, findings, names);
    for (const auto& [key, value] : entries) keys.entry(key, value);
    keys.finish(true);
    const auto finished = names.finish(true, [&](std::string_view key) -> Result<std::string> {
        const auto found = entries.find(std::string(key));
        return found == entries.end() ? std::string() : found->second;
    });
    CHECK(finished.has_value());
    // Whatever is not sound is told: a store without a root directory is not.
    if (!entries.contains(
            std::string(Key(blobstore::BlobId{1}, blobstore::KeyKind::kAttributes).view()))) {
        CHECK(findings.total() > 0);
    }
}

}  // namespace blobfs::fuzz
