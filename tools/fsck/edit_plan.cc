#include "tools/fsck/edit_plan.h"

#include <absl/container/btree_map.h>

#include <algorithm>
#include <ctime>

#include "fs/directory.h"
#include "fs/inode_block.h"

namespace blobfs::fsck {

using blobstore::AttributesValue;
using blobstore::BlobId;
using blobstore::Key;
using blobstore::KeyKind;
using blobstore::KeyView;
using driver::Suspend;
using fs::InodeBlock;
using fs::InodeNumber;

namespace {

constexpr std::string_view kLostAndFound = "lost+found";
constexpr std::uint64_t kCollisions = std::uint64_t{1} << fs::kCollisionBits;

// An inode as the store has it.
struct StoredInode {
    AttributesValue head{};
    InodeBlock block{};
    std::string inline_target;
};

class Planner {
  public:
    Planner(Suspend& suspend, ImageCheck& check) : suspend_(suspend), check_(check) {}

    Result<EditPlan> plan(std::span<const Finding* const> accepted);

  private:
    Result<std::string> read(KeyView key);
    // False when there is none, or it is damaged.
    Result<bool> load(std::uint64_t inode, StoredInode& stored);
    void store(std::uint64_t inode, const StoredInode& stored);
    // The key for a name in a directory: that of the name, if it is there, else a free one.
    Result<std::uint64_t> key_for(std::uint64_t directory, std::string_view name, bool& taken,
                                  std::uint64_t& inode);
    Result<void> apply_key(const KeyEdit& edit);
    Result<void> apply_inodes(std::span<const Finding* const> accepted);
    Result<void> put_entry(std::uint64_t directory, std::string_view name, std::uint64_t inode,
                           std::uint32_t mode);
    Result<void> find_lost_and_found();
    Result<void> reconnect(std::uint64_t inode);

    Suspend& suspend_;
    ImageCheck& check_;
    EditPlan plan_;
    std::uint64_t lost_and_found_ = 0;
};

Result<std::string> Planner::read(KeyView key) {
    if (const auto* change = plan_.keys.find(key)) return change->value_or("");
    return check_.read_key(suspend_, key);
}

Result<bool> Planner::load(std::uint64_t inode, StoredInode& stored) {
    TRY_ASSIGN(const std::string bytes, read(Key(BlobId{inode}, KeyKind::kAttributes)));
    if (bytes.size() < sizeof(AttributesValue)) return false;
    stored.head = blobstore::load<AttributesValue>(bytes);
    const auto decoded = fs::decode_inode(std::string_view(bytes).substr(sizeof(AttributesValue)),
                                          InodeNumber{inode});
    if (!decoded) return false;
    stored.block = decoded->block;
    stored.inline_target = decoded->inline_target;
    return true;
}

void Planner::store(std::uint64_t inode, const StoredInode& stored) {
    plan_.keys.put(Key(BlobId{inode}, KeyKind::kAttributes),
                   std::string(blobstore::bytes_of(stored.head)) +
                       encode_inode(stored.block, stored.inline_target));
}

Result<std::uint64_t> Planner::key_for(std::uint64_t directory, std::string_view name, bool& taken,
                                       std::uint64_t& inode) {
    const std::uint64_t first = fs::first_key_of(name);
    std::uint64_t free = 0;
    taken = false;
    for (std::uint64_t key = first; key < first + kCollisions; ++key) {
        const std::string bytes_key = fs::big_endian_key(key);
        TRY_ASSIGN(const std::string bytes,
                   read(Key(BlobId{directory}, KeyKind::kRecord, bytes_key)));
        if (bytes.empty()) {
            if (free == 0) free = key;
            // A gap is what a few removed names left; the whole chain is rarely longer than one.
            if (key >= free + 8) break;
            continue;
        }
        const auto entry = fs::decode_entry(InodeNumber{directory}, bytes_key, bytes);
        if (entry && entry->name == name) {
            taken = true;
            inode = fs::value(entry->inode);
            return key;
        }
    }
    if (free == 0) return fail(Errc::kNoSpace, "finding a place for a name", directory);
    return free;
}

// A record that is to be put where another one lies goes to the next free collision number.
Result<void> Planner::apply_key(const KeyEdit& edit) {
    if (!edit.value) {
        plan_.keys.erase(edit.key);
        return {};
    }
    const KeyView key = edit.key;
    const bool record = key.size() == 9 + fs::kEntryKeyBytes &&
                        blobstore::value(blobstore::key_blob(key)) != 0 &&
                        blobstore::key_kind(key) == KeyKind::kRecord;
    const std::uint64_t directory = record ? blobstore::value(blobstore::key_blob(key)) : 0;
    const auto entry =
        fs::decode_entry(InodeNumber{directory}, blobstore::key_tail(key), *edit.value);
    if (!record || !entry) {
        plan_.keys.put(key, *edit.value);
        return {};
    }
    TRY_ASSIGN(const std::string present_bytes, read(key));
    const auto present =
        fs::decode_entry(InodeNumber{directory}, blobstore::key_tail(key), present_bytes);
    if (present && present->name == entry->name) {
        plan_.keys.put(key, *edit.value);
        return {};
    }
    bool taken = false;
    std::uint64_t inode = 0;
    TRY_ASSIGN(const std::uint64_t place, key_for(directory, entry->name, taken, inode));
    const std::string bytes_key = fs::big_endian_key(place);
    plan_.keys.put(Key(BlobId{directory}, KeyKind::kRecord, bytes_key), *edit.value);
    return {};
}

void apply_field(StoredInode& stored, const InodeEdit& edit) {
    using Field = InodeEdit::Field;
    const auto set = [&](auto& field) {
        using Type = std::remove_reference_t<decltype(field)>;
        const std::int64_t base = edit.relative ? static_cast<std::int64_t>(field) : 0;
        field = static_cast<Type>(std::max<std::int64_t>(0, base + edit.value));
    };
    switch (edit.field) {
        case Field::kLinks:
            return set(stored.block.nlink);
        case Field::kParent:
            return set(stored.block.parent);
        case Field::kEntries:
            return set(stored.block.entries);
        case Field::kNameBytes:
            return set(stored.block.name_bytes);
        case Field::kFlags:
            return set(stored.block.flags);
        case Field::kMode:
            return set(stored.block.mode);
        case Field::kBlocks:
            return set(stored.head.allocated_blocks);
        case Field::kInline:
            stored.head.flags = edit.value != 0 ? blobstore::kBlobInline
                                                : stored.head.flags & ~blobstore::kBlobInline;
            return;
    }
}

Result<void> Planner::apply_inodes(std::span<const Finding* const> accepted) {
    absl::btree_map<std::uint64_t, std::vector<InodeEdit>> by_inode;
    for (const bool relative : {false, true}) {
        for (const Finding* finding : accepted) {
            for (const InodeEdit& edit : finding->inodes) {
                if (edit.relative == relative) by_inode[edit.inode].push_back(edit);
            }
        }
    }
    for (const auto& [inode, edits] : by_inode) {
        StoredInode stored;
        TRY_ASSIGN(const bool good, load(inode, stored));
        if (!good) continue;  // it is made anew, or goes
        for (const InodeEdit& edit : edits) apply_field(stored, edit);
        store(inode, stored);
    }
    return {};
}

Result<void> Planner::put_entry(std::uint64_t directory, std::string_view name, std::uint64_t inode,
                                std::uint32_t mode) {
    bool taken = false;
    std::uint64_t other = 0;
    TRY_ASSIGN(const std::uint64_t key, key_for(directory, name, taken, other));
    if (taken) return fail(Errc::kExists, "making a name in lost+found", inode);
    const fs::EntryHead head{.inode = inode,
                             .type = static_cast<std::uint8_t>((mode & S_IFMT) >> 12),
                             .name_bytes = static_cast<std::uint8_t>(name.size()),
                             .reserved = 0,
                             .reserved1 = 0};
    const std::string bytes_key = fs::big_endian_key(key);
    plan_.keys.put(Key(BlobId{directory}, KeyKind::kRecord, bytes_key),
                   std::string(blobstore::bytes_of(head)) + std::string(name));
    StoredInode stored;
    TRY_ASSIGN(const bool good, load(directory, stored));
    if (!good) return fail(Errc::kCorrupt, "putting a name into a directory", directory);
    ++stored.block.entries;
    stored.block.name_bytes += name.size();
    if (S_ISDIR(mode)) ++stored.block.nlink;
    store(directory, stored);
    return {};
}

Result<void> Planner::find_lost_and_found() {
    const std::uint64_t root = fs::value(fs::kRootInode);
    std::string name(kLostAndFound);
    for (int number = 1;; ++number) {
        bool taken = false;
        std::uint64_t inode = 0;
        TRY_ASSIGN(const std::uint64_t key, key_for(root, name, taken, inode));
        static_cast<void>(key);
        if (!taken) break;
        StoredInode stored;
        TRY_ASSIGN(const bool good, load(inode, stored));
        if (good && is_directory(stored.block)) {
            lost_and_found_ = inode;
            return {};
        }
        name = std::string(kLostAndFound) + "-" + std::to_string(number);
    }
    const std::uint64_t fresh = std::max(
        {check_.superblock().next_blob_id, check_.log().next_blob_id, check_.highest_blob() + 1});
    StoredInode stored;
    stored.block = fs::make_inode_block(S_IFDIR | 0700u, {.seconds = std::time(nullptr)});
    stored.block.nlink = 2;
    stored.block.parent = root;
    store(fresh, stored);
    plan_.new_blob = fresh;
    TRY(put_entry(root, name, fresh, stored.block.mode));
    lost_and_found_ = fresh;
    return {};
}

Result<void> Planner::reconnect(std::uint64_t inode) {
    StoredInode stored;
    TRY_ASSIGN(const bool good, load(inode, stored));
    if (!good) return {};  // another finding makes it anew; the next check finds it without a name
    if (lost_and_found_ == 0) TRY(find_lost_and_found());
    std::string name = "#" + std::to_string(inode);
    if (is_directory(stored.block)) {
        // A directory still says where it was.
        name += "-from-" + std::to_string(stored.block.parent);
        stored.block.parent = lost_and_found_;
        if (stored.block.nlink < 2) stored.block.nlink = 2;
    } else {
        stored.block.nlink = 1;
        stored.block.flags &= ~std::uint32_t{fs::kInodeTemporary};
    }
    store(inode, stored);
    return put_entry(lost_and_found_, name, inode, stored.block.mode);
}

Result<EditPlan> Planner::plan(std::span<const Finding* const> accepted) {
    for (const Finding* finding : accepted) {
        for (const KeyEdit& edit : finding->keys) TRY(apply_key(edit));
        for (const ExtentCopy& copy : finding->copies) plan_.copies.push_back(copy.key);
        plan_.leaked.insert(plan_.leaked.end(), finding->leaked.begin(), finding->leaked.end());
    }
    TRY(apply_inodes(accepted));
    for (const Finding* finding : accepted) {
        if (finding->reconnect) TRY(reconnect(finding->inode));
    }
    return std::move(plan_);
}

}  // namespace

Result<EditPlan> plan_edits(Suspend& suspend, ImageCheck& check,
                            std::span<const Finding* const> accepted) {
    return Planner(suspend, check).plan(accepted);
}

}  // namespace blobfs::fsck
