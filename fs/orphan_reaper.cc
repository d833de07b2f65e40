#include "fs/orphan_reaper.h"

#include <spdlog/spdlog.h>

#include "driver/base/check.h"

namespace blobfs::fs {

namespace {

// One large file must not keep the space of many small ones waiting.
constexpr std::size_t kMaxFibers = 4;

}  // namespace

OrphanReaper::OrphanReaper(driver::Reactor& reactor, blobstore::Blobstore& store, InodeTable& table)
    : reactor_(reactor), store_(store), table_(table) {}

OrphanReaper::~OrphanReaper() { CHECK(!busy()); }

void OrphanReaper::add(InodeNumber inode) {
    if (table_.referenced(inode)) {
        waiting_.insert(value(inode));
    } else {
        enqueue(inode);
    }
}

void OrphanReaper::unreferenced(InodeNumber inode) {
    if (waiting_.erase(value(inode)) != 0) {
        enqueue(inode);
    }
}

void OrphanReaper::release_all() {
    for (const std::uint64_t inode : waiting_) {
        enqueue(static_cast<InodeNumber>(inode));
    }
    waiting_.clear();
}

void OrphanReaper::enqueue(InodeNumber inode) {
    if (store_.read_only()) {
        return;  // the next writable open finds it on the store's list
    }
    queue_.push_back(inode);
    deleting_.add();
    if (fibers_ < kMaxFibers) {
        // The fiber counts too: it may start only when others have deleted all there was.
        ++fibers_;
        deleting_.add();
        reactor_.spawn([this](Suspend& suspend) { run(suspend); });
    }
}

void OrphanReaper::run(Suspend& suspend) {
    while (!queue_.empty()) {
        const InodeNumber inode = queue_.front();
        queue_.pop_front();
        reap(suspend, inode);
        deleting_.done();
    }
    --fibers_;
    deleting_.done();  // the last thing: whoever waits for it may destroy this object
}

void OrphanReaper::reap(Suspend& suspend, InodeNumber number) {
    InodePin pin = table_.pin(number);
    auto locked = LockedInode::exclusive(suspend, std::move(pin));
    if (!locked) {
        return;
    }
    Inode& inode = **locked;
    if (inode.loaded && inode.block.nlink != 0) {
        return;  // link() was faster
    }
    if (table_.referenced(number)) {
        waiting_.insert(value(number));
        return;
    }
    inode.gone = true;
    table_.set_clean(inode);
    const auto deleted = store_.delete_blob(suspend, to_blob(number));
    if (!deleted && !store_.is_shut_down()) {
        spdlog::error("deleting inode {} (the next mount tries again): {}", value(number),
                      deleted.error().message());
    }
}

}  // namespace blobfs::fs
