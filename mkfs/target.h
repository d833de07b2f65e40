#pragma once

// The DEVICE argument of mkfs, looked at before anything is opened for writing: what it is, how
// large, who uses it, what it holds. Changes nothing. Any thread.

#include <cstdint>
#include <string>

#include <tl/expected.hpp>

#include "mkfs/existing_content.h"

namespace blobfs::mkfs {

struct Target {
    enum class Kind : std::uint8_t { kNewFile, kFile, kBlockDevice, kController };
    Kind kind = Kind::kController;
    std::string name;         // the argument
    std::string path;         // kController: empty
    std::uint64_t bytes = 0;  // as it is; kNewFile and kController: 0
    std::vector<Signature> signatures;
    bool unknown_data = false;  // a file that starts with something that is not known here
};

struct SurveyOptions {
    bool may_create = false;  // a size was given: a file that is not there will be made
    std::uint32_t lock_wait_ms = 3000;
};

// Refuses with a whole sentence: not there, no right to write, not a file or block device, in use.
// A controller (PCIe, memory) is only named: it is surveyed once it is open.
tl::expected<Target, std::string> survey(const std::string& device, const SurveyOptions& options);

}  // namespace blobfs::mkfs
