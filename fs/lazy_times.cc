#include "fs/lazy_times.h"

#include <spdlog/spdlog.h>

#include "driver/base/check.h"
#include "fs/inode_changes.h"

namespace blobfs::fs {

LazyTimes::LazyTimes(driver::Reactor& reactor, blobstore::Blobstore& store, InodeTable& table,
                     std::uint32_t write_back_ms)
    : reactor_(reactor),
      store_(store),
      table_(table),
      write_back_us_(std::uint64_t{write_back_ms} * 1000) {}

LazyTimes::~LazyTimes() {
    CHECK(running_.count() == 0);
    if (timer_) {
        reactor_.cancel(*timer_);
    }
}

void LazyTimes::mark(Inode& inode) {
    table_.set_dirty(inode);
    if (!timer_ && running_.count() == 0 && !stopped_) {
        arm();
    }
}

void LazyTimes::arm() {
    timer_ = reactor_.run_after(write_back_us_, [this] {
        timer_.reset();
        running_.add();
        reactor_.spawn([this](Suspend& suspend) {
            const auto written = write_all(suspend);
            if (!written && !store_.is_shut_down()) {
                spdlog::error("writing the times of inodes: {}", written.error().message());
            }
            // What became dirty meanwhile, or could not be written, gets its own turn.
            if (table_.dirty_count() != 0 && !stopped_ && !store_.read_only()) {
                arm();
            }
            running_.done();
        });
    });
}

Result<void> LazyTimes::write(Suspend& suspend, InodeNumber number) {
    InodePin pin = table_.pin(number);
    if (!pin->loaded || !pin->dirty) {
        return {};
    }
    auto locked = LockedInode::exclusive(suspend, std::move(pin));
    if (!locked) {
        return {};  // deleted meanwhile
    }
    Inode& inode = **locked;
    if (!inode.dirty) {
        return {};
    }
    InodeChanges changes(store_, table_);
    changes.edit(inode);
    // An attribute block replaces one of the same size, so it may use the reserve: on a full
    // device times go on.
    changes.transaction().set_urgent();
    return changes.commit(suspend);
}

Result<void> LazyTimes::write_all(Suspend& suspend) {
    Result<void> first_error;
    for (const InodeNumber number : table_.dirty()) {
        const auto written = write(suspend, number);
        if (!written && first_error) {
            first_error = fail(written.error());
        }
    }
    return first_error;
}

void LazyTimes::stop(Suspend& suspend) {
    stopped_ = true;
    if (timer_) {
        reactor_.cancel(*timer_);
        timer_.reset();
    }
    running_.wait(suspend);
}

}  // namespace blobfs::fs
