#pragma once

// Attributes as the kernel wants them. All timeouts are as good as infinite: every change comes
// through the kernel, which knows what it changed. Any thread.

#include "fs/filesystem.h"
#include "fs/fuse/wire.h"

namespace blobfs::fs::fuse {

inline constexpr std::uint64_t kForeverSeconds = 1'000'000'000;  // some 31 years

void fill(fuse_attr& wire, const Attributes& attributes);
void fill(fuse_attr_out& wire, const Attributes& attributes);
void fill(fuse_entry_out& wire, const Attributes& attributes);
void fill(StatxOut& wire, const Attributes& attributes);
void fill(fuse_kstatfs& wire, const FilesystemStatus& status);

// What a SETATTR asks for. Nanoseconds out of range: kInvalidArgument.
Result<SetAttributes> requested_changes(const fuse_setattr_in& wire);

}  // namespace blobfs::fs::fuse
