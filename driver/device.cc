#include "driver/device.h"

#include <unistd.h>

#include "driver/base/check.h"
#include "driver/device_name.h"
#include "driver/nvme_device.h"
#include "driver/pcie/pcie_transport.h"
#include "driver/soft/file_medium.h"
#include "driver/soft/memory_medium.h"
#include "driver/soft/software_controller.h"

namespace blobfs::driver {

namespace {

constexpr std::uint32_t kSoftwareTimeoutMs = 600'000;

// A device larger than the memory there is will be used here and there: in small pieces, or it
// would take much more than what is written.
bool suits_huge_pages(std::uint64_t bytes) {
    const long pages = ::sysconf(_SC_PHYS_PAGES), page_bytes = ::sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page_bytes <= 0) return false;
    return bytes <= static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes) / 2;
}

}  // namespace

Result<std::unique_ptr<Device>> Device::open(Suspend& suspend, const std::string& name,
                                             const DeviceOptions& options) {
    TRY_ASSIGN(const DeviceName parsed, parse_device_name(name));
    switch (parsed.kind) {
        case DeviceName::Kind::kPcie: {
            TRY_ASSIGN(std::unique_ptr<PcieTransport> transport,
                       PcieTransport::open(suspend, parsed.address, options.lock_wait_ms));
            DeviceOptions wanted = options;
            if (parsed.namespace_id != 0) wanted.namespace_id = parsed.namespace_id;
            return NvmeDevice::open(suspend, std::move(transport), wanted);
        }
        case DeviceName::Kind::kMemory: {
            TRY_ASSIGN(std::unique_ptr<MemoryMedium> medium,
                       MemoryMedium::create({.bytes = parsed.bytes,
                                             .read_only = options.read_only,
                                             .at_once = options.at_once,
                                             .huge_pages = suits_huge_pages(parsed.bytes)}));
            return open(suspend, std::move(medium), options);
        }
        case DeviceName::Kind::kFile:
            break;
    }
    TRY_ASSIGN(std::unique_ptr<FileMedium> medium,
               FileMedium::open(suspend, parsed.path,
                                {.read_only = options.read_only,
                                 .create_size = options.create_size,
                                 .lock_wait_ms = options.lock_wait_ms}));
    return open(suspend, std::move(medium), options);
}

Result<std::unique_ptr<Device>> Device::open(Suspend& suspend, std::unique_ptr<Medium> medium,
                                             const DeviceOptions& options) {
    SoftwareControllerOptions software;
    if (options.io_queues > 1) {
        software.max_io_queues = options.io_queues;
        // Each doorbell in a cache line of its own: they are written by different threads.
        software.doorbell_stride_exponent = 4;
    }
    auto transport =
        std::make_unique<SoftwareTransport>(suspend.reactor(), std::move(medium), software);
    nvme::ControllerOptions controller;
    controller.io_timeout_ms = kSoftwareTimeoutMs;
    return NvmeDevice::open(suspend, std::move(transport), options, controller);
}

Result<std::unique_ptr<Device>> Device::join(Suspend&) {
    return fail(Errc::kNotSupported, "sharing a device with another thread");
}

Result<bool> Device::compare(Suspend&, std::uint64_t offset, ConstDmaSpan) {
    return fail(Errc::kNotSupported, "comparing with the device", offset);
}

Result<void> Device::verify(Suspend&, std::uint64_t offset, std::uint64_t) {
    return fail(Errc::kNotSupported, "verifying the device", offset);
}

Device::Batch::~Batch() { CHECK(in_flight_ == 0); }

void Device::Batch::ended(void* context, const Error* error, std::uint32_t) {
    auto* batch = static_cast<Batch*>(context);
    if (error != nullptr && !batch->failed_) {
        batch->failed_ = true;
        batch->first_error_ = *error;
    }
    if (--batch->in_flight_ == 0 && batch->waiter_ != nullptr) batch->waiter_->wake();
}

void Device::Batch::read(std::uint64_t offset, DmaSpan into) {
    ++in_flight_;
    const DmaSegment segment{.data = into.data(), .bytes = into.size()};
    device_.start({.operation = Operation::kRead,
                   .offset = offset,
                   .bytes = into.size(),
                   .memory = {&segment, 1}},
                  ended, this);
}

void Device::Batch::write(std::uint64_t offset, ConstDmaSpan from, WriteFlags flags) {
    const DmaSegment segment{.data = const_cast<std::byte*>(from.data()), .bytes = from.size()};
    write(offset, std::span(&segment, 1), flags);
}

void Device::Batch::write(std::uint64_t offset, std::span<const DmaSegment> from,
                          WriteFlags flags) {
    ++in_flight_;
    std::uint64_t bytes = 0;
    for (const DmaSegment& segment : from) bytes += segment.bytes;
    device_.start({.operation = Operation::kWrite,
                   .flags = flags,
                   .offset = offset,
                   .bytes = bytes,
                   .memory = from},
                  ended, this);
}

void Device::Batch::deallocate(std::uint64_t offset, std::uint64_t bytes) {
    ++in_flight_;
    device_.start({.operation = Operation::kDeallocate, .offset = offset, .bytes = bytes}, ended,
                  this);
}

Result<void> Device::Batch::wait(Suspend& suspend) {
    if (in_flight_ != 0) device_.send();
    if (in_flight_ != 0) {
        waiter_ = &suspend.current();
        while (in_flight_ != 0) suspend.park();
        waiter_ = nullptr;
    }
    const bool failed = failed_;
    failed_ = false;
    if (failed) return fail(first_error_);
    return {};
}

}  // namespace blobfs::driver
