#pragma once

// A device in memory and two sound filesystems for it with something of everything in them: one
// that was closed, and one whose last changes are in the log only. They are the same each time, but
// for what the clock says. One thread.

#include <memory>
#include <string>

#include "driver/device.h"
#include "driver/reactor/reactor.h"
#include "fs/filesystem.h"

namespace blobfs::fuzz {

inline constexpr std::uint64_t kImageBytes = std::uint64_t{16} << 20;
inline constexpr std::size_t kImagePageBytes = 4096;
inline constexpr std::uint64_t kImageInodes = 52;  // inode numbers beyond are free
inline constexpr int kImageFiles = 30;             // "file0", ... in inodes 2 and 3
inline constexpr fs::Caller kImageUser{.uid = 0, .gid = 0, .pid = 1, .umask = 0};

class SoundImages {
  public:
    // Starts the DPDK environment. Ends the process when anything fails: the images are sound.
    SoundImages();
    ~SoundImages();
    SoundImages(const SoundImages&) = delete;
    SoundImages& operator=(const SoundImages&) = delete;

    [[nodiscard]] const std::string& clean() const { return clean_; }
    [[nodiscard]] const std::string& unclean() const { return unclean_; }

    // The device, which images are put on, and 64 KiB of DMA memory.
    [[nodiscard]] driver::Reactor& reactor() { return reactor_; }
    [[nodiscard]] driver::Device& device() { return *device_; }
    [[nodiscard]] driver::DmaSpan buffer() const { return buffer_.span(); }
    // An image, as the two above, ends where nothing but zeroes follow, at the end of a block.
    void put(const std::string& image);
    // Nothing was written since.
    [[nodiscard]] bool unchanged() const;

  private:
    class WatchedMedium;

    [[nodiscard]] std::string content() const;
    void make_clean(driver::Suspend& suspend);
    void make_unclean(driver::Suspend& suspend);

    driver::Reactor reactor_{driver::ReactorOptions{.fiber_stack_bytes = std::size_t{256} << 10}};
    std::unique_ptr<driver::Device> device_;
    WatchedMedium* medium_ = nullptr;  // the device's
    driver::DmaBuffer buffer_;
    std::string clean_, unclean_;
};

}  // namespace blobfs::fuzz
