#pragma once

// Writes a new tree from entries that come in order of their keys, from the leaves up, into pages
// that somebody else chooses. Nothing points to it until a superblock does. Reactor thread.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blobstore/page.h"
#include "blobstore/page_io.h"
#include "driver/memory/dma_buffer.h"
#include "fs/fsck/tree_walk.h"

namespace blobfs::fsck {

// Free blocks, each given out once.
class BlockSource {
  public:
    virtual ~BlockSource() = default;
    // An aligned run of so many blocks. kNoSpace.
    virtual Result<blobstore::BlockIndex> take(std::uint64_t blocks, std::uint64_t alignment) = 0;
};

class TreeBuilder {
  public:
    // All outlive the builder; pages are of this generation.
    TreeBuilder(const blobstore::PageIo& io, BlockSource& source, blobstore::Generation generation)
        : io_(io), source_(source), generation_(generation) {}

    // REQUIRES ascending keys. kNoSpace, kNoMemory, errors of writing. Suspends.
    Result<void> add(driver::Suspend& suspend, blobstore::KeyView key, blobstore::ValueView value) {
        return add_at(suspend, 0, key, value);
    }
    // The root; everything has been written (not flushed). Once. Suspends.
    Result<TreeRoot> finish(driver::Suspend& suspend);
    [[nodiscard]] std::uint64_t pages() const { return pages_; }

  private:
    struct Level {
        driver::DmaBuffer memory;
        std::string first_key;
        std::size_t entries = 0;
        std::uint64_t written = 0;  // pages
    };
    Result<void> add_at(driver::Suspend& suspend, std::size_t level, blobstore::KeyView key,
                        blobstore::ValueView value);
    Result<blobstore::PagePointer> write(driver::Suspend& suspend, Level& level);
    [[nodiscard]] blobstore::Page page_of(const Level& level) const {
        return blobstore::Page(level.memory.span().first(io_.geometry().page_bytes));
    }

    const blobstore::PageIo& io_;
    BlockSource& source_;
    const blobstore::Generation generation_;
    std::vector<Level> levels_;
    std::uint64_t pages_ = 0;
};

}  // namespace blobfs::fsck
