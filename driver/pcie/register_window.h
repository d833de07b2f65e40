#pragma once

// A controller's registers mapped into the process. When the device is pulled out, the kernel takes
// the mapping's pages away and the next access raises SIGBUS: a handler then puts memory full of
// ones in their place, which is what a bus reads where nobody answers, and the access goes on. The
// addresses stay valid as long as the window. Reactor thread; the handler runs on any thread.

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "driver/base/result.h"

namespace blobfs::driver {

class RegisterWindow {
  public:
    RegisterWindow() = default;
    ~RegisterWindow();
    RegisterWindow(const RegisterWindow&) = delete;
    RegisterWindow& operator=(const RegisterWindow&) = delete;

    // Maps that many bytes of the file from that offset on. Once. The file may be closed after it.
    Result<void> map(int file, off_t offset, std::size_t bytes);

    [[nodiscard]] std::size_t bytes() const { return bytes_; }
    // The device is no longer behind the window: reads give ones, writes go nowhere.
    [[nodiscard]] bool gone() const { return gone_.load(std::memory_order_relaxed); }
    // Lets go of the device, as if it had been pulled out.
    void abandon();

    // Offset in bytes, a multiple of four, within the window.
    [[nodiscard]] volatile std::uint32_t* word(std::size_t offset) const {
        return reinterpret_cast<volatile std::uint32_t*>(data_ + offset);
    }

  private:
    static void on_bus_error(int signal, void* info, void* context);
    static bool replace(const void* address);

    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
    std::atomic<bool> gone_ = false;
};

}  // namespace blobfs::driver
