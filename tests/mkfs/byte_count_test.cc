#include "mkfs/byte_count.h"

#include <gtest/gtest.h>

namespace blobfs::mkfs {
namespace {

TEST(ByteCount, UnitsArePowersOf1024UnlessTheySayB) {
    EXPECT_EQ(parse_byte_count("4096"), 4096u);
    EXPECT_EQ(parse_byte_count("64K"), 64u << 10);
    EXPECT_EQ(parse_byte_count("16m"), 16u << 20);
    EXPECT_EQ(parse_byte_count("8G"), std::uint64_t{8} << 30);
    EXPECT_EQ(parse_byte_count("8GiB"), std::uint64_t{8} << 30);
    EXPECT_EQ(parse_byte_count("2TiB"), std::uint64_t{2} << 40);
    EXPECT_EQ(parse_byte_count("1P"), std::uint64_t{1} << 50);
    EXPECT_EQ(parse_byte_count("3KB"), 3000u);
    EXPECT_EQ(parse_byte_count("5TB"), 5'000'000'000'000u);
    EXPECT_EQ(parse_byte_count("7B"), 7u);
}

TEST(ByteCount, AnythingElseIsRefused) {
    for (const char* text : {"", "G", "-1", "+1", "1.5G", "8 G", "8GG", "8X", "0x10", "1e9",
                             "99999999999999999999", "8192P", "9223372036854775808", "8Ki"}) {
        EXPECT_EQ(parse_byte_count(text), std::nullopt) << text;
    }
    EXPECT_EQ(parse_byte_count("9223372036854775807"), 9223372036854775807u);
}

TEST(ByteCount, PeopleReadUnits) {
    EXPECT_EQ(describe_byte_count(0), "0 bytes");
    EXPECT_EQ(describe_byte_count(1023), "1023 bytes");
    EXPECT_EQ(describe_byte_count(4096), "4 KiB");
    EXPECT_EQ(describe_byte_count(std::uint64_t{8} << 30), "8 GiB");
    EXPECT_EQ(describe_byte_count((std::uint64_t{8} << 30) - 4096), "8.0 GiB");
    EXPECT_EQ(describe_byte_count(1536), "1.5 KiB");
    EXPECT_EQ(describe_byte_count(std::uint64_t{1} << 60), "1024 PiB");
}

}  // namespace
}  // namespace blobfs::mkfs
