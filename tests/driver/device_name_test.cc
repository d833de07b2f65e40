#include "driver/device_name.h"

#include <gtest/gtest.h>

namespace blobfs::driver {
namespace {

TEST(DeviceName, PciAddressIsAController) {
    for (const char* name : {"0000:03:00.0", "pcie:0000:03:00.0", "03:00.0", "pcie:03:00.0"}) {
        const Result<DeviceName> parsed = parse_device_name(name);
        ASSERT_TRUE(parsed) << name;
        EXPECT_EQ(parsed->kind, DeviceName::Kind::kPcie) << name;
        EXPECT_EQ(parsed->address, "0000:03:00.0") << name;
        EXPECT_EQ(parsed->namespace_id, 0U) << name;
        EXPECT_TRUE(names_pcie(name)) << name;
    }
}

TEST(DeviceName, NamespaceFollowsAComma) {
    const Result<DeviceName> parsed = parse_device_name("0000:03:00.0,ns=17");
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->address, "0000:03:00.0");
    EXPECT_EQ(parsed->namespace_id, 17U);
    EXPECT_TRUE(names_pcie("0000:03:00.0,ns=17"));
}

TEST(DeviceName, NonsenseBehindAnAddressIsRefused) {
    for (const char* name :
         {"03:00.0,", "03:00.0,ns=", "03:00.0,ns=0", "03:00.0,ns=4294967295", "03:00.0,ns=1x",
          "03:00.0,n=1", "pcie:", "pcie:03:00.8", "pcie:/dev/nvme0n1"}) {
        EXPECT_FALSE(parse_device_name(name)) << name;
    }
}

TEST(DeviceName, OtherNamesAreNoControllers) {
    for (const char* name : {"/tmp/image", "image", "file:0000:03:00.0", "mem:1GiB", "03:00",
                             "/dev/nvme0n1", "image,ns=2"}) {
        EXPECT_FALSE(names_pcie(name)) << name;
        const Result<DeviceName> parsed = parse_device_name(name);
        ASSERT_TRUE(parsed) << name;
        EXPECT_NE(parsed->kind, DeviceName::Kind::kPcie) << name;
    }
}

}  // namespace
}  // namespace blobfs::driver
