#include "blobstore/page.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "driver/base/check.h"

namespace blobfs::blobstore {

namespace {

// The four bytes of the key from the prefix on, zeroes where it ends, as a number that orders as
// the bytes do.
std::uint32_t hint_of(KeyView key, std::size_t prefix) {
    std::uint32_t hint = 0;
    if (key.size() > prefix) [[likely]] {
        std::memcpy(&hint, key.data() + prefix, std::min<std::size_t>(4, key.size() - prefix));
    }
    return __builtin_bswap32(hint);
}

int compare_from(std::size_t skip, KeyView a, KeyView b) {
    const std::size_t shorter = std::min(a.size(), b.size());
    const int order =
        shorter > skip ? std::memcmp(a.data() + skip, b.data() + skip, shorter - skip) : 0;
    if (order != 0) return order;
    return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
}

// Where a page's bytes are kept while it is rebuilt.
std::byte* copy_of(std::span<const std::byte> page) {
    alignas(PageHeader) thread_local std::array<std::byte, kMaxPageBytes> copy;
    std::memcpy(copy.data(), page.data(), page.size());
    return copy.data();
}

// The bytes of the page that entries have claimed.
class Claims {
  public:
    // False when one of the bytes was claimed before.
    bool claim(std::size_t start, std::size_t end) {
        while (start < end) {
            const std::size_t word = start / 64;
            const std::size_t low = start % 64;
            const std::size_t high = std::min<std::size_t>(64, end - word * 64);
            const std::uint64_t upto = high == 64 ? ~0ull : (1ull << high) - 1;
            const std::uint64_t bits = upto & (~0ull << low);
            if ((words_[word] & bits) != 0) return false;
            words_[word] |= bits;
            start = word * 64 + high;
        }
        return true;
    }

  private:
    std::array<std::uint64_t, kMaxPageBytes / 64> words_{};
};

}  // namespace

std::size_t common_prefix_bytes(KeyView a, KeyView b) {
    const std::size_t shorter = std::min(a.size(), b.size());
    std::size_t i = 0;
    for (; i + 8 <= shorter; i += 8) {
        std::uint64_t x, y;
        std::memcpy(&x, a.data() + i, 8);
        std::memcpy(&y, b.data() + i, 8);
        if (x != y) return i + static_cast<std::size_t>(std::countr_zero(x ^ y)) / 8;
    }
    while (i < shorter && a[i] == b[i]) ++i;
    return i;
}

const char* validate_page(std::span<const std::byte> page, const PageExpectation& expected) {
    if (page.size() < kMinPageBytes || page.size() > kMaxPageBytes) return "tree page: size";
    const std::size_t page_bytes = page.size();
    const PageView view(page.data());
    const PageHeader& header = view.header();
    const bool leaf = expected.level == 0;
    if (header.kind != (leaf ? PageKind::kLeaf : PageKind::kInterior)) return "tree page: kind";
    if (header.level != expected.level) return "tree page: level";
    if (header.reserved != 0 || header.map_index != 0) return "tree page: reserved fields";
    const std::size_t count = header.slot_count;
    if (count == 0) return "tree page: no entries";
    const std::size_t slots_end = sizeof(PageHeader) + count * sizeof(PageSlot);
    if (header.content_start > page_bytes || header.content_start < slots_end) {
        return "tree page: start of contents";
    }
    const std::size_t max_value =
        leaf ? max_value_bytes(static_cast<std::uint32_t>(page_bytes)) : sizeof(PagePointer);
    const std::uint64_t blocks_per_page = page_bytes / kBlockBytes;

    // Bounds first: nothing of an entry is looked at before it is known to lie within the contents.
    Claims claims;
    std::size_t contents = header.garbage_bytes;
    for (std::size_t i = 0; i < count; ++i) {
        PageSlot at;
        std::memcpy(&at, page.data() + sizeof(PageHeader) + i * sizeof(PageSlot), sizeof(at));
        if (at.offset < header.content_start || at.offset + 2u > page_bytes) {
            return "tree page: offset of an entry";
        }
        const bool keyless = !leaf && i == 0;
        if (at.key_bytes > kMaxKeyBytes || (at.key_bytes == 0) != keyless) {
            return "tree page: size of a key";
        }
        std::uint16_t value_bytes;
        std::memcpy(&value_bytes, page.data() + at.offset, sizeof(value_bytes));
        if (value_bytes > max_value || (!leaf && value_bytes != sizeof(PagePointer))) {
            return "tree page: size of a value";
        }
        const std::size_t end = at.offset + 2u + at.key_bytes + value_bytes;
        if (end > page_bytes) return "tree page: end of an entry";
        if (!claims.claim(at.offset, end)) return "tree page: entries overlap";
        contents += end - at.offset;
    }
    if (contents != page_bytes - header.content_start) return "tree page: sum of entries";

    const std::size_t first = leaf ? 0 : 1;
    const std::size_t prefix = header.prefix_bytes;
    if (first == count && prefix != 0) return "tree page: prefix";
    for (std::size_t i = first; i < count; ++i) {
        const KeyView key = view.key(i);
        if (key.size() < prefix) return "tree page: prefix";
        if (i > first) {
            const KeyView before = view.key(i - 1);
            if (std::memcmp(before.data(), key.data(), prefix) != 0) return "tree page: prefix";
            if (compare_from(prefix, before, key) >= 0) return "tree page: order of keys";
        }
    }
    for (std::size_t i = 0; i < count; ++i) {
        PageSlot at;
        std::memcpy(&at, page.data() + sizeof(PageHeader) + i * sizeof(PageSlot), sizeof(at));
        if (at.hint != hint_of(view.key(i), prefix)) return "tree page: hint";
    }
    if (!leaf) {
        for (std::size_t i = 0; i < count; ++i) {
            const PagePointer child = view.child(i);
            if (child.block < kLogStartBlock || child.block >= expected.block_count ||
                expected.block_count - child.block < blocks_per_page ||
                child.block == header.block) {
                return "tree page: address of a child";
            }
            if (child.generation > header.generation) return "tree page: generation of a child";
        }
    }
    return nullptr;
}

PageView::Position PageView::find(KeyView key) const {
    const PageHeader& head = header();
    const std::size_t end = head.slot_count;
    const std::size_t first = first_keyed();
    if (first == end) return {first, false};
    std::size_t base = first;
    const std::size_t prefix = head.prefix_bytes;
    const std::uint32_t hint = hint_of(key, prefix);
    const PageSlot* slots = &slot(0);
    // Branch-free: the outcome of a comparison is as good as random to the processor.
    for (std::size_t left = end - base; left > 1;) {
        const std::size_t half = left / 2;
        base += slots[base + half - 1].hint < hint ? half : 0;
        left -= half;
    }
    if (slots[base].hint < hint) ++base;
    // The hints told the truth if the key has the prefix of all: any entry tells, so the one that
    // will be looked at anyway.
    if (prefix != 0) {
        const KeyView other = this->key(base < end ? base : end - 1);
        const int order = std::memcmp(key.data(), other.data(), std::min(prefix, key.size()));
        if (order < 0 || (order == 0 && key.size() < prefix)) return {first, false};
        if (order > 0) return {end, false};
    }
    if (base == end || slots[base].hint != hint) return {base, false};
    if (base + 1 == end || slots[base + 1].hint != hint) {
        const int order = compare_from(prefix, this->key(base), key);
        return {order < 0 ? base + 1 : base, order == 0};
    }
    std::size_t high = end;
    bool found = false;
    while (base < high) {
        const std::size_t mid = base + (high - base) / 2;
        const int order = slots[mid].hint != hint ? 1 : compare_from(prefix, this->key(mid), key);
        if (order < 0) {
            base = mid + 1;
        } else {
            high = mid;
            found = found || order == 0;
        }
    }
    return {base, found};
}

void Page::format(std::uint32_t level) {
    PageHeader fresh{};
    fresh.kind = level == 0 ? PageKind::kLeaf : PageKind::kInterior;
    fresh.level = static_cast<std::uint8_t>(level);
    header() = fresh;
    clear();
}

void Page::clear() {
    header().slot_count = 0;
    header().content_start = static_cast<std::uint16_t>(page_bytes());
    header().garbage_bytes = 0;
    header().prefix_bytes = 0;
}

void Page::write_entry(PageSlot& at, KeyView key, ValueView value) {
    const std::size_t bytes = 2 + key.size() + value.size();
    const auto offset = static_cast<std::uint16_t>(header().content_start - bytes);
    header().content_start = offset;
    const auto size = static_cast<std::uint16_t>(value.size());
    std::byte* to = bytes_.data() + offset;
    std::memcpy(to, &size, sizeof(size));
    if (!key.empty()) std::memcpy(to + 2, key.data(), key.size());
    if (!value.empty()) std::memcpy(to + 2 + key.size(), value.data(), value.size());
    at = {.hint = 0, .offset = offset, .key_bytes = static_cast<std::uint16_t>(key.size())};
}

void Page::append(KeyView key, ValueView value) {
    CHECK(gap_bytes() >= kEntryOverheadBytes + key.size() + value.size());
    write_entry(slot(size()), key, value);
    ++header().slot_count;
}

void Page::drop_contents(const PageSlot& at) {
    const std::size_t bytes = 2u + at.key_bytes + value_bytes(at);
    if (at.offset == header().content_start) {
        header().content_start = static_cast<std::uint16_t>(at.offset + bytes);
    } else {
        header().garbage_bytes = static_cast<std::uint16_t>(header().garbage_bytes + bytes);
    }
}

void Page::set_prefix(std::size_t bytes) {
    header().prefix_bytes = static_cast<std::uint16_t>(bytes);
    for (std::size_t i = 0; i < size(); ++i) slot(i).hint = hint_of(key(i), bytes);
}

void Page::find_prefix() {
    const std::size_t first = first_keyed();
    set_prefix(first < size() ? common_prefix_bytes(key(first), key(size() - 1)) : 0);
}

void Page::compact() {
    const PageView old(copy_of(bytes_));
    clear();
    for (std::size_t i = 0; i < old.size(); ++i) append(old.key(i), old.value(i));
    find_prefix();
}

bool Page::insert(std::size_t index, KeyView key, ValueView value) {
    const std::size_t bytes = kEntryOverheadBytes + key.size() + value.size();
    if (gap_bytes() < bytes) {
        if (page_bytes() - used_bytes() < bytes) return false;
        compact();
    }
    PageSlot added;
    write_entry(added, key, value);
    const std::size_t count = size();
    if (index < count) {
        std::memmove(&slot(index + 1), &slot(index), (count - index) * sizeof(PageSlot));
    }
    const std::size_t first = first_keyed();
    std::size_t prefix = header().prefix_bytes;
    bool hints_stand = true;
    if (index >= first) {
        // A key that begins otherwise than the others shortens the prefix of all.
        const std::size_t others = count - std::min(count, first);
        const std::size_t shared =
            others == 0 ? key.size()
                        : std::min(prefix, common_prefix_bytes(
                                               key, this->key(index == first ? first + 1 : first)));
        hints_stand = others == 0 || shared == prefix;
        prefix = shared;
    }
    added.hint = index >= first ? hint_of(key, prefix) : 0;
    slot(index) = added;
    ++header().slot_count;
    if (!hints_stand) {
        set_prefix(prefix);
    } else {
        header().prefix_bytes = static_cast<std::uint16_t>(prefix);
    }
    return true;
}

bool Page::replace(std::size_t index, ValueView value) {
    PageSlot& at = slot(index);
    const std::size_t old_bytes = value_bytes(at);
    const auto new_size = static_cast<std::uint16_t>(value.size());
    if (value.size() <= old_bytes) {
        std::byte* to = bytes_.data() + at.offset;
        std::memcpy(to, &new_size, sizeof(new_size));
        if (!value.empty()) std::memcpy(to + 2 + at.key_bytes, value.data(), value.size());
        header().garbage_bytes =
            static_cast<std::uint16_t>(header().garbage_bytes + (old_bytes - value.size()));
        return true;
    }
    if (page_bytes() - used_bytes() < value.size() - old_bytes) return false;
    const Key key{this->key(index)};
    const std::uint32_t hint = at.hint;
    drop_contents(at);
    if (gap_bytes() < 2 + key.view().size() + value.size()) {
        // Rebuilt without the dead entry: its slot is kept, empty, until it is written again.
        const PageView old(copy_of(bytes_));
        const std::size_t count = old.size();
        const std::uint16_t prefix = header().prefix_bytes;
        clear();
        header().slot_count = static_cast<std::uint16_t>(count);
        header().prefix_bytes = prefix;
        for (std::size_t i = 0; i < count; ++i) {
            if (i == index) continue;
            const std::uint32_t kept = slot(i).hint;
            write_entry(slot(i), old.key(i), old.value(i));
            slot(i).hint = kept;
        }
    }
    write_entry(at, key, value);
    at.hint = hint;
    return true;
}

void Page::erase(std::size_t index) {
    drop_contents(slot(index));
    const std::size_t count = size();
    if (index + 1 < count) {
        std::memmove(&slot(index), &slot(index + 1), (count - index - 1) * sizeof(PageSlot));
    }
    --header().slot_count;
    if (size() == 0) {
        clear();
        return;
    }
    if (!leaf() && index == 0) {
        // The child that is first now holds all keys below the next: its key moves out, the value
        // stays where it is, behind a size of its own.
        PageSlot& at = slot(0);
        const std::uint16_t key_bytes = at.key_bytes;
        std::byte* entry = bytes_.data() + at.offset;
        const std::uint16_t value_size = value_bytes(at);
        std::memmove(entry + key_bytes, entry, sizeof(value_size));
        if (at.offset == header().content_start) {
            header().content_start = static_cast<std::uint16_t>(at.offset + key_bytes);
        } else {
            header().garbage_bytes = static_cast<std::uint16_t>(header().garbage_bytes + key_bytes);
        }
        at = {
            .hint = 0, .offset = static_cast<std::uint16_t>(at.offset + key_bytes), .key_bytes = 0};
    }
    if (size() == first_keyed()) header().prefix_bytes = 0;
}

void Page::set_child(std::size_t index, const PagePointer& child) {
    const PageSlot& at = slot(index);
    std::memcpy(bytes_.data() + at.offset + 2 + at.key_bytes, &child, sizeof(child));
}

std::size_t Page::middle(std::size_t index, KeyView key, ValueView value) const {
    const std::size_t added = kEntryOverheadBytes + key.size() + value.size();
    const std::size_t total = used_bytes() - sizeof(PageHeader) + added;
    std::size_t left = 0;
    std::size_t count = 0;
    for (; count < size(); ++count) {
        const std::size_t next = count == index  ? added
                                 : count < index ? entry_bytes(count)
                                                 : entry_bytes(count - 1);
        // Stops on the side of the half that is nearer; the left part gets one entry at least.
        if (count > 0 && left + next / 2 >= total / 2) break;
        left += next;
    }
    return count;
}

Key Page::split(Page& right, std::size_t index, KeyView key, ValueView value,
                std::size_t first_right) {
    const std::size_t count = size();
    CHECK(first_right >= 1 && first_right <= count);
    right.format(header().level);
    if (first_right == count && index == count) {
        // The new entry alone goes right, this page stays as it is.
        const Key separator =
            leaf() ? Key(key.substr(0, common_prefix_bytes(this->key(count - 1), key) + 1))
                   : Key(key);
        right.append(leaf() ? key : KeyView{}, value);
        right.find_prefix();
        return separator;
    }
    const PageView old(copy_of(bytes_));
    const auto key_at = [&](std::size_t i) {
        return i == index ? key : old.key(i < index ? i : i - 1);
    };
    const auto value_at = [&](std::size_t i) {
        return i == index ? value : old.value(i < index ? i : i - 1);
    };
    const KeyView first_key = key_at(first_right);
    const Key separator =
        leaf()
            ? Key(first_key.substr(0, common_prefix_bytes(key_at(first_right - 1), first_key) + 1))
            : Key(first_key);
    clear();
    for (std::size_t i = 0; i < first_right; ++i) append(key_at(i), value_at(i));
    for (std::size_t i = first_right; i <= count; ++i) {
        const bool keyless = !leaf() && i == first_right;
        right.append(keyless ? KeyView{} : key_at(i), value_at(i));
    }
    find_prefix();
    right.find_prefix();
    return separator;
}

std::size_t Page::merged_bytes(const Page& left, KeyView separator, const Page& right) {
    return left.used_bytes() + right.used_bytes() - sizeof(PageHeader) +
           (left.leaf() ? 0 : separator.size());
}

void Page::merge(const Page& left, KeyView separator, const Page& right) {
    const PageView own(copy_of(bytes_));
    const PageView& low = left.page_ == page_ ? own : static_cast<const PageView&>(left);
    const PageView& high = right.page_ == page_ ? own : static_cast<const PageView&>(right);
    clear();
    for (std::size_t i = 0; i < low.size(); ++i) append(low.key(i), low.value(i));
    for (std::size_t i = 0; i < high.size(); ++i) {
        append(!leaf() && i == 0 ? separator : high.key(i), high.value(i));
    }
    find_prefix();
}

}  // namespace blobfs::blobstore
