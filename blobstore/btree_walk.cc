// The walk over all pages of the tree, for the check.

#include <vector>

#include "blobstore/btree_state.h"
#include "driver/memory/dma_buffer.h"

namespace blobfs::blobstore {

namespace {

// One page on the way down, copied, as the cache may evict it while its children are read.
struct Step {
    driver::DmaBuffer memory;
    Key lower, upper;
    std::size_t next_child = 0;
};

}  // namespace

Result<void> Btree::walk(Suspend& suspend, absl::FunctionRef<bool(const WalkedPage&)> visit) {
    State& state = *state_;
    if (state.height == 0) return {};
    const std::uint32_t height = state.height;
    std::vector<Step> steps(height);
    for (Step& step : steps) {
        TRY_ASSIGN(step.memory, driver::DmaBuffer::allocate(state.cache.page_bytes()));
    }

    // Shows the page to the visitor and leaves it in the step's memory; false ends the walk.
    const auto show = [&](Step& step, const PagePointer& pointer, std::uint32_t level,
                          bool& good) -> bool {
        const DmaSpan into = step.memory.span().first(state.cache.page_bytes());
        WalkedPage walked{.pointer = pointer,
                          .level = level,
                          .lower = step.lower,
                          .upper = step.upper,
                          .page = nullptr,
                          .error = {}};
        Result<void> read;
        if (const State::Frame* frame = state.cache.find(pointer.block)) {
            std::memcpy(into.data(), frame->data, into.size());
        } else {
            read = state.io.read(suspend, pointer, into);
        }
        if (read) {
            const char* damage = validate_page(
                into, {.level = level, .block_count = state.io.geometry().block_count});
            if (damage == nullptr) {
                damage = check_range(PageView(into.data()), step.lower, step.upper);
            }
            if (damage != nullptr) {
                read = fail(Errc::kCorrupt, damage, pointer.block * kBlockBytes);
            }
        }
        const PageView page(into.data());
        good = read.has_value();
        if (good) {
            walked.page = &page;
        } else {
            walked.error = read.error();
        }
        step.next_child = 0;
        return visit(walked);
    };

    bool good = false;
    if (!show(steps[0], state.root, height - 1, good) || !good) return {};
    std::size_t depth = 0;
    for (;;) {
        Step& step = steps[depth];
        const PageView page(step.memory.data());
        if (page.leaf() || step.next_child == page.size()) {
            if (depth == 0) return {};
            --depth;
            continue;
        }
        const std::size_t child = step.next_child++;
        Step& below = steps[depth + 1];
        below.lower = child == 0 ? step.lower : Key(page.key(child));
        below.upper = child + 1 == page.size() ? step.upper : Key(page.key(child + 1));
        const auto level = static_cast<std::uint32_t>(height - 2 - depth);
        if (!show(below, page.child(child), level, good)) return {};
        if (good && level > 0) ++depth;
    }
}

}  // namespace blobfs::blobstore
