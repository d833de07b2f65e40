#include "fs/fuse/operations.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/xattr.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "fs/fuse/attributes.h"

namespace blobfs::fs::fuse {

using driver::Suspend;

Caller caller(const Request& request, std::uint32_t umask) {
    const fuse_in_header& header = request.header();
    return {.uid = header.uid,
            .gid = header.gid,
            .pid = header.pid,
            .umask = umask,
            .supplementary_gid = supplementary_group(request.extensions())};
}

tl::unexpected<Error> malformed() {
    return fail(Errc::kInvalidArgument, "reading a request: its arguments are not whole");
}

namespace {

// Tells the kernel, where the protocol says so, that it need not ask again.
tl::unexpected<Error> unknown_to_us() {
    return fail(Error{.code = Errc::kSystem, .sys_errno = ENOSYS, .what = "serving a request"});
}

Reply entry_reply(const Request& request, const Attributes& attributes) {
    fill(request.head<fuse_entry_out>(), attributes);
    return {.head_bytes = sizeof(fuse_entry_out)};
}

// Answers to CREATE and TMPFILE: there are no handles, and what is cached stays valid.
struct CreateOut {
    fuse_entry_out entry;
    fuse_open_out open;
};
static_assert(sizeof(CreateOut) == sizeof(fuse_entry_out) + sizeof(fuse_open_out));

Reply create_reply(const Request& request, const Attributes& attributes) {
    auto& out = request.head<CreateOut>();
    fill(out.entry, attributes);
    out.open.open_flags = FOPEN_KEEP_CACHE;
    return {.head_bytes = sizeof(CreateOut)};
}

Reply attributes_reply(const Request& request, const Attributes& attributes) {
    fill(request.head<fuse_attr_out>(), attributes);
    return {.head_bytes = sizeof(fuse_attr_out)};
}

// Puts bytes that will not live as long as the request into its data area. They fit.
Reply data_reply(const Request& request, std::string_view bytes) {
    CHECK(bytes.size() <= request.data().size());
    if (!bytes.empty()) std::memcpy(request.data().data(), bytes.data(), bytes.size());
    return {.data = request.data().first(bytes.size())};
}

// The two ways of asking for an attribute's value or the names: how long is it, and what is it.
Result<Reply> sized_reply(const Request& request, std::uint32_t room, std::string_view bytes) {
    if (room == 0) {
        request.head<fuse_getxattr_out>().size = static_cast<std::uint32_t>(bytes.size());
        return Reply{.head_bytes = sizeof(fuse_getxattr_out)};
    }
    if (bytes.size() > room) return fail(Errc::kRange, "reading extended attributes");
    return data_reply(request, bytes);
}

std::uint64_t aligned(std::uint64_t bytes) {
    return (bytes + sizeof(std::uint64_t) - 1) & ~(sizeof(std::uint64_t) - 1);
}

// Directory entries in the data area, each padded to 8 bytes. False when there is no more room.
class EntryWriter {
  public:
    explicit EntryWriter(driver::DmaSpan room) : room_(room) {}

    bool add(const DirectoryEntry& entry, bool with_attributes) {
        const std::size_t head = with_attributes ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
        const std::size_t bytes = aligned(head + entry.name.size());
        if (bytes > room_.size() - used_) return false;
        std::byte* at = room_.data() + used_;
        std::memset(at, 0, bytes);
        if (with_attributes) {
            // Node 0 tells the kernel to take the name alone: "." and "..", and an inode that
            // cannot be read, which a lookup will complain about.
            fuse_entry_out out{};
            if (entry.attributes != nullptr) fill(out, *entry.attributes);
            std::memcpy(at, &out, sizeof(out));
        }
        const fuse_dirent name{
            .ino = value(entry.inode),
            .off = entry.next_offset,
            .namelen = static_cast<std::uint32_t>(entry.name.size()),
            .type = (entry.type & S_IFMT) >> 12,
        };
        std::memcpy(at + head - FUSE_NAME_OFFSET, &name, FUSE_NAME_OFFSET);
        std::memcpy(at + head, entry.name.data(), entry.name.size());
        used_ += bytes;
        return true;
    }

    [[nodiscard]] std::size_t used() const { return used_; }

  private:
    driver::DmaSpan room_;
    std::size_t used_ = 0;
};

Result<Reply> list(Suspend& suspend, Filesystem& filesystem, Request& request,
                   bool with_attributes) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_read_in>();
    if (!in) return malformed();
    EntryWriter writer(request.data().first(std::min<std::size_t>(in->size, kMaxTransferBytes)));
    TRY(filesystem.readdir(
        suspend, request.inode(), in->offset, with_attributes,
        [&](const DirectoryEntry& entry) { return writer.add(entry, with_attributes); }));
    return Reply{.data = request.data().first(writer.used())};
}

}  // namespace

Operations::Operations(Filesystem& filesystem, CacheWriteBack* write_back,
                       AttributeRefresh* refresh, fsck::OnlineCheck* check)
    : filesystem_(filesystem), write_back_(write_back), refresh_(refresh), check_(check) {
    if (refresh == nullptr) return;
    filesystem.on_fewer_names([refresh](InodeNumber inode) { refresh->note(inode); });
}

Operations::Handler Operations::handler(std::uint32_t opcode) {
    static constexpr std::size_t kOpcodes = 64;
    static constexpr std::array<Handler, kOpcodes> kHandlers = [] {
        std::array<Handler, kOpcodes> handlers{};
        handlers[FUSE_LOOKUP] = &Operations::lookup;
        handlers[FUSE_GETATTR] = &Operations::getattr;
        handlers[kOpcodeStatx] = &Operations::statx;
        handlers[FUSE_SETATTR] = &Operations::setattr;
        handlers[FUSE_READLINK] = &Operations::readlink;
        handlers[FUSE_SYMLINK] = &Operations::symlink;
        handlers[FUSE_MKNOD] = &Operations::mknod;
        handlers[FUSE_MKDIR] = &Operations::mkdir;
        handlers[FUSE_CREATE] = &Operations::create;
        handlers[FUSE_TMPFILE] = &Operations::tmpfile;
        handlers[FUSE_LINK] = &Operations::link;
        handlers[FUSE_UNLINK] = &Operations::unlink;
        handlers[FUSE_RMDIR] = &Operations::rmdir;
        handlers[FUSE_RENAME] = &Operations::rename;
        handlers[FUSE_RENAME2] = &Operations::rename_with_flags;
        handlers[FUSE_READDIR] = &Operations::readdir;
        handlers[FUSE_READDIRPLUS] = &Operations::readdir_with_attributes;
        handlers[FUSE_READ] = &Operations::read;
        handlers[FUSE_WRITE] = &Operations::write;
        handlers[FUSE_FSYNC] = &Operations::fsync;
        handlers[FUSE_FSYNCDIR] = &Operations::fsync;
        handlers[FUSE_FALLOCATE] = &Operations::fallocate;
        handlers[FUSE_LSEEK] = &Operations::seek;
        handlers[FUSE_COPY_FILE_RANGE] = &Operations::copy_file_range;
        handlers[FUSE_GETXATTR] = &Operations::getxattr;
        handlers[FUSE_SETXATTR] = &Operations::setxattr;
        handlers[FUSE_LISTXATTR] = &Operations::listxattr;
        handlers[FUSE_REMOVEXATTR] = &Operations::removexattr;
        handlers[FUSE_STATFS] = &Operations::statfs;
        handlers[FUSE_SYNCFS] = &Operations::syncfs;
        handlers[FUSE_IOCTL] = &Operations::ioctl;
        handlers[FUSE_RELEASE] = &Operations::nothing_to_do;
        handlers[FUSE_RELEASEDIR] = &Operations::nothing_to_do;
        // Not here, so that the kernel does without: OPEN, OPENDIR, FLUSH (nothing to do), ACCESS
        // (the kernel's), locks (the kernel's), BMAP, POLL.
        return handlers;
    }();
    return opcode < kOpcodes ? kHandlers[opcode] : nullptr;
}

Result<Reply> Operations::serve(Suspend& suspend, Request& request) {
    const std::uint32_t opcode = request.header().opcode;
    const Handler serve_it = handler(opcode);
    if (serve_it == nullptr) return unknown_to_us();
    if (filesystem_.is_shut_down()) [[unlikely]] {
        return fail(Errc::kIo, "using a filesystem that was shut down");
    }
    settle_for(suspend, request);
    return (this->*serve_it)(suspend, request);
}

void Operations::settle_for(Suspend& suspend, const Request& request) {
    switch (request.header().opcode) {
        // Before these all that was answered is over, of whatever inode. FSYNC waits for its own.
        // All others find what was answered early already committed.
        case FUSE_SYNCFS:
        case FUSE_IOCTL:
            early_.settle_all(suspend);
            return;
        default:
            return;
    }
}

Result<void> Operations::check_written(Suspend& suspend, InodeNumber parent,
                                       std::string_view name) {
    if (early_.idle() && !early_.any_error()) return {};
    const Result<Attributes> found = filesystem_.lookup(suspend, parent, name);
    if (!found) return {};  // the caller's to tell
    filesystem_.forget(found->inode, 1);
    early_.settle(suspend, found->inode);
    if (const auto error = early_.error(found->inode)) return fail(*error);
    return {};
}

// References. -----------------------------------------------------------------------------------

void Operations::forget(const Request& request) {
    ArgumentReader arguments = request.arguments();
    if (request.header().opcode == FUSE_FORGET) {
        if (const auto in = arguments.take<fuse_forget_in>()) {
            lost_writes_.erase(request.header().nodeid);
            space_notices_.erase(request.header().nodeid);
            early_.clear_error(request.inode());
            filesystem_.forget(request.inode(), in->nlookup);
        }
        return;
    }
    const auto in = arguments.take<fuse_batch_forget_in>();
    if (!in) return;
    for (std::uint32_t i = 0; i < in->count; ++i) {
        const auto one = arguments.take<fuse_forget_one>();
        if (!one) return;
        lost_writes_.erase(one->nodeid);
        space_notices_.erase(one->nodeid);
        early_.clear_error(InodeNumber{one->nodeid});
        filesystem_.forget(InodeNumber{one->nodeid}, one->nlookup);
    }
}

void Operations::undelivered(const Request& request, const Reply& reply) {
    switch (request.header().opcode) {
        case FUSE_LOOKUP:
        case FUSE_CREATE:
        case FUSE_TMPFILE:
        case FUSE_MKNOD:
        case FUSE_MKDIR:
        case FUSE_SYMLINK:
        case FUSE_LINK: {
            fuse_entry_out entry;
            std::memcpy(&entry, request.reply_area() + sizeof(fuse_out_header), sizeof(entry));
            if (entry.nodeid != 0) filesystem_.forget(InodeNumber{entry.nodeid}, 1);
            return;
        }
        case FUSE_READDIRPLUS: {
            std::span<const std::byte> rest = reply.data;
            while (rest.size() >= FUSE_NAME_OFFSET_DIRENTPLUS) {
                fuse_direntplus entry;
                std::memcpy(&entry, rest.data(), FUSE_NAME_OFFSET_DIRENTPLUS);
                if (entry.entry_out.nodeid != 0) {
                    filesystem_.forget(InodeNumber{entry.entry_out.nodeid}, 1);
                }
                rest = rest.subspan(
                    aligned(FUSE_NAME_OFFSET_DIRENTPLUS + std::uint64_t{entry.dirent.namelen}));
            }
            return;
        }
        default:
            return;
    }
}

// Names and attributes. -------------------------------------------------------------------------

Result<Reply> Operations::lookup(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto name = arguments.take_string();
    if (!name) return malformed();
    const Result<Attributes> found = filesystem_.lookup(suspend, request.inode(), *name);
    if (found) return entry_reply(request, *found);
    if (found.error().code != Errc::kNotFound) return fail(found.error());
    // Node 0: there is no such name, and the kernel may remember it.
    request.head<fuse_entry_out>().entry_valid = kForeverSeconds;
    return Reply{.head_bytes = sizeof(fuse_entry_out)};
}

Result<Reply> Operations::getattr(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_getattr_in>();
    // With a file handle it is write(2) that asks, and what it gets it returns.
    if (in && (in->getattr_flags & FUSE_GETATTR_FH) != 0 && !lost_writes_.empty()) {
        if (const auto lost = lost_writes_.extract(request.header().nodeid)) {
            return fail(lost.mapped());
        }
    }
    TRY_ASSIGN(const Attributes attributes, filesystem_.getattr(suspend, request.inode()));
    return attributes_reply(request, attributes);
}

Result<Reply> Operations::statx(Suspend& suspend, Request& request) {
    TRY_ASSIGN(const Attributes attributes, filesystem_.getattr(suspend, request.inode()));
    fill(request.head<StatxOut>(), attributes);
    return Reply{.head_bytes = sizeof(StatxOut)};
}

Result<Reply> Operations::setattr(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_setattr_in>();
    if (!in) return malformed();
    TRY_ASSIGN(const SetAttributes changes, requested_changes(*in));
    TRY_ASSIGN(const Attributes attributes,
               filesystem_.setattr(suspend, caller(request), request.inode(), changes));
    return attributes_reply(request, attributes);
}

Result<Reply> Operations::readlink(Suspend& suspend, Request& request) {
    TRY_ASSIGN(const std::string target, filesystem_.readlink(suspend, request.inode()));
    return data_reply(request, target);
}

Result<Reply> Operations::symlink(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto name = arguments.take_string();
    const auto target = arguments.take_string();
    if (!name || !target) return malformed();
    TRY_ASSIGN(const Attributes made,
               filesystem_.symlink(suspend, caller(request), request.inode(), *name, *target));
    note_names(request.inode());
    return entry_reply(request, made);
}

Result<Reply> Operations::mknod(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_mknod_in>();
    const auto name = arguments.take_string();
    if (!in || !name) return malformed();
    TRY_ASSIGN(const Attributes made,
               filesystem_.mknod(suspend, caller(request, in->umask), request.inode(), *name,
                                 in->mode, decode_device(in->rdev)));
    note_names(request.inode());
    return entry_reply(request, made);
}

Result<Reply> Operations::mkdir(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_mkdir_in>();
    const auto name = arguments.take_string();
    if (!in || !name) return malformed();
    TRY_ASSIGN(const Attributes made, filesystem_.mkdir(suspend, caller(request, in->umask),
                                                        request.inode(), *name, in->mode));
    note_names(request.inode());
    return entry_reply(request, made);
}

Result<Reply> Operations::create(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_create_in>();
    const auto name = arguments.take_string();
    if (!in || !name) return malformed();
    TRY_ASSIGN(Attributes made,
               filesystem_.create(suspend, caller(request, in->umask), request.inode(), *name,
                                  in->mode, (in->flags & O_EXCL) != 0));
    note_names(request.inode());
    if ((in->flags & O_TRUNC) != 0 && made.size != 0) {
        // It was there already; the kernel believes that CREATE has emptied it.
        SetAttributes empty;
        empty.size = 0;
        const Result<Attributes> emptied =
            filesystem_.setattr(suspend, caller(request), made.inode, empty);
        if (!emptied) {
            filesystem_.forget(made.inode, 1);
            return fail(emptied.error());
        }
        made = *emptied;
    }
    return create_reply(request, made);
}

Result<Reply> Operations::tmpfile(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_create_in>();
    if (!in) return malformed();
    TRY_ASSIGN(const Attributes made,
               filesystem_.tmpfile(suspend, caller(request, in->umask), request.inode(), in->mode));
    return create_reply(request, made);
}

Result<Reply> Operations::link(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_link_in>();
    const auto name = arguments.take_string();
    if (!in || !name) return malformed();
    TRY_ASSIGN(const Attributes linked,
               filesystem_.link(suspend, InodeNumber{in->oldnodeid}, request.inode(), *name));
    note_names(request.inode());
    return entry_reply(request, linked);
}

Result<Reply> Operations::unlink(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto name = arguments.take_string();
    if (!name) return malformed();
    TRY(filesystem_.unlink(suspend, request.inode(), *name));
    note_names(request.inode());
    return Reply{};
}

Result<Reply> Operations::rmdir(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto name = arguments.take_string();
    if (!name) return malformed();
    TRY(filesystem_.rmdir(suspend, request.inode(), *name));
    note_names(request.inode());
    return Reply{};
}

Result<Reply> Operations::rename(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_rename_in>();
    const auto old_name = arguments.take_string();
    const auto new_name = arguments.take_string();
    if (!in || !old_name || !new_name) return malformed();
    TRY(check_written(suspend, request.inode(), *old_name));
    TRY(filesystem_.rename(suspend, request.inode(), *old_name, InodeNumber{in->newdir}, *new_name,
                           RenameMode::kReplace));
    note_names(request.inode());
    note_names(InodeNumber{in->newdir});
    return Reply{};
}

Result<Reply> Operations::rename_with_flags(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_rename2_in>();
    const auto old_name = arguments.take_string();
    const auto new_name = arguments.take_string();
    if (!in || !old_name || !new_name) return malformed();
    constexpr std::uint32_t kKnown = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
    const bool exchange = (in->flags & RENAME_EXCHANGE) != 0;
    const bool no_replace = (in->flags & RENAME_NOREPLACE) != 0;
    if ((in->flags & ~kKnown) != 0 || (exchange && no_replace)) {
        return fail(Errc::kInvalidArgument, "renaming with flags that do not go together");
    }
    TRY(check_written(suspend, request.inode(), *old_name));
    std::optional<Caller> whiteout_by;
    if ((in->flags & RENAME_WHITEOUT) != 0) whiteout_by = caller(request);
    TRY(filesystem_.rename(suspend, request.inode(), *old_name, InodeNumber{in->newdir}, *new_name,
                           exchange     ? RenameMode::kExchange
                           : no_replace ? RenameMode::kNoReplace
                                        : RenameMode::kReplace,
                           whiteout_by));
    note_names(request.inode());
    note_names(InodeNumber{in->newdir});
    return Reply{};
}

Result<Reply> Operations::readdir(Suspend& suspend, Request& request) {
    return list(suspend, filesystem_, request, false);
}

Result<Reply> Operations::readdir_with_attributes(Suspend& suspend, Request& request) {
    return list(suspend, filesystem_, request, true);
}

// Extended attributes. --------------------------------------------------------------------------

Result<Reply> Operations::getxattr(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_getxattr_in>();
    const auto name = arguments.take_string();
    if (!in || !name) return malformed();
    TRY_ASSIGN(const std::string found, filesystem_.getxattr(suspend, request.inode(), *name));
    return sized_reply(request, in->size, found);
}

Result<Reply> Operations::setxattr(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_setxattr_in>();
    const auto name = arguments.take_string();
    if (!in || !name || arguments.rest().size() < in->size) return malformed();
    const std::string_view bytes(reinterpret_cast<const char*>(arguments.rest().data()), in->size);
    XattrMode mode = XattrMode::kAny;
    switch (in->flags) {
        case 0:
            break;
        case XATTR_CREATE:
            mode = XattrMode::kCreate;
            break;
        case XATTR_REPLACE:
            mode = XattrMode::kReplace;
            break;
        default:
            return fail(Errc::kInvalidArgument, "setting an extended attribute");
    }
    // An access list changes the mode, and the kernel would take an older answer to a GETATTR that
    // reaches its process later for a newer one.
    request.make_stale(request.inode());
    TRY(filesystem_.setxattr(suspend, request.inode(), *name, bytes, mode,
                             (in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0));
    return Reply{};
}

Result<Reply> Operations::listxattr(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_getxattr_in>();
    if (!in) return malformed();
    TRY_ASSIGN(const std::vector<std::string> names,
               filesystem_.listxattr(suspend, request.inode()));
    std::string all;
    for (const std::string& name : names) {
        // Names that others than root cannot read they do not see either, says xattr(7).
        if (request.header().uid != 0 && name.starts_with(XATTR_TRUSTED_PREFIX)) continue;
        all += name;
        all += '\0';
    }
    if (all.size() > kMaxTransferBytes) {
        return fail(Error{.code = Errc::kSystem, .sys_errno = E2BIG, .what = "listing attributes"});
    }
    return sized_reply(request, in->size, all);
}

Result<Reply> Operations::removexattr(Suspend& suspend, Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto name = arguments.take_string();
    if (!name) return malformed();
    request.make_stale(request.inode());
    TRY(filesystem_.removexattr(suspend, request.inode(), *name));
    return Reply{};
}

// The whole. ------------------------------------------------------------------------------------

Result<Reply> Operations::statfs(Suspend& /*suspend*/, Request& request) {
    fill(request.head<fuse_statfs_out>().st, filesystem_.statfs());
    return Reply{.head_bytes = sizeof(fuse_statfs_out)};
}

Result<Reply> Operations::syncfs(Suspend& suspend, Request& /*request*/) {
    TRY(filesystem_.sync(suspend));
    return Reply{};
}

Result<Reply> Operations::nothing_to_do(Suspend& /*suspend*/, Request& /*request*/) {
    return Reply{};
}

}  // namespace blobfs::fs::fuse
