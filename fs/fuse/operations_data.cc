// Requests for the data of files: READ, WRITE, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE.

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fs/fuse/operations.h"

namespace blobfs::fs::fuse {

using driver::Suspend;

namespace {

Reply written_reply(const Request& request, std::size_t bytes) {
    request.head<fuse_write_out>().size = static_cast<std::uint32_t>(bytes);
    return {.head_bytes = sizeof(fuse_write_out)};
}

// With the writeback cache the kernel stamps every change of a regular file's content, direct
// writes and fallocate included, shows its own time whatever we say, and tells it by SETATTR when
// it differs from what it told last. A time of ours would be another one, and show after a remount.
constexpr bool kKernelOwnsTimes = true;

constexpr std::uint32_t kSetIdBits = S_ISUID | S_ISGID;

// What is left of a mode when somebody without privileges has changed the file. Without the bit to
// execute for the group, setgid is not a privilege.
std::uint32_t without_set_id(std::uint32_t mode) {
    mode &= ~std::uint32_t{S_ISUID};
    return (mode & S_IXGRP) != 0 ? mode & ~std::uint32_t{S_ISGID} : mode;
}

}  // namespace

Result<void> Operations::note_lost_write(Suspend& suspend, Request& request, const Error& error) {
    TRY_ASSIGN(const Attributes attributes, filesystem_.getattr(suspend, request.inode()));
    if (attributes.nlink == 0) return {};  // Request::make_stale()
    if (lost_writes_.size() < kMaxLostWrites) lost_writes_[request.header().nodeid] = error;
    request.make_stale(request.inode());
    return {};
}

void Operations::note_space(Request& request, std::size_t written) {
    const auto now = std::chrono::steady_clock::now();
    if (space_notices_.size() >= kManySpaceNotices) {
        absl::erase_if(space_notices_, [&](const auto& entry) {
            return entry.second.owed_bytes == 0 && now - entry.second.last >= kSpaceNoticeInterval;
        });
    }
    SpaceNotice& notice = space_notices_[request.header().nodeid];
    if (now - notice.last < kSpaceNoticeInterval) {
        notice.owed_bytes += written;
        return;
    }
    notice = {.last = now};
    request.make_stale(request.inode());
}

void Operations::give_owed_space_notice(Request& request) {
    const auto found = space_notices_.find(request.header().nodeid);
    if (found == space_notices_.end() || found->second.owed_bytes == 0) return;
    const auto now = std::chrono::steady_clock::now();
    SpaceNotice& notice = found->second;
    if (notice.owed_bytes <= kSmallSpaceBytes && now - notice.last < kSpaceNoticeInterval) return;
    notice = {.last = now};
    request.make_stale(request.inode());
}

Result<Reply> Operations::read(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_read_in>();
    if (!in || in->size > kMaxTransferBytes) return malformed();
    // Who writes a part of a page reads the rest of it first: no access.
    const bool quietly = (in->flags & O_NOATIME) != 0 || (in->flags & O_ACCMODE) == O_WRONLY;
    TRY_ASSIGN(const std::size_t bytes, filesystem_.read(suspend, request.inode(), in->offset,
                                                         request.data().first(in->size), quietly));
    return Reply{.data = request.data().first(bytes)};
}

bool Operations::may_answer_early(const Request& request, InodeNumber written) const {
    return request.can_be_answered_early() && early_.admits(written);
}

void Operations::end_early(EarlyAnswers::Ticket ticket, InodeNumber written,
                           const std::optional<Error>& error) {
    if (error) {
        spdlog::error("writing inode {}, which was answered already: {}; its fsync will fail",
                      value(written), error->message());
    }
    early_.end(ticket, error);
}

// This write is well, but the kernel has to know of the one that was not: so it fails the next
// fsync(2) or close(2).
Result<void> Operations::tell_lost(InodeNumber written) {
    const auto error = early_.error(written);
    if (!error) return {};
    early_.clear_error(written);
    return fail(*error);
}

Result<Reply> Operations::write(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_write_in>();
    if (!in || in->size > arguments.rest().size()) return malformed();
    const bool from_cache = (in->write_flags & FUSE_WRITE_CACHE) != 0;
    WriteOptions options{
        .keep_times = kKernelOwnsTimes,
        .kill_privileges = (in->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0,
        // The kernel follows a synchronous write with an FSYNC, an asynchronous one (libaio,
        // io_uring) it does not.
        .durable = (in->flags & O_DSYNC) != 0,
        .whole = from_cache,
    };
    std::uint32_t mode = 0;
    if (options.kill_privileges) {
        TRY_ASSIGN(const Attributes before, filesystem_.getattr(suspend, request.inode()));
        mode = before.mode;
    }
    // The kernel keeps the mode that it knows, and would execute the file by it.
    if ((mode & kSetIdBits) != 0) request.make_stale(request.inode());
    std::optional<EarlyAnswers::Ticket> early;
    const auto answer_early = [&](bool allocates) {
        if (!may_answer_early(request, request.inode())) return;
        if (allocates) note_space(request, in->size);
        early = early_.begin(request.inode());
        request.answer_early(written_reply(request, in->size));
    };
    if (from_cache && !options.durable && may_answer_early(request, request.inode())) {
        options.under_way.emplace(answer_early);
    }
    const Result<Written> written = filesystem_.write(suspend, request.inode(), in->offset,
                                                      request.data().first(in->size), options);
    if (early) {
        end_early(*early, request.inode(), written ? std::nullopt : std::optional(written.error()));
        TRY(written);
        return written_reply(request, written->bytes);
    }
    if (!written) {
        if (from_cache) TRY(note_lost_write(suspend, request, written.error()));
        return fail(written.error());
    }
    if (from_cache && written->allocated) note_space(request, written->bytes);
    if (from_cache) TRY(tell_lost(request.inode()));
    return written_reply(request, written->bytes);
}

Result<Reply> Operations::fsync(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_fsync_in>();
    if (!in) return malformed();
    lost_writes_.erase(request.header().nodeid);  // the kernel reports them itself
    give_owed_space_notice(request);
    const EarlyAnswers::Ticket end = early_.next();
    TRY(filesystem_.fsync(suspend, request.inode(), (in->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0));
    // The log may have had its data before the device had it in its place.
    early_.settle(suspend, request.inode(), end);
    if (const auto error = early_.error(request.inode())) return fail(*error);
    return Reply{};
}

Result<Reply> Operations::fallocate(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_fallocate_in>();
    if (!in) return malformed();
    if (request.header().uid != 0) {
        // The kernel leaves set-id bits to us here too, but without saying whether they must go.
        TRY_ASSIGN(const Attributes before, filesystem_.getattr(suspend, request.inode()));
        if (without_set_id(before.mode) != before.mode) {
            SetAttributes changes;
            changes.mode = without_set_id(before.mode) & 07777;
            TRY(filesystem_.setattr(suspend, caller(request), request.inode(), changes));
            request.make_stale(request.inode());
        }
    }
    TRY(filesystem_.fallocate(suspend, request.inode(), in->mode, in->offset, in->length,
                              kKernelOwnsTimes));
    return Reply{};
}

Result<Reply> Operations::seek(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_lseek_in>();
    if (!in) return malformed();
    if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE) {
        return fail(Errc::kInvalidArgument, "seeking");
    }
    if (in->offset > kMaxFileBytes) {
        return fail(Error{.code = Errc::kSystem, .sys_errno = ENXIO, .what = "seeking"});
    }
    // The kernel asks without writing its cache out first.
    if (write_back_ != nullptr && !filesystem_.read_only()) {
        write_back_->write_out(suspend, request.inode(), in->offset);
    }
    TRY_ASSIGN(const std::uint64_t offset,
               filesystem_.seek(suspend, request.inode(), in->offset,
                                in->whence == SEEK_DATA ? SeekFor::kData : SeekFor::kHole));
    request.head<fuse_lseek_out>().offset = offset;
    return Reply{.head_bytes = sizeof(fuse_lseek_out)};
}

Result<Reply> Operations::copy_file_range(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_copy_file_range_in>();
    if (!in) return malformed();
    const InodeNumber to{in->nodeid_out};
    TRY_ASSIGN(const Attributes before, filesystem_.getattr(suspend, to));
    // The kernel keeps the mode that it knows, and would execute the file by it.
    if ((before.mode & kSetIdBits) != 0) request.make_stale(to);
    // What was lost of the source would be zeroes in the copy, and nobody told of those.
    early_.settle(suspend, request.inode());
    if (const auto error = early_.error(request.inode())) return fail(*error);
    std::optional<EarlyAnswers::Ticket> early;
    const auto answer_early = [&](std::size_t bytes, bool) {
        if (!may_answer_early(request, to)) return;
        early = early_.begin(to);
        request.answer_early(written_reply(request, bytes));
    };
    CopyOptions options{.keep_times = kKernelOwnsTimes};
    if (may_answer_early(request, to)) options.under_way.emplace(answer_early);
    // The answer has 32 bits for the length; who asked for more asks again for the rest.
    const Result<std::size_t> copied = filesystem_.copy_file_range(
        suspend, request.inode(), in->off_in, to, in->off_out,
        std::min<std::uint64_t>(in->len, kMaxCopyBytes), request.data(), options);
    if (early) end_early(*early, to, copied ? std::nullopt : std::optional(copied.error()));
    TRY(copied);
    if (!early) TRY(tell_lost(to));
    return written_reply(request, *copied);
}

}  // namespace blobfs::fs::fuse
