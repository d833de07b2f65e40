#pragma once

// The requests of the kernel in terms of the Filesystem: one short function each, which returns
// what is to be answered. Permissions are the kernel's (default_permissions). Reactor thread.

#include <absl/container/flat_hash_map.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "fs/filesystem.h"
#include "fs/fsck/online_check.h"
#include "fs/fuse/attribute_refresh.h"
#include "fs/fuse/cache_write_back.h"
#include "fs/fuse/channel.h"
#include "fs/fuse/early_answers.h"
#include "fs/fuse/request.h"

namespace blobfs::fs::fuse {

// Who asks, as far as the kernel tells.
[[nodiscard]] Caller caller(const Request& request, std::uint32_t umask = 0);
// The answer to arguments that are too short for what the request is.
[[nodiscard]] tl::unexpected<Error> malformed();

class Operations final : public Service {
  public:
    // The filesystem outlives this, and so do the others, if there are any.
    explicit Operations(Filesystem& filesystem, CacheWriteBack* write_back = nullptr,
                        AttributeRefresh* refresh = nullptr, fsck::OnlineCheck* check = nullptr);

    Result<Reply> serve(driver::Suspend& suspend, Request& request) override;
    void forget(const Request& request) override;
    void undelivered(const Request& request, const Reply& reply) override;

  private:
    // Waits until writes that were answered early are over, if the request is to make them durable.
    void settle_for(driver::Suspend& suspend, const Request& request);
    // The error of a write that nobody has heard of, of the inode that has this name: it is not to
    // take another's place.
    Result<void> check_written(driver::Suspend& suspend, InodeNumber parent, std::string_view name);

    using Handler = Result<Reply> (Operations::*)(driver::Suspend&, Request&);
    static Handler handler(std::uint32_t opcode);

    // Names and attributes.
    Result<Reply> lookup(driver::Suspend& suspend, Request& request);
    Result<Reply> getattr(driver::Suspend& suspend, Request& request);
    Result<Reply> statx(driver::Suspend& suspend, Request& request);
    Result<Reply> setattr(driver::Suspend& suspend, Request& request);
    Result<Reply> readlink(driver::Suspend& suspend, Request& request);
    Result<Reply> symlink(driver::Suspend& suspend, Request& request);
    Result<Reply> mknod(driver::Suspend& suspend, Request& request);
    Result<Reply> mkdir(driver::Suspend& suspend, Request& request);
    Result<Reply> create(driver::Suspend& suspend, Request& request);
    Result<Reply> tmpfile(driver::Suspend& suspend, Request& request);
    Result<Reply> link(driver::Suspend& suspend, Request& request);
    Result<Reply> unlink(driver::Suspend& suspend, Request& request);
    Result<Reply> rmdir(driver::Suspend& suspend, Request& request);
    Result<Reply> rename(driver::Suspend& suspend, Request& request);
    Result<Reply> rename_with_flags(driver::Suspend& suspend, Request& request);
    Result<Reply> readdir(driver::Suspend& suspend, Request& request);
    Result<Reply> readdir_with_attributes(driver::Suspend& suspend, Request& request);
    // Data (operations_data.cc).
    Result<Reply> read(driver::Suspend& suspend, Request& request);
    Result<Reply> write(driver::Suspend& suspend, Request& request);
    Result<Reply> fsync(driver::Suspend& suspend, Request& request);
    Result<Reply> fallocate(driver::Suspend& suspend, Request& request);
    Result<Reply> seek(driver::Suspend& suspend, Request& request);
    Result<Reply> copy_file_range(driver::Suspend& suspend, Request& request);
    // Extended attributes.
    Result<Reply> getxattr(driver::Suspend& suspend, Request& request);
    Result<Reply> setxattr(driver::Suspend& suspend, Request& request);
    Result<Reply> listxattr(driver::Suspend& suspend, Request& request);
    Result<Reply> removexattr(driver::Suspend& suspend, Request& request);
    // The whole.
    Result<Reply> statfs(driver::Suspend& suspend, Request& request);
    Result<Reply> syncfs(driver::Suspend& suspend, Request& request);
    // What concerns the whole and only the administrator may ask for (operations_ioctl.cc).
    Result<Reply> ioctl(driver::Suspend& suspend, Request& request);
    Result<Reply> shut_down(driver::Suspend& suspend, Request& request);
    Result<Reply> start_check(driver::Suspend& suspend, Request& request);
    Result<Reply> check_status(Request& request);
    Result<Reply> check_problem(Request& request);
    // RELEASE and RELEASEDIR, of files opened before the kernel learned that we need none.
    Result<Reply> nothing_to_do(driver::Suspend& suspend, Request& request);

    // Whether a request that writes the inode's data may be answered before the device has it, and
    // the end of one that was.
    [[nodiscard]] bool may_answer_early(const Request& request, InodeNumber written) const;
    void end_early(EarlyAnswers::Ticket ticket, InodeNumber written,
                   const std::optional<Error>& error);
    // The error of an earlier one that its answer did not tell, once.
    Result<void> tell_lost(InodeNumber written);

    // A page that the kernel had in its cache could not be written: write(2) returned long ago.
    // fsync(2) and close(2) will report it, but who only writes would go on forever on a full
    // device. So the kernel is made to ask for the attributes at the next write(2), and gets the
    // error instead.
    Result<void> note_lost_write(driver::Suspend& suspend, Request& request, const Error& error);

    // The kernel keeps the space of a file (st_blocks) that it knew before it wrote its cache out,
    // and has to be told that it asks anew: with the first WRITE that allocates, then at most once
    // in kSpaceNoticeInterval, since each time the next write(2) waits for a GETATTR and a
    // GETXATTR, and with an FSYNC behind more than kSmallSpaceBytes. close(2) makes the kernel ask
    // by itself.
    void note_space(Request& request, std::size_t written);
    void give_owed_space_notice(Request& request);
    struct SpaceNotice {
        std::chrono::steady_clock::time_point last{};
        std::size_t owed_bytes = 0;  // written since, by WRITEs that allocated
    };
    static constexpr std::chrono::milliseconds kSpaceNoticeInterval{100};
    static constexpr std::size_t kSmallSpaceBytes = 64 * 1024;
    static constexpr std::size_t kManySpaceNotices = 4096;

    // Names came or went in the directory.
    void note_names(InodeNumber directory) {
        if (refresh_ != nullptr) refresh_->note(directory);
    }

    static constexpr std::size_t kMaxLostWrites = 4096;
    Filesystem& filesystem_;
    CacheWriteBack* write_back_;
    AttributeRefresh* refresh_;
    fsck::OnlineCheck* check_;
    EarlyAnswers early_;
    std::unordered_map<std::uint64_t, Error>
        lost_writes_;  // by inode, not yet reported by write(2)
    absl::flat_hash_map<std::uint64_t, SpaceNotice> space_notices_;  // by inode, of late
};

}  // namespace blobfs::fs::fuse
