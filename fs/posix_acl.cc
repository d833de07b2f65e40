#include "fs/posix_acl.h"

#include <algorithm>
#include <cstring>

#include "driver/base/check.h"

namespace blobfs::fs {

namespace {

constexpr std::uint32_t kXattrVersion = 2;
constexpr std::uint32_t kNoId = 0xffff'ffff;
constexpr std::uint16_t kAllPermissions = 7;

struct XattrEntry {
    std::uint16_t tag;
    std::uint16_t permissions;
    std::uint32_t id;
};
static_assert(sizeof(XattrEntry) == 8);

bool has_id(AclTag tag) { return tag == AclTag::kUser || tag == AclTag::kGroup; }

bool known(std::uint16_t tag) {
    switch (static_cast<AclTag>(tag)) {
        case AclTag::kUserObj:
        case AclTag::kUser:
        case AclTag::kGroupObj:
        case AclTag::kGroup:
        case AclTag::kMask:
        case AclTag::kOther:
            return true;
    }
    return false;
}

// Owner, group and other exactly once, a mask at most once and always when there are named
// entries, all in the order of the tags.
bool valid(const PosixAcl& acl) {
    const auto count = [&](AclTag tag) {
        return std::count_if(acl.begin(), acl.end(),
                             [&](const AclEntry& entry) { return entry.tag == tag; });
    };
    const auto masks = count(AclTag::kMask);
    const bool named = count(AclTag::kUser) + count(AclTag::kGroup) != 0;
    const bool sorted = std::is_sorted(
        acl.begin(), acl.end(), [](const AclEntry& a, const AclEntry& b) { return a.tag < b.tag; });
    return sorted && count(AclTag::kUserObj) == 1 && count(AclTag::kGroupObj) == 1 &&
           count(AclTag::kOther) == 1 && (masks == 1 || (masks == 0 && !named));
}

AclEntry* find(PosixAcl& acl, AclTag tag) {
    for (AclEntry& entry : acl) {
        if (entry.tag == tag) {
            return &entry;
        }
    }
    return nullptr;
}

AclEntry& require(PosixAcl& acl, AclTag tag) {
    AclEntry* entry = find(acl, tag);
    CHECK(entry != nullptr);
    return *entry;
}

// The entry whose permissions the mode shows as the group's.
AclEntry& group_class(PosixAcl& acl) {
    AclEntry* mask = find(acl, AclTag::kMask);
    return mask != nullptr ? *mask : require(acl, AclTag::kGroupObj);
}

std::uint16_t bits(std::uint32_t mode, unsigned shift) {
    return static_cast<std::uint16_t>((mode >> shift) & kAllPermissions);
}

}  // namespace

Result<PosixAcl> parse_acl(std::string_view bytes) {
    const auto invalid = [] {
        return fail(Errc::kInvalidArgument, "reading an access control list");
    };
    if (bytes.empty()) {
        return PosixAcl{};
    }
    std::uint32_t version = 0;
    if (bytes.size() < sizeof(version) ||
        (bytes.size() - sizeof(version)) % sizeof(XattrEntry) != 0) {
        return invalid();
    }
    std::memcpy(&version, bytes.data(), sizeof(version));
    if (version != kXattrVersion) {
        return fail(Errc::kNotSupported, "reading an access control list");
    }
    bytes.remove_prefix(sizeof(version));
    PosixAcl acl;
    for (; !bytes.empty(); bytes.remove_prefix(sizeof(XattrEntry))) {
        XattrEntry entry{};
        std::memcpy(&entry, bytes.data(), sizeof(entry));
        if (!known(entry.tag) || entry.permissions > kAllPermissions) {
            return invalid();
        }
        const auto tag = static_cast<AclTag>(entry.tag);
        if (has_id(tag) && entry.id == kNoId) {
            return invalid();
        }
        acl.push_back(
            {.tag = tag, .permissions = entry.permissions, .id = has_id(tag) ? entry.id : kNoId});
    }
    if (!acl.empty() && !valid(acl)) {
        return invalid();
    }
    return acl;
}

std::string encode_acl(const PosixAcl& acl) {
    std::string bytes(sizeof(kXattrVersion), '\0');
    std::memcpy(bytes.data(), &kXattrVersion, sizeof(kXattrVersion));
    for (const AclEntry& entry : acl) {
        const XattrEntry stored{.tag = static_cast<std::uint16_t>(entry.tag),
                                .permissions = entry.permissions,
                                .id = has_id(entry.tag) ? entry.id : kNoId};
        bytes.append(reinterpret_cast<const char*>(&stored), sizeof(stored));
    }
    return bytes;
}

bool is_minimal(const PosixAcl& acl) {
    return std::all_of(acl.begin(), acl.end(), [](const AclEntry& entry) {
        return !has_id(entry.tag) && entry.tag != AclTag::kMask;
    });
}

std::uint32_t mode_by_acl(const PosixAcl& acl, std::uint32_t mode) {
    PosixAcl copy = acl;
    mode &= ~0777u;
    mode |= static_cast<std::uint32_t>(require(copy, AclTag::kUserObj).permissions) << 6;
    mode |= static_cast<std::uint32_t>(group_class(copy).permissions) << 3;
    mode |= require(copy, AclTag::kOther).permissions;
    return mode;
}

void chmod_acl(PosixAcl& acl, std::uint32_t mode) {
    require(acl, AclTag::kUserObj).permissions = bits(mode, 6);
    group_class(acl).permissions = bits(mode, 3);
    require(acl, AclTag::kOther).permissions = bits(mode, 0);
}

void inherit_acl(PosixAcl& acl, std::uint32_t& mode) {
    const auto restrict_both = [&](AclEntry& entry, unsigned shift) {
        entry.permissions = static_cast<std::uint16_t>(entry.permissions & bits(mode, shift));
        mode &= ~(static_cast<std::uint32_t>(kAllPermissions) << shift);
        mode |= static_cast<std::uint32_t>(entry.permissions) << shift;
    };
    restrict_both(require(acl, AclTag::kUserObj), 6);
    restrict_both(group_class(acl), 3);
    restrict_both(require(acl, AclTag::kOther), 0);
}

}  // namespace blobfs::fs
