#pragma once

// The slotted page of the tree (FORMAT.md, "Tree pages"): slots grow up behind the header, entry
// contents grow down from the end. Views over bytes that somebody else owns. What is read from a
// device goes through validate_page() before a view is put over it; after that no function here
// reads or writes outside the page. Reactor thread.

#include <cstddef>
#include <cstdint>
#include <span>

#include "blobstore/format.h"
#include "blobstore/key.h"

namespace blobfs::blobstore {

// What an entry takes beside its key and value: the slot and the size of the value.
inline constexpr std::size_t kEntryOverheadBytes = sizeof(PageSlot) + 2;

// The largest value in a tree of such pages: four of the largest entries fit in a page, so that a
// page that overflows can always be split in two.
constexpr std::uint32_t max_value_bytes(std::uint32_t page_bytes) {
    return static_cast<std::uint32_t>((page_bytes - sizeof(PageHeader)) / 4 - kMaxKeyBytes -
                                      kEntryOverheadBytes);
}

// How long the common beginning of two keys is.
std::size_t common_prefix_bytes(KeyView a, KeyView b);

// What a page must be, by the pointer that led to it.
struct PageExpectation {
    std::uint32_t level = 0;        // 0: a leaf
    std::uint64_t block_count = 0;  // of the device: children beyond are damage
};

// Checks every byte that the views rely on, in a page whose size is page.size() and whose header's
// magic, address, generation and checksum were verified: kind and level, bounds and overlap of
// slots and entries, sizes, strictly ascending keys, hints, child pointers. Returns nullptr when
// the page is good, else what is wrong with it (a literal).
[[nodiscard]] const char* validate_page(std::span<const std::byte> page,
                                        const PageExpectation& expected);

// A valid tree page, for reading. Interior pages: entry 0 has the empty key, the value is the
// PagePointer of the child that holds the keys from the entry's key on, up to the next entry's.
class PageView {
  public:
    explicit PageView(const std::byte* page) : page_(page) {}

    [[nodiscard]] const PageHeader& header() const {
        return *reinterpret_cast<const PageHeader*>(page_);
    }
    [[nodiscard]] bool leaf() const { return header().kind == PageKind::kLeaf; }
    [[nodiscard]] std::size_t size() const { return header().slot_count; }

    [[nodiscard]] KeyView key(std::size_t index) const {
        const PageSlot& at = slot(index);
        return {chars(at.offset + 2u), at.key_bytes};
    }
    [[nodiscard]] ValueView value(std::size_t index) const {
        const PageSlot& at = slot(index);
        return {chars(at.offset + 2u + at.key_bytes), value_bytes(at)};
    }
    // REQUIRES an interior page.
    [[nodiscard]] PagePointer child(std::size_t index) const {
        return load<PagePointer>(value(index));
    }

    struct Position {
        std::size_t index;  // of the first entry whose key is not less
        bool found;         // it is equal
    };
    // Interior pages: never entry 0.
    [[nodiscard]] Position find(KeyView key) const;
    // Interior page: the entry whose child holds the key.
    [[nodiscard]] std::size_t child_of(KeyView key) const {
        const Position at = find(key);
        return at.found ? at.index : at.index - 1;
    }
    // Interior page: the entry whose child holds the greatest keys less than the key.
    [[nodiscard]] std::size_t child_below(KeyView key) const { return find(key).index - 1; }

    // Bytes of the page in use, header and slots included, dead entries not.
    [[nodiscard]] std::size_t used_bytes(std::size_t page_bytes) const {
        return sizeof(PageHeader) + size() * sizeof(PageSlot) +
               (page_bytes - header().content_start) - header().garbage_bytes;
    }
    // Bytes that the entry takes, slot included.
    [[nodiscard]] std::size_t entry_bytes(std::size_t index) const {
        const PageSlot& at = slot(index);
        return kEntryOverheadBytes + at.key_bytes + value_bytes(at);
    }

  protected:
    [[nodiscard]] const PageSlot& slot(std::size_t index) const {
        return reinterpret_cast<const PageSlot*>(page_ + sizeof(PageHeader))[index];
    }
    [[nodiscard]] const char* chars(std::size_t offset) const {
        return reinterpret_cast<const char*>(page_) + offset;
    }
    [[nodiscard]] std::uint16_t value_bytes(const PageSlot& at) const {
        std::uint16_t bytes;
        std::memcpy(&bytes, page_ + at.offset, sizeof(bytes));
        return bytes;
    }
    // The first entry with a key of its own: interior pages have none at 0.
    [[nodiscard]] std::size_t first_keyed() const { return leaf() ? 0 : 1; }

    const std::byte* page_;
};

// A valid tree page, for changing. Keys and values given must not lie in the page itself.
class Page : public PageView {
  public:
    // The page must be valid, or be formatted before anything else.
    explicit Page(std::span<std::byte> bytes) : PageView(bytes.data()), bytes_(bytes) {}
    // Makes an empty page; magic, address, generation, UUID and checksum are zero until sealed.
    void format(std::uint32_t level);

    // Puts the entry before entry `index`, which must be where the order wants it. False, with
    // nothing changed, when there is no room.
    bool insert(std::size_t index, KeyView key, ValueView value);
    // False, with nothing changed, when there is no room.
    bool replace(std::size_t index, ValueView value);
    // Removes the entry. In an interior page the entry after a removed entry 0 gets the empty key.
    void erase(std::size_t index);
    void set_child(std::size_t index, const PagePointer& child);

    // Splits the page as if the entry had been inserted before entry `index`: `right`, formatted
    // here, gets the entries from number `first_right` on (counted with the new one, 1..size()).
    // Returns the separator: the shortest key that is greater than all on the left and not greater
    // than any on the right. REQUIRES that both parts fit.
    Key split(Page& right, std::size_t index, KeyView key, ValueView value,
              std::size_t first_right);
    // The first_right that makes the halves most equal in bytes.
    [[nodiscard]] std::size_t middle(std::size_t index, KeyView key, ValueView value) const;

    // What a page of both would use, separator included (interior pages).
    static std::size_t merged_bytes(const Page& left, KeyView separator, const Page& right);
    // Puts the entries of left and right, one of which is this page, into this page. REQUIRES that
    // merged_bytes() fit.
    void merge(const Page& left, KeyView separator, const Page& right);

    [[nodiscard]] std::size_t page_bytes() const { return bytes_.size(); }
    [[nodiscard]] std::size_t used_bytes() const { return PageView::used_bytes(page_bytes()); }
    [[nodiscard]] PageHeader& header() { return *reinterpret_cast<PageHeader*>(bytes_.data()); }
    using PageView::header;

  private:
    [[nodiscard]] PageSlot& slot(std::size_t index) {
        return reinterpret_cast<PageSlot*>(bytes_.data() + sizeof(PageHeader))[index];
    }
    using PageView::slot;
    [[nodiscard]] std::size_t gap_bytes() const {
        return header().content_start - sizeof(PageHeader) - size() * sizeof(PageSlot);
    }
    void clear();
    void compact();
    void append(KeyView key, ValueView value);
    void write_entry(PageSlot& at, KeyView key, ValueView value);
    void drop_contents(const PageSlot& at);
    void set_prefix(std::size_t bytes);
    void find_prefix();

    std::span<std::byte> bytes_;
};

}  // namespace blobfs::blobstore
