#include "fs/fsck/name_check.h"

#include <algorithm>

#include "blobstore/key.h"
#include "fs/posix_acl.h"

namespace blobfs::fsck {

using blobstore::BlobId;
using blobstore::Key;
using blobstore::KeyKind;
using fs::InodeBlock;
using fs::InodeNumber;

namespace {

// Bad inodes and pieces of targets that are kept for a repair; more make the same kind of damage.
constexpr std::size_t kMostBad = 20'000;
constexpr std::size_t kMostTargetPieces = 16;

std::string record_key(std::uint64_t inode, std::string_view key) {
    return std::string(Key(BlobId{inode}, KeyKind::kRecord, key).view());
}
std::string record_key(std::uint64_t inode, std::uint64_t key) {
    return record_key(inode, fs::big_endian_key(key));
}
std::string attributes_key(std::uint64_t inode) {
    return std::string(Key(BlobId{inode}, KeyKind::kAttributes).view());
}
std::string orphan_key(std::uint64_t inode) {
    return std::string(Key(BlobId{0}, KeyKind::kOrphan, inode).view());
}

std::string quoted(std::string_view name) {
    std::string text = "\"";
    for (const char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f || c == '"' || c == '\\') {
            static constexpr char kDigits[] = "0123456789abcdef";
            text += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
        } else {
            text += c;
        }
    }
    return text + "\"";
}

using Field = InodeEdit::Field;

}  // namespace

std::string inode_text(std::uint64_t inode) { return "inode " + std::to_string(inode); }

void NameCheck::complain(Problem problem, std::uint64_t inode, const std::string& what,
                         Finding finding) {
    finding.problem = problem;
    finding.inode = inode;
    finding.text = inode_text(inode) + ": " + what;
    findings_.add(std::move(finding));
}

// The stream. ------------------------------------------------------------------------------------

void NameCheck::begin(std::uint64_t inode) {
    number_ = inode;
    block_ = {};
    known_ = has_xattrs_ = strange_records_ = false;
    directory_ = {.number = inode};
    target_bytes_ = 0;
    target_good_ = true;
    record_keys_.clear();
    chain_ = 0;
    chain_names_.clear();
}

void NameCheck::attributes(const blobstore::AttributesValue& head, std::string_view block) {
    const auto decoded = fs::decode_inode(block, InodeNumber{number_});
    if (!decoded) {
        // Without the number: it is named anyway.
        bad(Problem::kBadInode, decoded.error().what, head);
        return;
    }
    block_ = decoded->block;
    known_ = true;
    directory_.parent = block_.parent;
    directory_.said_entries = block_.entries;
    directory_.said_name_bytes = block_.name_bytes;
}

void NameCheck::xattr(std::string_view name, std::string_view value,
                      std::vector<std::string> keys) {
    has_xattrs_ = true;
    const bool access = name == fs::kAccessAclName;
    if (!known_ || is_orphan(number_) || (!access && name != fs::kDefaultAclName)) return;
    const auto acl = fs::parse_acl(value);
    if (!acl || acl->empty()) {
        Finding finding;
        for (std::string& key : keys) finding.keys.push_back({std::move(key), std::nullopt});
        complain(Problem::kBadAcl, number_, std::string(name) + " is not an access control list",
                 std::move(finding));
    } else if (access && fs::mode_by_acl(*acl, block_.mode) != block_.mode) {
        Finding finding;
        finding.inodes.push_back(
            {.inode = number_, .field = Field::kMode, .value = fs::mode_by_acl(*acl, block_.mode)});
        complain(Problem::kAclMode, number_, "its mode is not what its access control list says",
                 std::move(finding));
    }
}

void NameCheck::check_chain(const fs::EntryView& entry, std::string_view key,
                            std::string_view value) {
    const std::uint64_t chain = entry.key >> fs::kCollisionBits;
    const std::uint64_t right = fs::first_key_of(entry.name);
    if (chain != right >> fs::kCollisionBits) {
        Finding finding;
        finding.keys.push_back({record_key(number_, key), std::nullopt});
        finding.keys.push_back({record_key(number_, right), std::string(value)});
        complain(Problem::kEntryPlace, number_,
                 "the name " + quoted(entry.name) + " lies where lookups do not find it",
                 std::move(finding));
    }
    if (chain != chain_) {
        chain_ = chain;
        chain_names_.clear();
    }
    if (std::find(chain_names_.begin(), chain_names_.end(), entry.name) != chain_names_.end()) {
        std::string name(entry.name.substr(0, fs::kMaxNameBytes - 24));
        name += "#" + std::to_string(fs::value(entry.inode));
        Finding finding;
        finding.keys.push_back({record_key(number_, key), std::nullopt});
        fs::EntryHead head{.inode = fs::value(entry.inode),
                           .type = static_cast<std::uint8_t>(entry.type >> 12),
                           .name_bytes = static_cast<std::uint8_t>(name.size()),
                           .reserved = 0,
                           .reserved1 = 0};
        finding.keys.push_back({record_key(number_, fs::first_key_of(name)),
                                std::string(blobstore::bytes_of(head)) + name});
        finding.inodes.push_back({.inode = number_,
                                  .field = Field::kNameBytes,
                                  .value = static_cast<std::int64_t>(name.size()) -
                                           static_cast<std::int64_t>(entry.name.size()),
                                  .relative = true});
        complain(Problem::kNameTwice, number_, "the name " + quoted(entry.name) + " is there twice",
                 std::move(finding));
    }
    chain_names_.emplace_back(entry.name);
}

void NameCheck::directory_entry(std::string_view key, std::string_view value) {
    const auto entry = fs::decode_entry(InodeNumber{number_}, key, value);
    if (!entry) {
        Finding finding;
        finding.keys.push_back({record_key(number_, key), std::nullopt});
        complain(Problem::kBadEntry, number_, "an entry of the directory is damaged",
                 std::move(finding));
        return;
    }
    ++directory_.entries;
    directory_.name_bytes += entry->name.size();
    directory_.subdirectories += S_ISDIR(entry->type) ? 1u : 0u;
    check_chain(*entry, key, value);
    links_.push_back({.target = fs::value(entry->inode),
                      .directory = number_,
                      .key = entry->key,
                      .type = entry->type});
}

void NameCheck::check_target_piece(std::string_view key, std::string_view value) {
    target_good_ = target_good_ && key == fs::big_endian_key(target_bytes_) && !value.empty() &&
                   value.find('\0') == std::string_view::npos;
    target_bytes_ += value.size();
    if (record_keys_.size() < kMostTargetPieces) record_keys_.push_back(record_key(number_, key));
}

void NameCheck::record(std::string_view key, std::string_view value) {
    if (is_orphan(number_)) return;
    if (!known_) {
        // What reads as an entry makes a directory of an inode that says nothing any more.
        if (fs::decode_entry(InodeNumber{number_}, key, value)) {
            directory_entry(key, value);
            const auto found = bad_.find(number_);
            if (found != bad_.end()) found->second.has_entries = true;
        }
        return;
    }
    if (is_directory(block_)) {
        directory_entry(key, value);
    } else if (is_symlink(block_) && block_.target_bytes > fs::kMaxInlineTargetBytes) {
        check_target_piece(key, value);
    } else {
        strange_records_ = true;
        if (record_keys_.size() < kMostBad) record_keys_.push_back(record_key(number_, key));
    }
}

void NameCheck::bad(Problem problem, std::string text, const blobstore::AttributesValue& head) {
    known_ = false;
    if (bad_.size() < kMostBad || bad_.contains(number_)) {
        BadInode& entry = bad_[number_];
        entry.problem = problem;
        entry.text = std::move(text);
        entry.head = head;
        entry.has_entries = entry.has_entries || directory_.entries != 0;
    }
}

void NameCheck::end_symlink() {
    if (block_.target_bytes <= fs::kMaxInlineTargetBytes) return;
    if (target_good_ && target_bytes_ == block_.target_bytes) return;
    Finding finding;
    finding.keys.push_back({attributes_key(number_), std::nullopt});
    for (const std::string& key : record_keys_) finding.keys.push_back({key, std::nullopt});
    complain(Problem::kBadTarget, number_, "the target of the symbolic link is damaged",
             std::move(finding));
}

void NameCheck::forget_beyond_bound() {
    const std::size_t bytes = inodes_.size() * sizeof(Inode) + links_.size() * sizeof(Link) +
                              directories_.size() * sizeof(Directory);
    if (remembers_ && bytes <= most_bytes_) return;
    remembers_ = false;
    inodes_ = {};
    links_ = {};
    directories_ = {};
}

void NameCheck::end() {
    forget_beyond_bound();
    const bool orphan = is_orphan(number_);
    inodes_.push_back({.number = number_,
                       .links = block_.nlink,
                       .type = static_cast<std::uint16_t>(known_ ? block_.mode & S_IFMT : 0u),
                       .orphan = orphan});
    if (orphan) {
        ++totals_.orphans;
    } else if (known_ && is_directory(block_)) {
        ++totals_.directories;
    } else if (known_ && is_symlink(block_)) {
        ++totals_.links;
    } else if (known_ && !is_regular(block_)) {
        ++totals_.others;
    } else {
        ++totals_.files;
    }
    if (!known_ || is_directory(block_)) directories_.push_back(directory_);
    if (!known_ || orphan) return;
    if (is_symlink(block_)) end_symlink();
    if (strange_records_) {
        Finding finding;
        for (const std::string& key : record_keys_) finding.keys.push_back({key, std::nullopt});
        complain(Problem::kStrangeRecords, number_,
                 "has records, as only directories and symbolic links have them",
                 std::move(finding));
    }
    if (has_xattrs_ && (block_.flags & fs::kInodeHasXattrs) == 0) {
        Finding finding;
        finding.inodes.push_back({.inode = number_,
                                  .field = Field::kFlags,
                                  .value = block_.flags | fs::kInodeHasXattrs});
        complain(Problem::kXattrFlag, number_, "says that it has no extended attributes, and has",
                 std::move(finding));
    }
}

// The whole. -------------------------------------------------------------------------------------

NameCheck::Directory* NameCheck::find_directory(std::uint64_t number) {
    const auto found = std::lower_bound(
        directories_.begin(), directories_.end(), number,
        [](const Directory& directory, std::uint64_t n) { return directory.number < n; });
    return found != directories_.end() && found->number == number ? &*found : nullptr;
}

NameCheck::Place NameCheck::place_of(std::uint64_t inode) const {
    const auto found =
        std::lower_bound(links_.begin(), links_.end(), inode,
                         [](const Link& link, std::uint64_t n) { return link.target < n; });
    if (found == links_.end() || found->target != inode) return {};
    return {.directory = found->directory, .key = found->key};
}

// The name goes: its record, and what its directory counts.
Result<void> NameCheck::erase_name(const Link& link, Read read, Finding& finding) {
    const std::string key = record_key(link.directory, link.key);
    TRY_ASSIGN(const std::string bytes, read(key));
    const auto entry =
        fs::decode_entry(InodeNumber{link.directory}, fs::big_endian_key(link.key), bytes);
    const std::size_t name_bytes = entry ? entry->name.size() : 0;
    finding.keys.push_back({key, std::nullopt});
    finding.inodes.push_back(
        {.inode = link.directory, .field = Field::kEntries, .value = -1, .relative = true});
    finding.inodes.push_back({.inode = link.directory,
                              .field = Field::kNameBytes,
                              .value = -static_cast<std::int64_t>(name_bytes),
                              .relative = true});
    if (S_ISDIR(link.type)) {
        finding.inodes.push_back(
            {.inode = link.directory, .field = Field::kLinks, .value = -1, .relative = true});
    }
    finding.text = entry ? quoted(entry->name) : "?";
    return {};
}

Result<void> NameCheck::dangling(const Link& link, Read read) {
    Finding finding;
    TRY(erase_name(link, read, finding));
    const std::string what = "the name " + finding.text + " leads to " + inode_text(link.target) +
                             ", which does not exist";
    complain(Problem::kDanglingEntry, link.directory, what, std::move(finding));
    return {};
}

Result<void> NameCheck::check_type(const Inode& inode, const Link& link, Read read) {
    if (inode.type == 0 || link.type == inode.type) return {};
    const std::string key = record_key(link.directory, link.key);
    TRY_ASSIGN(std::string bytes, read(key));
    const auto entry =
        fs::decode_entry(InodeNumber{link.directory}, fs::big_endian_key(link.key), bytes);
    if (!entry) return {};
    const std::string name = quoted(entry->name);
    auto head = blobstore::load<fs::EntryHead>(bytes);
    head.type = static_cast<std::uint8_t>(inode.type >> 12);
    bytes.replace(0, sizeof(head), blobstore::bytes_of(head));
    Finding finding;
    finding.keys.push_back({key, bytes});
    const int more = (S_ISDIR(inode.type) ? 1 : 0) - (S_ISDIR(link.type) ? 1 : 0);
    if (more != 0) {
        finding.inodes.push_back(
            {.inode = link.directory, .field = Field::kLinks, .value = more, .relative = true});
    }
    complain(Problem::kEntryType, link.directory,
             "the name " + name + " has another type than its " + inode_text(inode.number),
             std::move(finding));
    return {};
}

Result<void> NameCheck::check_directory_names(const Inode& inode, std::size_t first,
                                              std::size_t end, Read read) {
    Directory* directory = find_directory(inode.number);
    if (directory == nullptr) return {};
    // Its place is where it says that it is, if there is a name, else the first.
    std::size_t kept = first;
    for (std::size_t i = first; i < end; ++i) {
        if (links_[i].directory == directory->parent) {
            kept = i;
            break;
        }
    }
    const bool root = inode.number == fs::value(fs::kRootInode);
    for (std::size_t i = first; i < end; ++i) {
        if (i == kept && !root) continue;
        Finding finding;
        TRY(erase_name(links_[i], read, finding));
        const std::string what = "is a directory with more than one name; the one in " +
                                 inode_text(links_[i].directory) + " is " + finding.text;
        complain(Problem::kDirectoryTwice, inode.number, what, std::move(finding));
    }
    if (root || first == end) return {};
    directory->container = links_[kept].directory;
    directory->container_key = links_[kept].key;
    if (inode.type != 0 && directory->parent != directory->container) {
        Finding finding;
        finding.inodes.push_back({.inode = inode.number,
                                  .field = Field::kParent,
                                  .value = static_cast<std::int64_t>(directory->container)});
        complain(Problem::kParent, inode.number,
                 "is in " + inode_text(directory->container) + " and says that it is in " +
                     inode_text(directory->parent),
                 std::move(finding));
    }
    return {};
}

// What an inode will be whose attributes are of no use.
bool NameCheck::becomes_directory(const Inode& inode, std::size_t first, std::size_t end) const {
    const auto found = bad_.find(inode.number);
    return inode.number == fs::value(fs::kRootInode) ||
           (first != end && S_ISDIR(links_[first].type)) ||
           (found != bad_.end() && found->second.has_entries);
}

// Attributes that are made anew: what the names and the content say, and nobody's rights but
// root's.
Result<void> NameCheck::check_bad_inode(const Inode& inode, std::size_t first, std::size_t end) {
    const auto found = bad_.find(inode.number);
    if (found == bad_.end()) return {};
    const BadInode& bad = found->second;
    const Directory* directory = find_directory(inode.number);
    const bool root = inode.number == fs::value(fs::kRootInode);
    const bool to_directory = becomes_directory(inode, first, end);
    InodeBlock block =
        fs::make_inode_block(to_directory ? S_IFDIR | 0700u : S_IFREG | 0600u, fs::Timestamp{});
    if (to_directory) {
        block.parent = root           ? inode.number
                       : first != end ? links_[first].directory
                                      : fs::value(fs::kRootInode);
        if (directory != nullptr) {
            block.entries = directory->entries;
            block.name_bytes = directory->name_bytes;
            block.nlink = static_cast<std::uint32_t>(2 + directory->subdirectories);
        }
    } else {
        block.nlink = static_cast<std::uint32_t>(end - first);
    }
    Finding finding;
    finding.keys.push_back({attributes_key(inode.number),
                            std::string(blobstore::bytes_of(bad.head)) + encode_inode(block, {})});
    if (first == end && !root) finding.reconnect = true;
    complain(bad.problem, inode.number, bad.text, std::move(finding));
    return {};
}

void NameCheck::check_unnamed(const Inode& inode) {
    if (inode.orphan && inode.links == 0) return;
    Finding finding;
    finding.reconnect = true;
    if (inode.orphan) finding.keys.push_back({orphan_key(inode.number), std::nullopt});
    complain(Problem::kLostInode, inode.number,
             inode.orphan          ? "is to be deleted, but says that it has a name, and has none"
             : S_ISDIR(inode.type) ? "is a directory without a name"
                                   : "is a file without a name",
             std::move(finding));
}

void NameCheck::check_file(const Inode& inode, std::size_t names) {
    if (inode.links == names) return;
    Finding finding;
    finding.inodes.push_back(
        {.inode = inode.number, .field = Field::kLinks, .value = static_cast<std::int64_t>(names)});
    complain(Problem::kLinkCount, inode.number,
             "its link count is " + std::to_string(inode.links) + ", its names are " +
                 std::to_string(names),
             std::move(finding));
}

Result<void> NameCheck::check_links(const Inode& inode, std::size_t first, std::size_t end,
                                    Read read) {
    const bool root = inode.number == fs::value(fs::kRootInode);
    for (std::size_t i = first; i < end; ++i) TRY(check_type(inode, links_[i], read));
    if (S_ISDIR(inode.type) || (inode.type == 0 && becomes_directory(inode, first, end))) {
        TRY(check_directory_names(inode, first, end, read));
    }
    if (inode.type == 0) return inode.orphan ? Result<void>() : check_bad_inode(inode, first, end);
    if (first == end && !root) {
        check_unnamed(inode);
        return {};
    }
    if (inode.orphan) {
        Finding finding;
        finding.keys.push_back({orphan_key(inode.number), std::nullopt});
        complain(Problem::kOrphanWithName, inode.number, "is to be deleted, but has a name",
                 std::move(finding));
    }
    if (!S_ISDIR(inode.type)) check_file(inode, end - first);
    return {};
}

void NameCheck::check_directory(const Directory& directory, const Inode& inode) {
    if (inode.type == 0 || (inode.orphan && inode.links == 0)) return;
    if (directory.entries != directory.said_entries ||
        directory.name_bytes != directory.said_name_bytes) {
        Finding finding;
        finding.inodes.push_back({.inode = inode.number,
                                  .field = Field::kEntries,
                                  .value = static_cast<std::int64_t>(directory.entries)});
        finding.inodes.push_back({.inode = inode.number,
                                  .field = Field::kNameBytes,
                                  .value = static_cast<std::int64_t>(directory.name_bytes)});
        complain(Problem::kDirectoryCounts, inode.number,
                 "counts " + std::to_string(directory.said_entries) + " names of " +
                     std::to_string(directory.said_name_bytes) + " bytes, and has " +
                     std::to_string(directory.entries) + " of " +
                     std::to_string(directory.name_bytes),
                 std::move(finding));
    }
    if (inode.links != 2 + directory.subdirectories) {
        Finding finding;
        finding.inodes.push_back(
            {.inode = inode.number,
             .field = Field::kLinks,
             .value = static_cast<std::int64_t>(2 + directory.subdirectories)});
        complain(Problem::kLinkCount, inode.number,
                 "its link count is " + std::to_string(inode.links) + " with " +
                     std::to_string(directory.subdirectories) + " directories in it",
                 std::move(finding));
    }
}

void NameCheck::check_root() {
    const std::uint64_t root = fs::value(fs::kRootInode);
    const bool present = !inodes_.empty() && inodes_.front().number == root;
    if (present && (S_ISDIR(inodes_.front().type) || inodes_.front().type == 0)) {
        Directory* directory = find_directory(root);
        if (directory != nullptr && inodes_.front().type != 0 && directory->parent != root) {
            Finding finding;
            finding.inodes.push_back(
                {.inode = root, .field = Field::kParent, .value = static_cast<std::int64_t>(root)});
            complain(Problem::kParent, root,
                     "is the root and says that it is in " + inode_text(directory->parent),
                     std::move(finding));
        }
        return;
    }
    InodeBlock block = fs::make_inode_block(S_IFDIR | 0755u, fs::Timestamp{});
    block.nlink = 2;
    block.parent = root;
    Finding finding;
    finding.keys.push_back(
        {attributes_key(root),
         std::string(sizeof(blobstore::AttributesValue), '\0') + encode_inode(block, {})});
    complain(Problem::kNoRoot, root,
             present ? "is the root and not a directory" : "the root directory does not exist",
             std::move(finding));
}

// Directories that are in themselves, or in such a one, have names and cannot be reached.
Result<void> NameCheck::check_rings(Read read) {
    enum class State : std::uint8_t { kUnknown, kOnTheWay, kReaches };
    std::vector<State> states(directories_.size(), State::kUnknown);
    std::vector<std::size_t> way;
    for (std::size_t i = 0; i < directories_.size(); ++i) {
        way.clear();
        std::size_t at = i;
        while (states[at] == State::kUnknown) {
            states[at] = State::kOnTheWay;
            way.push_back(at);
            const Directory* above = directories_[at].container == 0
                                         ? nullptr
                                         : find_directory(directories_[at].container);
            if (above == nullptr) break;
            at = static_cast<std::size_t>(above - directories_.data());
            if (states[at] != State::kOnTheWay) continue;
            // Back where this way came from.
            const Directory& ring = directories_[at];
            const Link link{.target = ring.number,
                            .directory = ring.container,
                            .key = ring.container_key,
                            .type = S_IFDIR};
            Finding finding;
            TRY(erase_name(link, read, finding));
            finding.reconnect = true;
            const std::string what =
                "is in itself, by the name " + finding.text + " in " + inode_text(ring.container);
            complain(Problem::kDirectoryRing, ring.number, what, std::move(finding));
            break;
        }
        for (const std::size_t passed : way) states[passed] = State::kReaches;
    }
    return {};
}

Result<void> NameCheck::finish(bool whole, Read read) {
    std::sort(links_.begin(), links_.end(), [](const Link& a, const Link& b) {
        return a.target != b.target         ? a.target < b.target
               : a.directory != b.directory ? a.directory < b.directory
                                            : a.key < b.key;
    });
    if (!whole || !remembers_) return {};
    check_root();
    std::size_t link = 0;
    std::size_t directory = 0;
    for (const Inode& inode : inodes_) {
        for (; link < links_.size() && links_[link].target < inode.number; ++link) {
            TRY(dangling(links_[link], read));
        }
        const std::size_t first = link;
        while (link < links_.size() && links_[link].target == inode.number) ++link;
        TRY(check_links(inode, first, link, read));
        while (directory < directories_.size() && directories_[directory].number < inode.number) {
            ++directory;
        }
        if (directory < directories_.size() && directories_[directory].number == inode.number) {
            check_directory(directories_[directory], inode);
        }
    }
    for (; link < links_.size(); ++link) TRY(dangling(links_[link], read));
    return check_rings(read);
}

}  // namespace blobfs::fsck
