// Ioctls. FUSE has them restricted: a kernel passes on what the number says, so many bytes to us or
// from us, and no pointers.

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/fuse/administrator.h"
#include "fs/fuse/control.h"
#include "fs/fuse/operations.h"

namespace blobfs::fs::fuse {

using driver::Suspend;

namespace {

tl::unexpected<Error> not_for_us() {
    return fail(Error{.code = Errc::kSystem, .sys_errno = ENOTTY, .what = "ioctl"});
}

// The struct that came with the command.
template <class T>
std::optional<T> argument_of(const Request& request) {
    ArgumentReader arguments = request.arguments();
    if (!arguments.take<fuse_ioctl_in>()) return std::nullopt;
    return arguments.take<T>();
}

// The result 0, and the struct that the caller gets.
template <class T>
Reply answer(const Request& request, const T& out) {
    request.head<fuse_ioctl_out>().result = 0;
    std::memcpy(request.data().data(), &out, sizeof(out));
    return {.head_bytes = sizeof(fuse_ioctl_out), .data = request.data().first(sizeof(out))};
}

Reply answer(const Request& request) {
    request.head<fuse_ioctl_out>().result = 0;
    return {.head_bytes = sizeof(fuse_ioctl_out)};
}

template <std::size_t N>
void copy_text(char (&room)[N], std::string_view text) {
    const std::size_t bytes = std::min(text.size(), N - 1);
    std::memcpy(room, text.data(), bytes);
    room[bytes] = '\0';
}

}  // namespace

Result<Reply> Operations::ioctl(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_ioctl_in>();
    if (!in) return fail(Errc::kInvalidArgument, "reading an ioctl: it is not whole");
    const bool ours = in->cmd == kIoctlShutdown || in->cmd == kIoctlCheckStart ||
                      in->cmd == kIoctlCheckStatus || in->cmd == kIoctlCheckProblem ||
                      in->cmd == kIoctlCheckCancel;
    if (!ours) return not_for_us();
    if (!may_administrate(request.header())) {
        return fail(Errc::kPermission, "asking for what concerns the whole filesystem");
    }
    if (in->cmd == kIoctlShutdown) return shut_down(suspend, request);
    if (check_ == nullptr) return not_for_us();
    switch (in->cmd) {
        case kIoctlCheckStart:
            return start_check(suspend, request);
        case kIoctlCheckStatus:
            return check_status(request);
        case kIoctlCheckProblem:
            return check_problem(request);
        default:
            check_->cancel();
            return answer(request);
    }
}

Result<Reply> Operations::shut_down(Suspend& suspend, Request& request) {
    spdlog::warn("process {} asked for a shutdown: everything is an I/O error from now on",
                 request.header().pid);
    if (const auto flushed = filesystem_.shut_down(suspend); !flushed) {
        spdlog::error("flushing before the shutdown: {}", flushed.error().message());
    }
    if (check_ != nullptr) check_->cancel();
    // What the kernel has in its cache is not to be read any more, either.
    const std::vector<InodeNumber> known = filesystem_.referenced();
    if (write_back_ != nullptr) write_back_->write_out(suspend, known);
    return answer(request);
}

Result<Reply> Operations::start_check(Suspend& suspend, Request& request) {
    auto start = argument_of<CheckStart>(request);
    if (!start) return fail(Errc::kInvalidArgument, "starting a check");
    TRY(check_->start(suspend, start->bytes_per_second));
    start->run = check_->status().run;
    return answer(request, *start);
}

Result<Reply> Operations::check_status(Request& request) {
    const fsck::OnlineCheck::Status status = check_->status();
    CheckStatus out{.run = status.run,
                    .outcome = static_cast<std::uint32_t>(status.outcome),
                    .phase = static_cast<std::uint32_t>(status.phase),
                    .done = status.done,
                    .total = status.total,
                    .pages = status.pages,
                    .page_bytes = status.page_bytes,
                    .elapsed_ms = status.elapsed_ms,
                    .found = status.found,
                    .told = check_->problems().size(),
                    .inodes = status.inodes,
                    .names_checked = status.names_checked ? 1u : 0u,
                    .reserved = 0,
                    .error = {}};
    copy_text(out.error, status.error);
    return answer(request, out);
}

Result<Reply> Operations::check_problem(Request& request) {
    const auto wanted = argument_of<CheckProblem>(request);
    if (!wanted) return fail(Errc::kInvalidArgument, "asking for what a check found");
    const auto& problems = check_->problems();
    if (wanted->run != check_->status().run || wanted->index >= problems.size()) {
        return fail(Errc::kNotFound, "asking for what a check found");
    }
    const fsck::OnlineCheck::Told& told = problems[wanted->index];
    CheckProblem out{};
    out.run = wanted->run;
    out.index = wanted->index;
    out.inode = told.inode;
    out.block = told.block;
    copy_text(out.code, told.code);
    copy_text(out.remedy, told.remedy);
    copy_text(out.text, told.text);
    copy_text(out.path, told.path);
    return answer(request, out);
}

}  // namespace blobfs::fs::fuse
