#pragma once

// A set of blocks of a device, as bits in chunks that exist where there are any: 32 MiB for each
// TiB that is in use, whatever the size of the device. One thread.

#include <absl/container/btree_map.h>
#include <absl/functional/any_invocable.h>
#include <absl/functional/function_ref.h>

#include <array>
#include <cstdint>
#include <memory>
#include <utility>

#include "blobstore/units.h"

namespace blobfs::fsck {

class BlockBits {
  public:
    static constexpr std::uint64_t kBlocksPerWord = 64;
    static constexpr std::uint64_t kWordsPerChunk = 512;
    static constexpr std::uint64_t kBlocksPerChunk = kBlocksPerWord * kWordsPerChunk;

    // Adds the run. Calls overlap, if given, for each longest part that was in the set before.
    void add(const blobstore::Run& run);
    void add(const blobstore::Run& run,
             absl::FunctionRef<void(const blobstore::Run& part)> overlap);
    void add_all(const BlockBits& other);

    [[nodiscard]] bool contains(std::uint64_t block) const {
        return (word(block / kBlocksPerWord) >> (block % kBlocksPerWord) & 1) != 0;
    }
    [[nodiscard]] bool intersects(const blobstore::Run& run) const;
    // Bits of the 64 blocks from 64 * index on, the first in the least significant.
    [[nodiscard]] std::uint64_t word(std::uint64_t index) const;
    // Words that are not zero, ascending.
    void for_each_word(
        absl::FunctionRef<void(std::uint64_t index, std::uint64_t bits)> visit) const;
    // Longest runs, ascending.
    void for_each_run(absl::FunctionRef<void(const blobstore::Run&)> visit) const;
    [[nodiscard]] bool empty() const { return chunks_.empty(); }

  private:
    using Chunk = std::array<std::uint64_t, kWordsPerChunk>;
    Chunk& chunk(std::uint64_t number);

    absl::btree_map<std::uint64_t, std::unique_ptr<Chunk>> chunks_;
    Chunk* last_ = nullptr;  // what is added next is near what was added before
    std::uint64_t last_number_ = ~std::uint64_t{0};
};

// Joins bits that come word by word, ascending, into longest runs.
class RunCollector {
  public:
    using Visit = absl::AnyInvocable<void(const blobstore::Run&)>;
    explicit RunCollector(Visit visit) : visit_(std::move(visit)) {}
    void add_word(std::uint64_t index, std::uint64_t bits);
    void add(const blobstore::Run& run);
    void finish();

  private:
    Visit visit_;
    blobstore::Run open_{};
};

}  // namespace blobfs::fsck
