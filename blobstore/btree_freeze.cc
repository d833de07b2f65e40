// The tree's part of a checkpoint: freezing, which is one step, and sealing, which is not.
// README.md, "Sealing in steps".

#include <algorithm>
#include <utility>

#include "blobstore/btree_state.h"
#include "driver/base/check.h"

namespace blobfs::blobstore {

namespace {

// Sealed without suspending: some 100 us of checksums.
constexpr std::size_t kPagesPerStep = 32;

}  // namespace

void Btree::State::freeze(Frame& frame) {
    const PageView dirty = view(frame);
    if (!dirty.leaf()) {
        for (std::size_t i = 0; i < dirty.size(); ++i) {
            const PagePointer child = dirty.child(i);
            if (child.generation != value(current)) continue;
            Frame* below = cache.find(child.block);
            CHECK(below != nullptr);
            freeze(*below);
        }
    }
    cache.freeze(frame);
    frozen.push_back(&frame);
}

void Btree::freeze(Generation next) {
    State& state = *state_;
    CHECK(!state.cache.any_frozen() && state.frozen.empty() && next > state.current);
    state.frozen.reserve(state.cache.dirty_pages());
    state.frozen_root = {.page = state.root, .height = state.height};
    state.frozen_generation = state.current;
    if (state.height != 0 && state.root.generation == value(state.current)) {
        State::Frame* root = state.cache.find(state.root.block);
        CHECK(root != nullptr);
        state.freeze(*root);
    }
    // Every dirty page hangs on the root by dirty pages.
    CHECK(state.cache.dirty_pages() == 0);
    state.current = next;
}

// The pointer to a page, with its checksum if it is one of those that were frozen: it is sealed.
PagePointer Btree::State::sealed(const PagePointer& pointer) const {
    if (pointer.generation != value(frozen_generation)) return pointer;
    const Frame* frame = cache.find(pointer.block);
    CHECK(frame != nullptr && frame->frozen);
    PagePointer whole = pointer;
    whole.checksum = view(*frame).header().checksum;
    return whole;
}

void Btree::State::name_sealed(Page& parent) const {
    for (std::size_t i = 0; i < parent.size(); ++i) {
        const PagePointer child = parent.child(i);
        if (child.generation == value(frozen_generation)) parent.set_child(i, sealed(child));
    }
}

// The same for a page that was changed since the freeze, and for those below it.
void Btree::State::name_sealed_below(const PagePointer& changed) const {
    Frame* frame = cache.find(changed.block);
    CHECK(frame != nullptr);
    Page parent = page(*frame);
    if (parent.leaf()) return;
    name_sealed(parent);
    if (parent.header().level == 1) return;
    for (std::size_t i = 0; i < parent.size(); ++i) {
        const PagePointer child = parent.child(i);
        if (child.generation == value(current)) name_sealed_below(child);
    }
}

Btree::Frozen Btree::seal(Suspend& suspend) {
    State& state = *state_;
    Frozen result;
    result.pages.reserve(state.frozen.size());
    for (std::size_t i = 0; i < state.frozen.size(); ++i) {
        if (i % kPagesPerStep == kPagesPerStep - 1) suspend.yield();
        const State::Frame& frame = *state.frozen[i];
        Page page = state.page(frame);
        if (!page.leaf()) state.name_sealed(page);
        const BlockIndex block{frame.block};
        const DmaSpan bytes = state.cache.bytes(frame);
        state.io.seal(bytes, block, state.frozen_generation);
        result.pages.push_back({.block = block, .bytes = bytes});
    }
    state.frozen.clear();
    std::ranges::sort(result.pages, {}, &FrozenPage::block);
    result.root = std::exchange(state.frozen_root, {});
    if (result.root.height == 0) return result;
    result.root.page = state.sealed(result.root.page);
    // What was changed meanwhile has been copied with the checksums that there were before.
    if (state.height == 0) return result;
    state.root = state.sealed(state.root);
    if (state.root.generation == value(state.current)) state.name_sealed_below(state.root);
    return result;
}

void Btree::thaw() {
    CHECK(state_->frozen.empty());
    state_->cache.thaw();
}

}  // namespace blobfs::blobstore
