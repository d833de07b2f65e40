#include "fs/fsck/key_check.h"

#include <algorithm>

#include "blobstore/blobstore.h"

namespace blobfs::fsck {

using blobstore::AttributesValue;
using blobstore::BlobId;
using blobstore::BlockIndex;
using blobstore::Key;
using blobstore::KeyKind;
using blobstore::KeyView;
using blobstore::Run;
using blobstore::ValueView;

namespace {

constexpr std::size_t kXattrPieceBytes = 512;
constexpr std::size_t kMostXattrPieces = 256;

std::string hexadecimal(KeyView key) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const char c : key.substr(0, 40)) {
        text += kDigits[static_cast<unsigned char>(c) >> 4];
        text += kDigits[static_cast<unsigned char>(c) & 15];
    }
    return text;
}

}  // namespace

blobstore::ExtentBounds extent_bounds_of(const blobstore::Superblock& superblock) {
    return {.first_block = log_end(superblock),
            .end_block = superblock.block_count,
            .cluster_blocks = superblock.cluster_bytes / blobstore::kBlockBytes};
}

std::string blocks_text(const Run& run) {
    if (run.blocks == 1) return "block " + std::to_string(run.first());
    return "blocks " + std::to_string(run.first()) + " to " + std::to_string(run.end() - 1);
}

void KeyCheck::complain(Problem problem, const std::string& what, Finding finding) {
    finding.problem = problem;
    finding.inode = blob_;
    finding.text = blob_ == 0 ? what : inode_text(blob_) + ": " + what;
    findings_.add(std::move(finding));
}

void KeyCheck::remove(Problem problem, KeyView key, const std::string& what) {
    Finding finding;
    finding.keys.push_back({std::string(key), std::nullopt});
    complain(problem, what, std::move(finding));
}

void KeyCheck::store_key(KeyView key, ValueView value) {
    const KeyKind kind = blobstore::key_kind(key);
    const bool list = kind == KeyKind::kOrphan || kind == KeyKind::kTruncation;
    if (!list)
        return remove(Problem::kStrangeKey, key, "a key of an unknown kind: " + hexadecimal(key));
    const std::size_t bytes = kind == KeyKind::kOrphan ? 0 : sizeof(blobstore::TruncationValue);
    const bool sound =
        key.size() == 17 && value.size() == bytes &&
        (kind == KeyKind::kOrphan ||
         blobstore::load<blobstore::TruncationValue>(value).size <= blobstore::kMaxBlobBytes);
    if (!sound) {
        return remove(Problem::kBadOrphan, key, "the list of files to delete has a damaged entry");
    }
    const std::uint64_t blob = blobstore::load_big_endian(blobstore::key_tail(key));
    listed_.emplace(blob, false);
    if (kind == KeyKind::kOrphan) names_.orphan(blob);
}

void KeyCheck::start_blob(std::uint64_t blob) {
    blob_ = blob_seen_ = blob;
    seen_ = good_ = false;
    bad_.clear();
    head_ = {};
    mapped_ = last_end_ = behind_end_ = inline_bytes_ = 0;
    inline_key_.clear();
    const auto listed = listed_.find(blob);
    ending_ = listed != listed_.end();
    if (ending_) listed->second = true;
    names_.begin(blob);
}

void KeyCheck::attributes(KeyView key, ValueView value) {
    if (key.size() != 9) return remove(Problem::kStrangeKey, key, "a strange key of attributes");
    seen_ = true;
    ++blobs_;
    if (value.size() < sizeof(AttributesValue) ||
        value.size() > sizeof(AttributesValue) + blobstore::kMaxAttributeBlockBytes) {
        bad_ = "its attributes have an impossible length";
        return;
    }
    head_ = blobstore::load<AttributesValue>(value);
    if (head_.size > blobstore::kMaxBlobBytes || (head_.flags & ~blobstore::kBlobInline) != 0 ||
        head_.reserved != 0) {
        bad_ = "its attributes are impossible";
        head_ = {};
        return;
    }
    good_ = true;
    names_.attributes(head_, value.substr(sizeof(AttributesValue)));
}

void KeyCheck::inline_data(KeyView key, ValueView value) {
    if (key.size() != 9 || value.size() > superblock_.inline_bytes) {
        return remove(Problem::kBadInlineData, key,
                      "its inline data are longer than inline data may be");
    }
    inline_key_ = std::string(key);
    inline_bytes_ = value.size();
}

void KeyCheck::extent(KeyView key, ValueView value) {
    std::string stored(value);
    bool shared = false;
    if (stored.size() == sizeof(blobstore::ExtentValue)) {
        // A mark that no store of this version makes, and that hides nothing of the rest.
        auto extent = blobstore::load<blobstore::ExtentValue>(stored);
        shared = (extent.flags & blobstore::kExtentShared) != 0;
        extent.flags &= ~blobstore::kExtentShared;
        stored = std::string(blobstore::bytes_of(extent));
    }
    const auto extent = blobstore::decode_extent(key, stored, extent_bounds_of(superblock_));
    if (!extent) {
        return remove(Problem::kBadExtent, key,
                      "the extent " + hexadecimal(key) +
                          " is damaged, no whole cluster, or leads off the device");
    }
    const Run run{BlockIndex{extent->device}, extent->blocks};
    const std::string where = "the extent at block " + std::to_string(extent->first);
    if (extent->first < last_end_) {
        return remove(Problem::kExtentsOverlap, key, where + " overlaps the one before it");
    }
    if (shared) {
        Finding finding;
        finding.keys.push_back({std::string(key), stored});
        complain(Problem::kSharedExtent,
                 where + " is marked as shared, and nothing counts who does", std::move(finding));
    }
    last_end_ = extent->end();
    mapped_ += extent->blocks;
    const std::uint64_t size_blocks =
        blobstore::round_up(head_.size, superblock_.cluster_bytes) / blobstore::kBlockBytes;
    if (good_ && extent->written() && extent->first >= size_blocks) behind_end_ += extent->blocks;
    data_.add(run, [&](const Run& part) { twice_.add(part); });
}

void KeyCheck::xattr_piece(KeyView key, ValueView value) {
    const std::string_view tail = blobstore::key_tail(key);
    const std::size_t name_bytes = tail.find('\0');
    if (name_bytes == 0 || name_bytes == std::string_view::npos || name_bytes + 2 != tail.size() ||
        name_bytes > blobstore::kMaxXattrNameBytes) {
        return remove(Problem::kBadXattr, key, "an extended attribute without a good name");
    }
    const std::string_view name = tail.substr(0, name_bytes);
    if (xattr_keys_.empty() || name != xattr_name_) {
        finish_xattr();
        xattr_name_ = std::string(name);
    }
    const auto piece = static_cast<std::uint8_t>(tail.back());
    xattr_good_ = xattr_good_ && piece == xattr_keys_.size() && value.size() <= kXattrPieceBytes &&
                  xattr_value_.size() == piece * kXattrPieceBytes;
    if (xattr_keys_.size() < kMostXattrPieces) xattr_keys_.emplace_back(key);
    if (xattr_good_) xattr_value_ += value;
}

void KeyCheck::finish_xattr() {
    if (xattr_keys_.empty()) return;
    if (ending_) {
        // Its pieces go one by one.
    } else if (xattr_good_ && xattr_value_.size() <= blobstore::kMaxXattrValueBytes) {
        names_.xattr(xattr_name_, xattr_value_, std::move(xattr_keys_));
    } else {
        Finding finding;
        for (std::string& key : xattr_keys_) finding.keys.push_back({std::move(key), std::nullopt});
        complain(Problem::kBadXattr,
                 "the pieces of its extended attribute \"" + xattr_name_ + "\" do not fit together",
                 std::move(finding));
    }
    xattr_keys_.clear();
    xattr_name_.clear();
    xattr_value_.clear();
    xattr_good_ = true;
}

void KeyCheck::entry(KeyView key, ValueView value) {
    if (key.size() < 9) {
        return remove(Problem::kStrangeKey, key, "a key that is too short: " + hexadecimal(key));
    }
    const std::uint64_t blob = blobstore::value(blobstore::key_blob(key));
    if (blob == 0) return store_key(key, value);
    if (blob >= blobstore::kBlobIdEnd) {
        return remove(Problem::kStrangeKey, key,
                      "a key of an inode number that cannot be: " + hexadecimal(key));
    }
    if (blob != blob_) {
        finish_blob();
        start_blob(blob);
    }
    const KeyKind kind = blobstore::key_kind(key);
    if (kind != KeyKind::kXattr) finish_xattr();
    switch (kind) {
        case KeyKind::kAttributes:
            return attributes(key, value);
        case KeyKind::kInlineData:
            return inline_data(key, value);
        case KeyKind::kExtent:
            return extent(key, value);
        case KeyKind::kXattr:
            return xattr_piece(key, value);
        case KeyKind::kRecord:
            if (blobstore::key_tail(key).size() > blobstore::kMaxRecordKeyBytes ||
                value.size() > blobstore::kMaxRecordValueBytes) {
                return remove(Problem::kBadRecord, key, "a record is too long");
            }
            return names_.record(blobstore::key_tail(key), value);
        default:
            return remove(Problem::kStrangeKey, key,
                          "a key of an unknown kind: " + hexadecimal(key));
    }
}

void KeyCheck::finish_blob() {
    if (blob_ == 0) return;
    finish_xattr();
    if (!good_) {
        AttributesValue head{};
        head.allocated_blocks = mapped_;
        head.size = inline_key_.empty() ? last_end_ * blobstore::kBlockBytes : inline_bytes_;
        head.flags = inline_key_.empty() || mapped_ != 0 ? 0 : blobstore::kBlobInline;
        names_.bad(seen_ ? Problem::kBadAttributes : Problem::kNoAttributes,
                   seen_ ? bad_ : "it has content, but no attributes", head);
    } else if (!ending_) {
        if (head_.allocated_blocks != mapped_) {
            Finding finding;
            finding.inodes.push_back({.inode = blob_,
                                      .field = InodeEdit::Field::kBlocks,
                                      .value = static_cast<std::int64_t>(mapped_)});
            complain(Problem::kBlockCount,
                     "it says that it has " + std::to_string(head_.allocated_blocks) +
                         " blocks, and has " + std::to_string(mapped_),
                     std::move(finding));
        }
        if (behind_end_ != 0) {
            Finding finding;
            finding.keys.push_back(
                {std::string(Key(BlobId{0}, KeyKind::kTruncation, blob_).view()),
                 std::string(blobstore::bytes_of(blobstore::TruncationValue{.size = head_.size}))});
            complain(Problem::kExtentBehindEnd,
                     std::to_string(behind_end_) + " blocks of data lie behind its end",
                     std::move(finding));
        }
        const bool flag = (head_.flags & blobstore::kBlobInline) != 0;
        if (!inline_key_.empty() && !flag) {
            remove(Problem::kInlineAndExtents, inline_key_,
                   "it has inline data and does not say so");
        }
        if (flag && mapped_ != 0) {
            Finding finding;
            finding.inodes.push_back(
                {.inode = blob_, .field = InodeEdit::Field::kInline, .value = 0});
            if (!inline_key_.empty()) finding.keys.push_back({inline_key_, std::nullopt});
            complain(Problem::kInlineAndExtents, "it has inline data and extents",
                     std::move(finding));
        }
    }
    names_.end();
}

void KeyCheck::finish(bool whole) {
    finish_blob();
    blob_ = 0;
    if (!whole) return;
    for (const auto& [blob, seen] : listed_) {
        if (seen) continue;
        Finding finding;
        for (const KeyKind kind : {KeyKind::kOrphan, KeyKind::kTruncation}) {
            finding.keys.push_back({std::string(Key(BlobId{0}, kind, blob).view()), std::nullopt});
        }
        complain(Problem::kBadOrphan,
                 inode_text(blob) + " is to be deleted or cut, and does not exist",
                 std::move(finding));
    }
}

}  // namespace blobfs::fsck
