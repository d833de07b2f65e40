#pragma once

// The messages of the FUSE protocol as they lie in memory: <linux/fuse.h>, what newer kernels know
// beyond Debian 12's copy of it, and a reader for a request's arguments that never reads beyond
// them. Any thread.

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

namespace blobfs::fs::fuse {

// FUSE_STATX, protocol 7.39 (Linux 6.6): getattr with the time of birth.
inline constexpr std::uint32_t kOpcodeStatx = 52;

struct StatxIn {
    std::uint32_t getattr_flags;
    std::uint32_t reserved;
    std::uint64_t fh;
    std::uint32_t sx_flags;
    std::uint32_t sx_mask;
};
static_assert(sizeof(StatxIn) == 24);

struct StatxTime {
    std::int64_t seconds;
    std::uint32_t nanoseconds;
    std::int32_t reserved;
};

struct StatxAttributes {
    std::uint32_t mask;
    std::uint32_t blksize;
    std::uint64_t attributes;
    std::uint32_t nlink;
    std::uint32_t uid;
    std::uint32_t gid;
    std::uint16_t mode;
    std::uint16_t spare0;
    std::uint64_t ino;
    std::uint64_t size;
    std::uint64_t blocks;
    std::uint64_t attributes_mask;
    StatxTime atime;
    StatxTime btime;
    StatxTime ctime;
    StatxTime mtime;
    std::uint32_t rdev_major;
    std::uint32_t rdev_minor;
    std::uint32_t dev_major;
    std::uint32_t dev_minor;
    std::uint64_t spare2[14];
};
static_assert(sizeof(StatxAttributes) == 256 && offsetof(StatxAttributes, atime) == 64);

struct StatxOut {
    std::uint64_t attr_valid;
    std::uint32_t attr_valid_nsec;
    std::uint32_t flags;
    std::uint64_t spare[2];
    StatxAttributes stat;
};
static_assert(sizeof(StatxOut) == 288);

// FUSE_CREATE_SUPP_GROUP, protocol 7.38 (Linux 6.3): requests that make something bring along the
// directory's group when the caller is in it by a supplementary group.
inline constexpr std::uint64_t kCreateSupplementaryGroup = std::uint64_t{1} << 34;
inline constexpr std::uint32_t kExtensionGroups = 32;

// FUSE_OVER_IO_URING, protocol 7.42 (Linux 6.14).
inline constexpr std::uint64_t kOverIoUring = std::uint64_t{1} << 41;

struct ExtensionHeader {
    std::uint32_t bytes;  // with this header
    std::uint32_t type;
};
static_assert(sizeof(ExtensionHeader) == 8);

// The group in the extensions of a request, if there is one.
[[nodiscard]] std::optional<std::uint32_t> supplementary_group(
    std::span<const std::byte> extensions);

// The layout on which the placing of requests rests (channel.h): what precedes a WRITE's payload.
inline constexpr std::size_t kWriteHeadBytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);
static_assert(kWriteHeadBytes == 80);

// The arguments of a request after its header, taken from front to back.
class ArgumentReader {
  public:
    explicit ArgumentReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    // The next fixed-size argument, or nothing when the request is too short.
    template <class T>
    std::optional<T> take() {
        if (bytes_.size() < sizeof(T)) return std::nullopt;
        T value;
        std::memcpy(&value, bytes_.data(), sizeof(T));
        bytes_ = bytes_.subspan(sizeof(T));
        return value;
    }

    // The next zero-terminated string, valid as long as the request's buffer.
    std::optional<std::string_view> take_string() {
        const void* end = std::memchr(bytes_.data(), 0, bytes_.size());
        if (end == nullptr) return std::nullopt;
        const auto length =
            static_cast<std::size_t>(static_cast<const std::byte*>(end) - bytes_.data());
        const std::string_view text(reinterpret_cast<const char*>(bytes_.data()), length);
        bytes_ = bytes_.subspan(length + 1);
        return text;
    }

    [[nodiscard]] std::span<const std::byte> rest() const { return bytes_; }

  private:
    std::span<const std::byte> bytes_;
};

// The name of an operation, for traces and statistics.
[[nodiscard]] std::string_view opcode_name(std::uint32_t opcode);

// Device numbers: 32 bits on the wire, makedev(3) with us.
[[nodiscard]] std::uint64_t decode_device(std::uint32_t wire);
[[nodiscard]] std::uint32_t encode_device(std::uint64_t device);

}  // namespace blobfs::fs::fuse
