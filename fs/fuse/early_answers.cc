#include "fs/fuse/early_answers.h"

#include "driver/base/check.h"

namespace blobfs::fs::fuse {

EarlyAnswers::Ticket EarlyAnswers::begin(InodeNumber inode) {
    writes_.push_back({.inode = inode});
    ++under_way_;
    ++by_inode_[value(inode)];
    return oldest_ + writes_.size() - 1;
}

void EarlyAnswers::end(Ticket ticket, const std::optional<Error>& error) {
    Write& write = writes_.at(ticket - oldest_);
    CHECK(!write.over);
    write.over = true;
    --under_way_;
    const auto count = by_inode_.find(value(write.inode));
    if (--count->second == 0) by_inode_.erase(count);
    if (error) errors_[value(write.inode)] = *error;
    while (!writes_.empty() && writes_.front().over) {
        writes_.pop_front();
        ++oldest_;
    }
    waiters_.wake_all();
}

void EarlyAnswers::settle(driver::Suspend& suspend, InodeNumber inode, Ticket end) {
    const auto under_way = [&] {
        if (!any(inode)) return false;
        for (Ticket ticket = oldest_; ticket < end; ++ticket) {
            const Write& write = writes_[ticket - oldest_];
            if (write.inode == inode && !write.over) return true;
        }
        return false;
    };
    while (under_way()) waiters_.wait(suspend);
}

void EarlyAnswers::settle_all(driver::Suspend& suspend) {
    const Ticket end = next();
    while (oldest_ < end) waiters_.wait(suspend);
}

std::optional<Error> EarlyAnswers::error(InodeNumber inode) const {
    if (errors_.empty()) return std::nullopt;
    const auto found = errors_.find(value(inode));
    if (found == errors_.end()) return std::nullopt;
    return found->second;
}

}  // namespace blobfs::fs::fuse
