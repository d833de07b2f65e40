#include "driver/pcie/register_window.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace blobfs::driver {
namespace {

constexpr std::size_t kBytes = 16384;

// A file that is cut off does to its mapping what a device does that is pulled out.
class RegisterWindowTest : public ::testing::Test {
  protected:
    RegisterWindowTest() : file_(::memfd_create("registers", MFD_CLOEXEC)) {
        EXPECT_EQ(::ftruncate(file_, kBytes), 0);
        const std::uint32_t value = 0x12345678;
        EXPECT_EQ(::pwrite(file_, &value, sizeof value, 0x1c), 4);
    }
    ~RegisterWindowTest() override { ::close(file_); }

    int file_;
    RegisterWindow window_;
};

TEST_F(RegisterWindowTest, ReadsAndWritesTheRegisters) {
    ASSERT_TRUE(window_.map(file_, 0, kBytes));
    EXPECT_EQ(*window_.word(0x1c), 0x12345678U);
    *window_.word(0x1000) = 7;
    std::uint32_t value = 0;
    ASSERT_EQ(::pread(file_, &value, sizeof value, 0x1000), 4);
    EXPECT_EQ(value, 7U);
    EXPECT_FALSE(window_.gone());
}

TEST_F(RegisterWindowTest, RemovedDeviceReadsAllOnesInsteadOfEndingTheProcess) {
    ASSERT_TRUE(window_.map(file_, 0, kBytes));
    volatile std::uint32_t* const doorbell = window_.word(0x1000);
    ASSERT_EQ(::ftruncate(file_, 0), 0);
    EXPECT_EQ(*window_.word(0x1c), 0xffffffffU);
    EXPECT_TRUE(window_.gone());
    *doorbell = 1;
}

TEST_F(RegisterWindowTest, WriteToARemovedDeviceIsNoticed) {
    ASSERT_TRUE(window_.map(file_, 0, kBytes));
    ASSERT_EQ(::ftruncate(file_, 0), 0);
    *window_.word(0x1000) = 1;
    EXPECT_TRUE(window_.gone());
}

TEST_F(RegisterWindowTest, AbandonedDeviceIsNotTouchedAnyMore) {
    ASSERT_TRUE(window_.map(file_, 0, kBytes));
    window_.abandon();
    EXPECT_TRUE(window_.gone());
    EXPECT_EQ(*window_.word(0x1c), 0xffffffffU);
    *window_.word(0x1c) = 0;
    std::uint32_t value = 0;
    ASSERT_EQ(::pread(file_, &value, sizeof value, 0x1c), 4);
    EXPECT_EQ(value, 0x12345678U);
}

TEST_F(RegisterWindowTest, BusErrorElsewhereStillEndsTheProcess) {
    ASSERT_TRUE(window_.map(file_, 0, kBytes));
    EXPECT_DEATH(
        {
            const int other = ::memfd_create("other", MFD_CLOEXEC);
            auto* const memory =
                static_cast<volatile char*>(::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, other, 0));
            (void)*memory;
        },
        "");
}

}  // namespace
}  // namespace blobfs::driver
