#pragma once

// The keys of the store, in their order: what each may be, blobs against their extents, extended
// attributes piece by piece (blobstore/FORMAT.md, "Keys"). Hands inodes and names to NameCheck.
// One thread, never suspends.

#include <absl/container/btree_map.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "blobstore/extent_map.h"
#include "blobstore/superblock.h"
#include "fs/fsck/block_bits.h"
#include "fs/fsck/name_check.h"

namespace blobfs::fsck {

class KeyCheck {
  public:
    KeyCheck(const blobstore::Superblock& superblock, Findings& findings, NameCheck& names)
        : superblock_(superblock), findings_(findings), names_(names) {}

    void entry(blobstore::KeyView key, blobstore::ValueView value);
    // Behind the last key. With `whole` false parts of the tree are missing.
    void finish(bool whole);

    // Blocks of data, and those of them that more than one extent has.
    [[nodiscard]] BlockBits& data() { return data_; }
    [[nodiscard]] const BlockBits& twice() const { return twice_; }
    [[nodiscard]] std::uint64_t blobs() const { return blobs_; }
    [[nodiscard]] std::uint64_t highest_blob() const { return blob_seen_; }

  private:
    void store_key(blobstore::KeyView key, blobstore::ValueView value);
    void start_blob(std::uint64_t blob);
    void finish_blob();
    void attributes(blobstore::KeyView key, blobstore::ValueView value);
    void inline_data(blobstore::KeyView key, blobstore::ValueView value);
    void extent(blobstore::KeyView key, blobstore::ValueView value);
    void xattr_piece(blobstore::KeyView key, blobstore::ValueView value);
    void finish_xattr();
    void remove(Problem problem, blobstore::KeyView key, const std::string& what);
    void complain(Problem problem, const std::string& what, Finding finding);

    const blobstore::Superblock& superblock_;
    Findings& findings_;
    NameCheck& names_;
    BlockBits data_, twice_;
    std::uint64_t blobs_ = 0, blob_seen_ = 0;
    absl::btree_map<std::uint64_t, bool>
        listed_;  // orphans and truncations; whether the blob was seen

    // The blob whose keys are being visited.
    std::uint64_t blob_ = 0;
    bool seen_ = false, good_ = false;  // attributes: there, and sound
    std::string bad_;                   // why they are not sound
    blobstore::AttributesValue head_{};
    bool ending_ = false;  // it is being deleted or cut
    std::uint64_t mapped_ = 0, last_end_ = 0, behind_end_ = 0, inline_bytes_ = 0;
    std::string inline_key_;
    // The extended attribute whose pieces are being visited.
    std::string xattr_name_, xattr_value_;
    std::vector<std::string> xattr_keys_;
    bool xattr_good_ = true;
};

// Where extents of a filesystem may lie.
[[nodiscard]] blobstore::ExtentBounds extent_bounds_of(const blobstore::Superblock& superblock);

// "blocks 12 to 19".
[[nodiscard]] std::string blocks_text(const blobstore::Run& run);

}  // namespace blobfs::fsck
