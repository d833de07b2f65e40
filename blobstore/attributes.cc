// Attributes, extended attributes and records of blobs: the small things in the tree.

#include <algorithm>

#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

Result<StoredAttributes> decode_attributes(BlobId blob, ValueView bytes) {
    if (bytes.size() < sizeof(AttributesValue) ||
        bytes.size() > sizeof(AttributesValue) + kMaxAttributeBlockBytes) {
        return fail(Errc::kCorrupt, "reading the attributes of blob", value(blob));
    }
    StoredAttributes stored{.head = load<AttributesValue>(bytes),
                            .block = std::string(bytes.substr(sizeof(AttributesValue)))};
    if (stored.head.size > kMaxBlobBytes || (stored.head.flags & ~kBlobInline) != 0 ||
        stored.head.reserved != 0) {
        return fail(Errc::kCorrupt, "reading the attributes of blob", value(blob));
    }
    return stored;
}

std::string encode_attributes(const StoredAttributes& stored) {
    std::string bytes(bytes_of(stored.head));
    bytes += stored.block;
    return bytes;
}

// Pieces of an xattr's value: each fits the smallest page's largest value.
constexpr std::size_t kXattrPieceBytes = 512;

Key xattr_key(BlobId blob, std::string_view name, std::uint8_t piece) {
    Key key(blob, KeyKind::kXattr, name);
    key.append_byte(0);
    key.append_byte(piece);
    return key;
}

// Keys of all pieces of one xattr lie in [first, last).
struct KeyRange {
    Key first, last;
};
KeyRange xattr_range(BlobId blob, std::string_view name) {
    KeyRange range{.first = Key(blob, KeyKind::kXattr, name),
                   .last = Key(blob, KeyKind::kXattr, name)};
    range.first.append_byte(0);
    range.last.append_byte(1);
    return range;
}

bool valid_xattr_name(std::string_view name) {
    return !name.empty() && name.size() <= kMaxXattrNameBytes &&
           name.find('\0') == std::string_view::npos;
}

}  // namespace

Result<StoredAttributes> Blobstore::State::load_attributes(Suspend& suspend, BlobId blob) {
    std::string bytes;
    TRY_ASSIGN(const bool found, tree.get(suspend, Key(blob, KeyKind::kAttributes), bytes));
    if (!found) return fail(Errc::kNotFound, "looking up blob", value(blob));
    return decode_attributes(blob, bytes);
}

Result<std::string> Blobstore::State::resolve(const AttributesUpdate& update) const {
    StoredAttributes stored;
    const std::optional<ValueView> present = tree.peek(Key(update.blob, KeyKind::kAttributes));
    if (update.create) {
        if (present) return fail(Errc::kExists, "creating blob", value(update.blob));
        if (value(update.blob) >= kBlobIdEnd) {
            return fail(Errc::kNoSpace, "creating a blob: all ids are used", value(update.blob));
        }
    } else {
        if (!present) return fail(Errc::kNotFound, "changing blob", value(update.blob));
        TRY_ASSIGN(stored, decode_attributes(update.blob, *present));
    }
    if (update.block) stored.block = *update.block;
    if (update.set_size) stored.head.size = *update.set_size;
    stored.head.size = std::max(stored.head.size, update.size_at_least);
    stored.head.allocated_blocks += static_cast<std::uint64_t>(update.allocated_blocks);
    if (update.is_inline) stored.head.flags = *update.is_inline ? kBlobInline : 0;
    return encode_attributes(stored);
}

BlobId Blobstore::allocate_id() { return BlobId{state_->next_blob_id++}; }

Result<BlobAttributes> Blobstore::attributes(Suspend& suspend, BlobId blob) {
    TRY_ASSIGN(StoredAttributes stored, state_->load_attributes(suspend, blob));
    return BlobAttributes{.size = stored.head.size,
                          .allocated_bytes = stored.head.allocated_blocks * kBlockBytes,
                          .block = std::move(stored.block)};
}

void Blobstore::read_attributes_ahead(Suspend& suspend, std::span<const BlobId> blobs) {
    for (const BlobId blob : blobs) {
        if (!state_->tree.read_ahead(suspend, Key(blob, KeyKind::kAttributes))) return;
    }
}

Result<bool> Blobstore::record(Suspend& suspend, BlobId blob, std::string_view key,
                               std::string& bytes) {
    CHECK(key.size() <= kMaxRecordKeyBytes);
    return state_->tree.get(suspend, Key(blob, KeyKind::kRecord, key), bytes);
}

Result<void> Blobstore::scan_records(
    Suspend& suspend, BlobId blob, std::string_view from,
    absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) {
    CHECK(from.size() <= kMaxRecordKeyBytes);
    const Key end(blob, static_cast<KeyKind>(static_cast<int>(KeyKind::kRecord) + 1));
    return state_->tree.scan(suspend, Key(blob, KeyKind::kRecord, from), end,
                             [&](KeyView k, ValueView v) { return visit(key_tail(k), v); });
}

Result<std::string> Blobstore::xattr(Suspend& suspend, BlobId blob, std::string_view name) {
    if (!valid_xattr_name(name))
        return fail(Errc::kNoAttribute, "reading an attribute of blob", value(blob));
    const KeyRange range = xattr_range(blob, name);
    std::string bytes;
    bool found = false;
    TRY(state_->tree.scan(suspend, range.first, range.last, [&](KeyView, ValueView piece) {
        found = true;
        bytes += piece;
        return bytes.size() <= kMaxXattrValueBytes;
    }));
    if (!found) return fail(Errc::kNoAttribute, "reading an attribute of blob", value(blob));
    if (bytes.size() > kMaxXattrValueBytes) {
        return fail(Errc::kCorrupt, "reading an attribute of blob", value(blob));
    }
    return bytes;
}

Result<std::vector<std::string>> Blobstore::xattr_names(Suspend& suspend, BlobId blob) {
    std::vector<std::string> names;
    const Key end(blob, static_cast<KeyKind>(static_cast<int>(KeyKind::kXattr) + 1));
    TRY(state_->tree.scan(suspend, Key(blob, KeyKind::kXattr), end, [&](KeyView k, ValueView) {
        const std::string_view tail = key_tail(k);
        const std::string_view name = tail.substr(0, tail.find('\0'));
        if (names.empty() || names.back() != name) names.emplace_back(name);
        return true;
    }));
    return names;
}

Result<void> Blobstore::set_xattr(Suspend& suspend, BlobId blob, std::string_view name,
                                  std::string_view bytes, Transaction& transaction) {
    if (!valid_xattr_name(name))
        return fail(Errc::kInvalidArgument, "naming an attribute of blob", value(blob));
    if (bytes.size() > kMaxXattrValueBytes)
        return fail(Errc::kRange, "writing an attribute of blob", value(blob));
    // Pieces that are there and that the new value does not overwrite go.
    std::size_t pieces = 0;
    const KeyRange range = xattr_range(blob, name);
    TRY(state_->tree.scan(suspend, range.first, range.last, [&](KeyView, ValueView) {
        ++pieces;
        return pieces <= 256;
    }));
    std::uint8_t piece = 0;
    std::size_t at = 0;
    do {
        const std::string_view part = bytes.substr(at, kXattrPieceBytes);
        transaction.state().put(xattr_key(blob, name, piece++), part);
        at += kXattrPieceBytes;
    } while (at < bytes.size());
    for (std::size_t i = piece; piece != 0 && i < std::min<std::size_t>(pieces, 256); ++i) {
        transaction.state().erase(xattr_key(blob, name, static_cast<std::uint8_t>(i)));
    }
    return {};
}

Result<void> Blobstore::remove_xattr(Suspend& suspend, BlobId blob, std::string_view name,
                                     Transaction& transaction) {
    if (!valid_xattr_name(name))
        return fail(Errc::kNoAttribute, "removing an attribute of blob", value(blob));
    bool found = false;
    const KeyRange range = xattr_range(blob, name);
    TRY(state_->tree.scan(suspend, range.first, range.last, [&](KeyView k, ValueView) {
        found = true;
        transaction.state().erase(k);
        return true;
    }));
    if (!found) return fail(Errc::kNoAttribute, "removing an attribute of blob", value(blob));
    return {};
}

}  // namespace blobfs::blobstore
