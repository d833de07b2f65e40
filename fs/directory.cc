#include "fs/directory.h"

#include <xxhash.h>

#include <array>
#include <bitset>
#include <cstring>

namespace blobfs::fs {

namespace {

constexpr std::uint64_t kCollisions = 1u << kCollisionBits;
constexpr unsigned kHashBits = 63 - kCollisionBits;
constexpr std::uint64_t kMaxHash = (std::uint64_t{1} << kHashBits) - 2;

std::uint64_t key_of_hash(std::uint64_t hash) {
    hash >>= 64 - kHashBits;
    if (hash == 0) {
        hash = 1;  // the offsets below 2^8 are for "." and ".."
    } else if (hash > kMaxHash) {
        hash = kMaxHash;  // the offset after the last entry is positive too
    }
    return hash << kCollisionBits;
}

}  // namespace

Result<EntryView> decode_entry(InodeNumber directory, std::string_view key,
                               std::string_view bytes) {
    const auto damaged = [&] {
        return fail(Errc::kCorrupt, "reading a directory: an entry is damaged", value(directory));
    };
    if (key.size() != kEntryKeyBytes || bytes.size() < sizeof(EntryHead)) {
        return damaged();
    }
    EntryView entry;
    std::uint64_t big_endian = 0;
    std::memcpy(&big_endian, key.data(), sizeof(big_endian));
    entry.key = __builtin_bswap64(big_endian);
    EntryHead head{};
    std::memcpy(&head, bytes.data(), sizeof(head));
    entry.inode = static_cast<InodeNumber>(head.inode);
    entry.type = static_cast<std::uint32_t>(head.type) << 12;
    entry.name = bytes.substr(sizeof(head));
    if (entry.key < kCollisions || (entry.key >> kCollisionBits) > kMaxHash || head.inode == 0 ||
        head.reserved != 0 || head.reserved1 != 0 || head.name_bytes != entry.name.size() ||
        !valid_mode(entry.type) || !check_name(entry.name)) {
        return damaged();
    }
    return entry;
}

std::string big_endian_key(std::uint64_t number) {
    const std::uint64_t big_endian = __builtin_bswap64(number);
    std::string key(sizeof(big_endian), '\0');
    std::memcpy(key.data(), &big_endian, sizeof(big_endian));
    return key;
}

std::uint64_t Directory::first_key(std::string_view name) const {
    return key_of_hash(XXH3_64bits(name.data(), name.size()) & hash_mask_);
}

std::uint64_t first_key_of(std::string_view name) {
    return key_of_hash(XXH3_64bits(name.data(), name.size()));
}

Result<EntrySlot> Directory::find(Suspend& suspend, InodeNumber directory,
                                  std::string_view name) const {
    const std::uint64_t first = first_key(name);
    EntrySlot slot;
    std::bitset<kCollisions> taken;
    Result<void> damaged;
    TRY(store_.scan_records(suspend, to_blob(directory), big_endian_key(first),
                            [&](std::string_view key, std::string_view bytes) {
                                auto entry = decode_entry(directory, key, bytes);
                                if (!entry) {
                                    damaged = fail(entry.error());
                                    return false;
                                }
                                if ((entry->key >> kCollisionBits) != (first >> kCollisionBits)) {
                                    return false;
                                }
                                if (entry->name == name) {
                                    slot = {.exists = true,
                                            .full = false,
                                            .key = entry->key,
                                            .inode = entry->inode,
                                            .type = entry->type};
                                    return false;
                                }
                                taken.set(entry->key - first);
                                return true;
                            }));
    TRY(damaged);
    if (slot.exists) {
        return slot;
    }
    if (taken.all()) {
        slot.full = true;
        return slot;
    }
    std::size_t collision = 0;
    while (taken.test(collision)) {
        ++collision;
    }
    slot.key = first + collision;
    return slot;
}

Result<bool> Directory::is_empty(Suspend& suspend, InodeNumber directory) const {
    bool empty = true;
    TRY(store_.scan_records(suspend, to_blob(directory), {},
                            [&](std::string_view, std::string_view) {
                                empty = false;
                                return false;
                            }));
    return empty;
}

Result<void> Directory::scan(Suspend& suspend, InodeNumber directory, std::uint64_t from,
                             absl::FunctionRef<bool(const EntryView&)> visit) const {
    Result<void> damaged;
    // From 0 on all there is, keys that are too short included, which only damage makes.
    TRY(store_.scan_records(suspend, to_blob(directory), from == 0 ? "" : big_endian_key(from),
                            [&](std::string_view key, std::string_view bytes) {
                                auto entry = decode_entry(directory, key, bytes);
                                if (!entry) {
                                    damaged = fail(entry.error());
                                    return false;
                                }
                                return visit(*entry);
                            }));
    return damaged;
}

void Directory::put(blobstore::Transaction& transaction, InodeNumber directory, std::uint64_t key,
                    std::string_view name, InodeNumber inode, std::uint32_t mode) {
    const EntryHead head{.inode = value(inode),
                         .type = static_cast<std::uint8_t>((mode & S_IFMT) >> 12),
                         .name_bytes = static_cast<std::uint8_t>(name.size()),
                         .reserved = 0,
                         .reserved1 = 0};
    std::array<char, sizeof(EntryHead) + kMaxNameBytes> bytes;
    std::memcpy(bytes.data(), &head, sizeof(head));
    std::memcpy(bytes.data() + sizeof(head), name.data(), name.size());
    transaction.put_record(to_blob(directory), big_endian_key(key),
                           {bytes.data(), sizeof(head) + name.size()});
}

void Directory::erase(blobstore::Transaction& transaction, InodeNumber directory,
                      std::uint64_t key) {
    transaction.erase_record(to_blob(directory), big_endian_key(key));
}

Result<void> check_name(std::string_view name) {
    if (name.empty()) {
        return fail(Errc::kNotFound, "using an empty name");
    }
    if (name.size() > kMaxNameBytes) {
        return fail(Errc::kTooLong, "using a name of more than 255 bytes");
    }
    if (name == "." || name == "..") {
        return fail(Errc::kExists, "using the name . or ..");
    }
    if (name.find('/') != std::string_view::npos || name.find('\0') != std::string_view::npos) {
        return fail(Errc::kInvalidArgument, "using a name with a slash or a zero byte");
    }
    return {};
}

}  // namespace blobfs::fs
