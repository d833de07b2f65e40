#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

#include "driver/pcie/function_access.h"

namespace blobfs::driver {

namespace {

constexpr const char* kOpeningByUio = "opening a PCIe controller through UIO";

class File {
  public:
    File() = default;
    explicit File(int descriptor) : descriptor_(descriptor) {}
    File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    File& operator=(File&& other) noexcept {
        std::swap(descriptor_, other.descriptor_);
        return *this;
    }
    ~File() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    [[nodiscard]] int get() const { return descriptor_; }

  private:
    int descriptor_ = -1;
};

Result<File> open_file(const PciFunction& function, const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) {
        const int error = errno;
        spdlog::error("{}: {}: {}{}", function.address(), path, std::strerror(error),
                      error == EACCES || error == EPERM ? ": this needs root" : "");
        return fail(errno_error(error, kOpeningByUio));
    }
    return File(descriptor);
}

class UioAccess final : public FunctionAccess {
  public:
    UioAccess(const PciFunction& function, File registers, File config, File uio)
        : bytes_(function.bar_bytes()),
          registers_(std::move(registers)),
          config_(std::move(config)),
          uio_(std::move(uio)) {}
    ~UioAccess() override { (void)enable_bus_master(false); }
    UioAccess(const UioAccess&) = delete;
    UioAccess& operator=(const UioAccess&) = delete;

    Result<void> map_registers(RegisterWindow& window) override {
        return window.map(registers_.get(), 0, bytes_);
    }
    Result<void> enable_bus_master(bool enable) override {
        return write_pci_command(config_.get(), 0, enable);
    }
    [[nodiscard]] bool needs_physical_addresses() const override { return true; }

  private:
    std::uint64_t bytes_;
    File registers_;  // holds the lock that keeps others out
    File config_;
    File uio_;  // when it is closed, by a crash too, the kernel ends the access to memory
};

std::string uio_device(const PciFunction& function) {
    std::error_code error;
    for (std::filesystem::directory_iterator i(function.directory() + "/uio", error), end;
         !error && i != end; i.increment(error)) {
        return "/dev/" + i->path().filename().string();
    }
    return {};
}

// What a previous owner left running in the controller must not go on once it may reach memory.
void reset(const PciFunction& function) {
    const int file = ::open((function.directory() + "/reset").c_str(), O_WRONLY | O_CLOEXEC);
    if (file < 0) return;  // it has no reset of its own; CC.EN = 0 has to do
    if (::write(file, "1", 1) != 1) {
        spdlog::warn("{}: resetting the function: {}", function.address(), std::strerror(errno));
    }
    ::close(file);
}

}  // namespace

bool uio_taken(const PciFunction& function) {
    const File file(::open((function.directory() + "/resource0").c_str(), O_RDWR | O_CLOEXEC));
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return file.get() >= 0 && ::fcntl(file.get(), F_OFD_GETLK, &lock) == 0 &&
           lock.l_type != F_UNLCK;
}

Result<std::unique_ptr<FunctionAccess>> open_uio(const PciFunction& function) {
    if (function.iommu() == PciFunction::Iommu::kTranslating) {
        spdlog::error(
            "{}: it is behind an IOMMU, through which UIO cannot reach memory: bind it "
            "to vfio-pci instead",
            function.address());
        return fail(Errc::kNotSupported, kOpeningByUio);
    }
    if (function.bar_bytes() == 0) return fail(Errc::kNotSupported, kOpeningByUio);
    const std::string uio_path = uio_device(function);
    if (uio_path.empty()) return fail(Errc::kNotSupported, kOpeningByUio);
    TRY_ASSIGN(File registers, open_file(function, function.directory() + "/resource0"));
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (::fcntl(registers.get(), F_OFD_SETLK, &lock) != 0) {
        const int error = errno;
        if (error != EAGAIN && error != EACCES) return fail(errno_error(error, kOpeningByUio));
        spdlog::error("{}: another process uses it", function.address());
        return fail(Errc::kBusy, kOpeningByUio);
    }
    TRY_ASSIGN(File config, open_file(function, function.directory() + "/config"));
    TRY_ASSIGN(File uio, open_file(function, uio_path));
    reset(function);
    spdlog::warn(
        "{}: through UIO, nothing keeps the controller from any memory of this machine; "
        "vfio-pci with an IOMMU is safer",
        function.address());
    return std::make_unique<UioAccess>(function, std::move(registers), std::move(config),
                                       std::move(uio));
}

}  // namespace blobfs::driver
