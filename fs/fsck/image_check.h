#pragma once

// The whole check of a device, from the superblocks to the names. Only reads; takes any bytes
// whatever. What the log holds counts as done: the device is held to be what a mount would make of
// it. Metadata are read once (and once more where blocks have two owners). Memory: that of the
// parts, see block_bits.h and name_check.h, and of the log's content. Reactor thread.

#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blobstore/superblock.h"
#include "fs/fsck/block_bits.h"
#include "fs/fsck/finding.h"
#include "fs/fsck/key_check.h"
#include "fs/fsck/log_overlay.h"
#include "fs/fsck/name_check.h"
#include "fs/fsck/tree_walk.h"

namespace blobfs::fsck {

enum class Phase : std::uint8_t { kLog, kTree, kMap, kNames, kSearch, kRewrite };
[[nodiscard]] std::string_view to_string(Phase phase);
// How far a phase is: done of total, in units of its own.
using Progress = absl::FunctionRef<void(Phase phase, std::uint64_t done, std::uint64_t total)>;

struct CheckOptions {
    Pace* pace = nullptr;  // none: as fast as the device goes
    // The roots are the whole state, whatever lies in the log.
    bool without_log = false;
    // Names are held against inodes in that much memory; when they take more they are not.
    std::size_t most_name_bytes = ~std::size_t{0};
};

class ImageCheck {
  public:
    // The device and the slots outlive the check. `superblock` is the newest of `slots`.
    ImageCheck(driver::Device& device, const blobstore::SuperblockSlots& slots,
               const blobstore::Superblock& superblock, const CheckOptions& options = {});

    // Once. Errors: the device's, the pace's, kNoMemory; what is wrong on the device is a finding.
    // Suspends.
    Result<void> run(driver::Suspend& suspend, Progress progress);

    // What was found, and what it was found in. After run().
    // ---------------------------------------
    [[nodiscard]] Findings& findings() { return findings_; }
    [[nodiscard]] const blobstore::Superblock& superblock() const { return superblock_; }
    // What the counters of the superblock should be, for roots without the log.
    [[nodiscard]] const blobstore::Superblock& corrected() const { return corrected_; }
    [[nodiscard]] const LogOverlay& log() const { return log_; }
    // Every page of the tree was read.
    [[nodiscard]] bool whole() const { return lost_.empty(); }
    // The keys of pages that were not, ascending.
    [[nodiscard]] const std::vector<KeyRange>& lost() const { return lost_; }
    [[nodiscard]] const BlockBits& metadata() const { return metadata_; }
    [[nodiscard]] const BlockBits& data() const { return keys_->data(); }
    [[nodiscard]] const NameTotals& names() const { return names_.totals(); }
    // Names were held against inodes: there was memory for it.
    [[nodiscard]] bool names_checked() const { return names_.remembers(); }
    [[nodiscard]] std::uint64_t blobs() const { return keys_->blobs(); }
    [[nodiscard]] std::uint64_t highest_blob() const { return keys_->highest_blob(); }
    [[nodiscard]] std::uint64_t used_blocks() const { return used_blocks_; }

    // The value of a key, log included; an empty string when there is none, or it cannot be read.
    Result<std::string> read_key(driver::Suspend& suspend, blobstore::KeyView key);
    // "/photos/2024/may", or nothing when there is no way up to the root. Suspends.
    std::string path_of(driver::Suspend& suspend, std::uint64_t inode);

    // All entries that are left of the tree, with the log and `edits` laid over them. Errors are
    // those of visit(), which may suspend. Suspends.
    Result<void> for_each_entry(driver::Suspend& suspend, const KeyOverlay& edits,
                                MergedEntries::Visit visit);

  private:
    void check_slots();
    Result<void> check_tree(driver::Suspend& suspend, Progress progress);
    Result<void> check_map(driver::Suspend& suspend, Progress progress);
    void compare_word(std::uint64_t index, std::uint64_t on_device, RunCollector& not_marked,
                      RunCollector& leaked, RunCollector& log_wrong);
    Result<void> find_owners(driver::Suspend& suspend);
    void blame_extent(blobstore::KeyView key, const blobstore::Extent& extent, BlockBits& seen);
    void check_counters();
    void lose(const KeyRange& range);

    driver::Device& device_;
    const blobstore::SuperblockSlots& slots_;
    const blobstore::Superblock superblock_;
    const CheckOptions options_;
    blobstore::Superblock corrected_;
    Findings findings_;
    std::unique_ptr<PageReader> reader_;
    LogOverlay log_;
    BlockBits metadata_;
    BlockBits contested_;  // data that is also metadata, or twice data
    NameCheck names_;
    std::unique_ptr<KeyCheck> keys_;
    std::vector<KeyRange> lost_;
    std::uint64_t blobs_in_tree_ = 0;  // without the log
    std::uint64_t used_blocks_ = 0;
};

}  // namespace blobfs::fsck
