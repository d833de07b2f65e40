#include "fs/inode_table.h"

#include "driver/base/check.h"

namespace blobfs::fs {

namespace {

// More spare locks than this many fibers can hold at once are not worth their memory.
constexpr std::size_t kMaxSpareLocks = 512;

}  // namespace

InodePin::InodePin(InodeTable& table, Inode& inode) : table_(&table), inode_(&inode) {
    table.pinned(inode);
}

InodePin& InodePin::operator=(InodePin&& other) noexcept {
    if (this != &other) {
        release();
        table_ = other.table_;
        inode_ = std::exchange(other.inode_, nullptr);
    }
    return *this;
}

void InodePin::release() {
    if (inode_ != nullptr) {
        table_->unpinned(*std::exchange(inode_, nullptr));
    }
}

Result<LockedInode> LockedInode::shared(Suspend& suspend, InodePin pin) {
    pin->lock->lock_shared(suspend);
    LockedInode locked(std::move(pin), false);
    if (locked->gone) {
        return fail(Errc::kNotFound, "using an inode: it was deleted", value(locked->number));
    }
    return locked;
}

Result<LockedInode> LockedInode::exclusive(Suspend& suspend, InodePin pin) {
    pin->lock->lock(suspend);
    LockedInode locked(std::move(pin), true);
    if (locked->gone) {
        return fail(Errc::kNotFound, "using an inode: it was deleted", value(locked->number));
    }
    return locked;
}

LockedInode& LockedInode::operator=(LockedInode&& other) noexcept {
    if (this != &other) {
        unlock();
        pin_ = std::move(other.pin_);
        exclusive_ = other.exclusive_;
    }
    return *this;
}

void LockedInode::unlock() {
    if (!pin_) {
        return;
    }
    if (exclusive_) {
        pin_->lock->unlock();
    } else {
        pin_->lock->unlock_shared();
    }
    pin_ = InodePin();
}

InodeTable::InodeTable(blobstore::Blobstore& store, std::size_t max_cached)
    : store_(store), max_cached_(max_cached) {}

InodeTable::~InodeTable() {
    for (const auto& [number, inode] : inodes_) {
        CHECK(inode->pins == 0);
    }
}

InodePin InodeTable::pin(InodeNumber number) {
    auto& slot = inodes_[value(number)];
    if (!slot) {
        slot = std::make_unique<Inode>();
        slot->number = number;
    }
    return InodePin(*this, *slot);
}

Result<InodePin> InodeTable::get(Suspend& suspend, InodeNumber number) {
    if (number == InodeNumber{}) {
        return fail(Errc::kNotFound, "using inode 0", 0);
    }
    InodePin pin = this->pin(number);
    if (pin->loaded) {
        return pin;
    }
    // The exclusive lock makes concurrent first users wait for one load.
    TRY_ASSIGN(auto locked, LockedInode::exclusive(suspend, this->pin(number)));
    if (pin->loaded) {
        return pin;
    }
    auto attributes = store_.attributes(suspend, to_blob(number));
    if (pin->loaded) {
        return pin;  // it was created meanwhile
    }
    TRY(attributes);
    TRY_ASSIGN(DecodedInode decoded, decode_inode(attributes->block, number));
    if (attributes->size > kMaxFileBytes) {
        return fail(Errc::kCorrupt, "reading an inode: impossible size", value(number));
    }
    pin->block = decoded.block;
    pin->inline_target = std::move(decoded.inline_target);
    pin->size = attributes->size;
    pin->allocated_bytes = attributes->allocated_bytes;
    pin->space_valid = true;
    pin->loaded = true;
    return pin;
}

Result<LockedInode> InodeTable::lock_shared(Suspend& suspend, InodeNumber number) {
    TRY_ASSIGN(InodePin pin, get(suspend, number));
    return LockedInode::shared(suspend, std::move(pin));
}

Result<LockedInode> InodeTable::lock_exclusive(Suspend& suspend, InodeNumber number) {
    TRY_ASSIGN(InodePin pin, get(suspend, number));
    return LockedInode::exclusive(suspend, std::move(pin));
}

InodePin InodeTable::insert(InodeNumber number, const InodeBlock& block,
                            std::string inline_target) {
    InodePin pin = this->pin(number);
    CHECK(!pin->loaded);
    pin->block = block;
    pin->inline_target = std::move(inline_target);
    pin->size = 0;
    pin->allocated_bytes = 0;
    pin->space_valid = true;
    pin->loaded = true;
    return pin;
}

Result<void> InodeTable::load_space(Suspend& suspend, Inode& inode) {
    if (inode.space_valid) {
        return {};
    }
    const std::uint32_t epoch = inode.space_epoch;
    TRY_ASSIGN(auto attributes, store_.attributes(suspend, to_blob(inode.number)));
    if (attributes.size > kMaxFileBytes) {
        return fail(Errc::kCorrupt, "reading an inode: impossible size", value(inode.number));
    }
    inode.size = attributes.size;
    inode.allocated_bytes = attributes.allocated_bytes;
    // A write that ended meanwhile may have changed them again.
    inode.space_valid = epoch == inode.space_epoch;
    return {};
}

std::vector<InodeNumber> InodeTable::dirty() const {
    std::vector<InodeNumber> numbers;
    numbers.reserve(dirty_.size());
    for (const std::uint64_t number : dirty_) {
        numbers.push_back(static_cast<InodeNumber>(number));
    }
    // What is written first does not depend on how they are hashed.
    std::ranges::sort(numbers);
    return numbers;
}

void InodeTable::set_dirty(Inode& inode) {
    CHECK(inode.pins > 0);
    if (!inode.dirty) {
        inode.dirty = true;
        dirty_.insert(value(inode.number));
    }
}

void InodeTable::set_clean(Inode& inode) {
    CHECK(inode.pins > 0);
    if (inode.dirty) {
        inode.dirty = false;
        dirty_.erase(value(inode.number));
    }
}

void InodeTable::add_reference(InodeNumber number) {
    if (const auto at = references_.find(value(number)); at != references_.end()) {
        ++at->second;
    } else if (!referenced_once_.insert(value(number)).second) {
        referenced_once_.erase(value(number));
        references_.emplace(value(number), 2);
    }
}

bool InodeTable::drop_references(InodeNumber number, std::uint64_t count) {
    CHECK(count > 0);
    if (const auto at = references_.find(value(number)); at != references_.end()) {
        const std::uint64_t left = at->second - std::min(at->second, count);
        if (left >= 2) {
            at->second = left;
            return false;
        }
        references_.erase(at);
        if (left == 0) {
            return true;
        }
        referenced_once_.insert(value(number));
        return false;
    }
    referenced_once_.erase(value(number));
    return true;
}

std::vector<InodeNumber> InodeTable::referenced() const {
    std::vector<InodeNumber> numbers;
    numbers.reserve(referenced_count());
    for (const std::uint64_t number : referenced_once_) {
        numbers.push_back(static_cast<InodeNumber>(number));
    }
    for (const auto& [number, references] : references_) {
        numbers.push_back(static_cast<InodeNumber>(number));
    }
    return numbers;
}

bool InodeTable::referenced(InodeNumber number) const {
    return referenced_once_.contains(value(number)) || references_.contains(value(number));
}

void InodeTable::pinned(Inode& inode) {
    if (inode.pins++ != 0) {
        return;
    }
    unlink_from_order(inode);
    if (spare_locks_.empty()) {
        inode.lock = std::make_unique<driver::FiberSharedMutex>();
    } else {
        inode.lock = std::move(spare_locks_.back());
        spare_locks_.pop_back();
    }
}

void InodeTable::unpinned(Inode& inode) {
    CHECK(inode.pins > 0);
    if (--inode.pins != 0) {
        return;
    }
    CHECK(inode.lock->idle());
    if (spare_locks_.size() < kMaxSpareLocks) {
        spare_locks_.push_back(std::move(inode.lock));
    }
    inode.lock.reset();
    if (inode.gone || !inode.loaded) {
        erase(inode);
        return;
    }
    if (inode.dirty) {
        return;  // the write-back pins it again, and then it joins the order
    }
    inode.older = newest_;
    (newest_ != nullptr ? newest_->newer : oldest_) = &inode;
    newest_ = &inode;
    while (inodes_.size() > max_cached_ && oldest_ != nullptr) {
        Inode& victim = *oldest_;
        unlink_from_order(victim);
        erase(victim);
    }
}

void InodeTable::unlink_from_order(Inode& inode) {
    if (inode.older == nullptr && inode.newer == nullptr && oldest_ != &inode) {
        return;
    }
    (inode.older != nullptr ? inode.older->newer : oldest_) = inode.newer;
    (inode.newer != nullptr ? inode.newer->older : newest_) = inode.older;
    inode.older = nullptr;
    inode.newer = nullptr;
}

void InodeTable::erase(Inode& inode) {
    if (inode.dirty) {
        dirty_.erase(value(inode.number));
    }
    inodes_.erase(value(inode.number));
}

}  // namespace blobfs::fs
