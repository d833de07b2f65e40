#include "driver/soft/memory_medium.h"

#include <sys/mman.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>

namespace blobfs::driver {

namespace {

constexpr std::uint64_t kHostPage = 4096;

#ifdef __SSE2__
// A copy that leaves the caches to others: what was written is rarely read again soon, and its old
// content need not be fetched to be overwritten. README.md, "Measured".
void copy_past_caches(std::byte* to, const std::byte* from, std::size_t bytes) {
    constexpr std::size_t kLine = 64;
    const std::size_t head =
        std::min(bytes, (kLine - reinterpret_cast<std::uintptr_t>(to) % kLine) % kLine);
    std::memcpy(to, from, head);
    std::size_t at = head;
    for (; at + kLine <= bytes; at += kLine) {
        const auto* source = reinterpret_cast<const __m128i*>(from + at);
        auto* target = reinterpret_cast<__m128i*>(to + at);
        const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
        const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
        _mm_stream_si128(target, a);
        _mm_stream_si128(target + 1, b);
        _mm_stream_si128(target + 2, c);
        _mm_stream_si128(target + 3, d);
    }
    std::memcpy(to + at, from + at, bytes - at);
    // No fence, though other processors may see such stores late: only this thread looks there.
}
#else
void copy_past_caches(std::byte* to, const std::byte* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
}
#endif

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
    // Not an error where the system has none: it is memory all the same.
    if (options.huge_pages) ::madvise(memory, rounded.bytes, MADV_HUGEPAGE);
    return std::unique_ptr<MemoryMedium>(
        new MemoryMedium(rounded, static_cast<std::byte*>(memory)));
}

MemoryMedium::MemoryMedium(const MemoryMediumOptions& options, std::byte* data)
    : at_once_(options.at_once), data_(data) {
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
                copy_past_caches(at, static_cast<const std::byte*>(operation.memory[i].iov_base),
                                 operation.memory[i].iov_len);
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
