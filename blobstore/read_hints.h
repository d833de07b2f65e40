#pragma once

// What reads of a blob found last, or writes that changed nothing but data, so that the next one
// need not search the tree: its size and an extent. A commit that touches anything of the blob
// drops it. Private to the blobstore. Reactor thread.

#include <array>
#include <cstdint>

#include "blobstore/extent_map.h"

namespace blobfs::blobstore {

class ReadHints {
  public:
    struct Hint {
        std::uint64_t blob = 0;  // 0: none
        std::uint64_t size = 0;  // of the blob, in bytes
        Extent extent;           // a written one
    };

    // Good until the caller suspends; null when there is none.
    [[nodiscard]] const Hint* find(BlobId blob) const {
        const Hint& hint = hints_[place(blob)];
        return hint.blob == value(blob) ? &hint : nullptr;
    }
    // Changes with each drop(): who finds something out and suspends meanwhile asks before.
    [[nodiscard]] std::uint64_t drops() const { return drops_; }
    // REQUIRES that all of it was found out since drops() was what is given.
    void set(const Hint& hint, std::uint64_t drops) {
        if (drops == drops_) hints_[place(BlobId{hint.blob})] = hint;
    }
    void drop(BlobId blob) {
        ++drops_;
        Hint& hint = hints_[place(blob)];
        if (hint.blob == value(blob)) hint.blob = 0;
    }

  private:
    static constexpr std::size_t kHints = 512;  // blob ids are given one after the other
    static std::size_t place(BlobId blob) { return value(blob) % kHints; }

    std::array<Hint, kHints> hints_{};
    std::uint64_t drops_ = 0;
};

}  // namespace blobfs::blobstore
