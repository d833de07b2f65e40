#pragma once

// Frames of DMA memory that hold tree pages, found by address; a fixed number of them. Clean
// unpinned frames are evicted (CLOCK), dirty and frozen ones stay. Reactor thread.
// The tree helper may shape the interface; the owner gives the size and asks for statistics.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "blobstore/page_io.h"
#include "driver/base/result.h"

namespace blobfs::blobstore {

class PageCache {
  public:
    // At least kMinFrames frames are made whatever cache_bytes says.
    static constexpr std::size_t kMinFrames = 256;
    static Result<std::unique_ptr<PageCache>> create(std::size_t cache_bytes,
                                                     std::uint32_t page_bytes);
    ~PageCache();

    struct Statistics {
        std::uint64_t hits = 0, misses = 0, evictions = 0;
        std::size_t frames = 0, used = 0, dirty = 0;
    };
    [[nodiscard]] Statistics statistics() const;

    struct State;
    [[nodiscard]] State& state() { return *state_; }

  private:
    explicit PageCache(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::blobstore
