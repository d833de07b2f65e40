#pragma once

// Keys of the tree, as FORMAT.md "Keys" defines them: blob id (8 bytes, big-endian), kind (1 byte),
// then what the kind says. Compared as byte strings, so that a blob's attributes, extended
// attributes, data and records are neighbours. Any thread.

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "blobstore/units.h"
#include "driver/base/check.h"

namespace blobfs::blobstore {

// Bytes of a key or a value, not owned.
using KeyView = std::string_view;
using ValueView = std::string_view;

inline constexpr std::size_t kMaxKeyBytes = 288;

enum class KeyKind : std::uint8_t {
    kAttributes = 1,  // AttributesValue, then the owner's attribute block
    kXattr = 2,       // name, 0, chunk number (1 byte): a piece of the value
    kInlineData = 3,  // the bytes of a small blob
    kExtent = 4,      // first block within the blob, 8 bytes big-endian: ExtentValue
    kRecord = 5,      // the owner's key: the owner's value
    // With blob id 0:
    kSharedRun = 16,  // first block on the device, 8 bytes big-endian: count of a shared run
    kOrphan = 17,     // blob id, 8 bytes big-endian; no value: a blob to delete at the next open
    kDataChecksum = 18,  // reserved
    kTruncation = 19,    // blob id, 8 bytes big-endian: TruncationValue
};

// A key built in place, without allocation.
class Key {
  public:
    Key() = default;
    Key(BlobId blob, KeyKind kind) {
        append_big_endian(value(blob));
        append_byte(static_cast<std::uint8_t>(kind));
    }
    Key(BlobId blob, KeyKind kind, std::uint64_t number) : Key(blob, kind) {
        append_big_endian(number);
    }
    Key(BlobId blob, KeyKind kind, std::string_view bytes) : Key(blob, kind) { append(bytes); }
    explicit Key(KeyView bytes) { append(bytes); }

    void append(std::string_view bytes) {
        CHECK(size_ + bytes.size() <= sizeof(bytes_));
        if (!bytes.empty()) std::memcpy(bytes_ + size_, bytes.data(), bytes.size());
        size_ += bytes.size();
    }
    void append_byte(std::uint8_t byte) {
        CHECK(size_ < sizeof(bytes_));
        bytes_[size_++] = static_cast<char>(byte);
    }
    void append_big_endian(std::uint64_t number) {
        for (int shift = 56; shift >= 0; shift -= 8) {
            append_byte(static_cast<std::uint8_t>(number >> shift));
        }
    }
    [[nodiscard]] KeyView view() const { return {bytes_, size_}; }
    operator KeyView() const { return view(); }  // NOLINT(google-explicit-constructor)

  private:
    std::size_t size_ = 0;
    char bytes_[kMaxKeyBytes];
};

inline std::uint64_t load_big_endian(std::string_view bytes) {
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < 8; ++i) {
        number = number << 8 | static_cast<std::uint8_t>(bytes[i]);
    }
    return number;
}

// The parts of a key read from a device; kind is unchecked. REQUIRES key.size() >= 9.
inline BlobId key_blob(KeyView key) { return BlobId{load_big_endian(key)}; }
inline KeyKind key_kind(KeyView key) { return static_cast<KeyKind>(key[8]); }
inline std::string_view key_tail(KeyView key) { return key.substr(9); }

template <class Struct>
std::string_view bytes_of(const Struct& object) {
    static_assert(std::is_trivially_copyable_v<Struct>);
    return {reinterpret_cast<const char*>(&object), sizeof(object)};
}
// REQUIRES bytes.size() >= sizeof(Struct).
template <class Struct>
Struct load(std::string_view bytes) {
    static_assert(std::is_trivially_copyable_v<Struct>);
    Struct object;
    std::memcpy(&object, bytes.data(), sizeof(object));
    return object;
}

}  // namespace blobfs::blobstore
