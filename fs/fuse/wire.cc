#include "fs/fuse/wire.h"

#include <sys/sysmacros.h>

#include <algorithm>

namespace blobfs::fs::fuse {

std::string_view opcode_name(std::uint32_t opcode) {
    switch (opcode) {
        case FUSE_LOOKUP:
            return "LOOKUP";
        case FUSE_FORGET:
            return "FORGET";
        case FUSE_GETATTR:
            return "GETATTR";
        case FUSE_SETATTR:
            return "SETATTR";
        case FUSE_READLINK:
            return "READLINK";
        case FUSE_SYMLINK:
            return "SYMLINK";
        case FUSE_MKNOD:
            return "MKNOD";
        case FUSE_MKDIR:
            return "MKDIR";
        case FUSE_UNLINK:
            return "UNLINK";
        case FUSE_RMDIR:
            return "RMDIR";
        case FUSE_RENAME:
            return "RENAME";
        case FUSE_LINK:
            return "LINK";
        case FUSE_OPEN:
            return "OPEN";
        case FUSE_READ:
            return "READ";
        case FUSE_WRITE:
            return "WRITE";
        case FUSE_STATFS:
            return "STATFS";
        case FUSE_RELEASE:
            return "RELEASE";
        case FUSE_FSYNC:
            return "FSYNC";
        case FUSE_SETXATTR:
            return "SETXATTR";
        case FUSE_GETXATTR:
            return "GETXATTR";
        case FUSE_LISTXATTR:
            return "LISTXATTR";
        case FUSE_REMOVEXATTR:
            return "REMOVEXATTR";
        case FUSE_FLUSH:
            return "FLUSH";
        case FUSE_INIT:
            return "INIT";
        case FUSE_OPENDIR:
            return "OPENDIR";
        case FUSE_READDIR:
            return "READDIR";
        case FUSE_RELEASEDIR:
            return "RELEASEDIR";
        case FUSE_FSYNCDIR:
            return "FSYNCDIR";
        case FUSE_ACCESS:
            return "ACCESS";
        case FUSE_CREATE:
            return "CREATE";
        case FUSE_INTERRUPT:
            return "INTERRUPT";
        case FUSE_BMAP:
            return "BMAP";
        case FUSE_DESTROY:
            return "DESTROY";
        case FUSE_IOCTL:
            return "IOCTL";
        case FUSE_POLL:
            return "POLL";
        case FUSE_BATCH_FORGET:
            return "BATCH_FORGET";
        case FUSE_FALLOCATE:
            return "FALLOCATE";
        case FUSE_READDIRPLUS:
            return "READDIRPLUS";
        case FUSE_RENAME2:
            return "RENAME2";
        case FUSE_LSEEK:
            return "LSEEK";
        case FUSE_COPY_FILE_RANGE:
            return "COPY_FILE_RANGE";
        case FUSE_SYNCFS:
            return "SYNCFS";
        case FUSE_TMPFILE:
            return "TMPFILE";
        case kOpcodeStatx:
            return "STATX";
        default:
            return "unknown";
    }
}

std::optional<std::uint32_t> supplementary_group(std::span<const std::byte> extensions) {
    ArgumentReader reader(extensions);
    while (const auto header = reader.take<ExtensionHeader>()) {
        if (header->type == kExtensionGroups) {
            const auto count = reader.take<std::uint32_t>();
            return count && *count != 0 ? reader.take<std::uint32_t>() : std::nullopt;
        }
        const std::size_t bytes =
            header->bytes - std::min<std::size_t>(header->bytes, sizeof(*header));
        if (bytes == 0 || bytes > reader.rest().size()) break;
        reader = ArgumentReader(reader.rest().subspan(bytes));
    }
    return std::nullopt;
}

std::uint64_t decode_device(std::uint32_t wire) {
    return makedev((wire >> 8) & 0xfff, (wire & 0xff) | ((wire >> 12) & 0xfff00));
}

std::uint32_t encode_device(std::uint64_t device) {
    const std::uint32_t minor_number = minor(device), major_number = major(device);
    return (minor_number & 0xff) | (major_number << 8) | ((minor_number & ~0xffu) << 12);
}

}  // namespace blobfs::fs::fuse
