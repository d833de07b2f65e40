#pragma once

// What a device holds before it is formatted: filesystems, volumes, partition tables (libblkid) and
// blobfs itself, each with the place of its signature, so that it can be named in a refusal and
// wiped when the user insists. Reads only. Any thread.

#include <cstdint>
#include <string>
#include <vector>

#include <tl/expected.hpp>

namespace blobfs::mkfs {

struct Signature {
    std::string kind;          // "ext4 filesystem", "gpt partition table", "blobfs filesystem"
    std::string label;         // printable, may be empty
    std::string uuid;          // may be empty
    std::uint64_t offset = 0;  // bytes on the device
    std::uint64_t bytes = 0;
};

// Signatures on an open file or block device, each kind once or more (a GPT has a backup). The
// descriptor needs to be readable only. An error is a whole sentence.
tl::expected<std::vector<Signature>, std::string> find_signatures(int descriptor);

// True when the first `bytes` bytes of the file are all zero (or beyond its end).
tl::expected<bool, std::string> starts_with_zeroes(int descriptor, std::uint64_t bytes);

// "an ext4 filesystem labelled "root"": the first signature, and what else there is.
[[nodiscard]] std::string describe(const std::vector<Signature>& signatures);

}  // namespace blobfs::mkfs
