#include "driver/soft/memory_medium.h"

#include <sys/mman.h>

#include <cstring>

namespace blobfs::driver {

namespace {

constexpr std::uint64_t kHostPage = 4096;

}  // namespace

Result<std::unique_ptr<MemoryMedium>> MemoryMedium::create(const MemoryMediumOptions& options) {
    MemoryMediumOptions rounded = options;
    if (options.lba_bytes != 512 && options.lba_bytes != 4096) {
        return fail(Errc::kInvalidArgument, "choosing the LBA size of a memory device");
    }
    rounded.bytes -= rounded.bytes % rounded.lba_bytes;
    if (rounded.bytes == 0) {
        return fail(Errc::kInvalidArgument, "choosing the size of a memory device");
    }
    void* const memory = mmap(nullptr, rounded.bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return fail(errno_error(errno, "mapping memory for a device"));
    return std::unique_ptr<MemoryMedium>(
        new MemoryMedium(rounded, static_cast<std::byte*>(memory)));
}

MemoryMedium::MemoryMedium(const MemoryMediumOptions& options, std::byte* data) : data_(data) {
    properties_.name = "mem:" + std::to_string(options.bytes);
    properties_.bytes = options.bytes;
    properties_.lba_bytes = options.lba_bytes;
    properties_.volatile_write_cache = options.volatile_write_cache;
    properties_.read_only = options.read_only;
}

MemoryMedium::~MemoryMedium() { munmap(data_, properties_.bytes); }

void MemoryMedium::start(MediumOperation& operation) {
    std::byte* at = data_ + operation.offset;
    switch (operation.kind) {
        case MediumOperation::Kind::kRead:
            for (unsigned i = 0; i < operation.memory_count; ++i) {
                std::memcpy(operation.memory[i].iov_base, at, operation.memory[i].iov_len);
                at += operation.memory[i].iov_len;
            }
            break;
        case MediumOperation::Kind::kWrite:
            for (unsigned i = 0; i < operation.memory_count; ++i) {
                std::memcpy(at, operation.memory[i].iov_base, operation.memory[i].iov_len);
                at += operation.memory[i].iov_len;
            }
            break;
        case MediumOperation::Kind::kFlush:
            break;
        case MediumOperation::Kind::kDeallocate:
        case MediumOperation::Kind::kWriteZeroes: {
            // Whole pages go back to the system, the rest is cleared.
            const std::uint64_t end = operation.offset + operation.bytes;
            const std::uint64_t first = (operation.offset + kHostPage - 1) / kHostPage * kHostPage;
            const std::uint64_t last = end / kHostPage * kHostPage;
            if (first >= last || madvise(data_ + first, last - first, MADV_DONTNEED) != 0) {
                std::memset(at, 0, operation.bytes);
                break;
            }
            std::memset(at, 0, first - operation.offset);
            std::memset(data_ + last, 0, end - last);
            break;
        }
    }
    operation.done(operation, MediumStatus{});
}

}  // namespace blobfs::driver
