#pragma once

// What a check finds: which rule is broken, where, and the changes that would make it right. The
// check only collects; whether to repair is decided by who asked for it. One thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blobstore/units.h"

namespace blobfs::fsck {

enum class Problem : std::uint8_t {
    // Superblock and log.
    kSuperblockSlot,
    kSuperblockCopy,
    kSuperblocksLost,
    kSuperblockCounts,
    kLogDamaged,
    // Pages of the tree and of the allocation map.
    kTreePage,
    kTreePageTwice,
    kMapPage,
    kMapCounts,
    kBlocksNotMarked,
    kBlocksLeaked,
    kBlocksTwice,
    kBlocksOfMetadata,
    // Keys of the store.
    kStrangeKey,
    kNoAttributes,
    kBadAttributes,
    kBlockCount,
    kBadExtent,
    kExtentsOverlap,
    kExtentBehindEnd,
    kSharedExtent,
    kInlineAndExtents,
    kBadInlineData,
    kBadXattr,
    kBadRecord,
    kBadOrphan,
    // Inodes and names.
    kNoRoot,
    kBadInode,
    kBadEntry,
    kEntryPlace,
    kNameTwice,
    kDanglingEntry,
    kEntryType,
    kDirectoryTwice,
    kDirectoryRing,
    kParent,
    kDirectoryCounts,
    kLinkCount,
    kOrphanWithName,
    kLostInode,
    kStrangeRecords,
    kBadTarget,
    kXattrFlag,
    kBadAcl,
    kAclMode,
};
inline constexpr std::size_t kProblems = static_cast<std::size_t>(Problem::kAclMode) + 1;

struct ProblemInfo {
    std::string_view code;    // for machines: "link-count"
    std::string_view remedy;  // what a repair does: "set the link count"
    bool safe;                // -p repairs it: nothing that anybody could miss is lost
    bool rewrite;             // the tree and the map are written anew for it
};
[[nodiscard]] const ProblemInfo& info_of(Problem problem);

// A change of one key of the store.
struct KeyEdit {
    std::string key;
    std::optional<std::string> value;  // nothing: the key goes
};

// A change of one number of an inode; several of one inode are made together.
struct InodeEdit {
    enum class Field : std::uint8_t {
        kLinks,
        kParent,
        kEntries,
        kNameBytes,
        kFlags,
        kMode,
        kBlocks,  // allocated_blocks of the store
        kInline,  // its flag of inline data
    };
    std::uint64_t inode = 0;
    Field field{};
    std::int64_t value = 0;
    bool relative = false;  // added to what the field is, or is set to by another edit
};

// An extent whose blocks belong to somebody else too: it gets a copy of its own.
struct ExtentCopy {
    std::string key;
};

struct Finding {
    Problem problem{};
    std::string text{};       // whole: where and what, without the path
    std::uint64_t inode = 0;  // 0: none in particular
    std::uint64_t block = 0;  // on the device; 0: none in particular

    std::vector<KeyEdit> keys{};
    std::vector<InodeEdit> inodes{};
    std::vector<ExtentCopy> copies{};
    std::vector<blobstore::Run> leaked{};
    bool reconnect = false;  // the inode gets a name in lost+found
    bool curable = true;     // false: the edits above do not help
};

// Findings up to a bound, so that a hostile device cannot fill the memory; what is beyond is
// counted.
class Findings {
  public:
    static constexpr std::size_t kMost = 20'000;

    void add(Finding finding);
    [[nodiscard]] std::vector<Finding>& list() { return list_; }
    [[nodiscard]] const std::vector<Finding>& list() const { return list_; }
    [[nodiscard]] std::uint64_t total() const { return total_; }
    [[nodiscard]] bool has(Problem problem) const {
        return counts_[static_cast<std::size_t>(problem)] != 0;
    }

  private:
    std::vector<Finding> list_;
    std::uint64_t total_ = 0;
    std::uint64_t counts_[kProblems] = {};
};

}  // namespace blobfs::fsck
