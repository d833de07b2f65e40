#pragma once

// A medium in memory: tests, benchmarks, mem:SIZE. Pages take space when they are first written and
// read as zeroes before. Operations end within start().

#include <memory>

#include "driver/base/result.h"
#include "driver/soft/medium.h"

namespace blobfs::driver {

struct MemoryMediumOptions {
    std::uint64_t bytes = 0;
    std::uint32_t lba_bytes = 512;
    bool volatile_write_cache = false;  // only announced: the memory itself has none
    bool read_only = false;
    bool at_once = false;     // Medium::at_once()
    bool huge_pages = false;  // takes space in the system's large pages, where it can
};

class MemoryMedium final : public Medium {
  public:
    // kInvalidArgument for a size of less than one LBA, kNoMemory when it cannot be mapped.
    static Result<std::unique_ptr<MemoryMedium>> create(const MemoryMediumOptions& options);
    ~MemoryMedium() override;

    [[nodiscard]] const MediumProperties& properties() const override { return properties_; }
    void start(MediumOperation& operation) override;
    [[nodiscard]] std::size_t in_flight() const override { return 0; }
    [[nodiscard]] bool at_once() const override { return at_once_; }

    // The contents, for tests.
    [[nodiscard]] std::byte* data() const { return data_; }

  private:
    MemoryMedium(const MemoryMediumOptions& options, std::byte* data);

    MediumProperties properties_;
    bool at_once_;
    std::byte* data_;
};

}  // namespace blobfs::driver
