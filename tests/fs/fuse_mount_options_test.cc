#include "fs/fuse/mount_options.h"

#include <gtest/gtest.h>

#include "fs/fuse/mount_source.h"

namespace blobfs::fs::fuse {
namespace {

TEST(MountOptions, UnknownOptionIsNamed) {
    MountOptions options;
    const auto wrong = options.add("rw,bogus=1,noatime");
    ASSERT_TRUE(wrong);
    EXPECT_NE(wrong->find("'bogus=1'"), std::string::npos);
}

TEST(MountOptions, LaterOneWins) {
    MountOptions options;
    EXPECT_FALSE(options.add("ro,nosuid,suid"));
    EXPECT_FALSE(options.add("rw"));
    EXPECT_FALSE(options.read_only);
    EXPECT_EQ(options.last_of({"suid", "nosuid"}), "suid");
    EXPECT_FALSE(options.last_of({"dev", "nodev"}));
}

TEST(MountOptions, EscapedCommaBelongsToTheValue) {
    MountOptions options;
    EXPECT_FALSE(options.add("fsname=a\\,b\\\\c,ro"));
    EXPECT_EQ(options.source_name, "a,b\\c");
    EXPECT_TRUE(options.read_only);
}

TEST(MountOptions, WhatFstabHasIsAccepted) {
    MountOptions options;
    EXPECT_FALSE(
        options.add("defaults,noauto,user,users,nofail,_netdev,x-systemd.automount,"
                    "x-gvfs-show,comment=x,user=joe,owner,group,default_permissions"));
    EXPECT_TRUE(options.kernel.empty());
}

TEST(MountOptions, WhatARemountFindsInProcMountsIsAccepted) {
    MountOptions options;
    EXPECT_FALSE(
        options.add("ro,noatime,remount,user_id=0,group_id=0,default_permissions,"
                    "allow_other"));
    EXPECT_TRUE(options.remount);
    EXPECT_TRUE(options.read_only);
}

TEST(MountOptions, AccessTimesFollowTheLastWord) {
    MountOptions options;
    EXPECT_FALSE(options.atime);
    EXPECT_FALSE(options.add("noatime"));
    EXPECT_EQ(options.atime, AtimePolicy::kNever);
    EXPECT_FALSE(options.add("strictatime"));
    EXPECT_EQ(options.atime, AtimePolicy::kStrict);
    EXPECT_FALSE(options.add("relatime"));
    EXPECT_EQ(options.atime, AtimePolicy::kRelative);
}

TEST(MountOptions, NumbersAreWholeAndInRange) {
    for (const char* text :
         {"commit=", "commit=x", "commit=5s", "commit=-1", "commit=301", "commit=99999999999",
          "cache_size=", "cache_size=0", "cache_size=big", "workers=many", "poll=never"}) {
        MountOptions options;
        EXPECT_TRUE(options.add(text)) << text;
    }
    MountOptions options;
    EXPECT_FALSE(options.add("commit=30,cache_size=64MiB,workers=0,poll=always"));
    EXPECT_EQ(options.commit_seconds, 30u);
    EXPECT_EQ(options.cache_bytes, std::uint64_t{64} << 20);
    EXPECT_EQ(options.poll_always, true);
    // As ext4 has it.
    MountOptions by_default;
    EXPECT_FALSE(by_default.add("commit=0"));
    EXPECT_FALSE(by_default.commit_seconds);
}

TEST(MountSource, PathBecomesAbsolute) {
    const auto source = parse_mount_source("file:some/../image");
    ASSERT_TRUE(source);
    EXPECT_TRUE(source->name.starts_with("/"));
    EXPECT_TRUE(source->name.ends_with("/image"));
    EXPECT_EQ(source->name.find(".."), std::string::npos);
}

TEST(MountSource, OtherDevicesKeepTheirName) {
    EXPECT_EQ(parse_mount_source("0000:03:00.0")->name, "0000:03:00.0");
    EXPECT_EQ(parse_mount_source("mem:4GiB")->name, "mem:4GiB");
    EXPECT_FALSE(parse_mount_source("mem:lots"));
}

}  // namespace
}  // namespace blobfs::fs::fuse
