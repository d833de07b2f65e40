// The changes of the tree: put, erase, and the splits and merges that follow from them. All pages
// that a change touches are in memory; nothing here suspends.

#include <cstring>

#include "blobstore/btree_state.h"
#include "driver/base/check.h"

namespace blobfs::blobstore {

namespace {

// Insertions in a row, each behind the one before, after which a page is taken for one that is
// being filled in order.
constexpr std::uint16_t kAscendingRun = 8;

void note_insertion(PageCache::Frame& frame, std::size_t index) {
    const bool behind = index == frame.last_insert + 1u;
    if (!behind) {
        frame.ascending = 0;
    } else if (frame.ascending < kAscendingRun) {
        ++frame.ascending;
    }
    frame.last_insert = static_cast<std::uint16_t>(index);
}

}  // namespace

// A dirty page of the current generation at a new address.
PageCache::Frame& Btree::State::add_page(std::uint32_t level) {
    const BlockIndex block = source.take_page();
    Frame& frame = cache.make(value(block));
    Page fresh = page(frame);
    fresh.format(level);
    fresh.header().block = value(block);
    fresh.header().generation = value(current);
    return frame;
}

// The frame of the page at an address of the current generation: the same one, or a copy when a
// checkpoint is writing it.
PageCache::Frame& Btree::State::make_writable(Frame& frame) {
    const BlockIndex old_block{frame.block};
    const Generation made{view(frame).header().generation};
    const BlockIndex block = source.take_page();
    Frame* writable = &frame;
    if (frame.frozen) {
        writable = &cache.make(value(block));
        std::memcpy(writable->data, frame.data, cache.page_bytes());
        writable->last_insert = frame.last_insert;
        writable->ascending = frame.ascending;
        cache.drop(frame);
    } else {
        cache.readdress(frame, value(block));
    }
    PageHeader& header = page(*writable).header();
    header.block = value(block);
    header.generation = value(current);
    source.return_page(old_block, made);
    return *writable;
}

void Btree::State::make_writable(Descent& descent) {
    for (std::uint32_t i = 0; i < descent.depth; ++i) {
        if (view(*descent.frames[i]).header().generation == value(current)) continue;
        descent.frames[i] = &make_writable(*descent.frames[i]);
        const PagePointer pointer{
            .block = descent.frames[i]->block, .generation = value(current), .checksum = 0};
        if (i == 0) {
            root = pointer;
        } else {
            page(*descent.frames[i - 1]).set_child(descent.slots[i - 1], pointer);
        }
    }
}

void Btree::State::give_back(Frame& frame) {
    const BlockIndex block{frame.block};
    const Generation made{view(frame).header().generation};
    cache.drop(frame);
    source.return_page(block, made);
}

void Btree::State::put(KeyView key, ValueView value) {
    if (height == 0) {
        Frame& frame = add_page(0);
        CHECK(page(frame).insert(0, key, value));
        frame.last_insert = 0;
        root = {.block = frame.block, .generation = blobstore::value(current), .checksum = 0};
        height = 1;
        return;
    }
    Descent descent;
    descend(key, Side::kAt, descent);
    CHECK(descent.end == Descent::End::kLeaf);
    const PinnedPath pinned(cache, descent);
    make_writable(descent);
    Page leaf = page(descent.leaf());
    const auto at = leaf.find(key);
    if (at.found) {
        if (leaf.replace(at.index, value)) return;
        leaf.erase(at.index);
    }
    insert(descent, descent.depth - 1, at.index, key, value);
}

// Puts the entry into the page at that depth, and what a split makes of it into those above.
void Btree::State::insert(Descent& descent, std::uint32_t depth, std::size_t index, KeyView key,
                          ValueView value) {
    Frame& frame = *descent.frames[depth];
    Page left = page(frame);
    if (left.insert(index, key, value)) {
        note_insertion(frame, index);
        return;
    }
    const std::size_t first_right = split_point(descent, depth, index, key, value);
    const std::uint32_t level = left.header().level;
    Frame& added = add_page(level);
    Page right = page(added);
    const Key separator = left.split(right, index, key, value, first_right);
    right.header().block = added.block;
    right.header().generation = blobstore::value(current);
    note_insertion(frame, index);
    added.ascending = frame.ascending;
    if (index >= first_right) {
        added.last_insert = static_cast<std::uint16_t>(index - first_right);
        frame.ascending = 0;
    } else {
        added.ascending = 0;
    }

    const PagePointer pointer{
        .block = added.block, .generation = blobstore::value(current), .checksum = 0};
    if (depth > 0) {
        insert(descent, depth - 1, descent.slots[depth - 1] + 1u, separator, bytes_of(pointer));
        return;
    }
    CHECK(height < kMaxTreeHeight);
    Frame& top = add_page(level + 1);
    Page above = page(top);
    CHECK(above.insert(0, {}, bytes_of(root)) && above.insert(1, separator, bytes_of(pointer)));
    top.last_insert = 1;
    root = {.block = top.block, .generation = blobstore::value(current), .checksum = 0};
    ++height;
}

// Where to split a page that overflows. A page that is filled in ascending order stays full, as
// nothing more will come to what is left of the insertion; other pages are halved.
std::size_t Btree::State::split_point(const Descent& descent, std::uint32_t depth,
                                      std::size_t index, KeyView key, ValueView value) const {
    const Frame& frame = *descent.frames[depth];
    const Page full = page(frame);
    const bool follows = index == frame.last_insert + 1u;
    if (index == full.size() && (follows || descent.upper(depth).empty())) return index;
    if (!follows || frame.ascending < kAscendingRun || index == 0) {
        return full.middle(index, key, value);
    }
    // What lies behind the insertion moves to the right, so that the left page has room for more.
    std::size_t left = sizeof(PageHeader) + kEntryOverheadBytes + key.size() + value.size();
    for (std::size_t i = 0; i < index; ++i) left += full.entry_bytes(i);
    return left <= full.page_bytes() ? index + 1 : index;
}

bool Btree::State::erase(KeyView key) {
    Descent descent;
    descend(key, Side::kAt, descent);
    if (descent.end == Descent::End::kEmpty) return false;
    CHECK(descent.end == Descent::End::kLeaf);
    const auto at = view(descent.leaf()).find(key);
    if (!at.found) return false;
    const PinnedPath pinned(cache, descent);
    make_writable(descent);
    Frame& frame = descent.leaf();
    page(frame).erase(at.index);
    frame.ascending = 0;
    shrink(descent, descent.depth - 1);
    return true;
}

// Removes the page at that depth when it is empty, merges it with a neighbour when it is small.
void Btree::State::shrink(Descent& descent, std::uint32_t depth) {
    if (depth == 0) {
        collapse_root();
        return;
    }
    Frame& frame = *descent.frames[depth];
    const Page small = page(frame);
    const std::uint16_t slot = descent.slots[depth - 1];
    if (small.size() == 0) {
        give_back(frame);
        Frame& parent = *descent.frames[depth - 1];
        page(parent).erase(slot);
        parent.ascending = 0;
        shrink(descent, depth - 1);
        return;
    }
    if (small.used_bytes() >= small.page_bytes() / 3) return;
    if (merge_with_sibling(descent, depth, true) || merge_with_sibling(descent, depth, false)) {
        shrink(descent, depth - 1);
    }
}

// Takes the entries of the page before (or behind) into the page at that depth, if that page has
// the same parent, is in memory, and both together leave some room.
bool Btree::State::merge_with_sibling(Descent& descent, std::uint32_t depth, bool left) {
    Frame& parent_frame = *descent.frames[depth - 1];
    Page parent = page(parent_frame);
    const std::uint16_t slot = descent.slots[depth - 1];
    if (left ? slot == 0 : slot + 1u >= parent.size()) return false;
    const std::size_t removed = left ? slot : slot + 1u;
    const std::size_t sibling_slot = left ? slot - 1u : slot + 1u;
    const PagePointer pointer = parent.child(sibling_slot);
    Frame* sibling = cache.find(pointer.block);
    Frame& frame = *descent.frames[depth];
    if (sibling == nullptr || sibling == &frame) return false;
    Page own = page(frame);
    const Page other = page(*sibling);
    if (other.header().level != own.header().level ||
        other.header().generation != pointer.generation) {
        return false;
    }
    const Key separator{parent.key(removed)};
    const Page& low = left ? other : own;
    const Page& high = left ? own : other;
    if (Page::merged_bytes(low, separator, high) > own.page_bytes() * 85 / 100) return false;
    // The sibling may be one that a damaged parent shares with another.
    if (check_range(low, {}, separator) != nullptr || check_range(high, separator, {}) != nullptr) {
        return false;
    }
    own.merge(low, separator, high);
    frame.ascending = 0;
    give_back(*sibling);
    if (left) parent.set_child(sibling_slot, parent.child(slot));
    parent.erase(removed);
    parent_frame.ascending = 0;
    return true;
}

// A root with one child gives way to it; one without entries leaves the tree empty.
void Btree::State::collapse_root() {
    while (height > 0) {
        Frame* frame = cache.find(root.block);
        if (frame == nullptr || view(*frame).header().level != height - 1) return;
        const PageView top = view(*frame);
        if (top.size() == 0) {
            give_back(*frame);
            root = {};
            height = 0;
            return;
        }
        if (top.leaf() || top.size() > 1) return;
        const PagePointer child = top.child(0);
        give_back(*frame);
        root = child;
        --height;
    }
}

}  // namespace blobfs::blobstore
