#include "fs/fuse/attribute_refresh.h"

#include <utility>
#include <vector>

#include "driver/base/check.h"

namespace blobfs::fs::fuse {

AttributeRefresh::~AttributeRefresh() { CHECK(!timer_ && running_.count() == 0); }

void AttributeRefresh::note(InodeNumber inode) {
    if (stopped_) return;
    young_.insert(value(inode));
    if (!timer_ && running_.count() == 0) arm();
}

void AttributeRefresh::arm() {
    timer_ = reactor_.run_after(static_cast<std::uint64_t>(kPeriod.count()), [this] {
        timer_.reset();
        running_.add();
        reactor_.spawn([this](driver::Suspend& suspend) {
            tell(suspend);
            if (!stopped_ && !(young_.empty() && old_.empty())) arm();
            running_.done();
        });
    });
}

void AttributeRefresh::tell(driver::Suspend& suspend) {
    std::vector<InodeNumber> inodes;
    inodes.reserve(old_.size());
    for (const std::uint64_t number : old_) inodes.push_back(InodeNumber{number});
    old_ = std::exchange(young_, {});
    if (!inodes.empty()) cache_.forget_attributes(suspend, inodes);
}

void AttributeRefresh::stop(driver::Suspend& suspend) {
    stopped_ = true;
    if (timer_) {
        reactor_.cancel(*timer_);
        timer_.reset();
    }
    running_.wait(suspend);
}

}  // namespace blobfs::fs::fuse
