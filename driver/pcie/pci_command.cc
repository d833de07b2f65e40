#include <unistd.h>

#include <cerrno>

#include "driver/pcie/function_access.h"

namespace blobfs::driver {

Result<void> write_pci_command(int file, std::uint64_t config_offset, bool bus_master) {
    constexpr const char* kWhat = "setting the PCI command register";
    const auto offset = static_cast<off_t>(config_offset + kPciCommandOffset);
    std::uint16_t command = 0;
    if (::pread(file, &command, sizeof command, offset) != sizeof command) {
        return fail(errno_error(errno, kWhat));
    }
    if (command == 0xffff) return fail(Errc::kDeviceGone, kWhat);
    command = static_cast<std::uint16_t>(command | kPciCommandMemory);
    command = static_cast<std::uint16_t>(bus_master ? command | kPciCommandBusMaster
                                                    : command & ~kPciCommandBusMaster);
    if (::pwrite(file, &command, sizeof command, offset) != sizeof command) {
        return fail(errno_error(errno, kWhat));
    }
    // The answer to a read comes behind the function's own writes to memory that are on their way
    // (PCI Express, transaction ordering): when it is there, so are they.
    std::uint16_t now = 0;
    if (::pread(file, &now, sizeof now, offset) != sizeof now) {
        return fail(errno_error(errno, kWhat));
    }
    if (now == 0xffff) return fail(Errc::kDeviceGone, kWhat);
    if (((now & kPciCommandBusMaster) != 0) != bus_master) return fail(Errc::kIo, kWhat);
    return {};
}

}  // namespace blobfs::driver
