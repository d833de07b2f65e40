// Holding names, link counts, parents and orphans against each other.

#include <absl/container/flat_hash_map.h>

#include <string>
#include <vector>

#include "fs/filesystem_state.h"
#include "fs/symlink.h"

namespace blobfs::fs {

namespace {

constexpr std::size_t kBlobsAtOnce = 1024;
// Looking for the inodes without a name by trying every number is for stores of up to this many.
// fsck.blobfs finds them in any store.
constexpr std::uint64_t kMaxProbes = std::uint64_t{1} << 16;

std::string text(InodeNumber inode) { return "inode " + std::to_string(value(inode)); }

class Checker {
  public:
    explicit Checker(Filesystem::State& state) : state_(state) {}
    Result<std::vector<std::string>> run(Suspend& suspend);

  private:
    struct Found {
        std::uint32_t names = 0;
        std::uint32_t nlink = 0;
        bool directory = false;
    };
    struct Entry {
        std::uint64_t key;
        InodeNumber inode;
        std::uint32_t type;
        std::string name;
    };

    void complain(InodeNumber inode, const std::string& what) {
        complaints_.push_back(text(inode) + ": " + what);
    }
    Result<void> check_directory(Suspend& suspend, InodeNumber number);
    Result<void> check_entry(Suspend& suspend, InodeNumber directory, const Entry& entry);
    void check_key(InodeNumber directory, const Entry& entry);
    void check_links();
    Result<void> check_orphans(Suspend& suspend);

    Filesystem::State& state_;
    std::vector<std::string> complaints_;
    absl::flat_hash_map<std::uint64_t, Found> found_;
    std::vector<InodeNumber> to_visit_;
    std::uint64_t chain_ = 0;               // hash part of the keys of the names in chain_names_
    std::vector<std::string> chain_names_;  // names of the same hash so far
};

void Checker::check_key(InodeNumber directory, const Entry& entry) {
    const std::uint64_t first = state_.directory().first_key(entry.name);
    const std::uint64_t chain = entry.key >> kCollisionBits;
    if (chain != first >> kCollisionBits) {
        complain(directory, "the name '" + entry.name + "' lies under the hash of another");
    }
    if (chain != chain_) {
        chain_ = chain;
        chain_names_.clear();
    }
    for (const std::string& other : chain_names_) {
        if (other == entry.name) {
            complain(directory, "the name '" + entry.name + "' is there twice");
        }
    }
    chain_names_.push_back(entry.name);
}

Result<void> Checker::check_entry(Suspend& suspend, InodeNumber directory, const Entry& entry) {
    check_key(directory, entry);
    const auto pin = state_.table.get(suspend, entry.inode);
    if (!pin) {
        complain(directory, "the name '" + entry.name + "' leads to " + text(entry.inode) +
                                ", which cannot be read: " + pin.error().message());
        return {};
    }
    const InodeBlock& block = (*pin)->block;
    if ((block.mode & S_IFMT) != entry.type) {
        complain(directory,
                 "the name '" + entry.name + "' has another type than its " + text(entry.inode));
    }
    Found& found = found_[value(entry.inode)];
    ++found.names;
    found.nlink = block.nlink;
    found.directory = is_directory(block);
    if (is_symlink(block)) {
        const auto target = read_target(suspend, *state_.store, **pin);
        if (!target) {
            complain(entry.inode, target.error().message());
        }
    }
    if (!is_directory(block)) {
        return {};
    }
    if (block.parent != value(directory)) {
        complain(entry.inode, "is in " + text(directory) + " and says that it is in inode " +
                                  std::to_string(block.parent));
    }
    if (found_[value(entry.inode)].names > 1 || entry.inode == kRootInode) {
        complain(entry.inode, "is a directory with more than one name");
    } else {
        to_visit_.push_back(entry.inode);
    }
    return {};
}

Result<void> Checker::check_directory(Suspend& suspend, InodeNumber number) {
    std::uint64_t entries = 0;
    std::uint64_t name_bytes = 0;
    std::uint32_t directories = 0;
    std::uint64_t from = 0;
    std::vector<Entry> batch;
    chain_ = 0;
    chain_names_.clear();
    do {
        batch.clear();
        const auto scanned =
            state_.directory().scan(suspend, number, from, [&](const EntryView& entry) {
                batch.push_back({.key = entry.key,
                                 .inode = entry.inode,
                                 .type = entry.type,
                                 .name = std::string(entry.name)});
                return batch.size() < kBlobsAtOnce;
            });
        if (!scanned) {
            complain(number, scanned.error().message());
            return {};
        }
        for (const Entry& entry : batch) {
            ++entries;
            name_bytes += entry.name.size();
            directories += S_ISDIR(entry.type) ? 1u : 0u;
            TRY(check_entry(suspend, number, entry));
            from = entry.key + 1;
        }
    } while (batch.size() == kBlobsAtOnce);
    TRY_ASSIGN(const InodePin pin, state_.table.get(suspend, number));
    const InodeBlock& block = pin->block;
    if (block.entries != entries || block.name_bytes != name_bytes) {
        complain(number, "counts " + std::to_string(block.entries) + " names of " +
                             std::to_string(block.name_bytes) + " bytes, and has " +
                             std::to_string(entries) + " of " + std::to_string(name_bytes));
    }
    if (block.nlink != directories + 2) {
        complain(number, "has a link count of " + std::to_string(block.nlink) + " with " +
                             std::to_string(directories) + " directories in it");
    }
    return {};
}

void Checker::check_links() {
    for (const auto& [number, found] : found_) {
        if (!found.directory && found.names != found.nlink) {
            complain(static_cast<InodeNumber>(number), "has a link count of " +
                                                           std::to_string(found.nlink) + " and " +
                                                           std::to_string(found.names) + " names");
        }
    }
}

Result<void> Checker::check_orphans(Suspend& suspend) {
    std::uint64_t expected = found_.size() + state_.reaper.waiting();
    const std::uint64_t blobs = state_.store->space().blobs;
    if (blobs == expected) {
        return {};
    }
    std::vector<InodeNumber> nameless;
    const std::uint64_t end = value(to_inode(state_.store->allocate_id()));
    for (std::uint64_t number = 1; number < std::min(end, kMaxProbes); ++number) {
        const auto inode = static_cast<InodeNumber>(number);
        if (found_.contains(number) || state_.reaper.contains(inode)) {
            continue;
        }
        const auto attributes = state_.store->attributes(suspend, to_blob(inode));
        if (!attributes && attributes.error().code == Errc::kNotFound) {
            continue;
        }
        const auto decoded = attributes ? decode_inode(attributes->block, inode)
                                        : Result<DecodedInode>(fail(attributes.error()));
        if (state_.store->read_only() && (!decoded || decoded->block.nlink == 0)) {
            ++expected;  // what was unlinked before a crash waits for a writable open
        } else {
            nameless.push_back(inode);
        }
    }
    if (blobs == expected) {
        return {};
    }
    complaints_.push_back("the store holds " + std::to_string(blobs) + " inodes, and " +
                          std::to_string(expected) + " have a name or are in use");
    for (const InodeNumber inode : nameless) {
        complain(inode, "has no name");
    }
    return {};
}

Result<std::vector<std::string>> Checker::run(Suspend& suspend) {
    state_.reaper.wait(suspend);
    TRY_ASSIGN(const InodePin root, state_.table.get(suspend, kRootInode));
    if (root->block.parent != value(kRootInode)) {
        complain(kRootInode,
                 "is the root and says that it is in inode " + std::to_string(root->block.parent));
    }
    found_[value(kRootInode)] = {.names = 0, .nlink = root->block.nlink, .directory = true};
    to_visit_.push_back(kRootInode);
    while (!to_visit_.empty()) {
        const InodeNumber number = to_visit_.back();
        to_visit_.pop_back();
        TRY(check_directory(suspend, number));
    }
    check_links();
    TRY(check_orphans(suspend));
    return std::move(complaints_);
}

}  // namespace

Result<std::vector<std::string>> Filesystem::check(Suspend& suspend) {
    Checker checker(*state_);
    return checker.run(suspend);
}

}  // namespace blobfs::fs
