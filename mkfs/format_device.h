#pragma once

// Making a filesystem on a DEVICE argument: what mkfs.blobfs does, as a library call. Looks first,
// and changes nothing unless everything is in order. Starts the DPDK environment and a reactor of
// its own: call it from a thread without a reactor.

#include <absl/functional/any_invocable.h>

#include <cstdint>
#include <optional>
#include <string>

#include <tl/expected.hpp>

#include "blobstore/format.h"
#include "mkfs/uuid.h"

namespace blobfs::mkfs {

struct FormatRequest {
    std::string device;        // a path, file:PATH, pcie:ADDRESS, mem:SIZE
    std::string label;         // UTF-8, at most 64 bytes
    std::optional<Uuid> uuid;  // nothing: a random one
    bool force = false;        // overwrite what is there; never what is in use
    bool dry_run = false;      // look, decide, report, and change nothing
    bool discard = true;       // give the device's old blocks back (hole punch, deallocate)
    std::uint32_t cluster_bytes = blobstore::kDefaultClusterBytes;
    std::uint32_t page_bytes = blobstore::kDefaultPageBytes;
    std::uint64_t size_bytes = 0;  // makes or grows the file; 0: as it is
    std::uint32_t root_uid = 0, root_gid = 0;
    std::uint32_t lock_wait_ms = 3000;  // how long to wait for one who has just unmounted
    // Called now and then with what is being done and how much of it is done; may be empty.
    absl::AnyInvocable<void(const char* what, unsigned percent)> progress;
};

struct FormatReport {
    std::string device;
    std::string model;  // what the controller calls itself; empty in a dry run of a path
    std::uint64_t bytes = 0;
    std::string label;
    Uuid uuid{};
    std::uint32_t cluster_bytes = 0, page_bytes = 0, inline_bytes = 0;
    std::uint64_t log_bytes = 0;  // 0 in a dry run
    std::string replaced;         // what was there, in words; empty: nothing known
    bool created = false, grown = false, dry_run = false;
};

// The error is for people: what was wrong, on what, and what to do. After an error from the look
// that comes first nothing has changed; a file that this call made is removed again, one that it
// grew is cut back.
tl::expected<FormatReport, std::string> format_device(FormatRequest request);

}  // namespace blobfs::mkfs
