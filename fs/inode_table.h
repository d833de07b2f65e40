#pragma once

// The inodes that are in use: their attributes in memory, a lock each, and how many lookup
// references the front end holds. Reactor thread.
//
// An inode is in the table while it is pinned (an operation uses it), dirty (times still to be
// written), or among the most recently used clean ones. References are apart from that, so that
// millions of inodes that the kernel remembers cost some 20 bytes each.
//
// Order of locks, see README.md: the rename mutex, then directories from the root downwards, then
// inodes that are not directories by number.

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "blobstore/blobstore.h"
#include "driver/reactor/fiber.h"
#include "fs/inode_block.h"

namespace blobfs::fs {

using driver::Suspend;

struct Inode {
    InodeNumber number{};
    bool loaded = false;  // block and target are valid
    bool dirty = false;   // times in block are newer than the store's
    bool gone = false;    // deleted; only who pinned it earlier still sees it
    // Size and allocation as of the store; not valid after a change of the mapping.
    bool space_valid = false;
    std::uint32_t space_epoch = 0;  // counts the invalidations
    std::uint32_t pins = 0;
    InodeBlock block{};
    std::string inline_target;
    std::uint64_t size = 0;
    std::uint64_t allocated_bytes = 0;
    std::unique_ptr<driver::FiberSharedMutex> lock;  // while pinned
    Inode* older = nullptr;                          // neighbours in the order of last use,
    Inode* newer = nullptr;                          // while clean and not pinned

    void invalidate_space() {
        space_valid = false;
        ++space_epoch;
    }
};

class InodeTable;

// Keeps an inode in the table. Movable; empty after a move.
class InodePin {
  public:
    InodePin() = default;
    InodePin(InodeTable& table, Inode& inode);
    InodePin(InodePin&& other) noexcept
        : table_(other.table_), inode_(std::exchange(other.inode_, nullptr)) {}
    InodePin& operator=(InodePin&& other) noexcept;
    ~InodePin() { release(); }

    [[nodiscard]] Inode* get() const { return inode_; }
    Inode* operator->() const { return inode_; }
    Inode& operator*() const { return *inode_; }
    explicit operator bool() const { return inode_ != nullptr; }

  private:
    void release();
    InodeTable* table_ = nullptr;
    Inode* inode_ = nullptr;
};

// A pinned, loaded and locked inode. Movable; empty after a move or unlock().
class LockedInode {
  public:
    LockedInode() = default;
    // Suspend until the lock is free. kNotFound when the inode was deleted meanwhile.
    static Result<LockedInode> shared(Suspend& suspend, InodePin pin);
    static Result<LockedInode> exclusive(Suspend& suspend, InodePin pin);
    LockedInode(LockedInode&& other) noexcept
        : pin_(std::move(other.pin_)), exclusive_(other.exclusive_) {}
    LockedInode& operator=(LockedInode&& other) noexcept;
    ~LockedInode() { unlock(); }
    void unlock();

    [[nodiscard]] Inode* get() const { return pin_.get(); }
    Inode* operator->() const { return pin_.get(); }
    Inode& operator*() const { return *pin_; }
    explicit operator bool() const { return static_cast<bool>(pin_); }

  private:
    LockedInode(InodePin pin, bool exclusive) : pin_(std::move(pin)), exclusive_(exclusive) {}
    InodePin pin_;
    bool exclusive_ = false;
};

class InodeTable {
  public:
    InodeTable(blobstore::Blobstore& store, std::size_t max_cached);
    ~InodeTable();
    InodeTable(const InodeTable&) = delete;
    InodeTable& operator=(const InodeTable&) = delete;

    // Loaded already.
    [[nodiscard]] bool in_memory(InodeNumber number) const {
        const auto at = inodes_.find(value(number));
        return at != inodes_.end() && at->second->loaded;
    }
    // In the table, perhaps not loaded. Never suspends.
    InodePin pin(InodeNumber number);
    // Pinned and loaded. kNotFound, kCorrupt. Suspends when it is not in memory.
    Result<InodePin> get(Suspend& suspend, InodeNumber number);
    Result<LockedInode> lock_shared(Suspend& suspend, InodeNumber number);
    Result<LockedInode> lock_exclusive(Suspend& suspend, InodeNumber number);
    // An inode that was created just now, with these attributes and no data. Never suspends.
    InodePin insert(InodeNumber number, const InodeBlock& block, std::string inline_target);
    // Size and allocation, from the store when they are not known. REQUIRES a lock. May suspend.
    Result<void> load_space(Suspend& suspend, Inode& inode);

    // The inodes that are dirty now, by number.
    [[nodiscard]] std::vector<InodeNumber> dirty() const;
    void set_dirty(Inode& inode);
    void set_clean(Inode& inode);

    void add_reference(InodeNumber number);
    // True when no references are left. REQUIRES count > 0.
    bool drop_references(InodeNumber number, std::uint64_t count);
    void drop_all_references() {
        referenced_once_.clear();
        references_.clear();
    }
    [[nodiscard]] bool referenced(InodeNumber number) const;
    // All that have references, in no order.
    [[nodiscard]] std::vector<InodeNumber> referenced() const;

    [[nodiscard]] std::size_t cached() const { return inodes_.size(); }
    [[nodiscard]] std::size_t referenced_count() const {
        return referenced_once_.size() + references_.size();
    }
    [[nodiscard]] std::size_t dirty_count() const { return dirty_.size(); }

  private:
    friend class InodePin;
    void pinned(Inode& inode);
    void unpinned(Inode& inode);
    void unlink_from_order(Inode& inode);
    void erase(Inode& inode);

    blobstore::Blobstore& store_;
    std::size_t max_cached_;
    absl::flat_hash_map<std::uint64_t, std::unique_ptr<Inode>> inodes_;
    // Most inodes that the kernel remembers have one reference: then no count is kept.
    absl::flat_hash_set<std::uint64_t> referenced_once_;
    absl::flat_hash_map<std::uint64_t, std::uint64_t> references_;  // of those with more
    // A lock is larger than the attributes, so only pinned inodes have one, lent from here.
    std::vector<std::unique_ptr<driver::FiberSharedMutex>> spare_locks_;
    Inode* oldest_ = nullptr;
    Inode* newest_ = nullptr;
    absl::flat_hash_set<std::uint64_t> dirty_;
};

}  // namespace blobfs::fs
