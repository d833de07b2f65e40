// Access control lists as bytes and as meaning.

#include "fs/posix_acl.h"

#include <gtest/gtest.h>

namespace blobfs::fs {
namespace {

constexpr std::uint32_t kNone = 0xffff'ffff;

PosixAcl full_list() {
    return {{AclTag::kUserObj, 7, kNone}, {AclTag::kUser, 6, 1001},  {AclTag::kGroupObj, 5, kNone},
            {AclTag::kGroup, 7, 50},      {AclTag::kMask, 7, kNone}, {AclTag::kOther, 5, kNone}};
}

TEST(PosixAcl, ComesBackFromItsBytes) {
    const auto parsed = parse_acl(encode_acl(full_list()));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(*parsed, full_list());
    EXPECT_EQ(encode_acl(full_list()).size(), 4u + 6 * 8);
}

TEST(PosixAcl, NoEntriesIsNoList) {
    EXPECT_TRUE(parse_acl("")->empty());
    EXPECT_TRUE(parse_acl(encode_acl({}))->empty());
}

TEST(PosixAcl, InvalidListsAreRefused) {
    const auto refused = [](const PosixAcl& acl) {
        const auto parsed = parse_acl(encode_acl(acl));
        return !parsed && parsed.error().code == Errc::kInvalidArgument;
    };
    for (std::size_t missing = 0; missing < 6; ++missing) {
        PosixAcl acl = full_list();
        const bool required =
            acl[missing].tag != AclTag::kUser && acl[missing].tag != AclTag::kGroup;
        acl.erase(acl.begin() + static_cast<std::ptrdiff_t>(missing));
        EXPECT_EQ(refused(acl), required) << missing;
    }
    PosixAcl twice = full_list();
    twice.insert(twice.begin(), twice.front());
    EXPECT_TRUE(refused(twice));
    PosixAcl unordered = full_list();
    std::swap(unordered[0], unordered[5]);
    EXPECT_TRUE(refused(unordered));
    PosixAcl permissions = full_list();
    permissions[1].permissions = 8;
    EXPECT_TRUE(refused(permissions));
    PosixAcl nobody = full_list();
    nobody[1].id = kNone;
    EXPECT_TRUE(refused(nobody));
    std::string bytes = encode_acl(full_list());
    EXPECT_FALSE(parse_acl(bytes.substr(0, bytes.size() - 1)));
    EXPECT_FALSE(parse_acl(bytes.substr(0, 3)));
    bytes[4] = 0x40;
    EXPECT_FALSE(parse_acl(bytes));
    bytes[0] = 3;
    EXPECT_EQ(parse_acl(bytes).error().code, Errc::kNotSupported);
}

TEST(PosixAcl, TheModeShowsTheMaskAsTheGroup) {
    PosixAcl acl = full_list();
    acl[4].permissions = 4;
    EXPECT_EQ(mode_by_acl(acl, 0107000u), 0107745u);
    chmod_acl(acl, 0610);
    EXPECT_EQ(acl[0].permissions, 6);
    EXPECT_EQ(acl[2].permissions, 5);
    EXPECT_EQ(acl[4].permissions, 1);
    EXPECT_EQ(acl[5].permissions, 0);
    PosixAcl minimal = {
        {AclTag::kUserObj, 7, kNone}, {AclTag::kGroupObj, 5, kNone}, {AclTag::kOther, 1, kNone}};
    EXPECT_TRUE(is_minimal(minimal));
    EXPECT_FALSE(is_minimal(full_list()));
    EXPECT_EQ(mode_by_acl(minimal, 0), 0751u);
}

TEST(PosixAcl, InheritanceKeepsWhatBothAllow) {
    PosixAcl acl = full_list();
    acl[5].permissions = 4;
    std::uint32_t mode = 0100664u;
    inherit_acl(acl, mode);
    EXPECT_EQ(mode, 0100664u);
    EXPECT_EQ(acl[0].permissions, 6);
    EXPECT_EQ(acl[1].permissions, 6);  // named entries stay, the mask limits them
    EXPECT_EQ(acl[2].permissions, 5);
    EXPECT_EQ(acl[4].permissions, 6);
    EXPECT_EQ(acl[5].permissions, 4);
}

}  // namespace
}  // namespace blobfs::fs
