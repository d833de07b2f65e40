#pragma once

// WRITEs of the kernel's cache, and copies, that were answered while the device was still at work
// on them (README.md, "Answered early"): who must see their outcome waits here, and an error that
// came too late for the answer is kept for the next FSYNC. Reactor thread.

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "driver/base/result.h"
#include "driver/reactor/fiber.h"
#include "fs/inode_format.h"

namespace blobfs::fs::fuse {

class EarlyAnswers {
  public:
    // More at a time would take the request buffers that reads are to have.
    static constexpr std::size_t kMost = 16;

    // Whether another write of the inode may be answered early: not beyond kMost, and not while an
    // error of an earlier one has not been told.
    [[nodiscard]] bool admits(InodeNumber inode) const {
        return under_way_ < kMost && (errors_.empty() || !errors_.contains(value(inode)));
    }

    // A write is answered early, and over. Each write has a ticket of its own.
    using Ticket = std::uint64_t;
    Ticket begin(InodeNumber inode);
    void end(Ticket ticket, const std::optional<Error>& error);

    [[nodiscard]] bool idle() const { return under_way_ == 0; }
    // Whether any of the inode's is under way.
    [[nodiscard]] bool any(InodeNumber inode) const {
        return under_way_ != 0 && by_inode_.contains(value(inode));
    }
    // The next ticket.
    [[nodiscard]] Ticket next() const { return oldest_ + writes_.size(); }
    // Suspend until all that began before that ticket, or before the call, are over: those of the
    // inode, or all.
    void settle(driver::Suspend& suspend, InodeNumber inode, Ticket end);
    void settle(driver::Suspend& suspend, InodeNumber inode) { settle(suspend, inode, next()); }
    void settle_all(driver::Suspend& suspend);

    // What went wrong with the inode's writes and their answers did not say. It is told until
    // the file is written again, as nobody can know who has heard of it (there are no handles).
    [[nodiscard]] std::optional<Error> error(InodeNumber inode) const;
    [[nodiscard]] bool any_error() const { return !errors_.empty(); }
    void clear_error(InodeNumber inode) {
        if (!errors_.empty()) errors_.erase(value(inode));
    }

  private:
    struct Write {
        InodeNumber inode{};
        bool over = false;
    };

    std::deque<Write> writes_;  // in the order of begin(), from the oldest that is under way on
    Ticket oldest_ = 0;         // its ticket
    std::size_t under_way_ = 0;
    absl::flat_hash_map<std::uint64_t, std::size_t> by_inode_;  // how many are under way
    absl::flat_hash_map<std::uint64_t, Error> errors_;
    driver::WaitQueue waiters_;
};

}  // namespace blobfs::fs::fuse
