#include "mkfs/uuid.h"

#include <gtest/gtest.h>

namespace blobfs::mkfs {
namespace {

TEST(Uuid, TextAndBytesAreTheSame) {
    const std::string text = "01234567-89ab-cdef-0123-456789abcdef";
    const auto uuid = parse_uuid(text);
    ASSERT_TRUE(uuid);
    EXPECT_EQ((*uuid)[0], 0x01);
    EXPECT_EQ((*uuid)[15], 0xef);
    EXPECT_EQ(to_string(*uuid), text);
    EXPECT_EQ(parse_uuid("01234567-89AB-CDEF-0123-456789ABCDEF"), uuid);
}

TEST(Uuid, AnythingElseIsRefused) {
    for (const char* text :
         {"", "random", "01234567-89ab-cdef-0123-456789abcde", "0123456789abcdef0123456789abcdef",
          "01234567-89ab-cdef-0123-456789abcdeg", "01234567+89ab-cdef-0123-456789abcdef",
          "01234567-89ab-cdef-0123-456789abcdef0"}) {
        EXPECT_EQ(parse_uuid(text), std::nullopt) << text;
    }
}

TEST(Uuid, RandomOnesDifferAndSayThatTheyAreRandom) {
    const Uuid one = random_uuid();
    EXPECT_NE(one, random_uuid());
    EXPECT_EQ(to_string(one)[14], '4');
    EXPECT_EQ(one[8] & 0xc0, 0x80);
}

}  // namespace
}  // namespace blobfs::mkfs
