#pragma once

// The names in a directory: records of its blob, keyed by the hash of the name. FORMAT.md,
// "Directory records". Stateless; the caller holds the directory's lock. Reactor thread.

#include <absl/functional/function_ref.h>

#include <string>
#include <string_view>

#include "blobstore/blobstore.h"
#include "fs/inode_block.h"

namespace blobfs::fs {

using driver::Suspend;

// Where a name is in its directory, or where it would go.
struct EntrySlot {
    bool exists = false;
    bool full = false;      // it is not there and all keys of its hash are taken
    std::uint64_t key = 0;  // of the entry, or free for it
    InodeNumber inode{};
    std::uint32_t type = 0;  // S_IFMT bits
};

// An entry as it is in the store; the name is valid during a visit only.
struct EntryView {
    std::uint64_t key = 0;
    InodeNumber inode{};
    std::uint32_t type = 0;
    std::string_view name;
};

class Directory {
  public:
    // hash_mask: which bits of the hash count; all but in tests of collisions.
    Directory(blobstore::Blobstore& store, std::uint64_t hash_mask)
        : store_(store), hash_mask_(hash_mask) {}

    // kCorrupt when a record on the way is damaged. One descent of the tree; suspends when its
    // page is not in memory.
    Result<EntrySlot> find(Suspend& suspend, InodeNumber directory, std::string_view name) const;
    Result<bool> is_empty(Suspend& suspend, InodeNumber directory) const;
    // Entries with keys from `from` on until visit returns false; visit must not suspend.
    Result<void> scan(Suspend& suspend, InodeNumber directory, std::uint64_t from,
                      absl::FunctionRef<bool(const EntryView&)> visit) const;

    static void put(blobstore::Transaction& transaction, InodeNumber directory, std::uint64_t key,
                    std::string_view name, InodeNumber inode, std::uint32_t mode);
    static void erase(blobstore::Transaction& transaction, InodeNumber directory,
                      std::uint64_t key);

    // The key of the name with collision number 0: 2^8 at least, and less than 2^63 - 2^8.
    [[nodiscard]] std::uint64_t first_key(std::string_view name) const;

  private:
    blobstore::Blobstore& store_;
    std::uint64_t hash_mask_;
};

// Directory::first_key() where all bits of the hash count.
std::uint64_t first_key_of(std::string_view name);

// A record of a directory, checked: the only place where its bytes become an entry. kCorrupt
// (address: the directory) for whatever Directory::put() cannot have made. The name lies in
// `bytes`.
Result<EntryView> decode_entry(InodeNumber directory, std::string_view key, std::string_view bytes);

// A name that may stand in a directory: kTooLong, kNotFound for none, kExists for "." and "..",
// kInvalidArgument for a slash or zero byte in it.
Result<void> check_name(std::string_view name);

// A 64-bit number as a key that sorts like it.
std::string big_endian_key(std::uint64_t number);

}  // namespace blobfs::fs
