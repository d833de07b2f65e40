#pragma once

// Inodes and names: each directory's entries, and, when all have been seen, entries against inodes,
// link counts, parents, rings of directories, orphans (fs/FORMAT.md). Fed with the keys of the
// store in their order. Memory: 24 bytes for each inode, 32 for each name, 56 for each directory.
// One thread.

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "blobstore/format.h"
#include "fs/directory.h"
#include "fs/fsck/finding.h"
#include "fs/inode_block.h"

namespace blobfs::fsck {

struct NameTotals {
    std::uint64_t files = 0, directories = 0, links = 0, others = 0, orphans = 0;
};

class NameCheck {
  public:
    // Beyond that many bytes nothing is remembered, and the whole is not checked.
    explicit NameCheck(Findings& findings, std::size_t most_bytes = ~std::size_t{0})
        : findings_(findings), most_bytes_(most_bytes) {}

    // The stream. ------------------------------------------------------------------------------
    void orphan(std::uint64_t inode) { orphans_.insert(inode); }
    [[nodiscard]] bool is_orphan(std::uint64_t inode) const { return orphans_.contains(inode); }
    void begin(std::uint64_t inode);
    // What the store says of the blob, and the owner's attribute block. Left out, with bad()
    // instead, when there is nothing of the kind.
    void attributes(const blobstore::AttributesValue& head, std::string_view block);
    void xattr(std::string_view name, std::string_view value, std::vector<std::string> keys);
    void record(std::string_view key, std::string_view value);
    // The inode's attributes are of no use: a repair makes them from this and what is known then.
    void bad(Problem problem, std::string text, const blobstore::AttributesValue& head);
    void end();

    // The whole. -------------------------------------------------------------------------------
    // Reads the value of a key of the store; empty when there is none. May suspend.
    using Read = absl::FunctionRef<Result<std::string>(std::string_view key)>;
    // After the last inode. With `whole` false parts of the tree are missing, and nothing is
    // concluded from what is not there. Errors are those of reading. Suspends as `read` does.
    Result<void> finish(bool whole, Read read);
    [[nodiscard]] const NameTotals& totals() const { return totals_; }
    [[nodiscard]] bool remembers() const { return remembers_; }

    // The inode that holds a name of this one, and the name's key; 0 when there is none. After
    // finish().
    struct Place {
        std::uint64_t directory = 0, key = 0;
    };
    [[nodiscard]] Place place_of(std::uint64_t inode) const;

  private:
    struct Inode {
        std::uint64_t number;
        std::uint32_t links;
        std::uint16_t type;  // S_IFMT bits; 0: its attributes are bad
        bool orphan;
    };
    struct Link {
        std::uint64_t target, directory, key;
        std::uint32_t type;
    };
    struct Directory {
        std::uint64_t number = 0, parent = 0;                           // as it says
        std::uint64_t entries = 0, name_bytes = 0, subdirectories = 0;  // as they are
        std::uint64_t said_entries = 0, said_name_bytes = 0;
        // In finish().
        std::uint64_t container = 0, container_key = 0;
    };
    struct BadInode {
        Problem problem{};
        std::string text;
        blobstore::AttributesValue head{};
        bool has_entries = false;
    };

    void complain(Problem problem, std::uint64_t inode, const std::string& what, Finding finding);
    void directory_entry(std::string_view key, std::string_view value);
    void check_chain(const fs::EntryView& entry, std::string_view key, std::string_view value);
    void check_target_piece(std::string_view key, std::string_view value);
    void end_symlink();
    [[nodiscard]] Directory* find_directory(std::uint64_t number);
    void forget_beyond_bound();

    Result<void> dangling(const Link& link, Read read);
    Result<void> erase_name(const Link& link, Read read, Finding& finding);
    Result<void> check_links(const Inode& inode, std::size_t first, std::size_t end, Read read);
    Result<void> check_type(const Inode& inode, const Link& link, Read read);
    Result<void> check_directory_names(const Inode& inode, std::size_t first, std::size_t end,
                                       Read read);
    [[nodiscard]] bool becomes_directory(const Inode& inode, std::size_t first,
                                         std::size_t end) const;
    Result<void> check_bad_inode(const Inode& inode, std::size_t first, std::size_t end);
    void check_file(const Inode& inode, std::size_t names);
    void check_unnamed(const Inode& inode);
    void check_root();
    void check_directory(const Directory& directory, const Inode& inode);
    Result<void> check_rings(Read read);

    Findings& findings_;
    const std::size_t most_bytes_;
    bool remembers_ = true;
    NameTotals totals_;
    std::vector<Inode> inodes_;           // ascending
    std::vector<Directory> directories_;  // ascending
    std::vector<Link> links_;             // by target, in finish()
    absl::flat_hash_set<std::uint64_t> orphans_;
    absl::btree_map<std::uint64_t, BadInode> bad_;

    // The inode that is being fed.
    std::uint64_t number_ = 0;
    fs::InodeBlock block_{};
    bool known_ = false, has_xattrs_ = false, strange_records_ = false;
    Directory directory_{};
    std::uint64_t target_bytes_ = 0;  // of a long target, so far
    bool target_good_ = true;
    std::vector<std::string> record_keys_;  // of what is not a directory
    std::uint64_t chain_ = 0;               // of the names in chain_names_
    std::vector<std::string> chain_names_;
};

// "inode 12".
[[nodiscard]] std::string inode_text(std::uint64_t inode);

}  // namespace blobfs::fsck
