#include "tools/nvme/controller_pages.h"

#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <span>

#include "driver/device.h"
#include "driver/device_name.h"
#include "driver/memory/environment.h"
#include "driver/nvme/controller.h"
#include "driver/nvme/status.h"
#include "driver/nvme_device.h"
#include "driver/pcie/pci_function.h"
#include "driver/pcie/pcie_transport.h"
#include "driver/reactor/reactor.h"

namespace blobfs::tools {

namespace {

namespace files = std::filesystem;
using driver::Suspend;
using driver::nvme::AdminOpcode;
using driver::nvme::Controller;
using driver::nvme::IdentifyKind;
using driver::nvme::LogPage;
using driver::nvme::SubmissionEntry;

constexpr std::size_t kMaxNamespaces = 1024;
constexpr std::size_t kMaxErrors = driver::nvme::kPageBytes / 64;

template <class T>
using Answer = tl::expected<T, std::string>;

tl::unexpected<std::string> refuse(const std::string& text) {
    return tl::unexpected<std::string>(text);
}

// Carries out an admin command that gives data to the host.
using Ask = std::function<Answer<void>(const SubmissionEntry& command, std::span<std::byte> into)>;

Answer<void> identify(const Ask& ask, IdentifyKind kind, std::uint32_t id,
                      std::span<std::byte> into) {
    SubmissionEntry command{};
    command.opcode = static_cast<std::uint8_t>(AdminOpcode::kIdentify);
    command.namespace_id = id;
    command.dword10 = static_cast<std::uint32_t>(kind);
    return ask(command, into);
}

Answer<void> log_page(const Ask& ask, LogPage page, std::span<std::byte> into) {
    SubmissionEntry command{};
    command.opcode = static_cast<std::uint8_t>(AdminOpcode::kGetLogPage);
    command.namespace_id = driver::nvme::kAllNamespaces;
    const auto dwords = static_cast<std::uint32_t>(into.size() / 4 - 1);  // NUMD, zero based
    command.dword10 = static_cast<std::uint32_t>(page) | dwords << 16;
    return ask(command, into);
}

template <class T>
std::span<std::byte> bytes_of(T& object) {
    return std::as_writable_bytes(std::span(&object, 1));
}

Answer<void> read_namespaces(const Ask& ask, ControllerPages& pages) {
    std::vector<std::uint32_t> ids(kMaxNamespaces);
    if (auto asked = identify(ask, IdentifyKind::kActiveNamespaces, 0,
                              std::as_writable_bytes(std::span(ids)));
        !asked) {
        return asked;
    }
    for (const std::uint32_t id : ids) {
        if (id == 0) break;
        NamespacePage space{.id = id};
        if (auto asked = identify(ask, IdentifyKind::kNamespace, id, bytes_of(space.page));
            !asked) {
            return asked;
        }
        pages.namespaces.push_back(space);
    }
    return {};
}

Answer<void> read_all(const Ask& ask, ControllerPages& pages) {
    if (auto asked = identify(ask, IdentifyKind::kController, 0, bytes_of(pages.controller));
        !asked) {
        return asked;
    }
    if (auto asked = read_namespaces(ask, pages); !asked) return asked;
    if (auto asked = log_page(ask, LogPage::kHealth, bytes_of(pages.health)); !asked) return asked;
    pages.errors.resize(
        std::min<std::size_t>(kMaxErrors, std::size_t{pages.controller.error_log_entries} + 1));
    if (auto asked =
            log_page(ask, LogPage::kError, std::as_writable_bytes(std::span(pages.errors)));
        !asked) {
        return asked;
    }
    std::erase_if(pages.errors, [](const auto& entry) { return entry.error_count == 0; });
    return {};
}

// /dev/nvme0 of the kernel's driver.
std::string kernel_file(const driver::PciFunction& function) {
    std::error_code error;
    for (files::directory_iterator i(function.directory() + "/nvme", error), end;
         !error && i != end; i.increment(error)) {
        return "/dev/" + i->path().filename().string();
    }
    return {};
}

Answer<void> ask_kernel(const driver::PciFunction& function, ControllerPages& pages) {
    const std::string path = kernel_file(function);
    if (path.empty()) return refuse("the kernel's driver does not say which /dev/nvme it is");
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        const int error = errno;
        return refuse(path + ": " + std::strerror(error) +
                      (error == EACCES || error == EPERM ? ": this needs root" : ""));
    }
    const Ask ask = [&](const SubmissionEntry& command, std::span<std::byte> into) -> Answer<void> {
        nvme_admin_cmd request{};
        request.opcode = command.opcode;
        request.nsid = command.namespace_id;
        request.addr = reinterpret_cast<std::uintptr_t>(into.data());
        request.data_len = static_cast<std::uint32_t>(into.size());
        request.cdw10 = command.dword10;
        const int status = ::ioctl(file, NVME_IOCTL_ADMIN_CMD, &request);
        if (status < 0) {
            const int error = errno;
            return refuse(path + ": " + std::strerror(error) +
                          (error == EACCES || error == EPERM ? ": this needs root" : ""));
        }
        if (status != 0) {
            const auto code = static_cast<std::uint16_t>(status & 0x7ff);
            return refuse("the controller answered " +
                          std::string(driver::nvme::status_name(code)));
        }
        return {};
    };
    auto result = read_all(ask, pages);
    ::close(file);
    return result;
}

Answer<void> ask_controller(Suspend& suspend, Controller& controller, ControllerPages& pages) {
    const Ask ask = [&](const SubmissionEntry& command, std::span<std::byte> into) -> Answer<void> {
        auto answer =
            controller.admin(suspend, command, into, driver::nvme::AdminQueue::Direction::kToHost,
                             "asking the NVMe controller");
        if (!answer) return refuse(answer.error().message());
        return {};
    };
    return read_all(ask, pages);
}

// Also a controller of whose namespaces none can be used by us.
Answer<void> ask_pcie(Suspend& suspend, const std::string& address, ControllerPages& pages) {
    constexpr std::uint32_t kWaitMs = 3000;
    auto transport = driver::PcieTransport::open(suspend, address, kWaitMs);
    if (!transport) return refuse(transport.error().message());
    auto controller = Controller::open(suspend, std::move(*transport), {.queue_depth = 2});
    if (!controller) return refuse(controller.error().message());
    auto result = ask_controller(suspend, **controller, pages);
    (void)(*controller)->close(suspend);
    return result;
}

Answer<void> ask_device(Suspend& suspend, const std::string& name, ControllerPages& pages) {
    driver::DeviceOptions options;
    options.read_only = true;
    auto device = driver::Device::open(suspend, name, options);
    if (!device) return refuse(device.error().message());
    auto result =
        ask_controller(suspend, static_cast<driver::NvmeDevice&>(**device).controller(), pages);
    (void)(*device)->close(suspend);
    return result;
}

}  // namespace

Answer<ControllerPages> read_pages(const std::string& device) {
    const auto name = driver::parse_device_name(device);
    if (!name) return refuse(device + ": it is neither a PCI address nor another device");
    const bool pcie = name->kind == driver::DeviceName::Kind::kPcie;
    ControllerPages pages;
    Answer<void> result;
    const driver::PciFunction function(name->address);
    if (pcie && !function.exists()) return refuse(device + ": there is no such PCI device");
    if (pcie && function.driver() == "nvme") {
        result = ask_kernel(function, pages);
    } else {
        const auto started =
            driver::start_environment({.memory_bytes = std::size_t{32} << 20, .physical = pcie});
        if (!started) return refuse(device + ": " + started.error().message());
        driver::Reactor reactor;
        reactor.block_on([&](Suspend& suspend) {
            result =
                pcie ? ask_pcie(suspend, name->address, pages) : ask_device(suspend, device, pages);
        });
    }
    if (!result) return refuse(device + ": " + result.error());
    return pages;
}

}  // namespace blobfs::tools
