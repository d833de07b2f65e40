#include "tools/bench/empty/empty_filesystem.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "fs/fuse/attributes.h"

namespace blobfs::bench {

using fs::Attributes;
using fs::InodeNumber;
using fs::kRootInode;
using fs::Timestamp;
using fs::fuse::ArgumentReader;
using fs::fuse::fill;
using fs::fuse::kForeverSeconds;
using fs::fuse::kMaxTransferBytes;
using fs::fuse::kOpcodeStatx;
using fs::fuse::Reply;
using fs::fuse::Request;

namespace {

constexpr std::uint64_t kPageBytes = 4096;

tl::unexpected<Error> refuse(int number) {
    return fail(Error{.code = Errc::kSystem, .sys_errno = number, .what = "serving a request"});
}

Timestamp now() {
    timespec time{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &time);
    return {.seconds = time.tv_sec, .nanoseconds = static_cast<std::uint32_t>(time.tv_nsec)};
}

Reply entry_reply(const Request& request, const Attributes& attributes) {
    fill(request.head<fuse_entry_out>(), attributes);
    return {.head_bytes = sizeof(fuse_entry_out)};
}

Reply attributes_reply(const Request& request, const Attributes& attributes) {
    fill(request.head<fuse_attr_out>(), attributes);
    return {.head_bytes = sizeof(fuse_attr_out)};
}

Reply written_reply(const Request& request, std::uint64_t bytes) {
    request.head<fuse_write_out>().size = static_cast<std::uint32_t>(bytes);
    return {.head_bytes = sizeof(fuse_write_out)};
}

// Files seem to take as much space as they are long, or tar and cp would look for holes.
void set_size(Attributes& attributes, std::uint64_t size) {
    attributes.size = size;
    attributes.allocated_bytes = (size + kPageBytes - 1) & ~(kPageBytes - 1);
}

void grow(Attributes& attributes, std::uint64_t end) {
    if (end > attributes.size) set_size(attributes, end);
}

}  // namespace

// Names. ----------------------------------------------------------------------------------------

EmptyFilesystem::Node* EmptyFilesystem::Directory::find(std::string_view name) const {
    const auto found = places.find(name);
    return found == places.end() ? nullptr : entries[found->second].node;
}

void EmptyFilesystem::Directory::add(std::string_view name, Node* node) {
    places.emplace(name, entries.size());
    entries.push_back({std::string(name), node});
}

void EmptyFilesystem::Directory::remove(std::string_view name) {
    const auto found = places.find(name);
    entries[found->second] = {};
    places.erase(found);
    if (places.empty()) entries.clear();
}

EmptyFilesystem::EmptyFilesystem() : root_(std::make_unique<Node>()), zeroes_(kMaxTransferBytes) {
    const Timestamp time = now();
    root_->attributes = {.inode = kRootInode,
                         .mode = S_IFDIR | 0755,
                         .nlink = 2,
                         .uid = ::getuid(),
                         .gid = ::getgid(),
                         .atime = time,
                         .mtime = time,
                         .ctime = time,
                         .btime = time};
    root_->directory = std::make_unique<Directory>();
    root_->directory->parent = root_.get();
}

EmptyFilesystem::~EmptyFilesystem() { delete_tree(*root_); }

void EmptyFilesystem::delete_tree(Node& node) {
    for (const Directory::Entry& entry : node.directory->entries) {
        if (entry.node == nullptr) continue;
        if (entry.node->directory) delete_tree(*entry.node);
        if (entry.node->directory || --entry.node->attributes.nlink == 0) delete entry.node;
    }
}

EmptyFilesystem::Node& EmptyFilesystem::node(std::uint64_t number) const {
    return number == value(kRootInode) ? *root_ : *reinterpret_cast<Node*>(number);
}

EmptyFilesystem::Node& EmptyFilesystem::node(const Request& request) const {
    return node(request.header().nodeid);
}

Result<EmptyFilesystem::Node*> EmptyFilesystem::make(const Request& request, std::string_view name,
                                                     const NewNode& what) {
    Node& directory = node(request);
    // Without a name: a temporary file, which belongs to no directory yet.
    if (!name.empty() && directory.directory->find(name) != nullptr) return refuse(EEXIST);
    const Timestamp time = now();
    const bool is_directory = S_ISDIR(what.mode);
    auto* made = new Node;
    made->attributes = {.inode = InodeNumber{reinterpret_cast<std::uint64_t>(made)},
                        .mode = what.mode & ~what.umask,
                        .nlink = name.empty()   ? 0u
                                 : is_directory ? 2u
                                                : 1u,
                        .uid = request.header().uid,
                        .gid = request.header().gid,
                        .rdev = what.rdev,
                        .size = what.target.size(),
                        .atime = time,
                        .mtime = time,
                        .ctime = time,
                        .btime = time};
    made->references = 1;
    made->target = what.target;
    if (is_directory) {
        made->directory = std::make_unique<Directory>();
        made->directory->parent = &directory;
        ++directory.attributes.nlink;
    }
    if (!name.empty()) {
        directory.directory->add(name, made);
        directory.attributes.mtime = directory.attributes.ctime = time;
    }
    return made;
}

void EmptyFilesystem::drop_name(Node& directory, std::string_view name, Node& gone) {
    directory.directory->remove(name);
    directory.attributes.mtime = directory.attributes.ctime = now();
    if (gone.directory) {
        --directory.attributes.nlink;
        gone.attributes.nlink = 0;
    } else {
        --gone.attributes.nlink;
    }
    delete_if_unused(gone);
}

void EmptyFilesystem::delete_if_unused(Node& node) {
    if (node.attributes.nlink == 0 && node.references == 0) delete &node;
}

void EmptyFilesystem::forget_one(std::uint64_t number, std::uint64_t references) {
    if (number == value(kRootInode)) return;
    Node& forgotten = node(number);
    forgotten.references -= std::min(references, forgotten.references);
    delete_if_unused(forgotten);
}

void EmptyFilesystem::forget(const Request& request) {
    ArgumentReader arguments = request.arguments();
    if (request.header().opcode == FUSE_FORGET) {
        if (const auto in = arguments.take<fuse_forget_in>()) {
            forget_one(request.header().nodeid, in->nlookup);
        }
        return;
    }
    const auto in = arguments.take<fuse_batch_forget_in>();
    if (!in) return;
    for (std::uint32_t i = 0; i < in->count; ++i) {
        const auto one = arguments.take<fuse_forget_one>();
        if (!one) return;
        forget_one(one->nodeid, one->nlookup);
    }
}

// Requests. -------------------------------------------------------------------------------------

Result<Reply> EmptyFilesystem::serve(const Request& request) {
    switch (request.header().opcode) {
        case FUSE_LOOKUP:
            return lookup(request);
        case FUSE_GETATTR:
            return attributes_reply(request, node(request).attributes);
        case kOpcodeStatx:
            fill(request.head<fs::fuse::StatxOut>(), node(request).attributes);
            return Reply{.head_bytes = sizeof(fs::fuse::StatxOut)};
        case FUSE_SETATTR:
            return setattr(request);
        case FUSE_READLINK:
            return Reply{.data = std::as_bytes(std::span(node(request).target))};
        case FUSE_CREATE:
        case FUSE_TMPFILE:
            return create(request);
        case FUSE_SYMLINK:
        case FUSE_MKNOD:
        case FUSE_MKDIR:
            return make_other(request);
        case FUSE_LINK:
            return link(request);
        case FUSE_UNLINK:
        case FUSE_RMDIR:
            return remove(request);
        case FUSE_RENAME:
        case FUSE_RENAME2:
            return rename(request);
        case FUSE_READDIR:
            return list(request, false);
        case FUSE_READDIRPLUS:
            return list(request, true);
        case FUSE_READ:
            return read(request);
        case FUSE_WRITE:
            return write(request);
        case FUSE_FALLOCATE:
            return fallocate(request);
        case FUSE_LSEEK:
            return seek(request);
        case FUSE_COPY_FILE_RANGE:
            return copy_file_range(request);
        case FUSE_STATFS:
            return statfs(request);
        case FUSE_GETXATTR:
        case FUSE_REMOVEXATTR:
            return refuse(ENODATA);
        case FUSE_LISTXATTR:
            request.head<fuse_getxattr_out>().size = 0;
            return Reply{.head_bytes = sizeof(fuse_getxattr_out)};
        case FUSE_SETXATTR:
        case FUSE_FSYNC:
        case FUSE_FSYNCDIR:
        case FUSE_SYNCFS:
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
            return Reply{};
        default:
            return refuse(ENOSYS);
    }
}

Result<Reply> EmptyFilesystem::lookup(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto name = arguments.take_string();
    if (!name) return refuse(EINVAL);
    const Node& directory = node(request);
    if (!directory.directory) return refuse(ENOTDIR);
    Node* const found = directory.directory->find(*name);
    if (found == nullptr) {
        // There is no such name, and the kernel may remember it.
        request.head<fuse_entry_out>().entry_valid = kForeverSeconds;
        return Reply{.head_bytes = sizeof(fuse_entry_out)};
    }
    ++found->references;
    return entry_reply(request, found->attributes);
}

Result<Reply> EmptyFilesystem::setattr(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_setattr_in>();
    if (!in) return refuse(EINVAL);
    TRY_ASSIGN(const fs::SetAttributes changes, fs::fuse::requested_changes(*in));
    Attributes& attributes = node(request).attributes;
    const Timestamp time = now();
    if (changes.mode) attributes.mode = (attributes.mode & S_IFMT) | *changes.mode;
    if (changes.uid) attributes.uid = *changes.uid;
    if (changes.gid) attributes.gid = *changes.gid;
    if (changes.size) set_size(attributes, *changes.size);
    if (changes.atime) attributes.atime = *changes.atime;
    if (changes.mtime) attributes.mtime = *changes.mtime;
    if (changes.atime_now) attributes.atime = time;
    if (changes.mtime_now) attributes.mtime = time;
    attributes.ctime = changes.ctime.value_or(time);
    return attributes_reply(request, attributes);
}

Result<Reply> EmptyFilesystem::create(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_create_in>();
    if (!in) return refuse(EINVAL);
    std::string_view name;
    if (request.header().opcode == FUSE_CREATE) {
        const auto given = arguments.take_string();
        if (!given) return refuse(EINVAL);
        name = *given;
    }
    Node* made = name.empty() ? nullptr : node(request).directory->find(name);
    if (made != nullptr) {
        if ((in->flags & O_EXCL) != 0) return refuse(EEXIST);
        if ((in->flags & O_TRUNC) != 0) set_size(made->attributes, 0);
        ++made->references;
    } else {
        TRY_ASSIGN(made,
                   make(request, name, {.mode = S_IFREG | (in->mode & 07777), .umask = in->umask}));
    }
    struct CreateOut {
        fuse_entry_out entry;
        fuse_open_out open;
    };
    auto& out = request.head<CreateOut>();
    fill(out.entry, made->attributes);
    out.open.open_flags = FOPEN_KEEP_CACHE;
    return Reply{.head_bytes = sizeof(CreateOut)};
}

Result<Reply> EmptyFilesystem::make_other(const Request& request) {
    ArgumentReader arguments = request.arguments();
    NewNode what{.mode = S_IFLNK | 0777, .umask = 0};
    if (request.header().opcode == FUSE_MKNOD) {
        const auto in = arguments.take<fuse_mknod_in>();
        if (!in) return refuse(EINVAL);
        what = {.mode = in->mode, .umask = in->umask, .rdev = fs::fuse::decode_device(in->rdev)};
    } else if (request.header().opcode == FUSE_MKDIR) {
        const auto in = arguments.take<fuse_mkdir_in>();
        if (!in) return refuse(EINVAL);
        what = {.mode = S_IFDIR | (in->mode & 07777), .umask = in->umask};
    }
    const auto name = arguments.take_string();
    if (!name) return refuse(EINVAL);
    if (request.header().opcode == FUSE_SYMLINK) {
        const auto target = arguments.take_string();
        if (!target) return refuse(EINVAL);
        what.target = *target;
    }
    TRY_ASSIGN(const Node* const made, make(request, *name, what));
    return entry_reply(request, made->attributes);
}

Result<Reply> EmptyFilesystem::link(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_link_in>();
    const auto name = arguments.take_string();
    if (!in || !name) return refuse(EINVAL);
    Directory& directory = *node(request).directory;
    if (directory.find(*name) != nullptr) return refuse(EEXIST);
    Node& linked = node(in->oldnodeid);
    directory.add(*name, &linked);
    ++linked.attributes.nlink;
    ++linked.references;
    linked.attributes.ctime = now();
    return entry_reply(request, linked.attributes);
}

Result<Reply> EmptyFilesystem::remove(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto name = arguments.take_string();
    if (!name) return refuse(EINVAL);
    Node& directory = node(request);
    Node* const gone = directory.directory->find(*name);
    if (gone == nullptr) return refuse(ENOENT);
    if (request.header().opcode == FUSE_RMDIR && !gone->directory->places.empty()) {
        return refuse(ENOTEMPTY);
    }
    drop_name(directory, *name, *gone);
    return Reply{};
}

Result<Reply> EmptyFilesystem::rename(const Request& request) {
    ArgumentReader arguments = request.arguments();
    std::uint64_t new_number = 0;
    std::uint32_t flags = 0;
    if (request.header().opcode == FUSE_RENAME) {
        const auto in = arguments.take<fuse_rename_in>();
        if (!in) return refuse(EINVAL);
        new_number = in->newdir;
    } else {
        const auto in = arguments.take<fuse_rename2_in>();
        if (!in) return refuse(EINVAL);
        new_number = in->newdir;
        flags = in->flags;
    }
    const auto old_name = arguments.take_string();
    const auto new_name = arguments.take_string();
    if (!old_name || !new_name || (flags & ~std::uint32_t{RENAME_NOREPLACE}) != 0) {
        return refuse(EINVAL);
    }
    Node& from = node(request);
    Node& to = node(new_number);
    Node* const moved = from.directory->find(*old_name);
    if (moved == nullptr) return refuse(ENOENT);
    Node* const replaced = to.directory->find(*new_name);
    if (replaced == moved) return Reply{};
    if (replaced != nullptr) {
        if ((flags & RENAME_NOREPLACE) != 0) return refuse(EEXIST);
        if (replaced->directory && !replaced->directory->places.empty()) return refuse(ENOTEMPTY);
        drop_name(to, *new_name, *replaced);
    }
    from.directory->remove(*old_name);
    to.directory->add(*new_name, moved);
    if (moved->directory) {
        moved->directory->parent = &to;
        --from.attributes.nlink;
        ++to.attributes.nlink;
    }
    const Timestamp time = now();
    from.attributes.mtime = from.attributes.ctime = time;
    to.attributes.mtime = to.attributes.ctime = time;
    moved->attributes.ctime = time;
    return Reply{};
}

Result<Reply> EmptyFilesystem::list(const Request& request, bool with_attributes) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_read_in>();
    if (!in) return refuse(EINVAL);
    const Node& directory = node(request);
    const std::span<std::byte> room =
        request.data().first(std::min<std::size_t>(in->size, kMaxTransferBytes));
    const std::size_t head = with_attributes ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
    std::size_t used = 0;
    const auto add = [&](std::string_view name, Node& listed, std::uint64_t next, bool refer) {
        const std::size_t bytes = (head + name.size() + 7) & ~std::size_t{7};
        if (bytes > room.size() - used) return false;
        std::byte* const at = room.data() + used;
        std::memset(at, 0, bytes);
        if (with_attributes && refer) {
            fuse_entry_out out{};
            fill(out, listed.attributes);
            std::memcpy(at, &out, sizeof(out));
            ++listed.references;
        }
        const fuse_dirent entry{.ino = value(listed.attributes.inode),
                                .off = next,
                                .namelen = static_cast<std::uint32_t>(name.size()),
                                .type = (listed.attributes.mode & S_IFMT) >> 12};
        std::memcpy(at + head - FUSE_NAME_OFFSET, &entry, FUSE_NAME_OFFSET);
        std::memcpy(at + head, name.data(), name.size());
        used += bytes;
        return true;
    };
    // Offsets 0 and 1 are "." and "..", then the places in the directory.
    std::uint64_t offset = in->offset;
    if (offset == 0 && add(".", node(request), 1, false)) offset = 1;
    if (offset == 1 && add("..", *directory.directory->parent, 2, false)) offset = 2;
    const std::vector<Directory::Entry>& entries = directory.directory->entries;
    for (std::uint64_t place = offset - 2; offset >= 2 && place < entries.size(); ++place) {
        const Directory::Entry& entry = entries[place];
        if (entry.node == nullptr) continue;
        if (!add(entry.name, *entry.node, place + 3, true)) break;
    }
    return Reply{.data = room.first(used)};
}

// Data. -----------------------------------------------------------------------------------------

Result<Reply> EmptyFilesystem::read(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_read_in>();
    if (!in || in->size > zeroes_.size()) return refuse(EINVAL);
    const std::uint64_t size = node(request).attributes.size;
    const std::uint64_t left = size - std::min(size, in->offset);
    return Reply{
        .data = std::span<const std::byte>(zeroes_).first(std::min<std::uint64_t>(in->size, left))};
}

Result<Reply> EmptyFilesystem::write(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_write_in>();
    if (!in) return refuse(EINVAL);
    grow(node(request).attributes, in->offset + in->size);
    return written_reply(request, in->size);
}

Result<Reply> EmptyFilesystem::fallocate(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_fallocate_in>();
    if (!in) return refuse(EINVAL);
    if ((in->mode & FALLOC_FL_KEEP_SIZE) == 0) {
        grow(node(request).attributes, in->offset + in->length);
    }
    return Reply{};
}

Result<Reply> EmptyFilesystem::seek(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_lseek_in>();
    if (!in) return refuse(EINVAL);
    const std::uint64_t size = node(request).attributes.size;
    if (in->offset >= size) return refuse(ENXIO);
    request.head<fuse_lseek_out>().offset = in->whence == SEEK_DATA ? in->offset : size;
    return Reply{.head_bytes = sizeof(fuse_lseek_out)};
}

Result<Reply> EmptyFilesystem::copy_file_range(const Request& request) {
    ArgumentReader arguments = request.arguments();
    const auto in = arguments.take<fuse_copy_file_range_in>();
    if (!in) return refuse(EINVAL);
    const std::uint64_t size = node(request).attributes.size;
    const std::uint64_t bytes = std::min(
        {in->len, size - std::min(size, in->off_in), std::uint64_t{INT32_MAX} & ~(kPageBytes - 1)});
    if (bytes != 0) grow(node(in->nodeid_out).attributes, in->off_out + bytes);
    return written_reply(request, bytes);
}

Result<Reply> EmptyFilesystem::statfs(const Request& request) {
    constexpr std::uint64_t kPlenty = std::uint64_t{1} << 30;
    fill(request.head<fuse_statfs_out>().st, fs::FilesystemStatus{.blocks = kPlenty,
                                                                  .blocks_free = kPlenty,
                                                                  .blocks_available = kPlenty,
                                                                  .files = 0,
                                                                  .files_free = kPlenty});
    return Reply{.head_bytes = sizeof(fuse_statfs_out)};
}

}  // namespace blobfs::bench
