#pragma once

// POSIX access control lists as Linux keeps them in system.posix_acl_access and _default
// (linux/posix_acl_xattr.h): interpreted, so that the mode and the list always agree. The kernel
// checks permissions by them. Any thread, never suspends.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "driver/base/result.h"

namespace blobfs::fs {

inline constexpr std::string_view kAccessAclName = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAclName = "system.posix_acl_default";

enum class AclTag : std::uint16_t {
    kUserObj = 0x01,
    kUser = 0x02,
    kGroupObj = 0x04,
    kGroup = 0x08,
    kMask = 0x10,
    kOther = 0x20,
};

struct AclEntry {
    AclTag tag{};
    std::uint16_t permissions = 0;  // rwx, at most 7
    std::uint32_t id = 0;           // of kUser and kGroup
    friend bool operator==(const AclEntry&, const AclEntry&) = default;
};

// Entries in the order of their tags. Empty: there is no list.
using PosixAcl = std::vector<AclEntry>;

// kInvalidArgument when it is not a valid list, kNotSupported for a version that Linux does not
// know.
Result<PosixAcl> parse_acl(std::string_view bytes);
std::string encode_acl(const PosixAcl& acl);

// True when the list says no more than nine permission bits do.
bool is_minimal(const PosixAcl& acl);
// The mode with its nine permission bits as the list has them: the group's are the mask's, if any.
std::uint32_t mode_by_acl(const PosixAcl& acl, std::uint32_t mode);
// chmod: the list's owner, other and mask (or, without one, group) entries take the mode's bits.
void chmod_acl(PosixAcl& acl, std::uint32_t mode);
// A new file under a default ACL: both list and mode keep only what the other allows, too. The mode
// is the one asked for, without umask. The list is then the file's access ACL unless is_minimal().
void inherit_acl(PosixAcl& acl, std::uint32_t& mode);

}  // namespace blobfs::fs
