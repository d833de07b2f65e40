#pragma once

// The DEVICE argument of every program, taken apart. Any thread.

#include <cstdint>
#include <string>
#include <string_view>

#include "driver/base/result.h"

namespace blobfs::driver {

struct DeviceName {
    enum class Kind : std::uint8_t { kFile, kMemory, kPcie };
    Kind kind = Kind::kFile;
    std::string path;                // kFile
    std::uint64_t bytes = 0;         // kMemory
    std::string address;             // kPcie: domain:bus:device.function, domain filled in
    std::uint32_t namespace_id = 0;  // kPcie: 0 when the name does not say
};

// file:PATH or a path; mem:SIZE; pcie:ADDRESS or an address such as 0000:03:00.0 or 03:00.0, with
// ",ns=2" behind it for a namespace other than the first.
// kInvalidArgument when it is none of these.
Result<DeviceName> parse_device_name(const std::string& name);

// True when the name means a PCIe controller, whose driver needs hugepages: what
// EnvironmentOptions::physical has to say before the device is opened.
[[nodiscard]] bool names_pcie(std::string_view name);

// A number of bytes with an optional suffix: B, K, KiB, M, MiB, G, GiB, T, TiB (powers of 1024).
Result<std::uint64_t> parse_size(const std::string& text);

}  // namespace blobfs::driver
