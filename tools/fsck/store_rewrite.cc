#include "tools/fsck/store_rewrite.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "blobstore/extent_map.h"
#include "blobstore/space_allocator.h"
#include "fs/fsck/map_walk.h"
#include "tools/fsck/leaf_search.h"
#include "tools/fsck/tree_builder.h"

namespace blobfs::fsck {

using blobstore::BlobId;
using blobstore::BlockIndex;
using blobstore::Extent;
using blobstore::ExtentValue;
using blobstore::Generation;
using blobstore::kBlockBytes;
using blobstore::Key;
using blobstore::KeyKind;
using blobstore::KeyView;
using blobstore::PageIo;
using blobstore::PagePointer;
using blobstore::Run;
using blobstore::SpaceAllocator;
using blobstore::Superblock;
using blobstore::ValueView;
using driver::Device;
using driver::DmaBuffer;
using driver::Suspend;

namespace {

constexpr std::uint64_t kCopyBytes = std::uint64_t{1} << 20;
// Batches of an epoch that a damaged superblock hides must never be taken for new ones.
constexpr std::uint64_t kEpochGap = 16;
constexpr std::uint64_t kIdGap = std::uint64_t{1} << 24;

bool is_extent(KeyView key) {
    return key.size() == 17 && blobstore::value(blobstore::key_blob(key)) != 0 &&
           blobstore::key_kind(key) == KeyKind::kExtent;
}

class FreeBlocks final : public BlockSource {
  public:
    FreeBlocks(const Superblock& superblock, std::uint64_t block_count, BlockBits& taken)
        : begin_(log_end(superblock)), end_(block_count), taken_(taken), page_at_(begin_) {}

    Result<BlockIndex> take(std::uint64_t blocks, std::uint64_t alignment) override {
        // Pages are asked for one after the other; other runs are rare.
        const bool page = blocks == alignment;
        std::uint64_t at = blobstore::round_up(page ? page_at_ : begin_, alignment);
        for (; at < end_ && blocks <= end_ - at; at += alignment) {
            if (at % 64 == 0 && taken_.word(at / 64) == ~0ull) {
                at = blobstore::round_up(at + 64, alignment) - alignment;
                continue;
            }
            const Run run{BlockIndex{at}, blocks};
            if (taken_.intersects(run)) continue;
            taken_.add(run);
            if (page) page_at_ = at + blocks;
            return run.start;
        }
        return fail(Errc::kNoSpace, "finding free space for the repair");
    }

  private:
    const std::uint64_t begin_, end_;
    BlockBits& taken_;
    std::uint64_t page_at_;
};

class Rewrite {
  public:
    // block_count: of the filesystem afterwards, not fewer than it has.
    Rewrite(Suspend& suspend, Device& device, ImageCheck& check, const EditPlan& plan,
            std::uint64_t block_count)
        : suspend_(suspend),
          device_(device),
          check_(check),
          plan_(plan),
          old_(check.superblock()),
          io_(device,
              {.uuid = old_.uuid, .page_bytes = old_.page_bytes, .block_count = block_count}),
          source_(old_, block_count, taken_),
          generation_(old_.generation + 1) {}

    Result<RewriteReport> run(Progress progress);

  private:
    Result<void> gather(Progress progress);
    void drop_stale_extents(KeyOverlay& found);
    Result<void> note_used();
    Result<void> copy_extents();
    Result<void> copy_extent(const std::string& key, const Extent& extent);
    Result<void> copy_blocks(const Extent& from, std::uint64_t to);
    Result<TreeRoot> build_tree(Progress progress);
    Result<void> build_map(Superblock& fresh);
    Result<void> write_superblocks(const TreeRoot& root);
    void note_left_over();

    Suspend& suspend_;
    Device& device_;
    ImageCheck& check_;
    const EditPlan& plan_;
    const Superblock& old_;
    PageIo io_;
    KeyOverlay edits_;
    BlockBits data_;   // what extents will have
    BlockBits taken_;  // data, pages old and new, and what the old map calls used
    BlockBits pages_;  // of the new tree and the new map
    FreeBlocks source_;
    const std::uint64_t generation_;
    bool keep_tree_ = false;
    std::uint64_t blobs_ = 0, highest_ = 0;
    RewriteReport report_;
};

// What is found in old pages may name blocks that have another use since: then the page is old.
void Rewrite::drop_stale_extents(KeyOverlay& found) {
    std::vector<std::string> stale;
    for (const auto& [key, value] : found.changes()) {
        if (!is_extent(key) || !value) continue;
        const auto extent = blobstore::decode_extent(key, *value, extent_bounds_of(old_));
        if (!extent) continue;
        const Run run{BlockIndex{extent->device}, extent->blocks};
        if (check_.metadata().intersects(run) || check_.data().intersects(run)) {
            stale.push_back(key);
        }
    }
    for (const std::string& key : stale) found.erase(key);
}

Result<void> Rewrite::gather(Progress progress) {
    TRY_ASSIGN(KeyOverlay found, search_leaves(suspend_, device_, check_, progress));
    report_.found_entries = found.changes().size();
    drop_stale_extents(found);
    edits_.add_all(found);
    edits_.add_all(check_.log().keys);
    edits_.add_all(plan_.keys);
    keep_tree_ =
        check_.whole() && check_.log().batches == 0 && plan_.keys.empty() && plan_.copies.empty();
    return {};
}

Result<void> Rewrite::note_used() {
    taken_.add_all(check_.metadata());
    // The copy of the superblock may be the only one.
    if (io_.geometry().block_count > old_.block_count) {
        taken_.add(Run{BlockIndex{old_.block_count}, 1});
    }
    taken_.add_all(check_.data());
    TRY_ASSIGN(PageReader reader, PageReader::create(device_, io_.geometry()));
    BlockBits visited;
    TRY(walk_map(suspend_, reader, old_,
                 {.enter =
                      [&](const PagePointer& pointer) {
                          bool twice = false;
                          visited.add(Run{BlockIndex{pointer.block}, io_.blocks_per_page()},
                                      [&](const Run&) { twice = true; });
                          return !twice;
                      },
                  .bitmap =
                      [&](std::uint64_t first_word, std::span<const std::uint64_t> words) {
                          RunCollector runs([&](const Run& run) { taken_.add(run); });
                          for (std::size_t i = 0; i < words.size(); ++i) {
                              runs.add_word(first_word + i, words[i]);
                          }
                          runs.finish();
                      },
                  .unused = [](const Run&) {},
                  .damaged = [](const PagePointer&, const Error&) {},
                  .miscounted = [](const PagePointer&, std::uint64_t, std::uint64_t) {}}));
    return check_.for_each_entry(
        suspend_, edits_, [&](KeyView key, ValueView value) -> Result<void> {
            if (!is_extent(key)) return {};
            const auto extent = blobstore::decode_extent(key, value, extent_bounds_of(old_));
            if (!extent) return {};
            data_.add(Run{BlockIndex{extent->device}, extent->blocks});
            taken_.add(Run{BlockIndex{extent->device}, extent->blocks});
            return {};
        });
}

Result<void> Rewrite::copy_blocks(const Extent& from, std::uint64_t to) {
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(kCopyBytes));
    const std::uint64_t step = kCopyBytes / kBlockBytes;
    for (std::uint64_t done = 0; done < from.blocks; done += step) {
        const auto bytes = buffer.span().first(std::min(step, from.blocks - done) * kBlockBytes);
        TRY(device_.read(suspend_, (from.device + done) * kBlockBytes, bytes));
        TRY(device_.write(suspend_, (to + done) * kBlockBytes, bytes));
    }
    report_.copied_blocks += from.blocks;
    return {};
}

Result<void> Rewrite::copy_extent(const std::string& key, const Extent& extent) {
    const BlobId blob = blobstore::key_blob(key);
    const std::uint64_t cluster = old_.cluster_bytes / kBlockBytes;
    edits_.erase(key);
    // In one piece where there is one that is free, in smaller and smaller ones where not.
    std::uint64_t piece = extent.blocks;
    for (std::uint64_t at = extent.first; at < extent.end();) {
        const Extent part = extent.clip(at, std::min(extent.end(), at + piece));
        const auto place = source_.take(part.blocks, cluster);
        if (!place) {
            if (piece <= cluster) return fail(place.error());
            piece = std::max(cluster, blobstore::round_down(piece / 2, cluster));
            continue;
        }
        if (part.written()) TRY(copy_blocks(part, value(*place)));
        const ExtentValue stored{.block = value(*place),
                                 .blocks = static_cast<std::uint32_t>(part.blocks),
                                 .flags = part.flags & blobstore::kExtentUnwritten};
        edits_.put(Key(blob, KeyKind::kExtent, at), blobstore::bytes_of(stored));
        data_.add(Run{*place, part.blocks});
        at = part.end();
    }
    return {};
}

Result<void> Rewrite::copy_extents() {
    for (const std::string& key : plan_.copies) {
        const auto* change = plan_.keys.find(key);
        if (change != nullptr && !*change) continue;
        TRY_ASSIGN(const std::string value, check_.read_key(suspend_, key));
        const auto extent = blobstore::decode_extent(key, value, extent_bounds_of(old_));
        if (extent) TRY(copy_extent(key, *extent));
    }
    return {};
}

Result<TreeRoot> Rewrite::build_tree(Progress progress) {
    TreeBuilder builder(io_, source_, Generation{generation_});
    const auto note = [&](KeyView key) {
        if (key.size() < 9) return false;
        const std::uint64_t blob = blobstore::value(blobstore::key_blob(key));
        highest_ = std::max(highest_, blob);
        const bool attributes =
            blob != 0 && key.size() == 9 && blobstore::key_kind(key) == KeyKind::kAttributes;
        blobs_ += attributes ? 1u : 0u;
        return true;
    };
    TRY(check_.for_each_entry(suspend_, edits_, [&](KeyView key, ValueView value) -> Result<void> {
        if (!note(key) || keep_tree_) return {};
        progress(Phase::kRewrite, std::min(blobs_, old_.blob_count), old_.blob_count);
        return builder.add(suspend_, key, value);
    }));
    report_.pages = builder.pages();
    if (keep_tree_) return TreeRoot{.page = old_.tree_root, .height = old_.tree_height};
    return builder.finish(suspend_);
}

Result<void> Rewrite::build_map(Superblock& fresh) {
    std::vector<Run> used;
    taken_.for_each_run([&](const Run& run) { used.push_back(run); });
    PageIo io(device_, io_.geometry());
    SpaceAllocator space(io, {.cluster_blocks = old_.cluster_bytes / kBlockBytes});
    TRY(space.create(suspend_, used, Generation{generation_}));
    while (!space.ready_to_freeze()) TRY(space.prepare_freeze(suspend_));
    const SpaceAllocator::Frozen frozen = space.freeze(Generation{generation_ + 1});
    for (const SpaceAllocator::FrozenPage& page : frozen.pages) {
        TRY(device_.write(suspend_, value(page.block) * kBlockBytes, page.bytes));
        pages_.add(Run{page.block, io_.blocks_per_page()});
    }
    fresh.map_root = frozen.root.page;
    fresh.map_height = frozen.root.height;
    fresh.free_blocks = frozen.root.free_blocks;
    space.release();
    return {};
}

Result<void> Rewrite::write_superblocks(const TreeRoot& root) {
    Superblock fresh = old_;
    fresh.block_count = io_.geometry().block_count;
    TRY(build_map(fresh));
    fresh.state = static_cast<std::uint32_t>(blobstore::SuperblockState::kClean);
    fresh.tree_root = root.page;
    fresh.tree_height = root.height;
    fresh.generation = generation_;
    fresh.epoch += kEpochGap;
    fresh.log_position = 0;
    fresh.log_batch = 1;
    fresh.blob_count = blobs_;
    fresh.next_blob_id =
        std::min(std::max({old_.next_blob_id, check_.log().next_blob_id, highest_ + 1}) + kIdGap,
                 blobstore::kBlobIdEnd);
    fresh.written_us =
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                       std::chrono::system_clock::now().time_since_epoch())
                                       .count());
    TRY(write_superblock(suspend_, device_, fresh));
    ++fresh.generation;
    TRY(write_superblock(suspend_, device_, fresh));
    return write_superblock_copy(suspend_, device_, fresh);
}

void Rewrite::note_left_over() {
    BlockBits owned;
    owned.add(Run{BlockIndex{0}, log_end(old_)});
    owned.add_all(data_);
    owned.add_all(pages_);
    RunCollector runs([&](const Run& run) { report_.left_over.push_back(run); });
    taken_.for_each_word([&](std::uint64_t index, std::uint64_t bits) {
        runs.add_word(index, bits & ~owned.word(index));
    });
    runs.finish();
}

Result<RewriteReport> Rewrite::run(Progress progress) {
    TRY(gather(progress));
    TRY(note_used());
    // The log is left behind: what it has of data goes to its place, where that is still data's.
    TRY(check_.log().data.write(suspend_, device_, [&](std::uint64_t block) {
        return data_.contains(block);
    }));
    TRY(copy_extents());
    BlockBits before;
    before.add_all(taken_);
    TRY_ASSIGN(const TreeRoot root, build_tree(progress));
    taken_.for_each_word([&](std::uint64_t index, std::uint64_t bits) {
        RunCollector added([&](const Run& run) { pages_.add(run); });
        added.add_word(index, bits & ~before.word(index));
        added.finish();
    });
    if (keep_tree_) {
        TRY_ASSIGN(PageReader reader, PageReader::create(device_, io_.geometry()));
        TRY(walk_tree(
            suspend_, reader, root,
            {.enter =
                 [&](const PagePointer& pointer, std::uint32_t, const KeyRange&) {
                     pages_.add(Run{BlockIndex{pointer.block}, io_.blocks_per_page()});
                     return true;
                 },
             .leaf = [](const blobstore::PageView&) { return Result<void>(); },
             .damaged = [](const PagePointer&, std::uint32_t, const KeyRange&, const Error&) {}}));
    }
    TRY(write_superblocks(root));
    note_left_over();
    return std::move(report_);
}

}  // namespace

Result<RewriteReport> rewrite_store(Suspend& suspend, Device& device, ImageCheck& check,
                                    const EditPlan& plan, Progress progress) {
    const Superblock& old = check.superblock();
    auto report = Rewrite(suspend, device, check, plan, old.block_count).run(progress);
    if (report || report.error().code != Errc::kNoSpace) return report;
    // What the device has beyond the filesystem, becomes part of it.
    const std::uint64_t copies = (old.compatible & blobstore::kSuperblockCopy) != 0 ? 1 : 0;
    const std::uint64_t blocks = device.properties().bytes / kBlockBytes - copies;
    if (blocks <= old.block_count) return report;
    return Rewrite(suspend, device, check, plan, blocks).run(progress);
}

}  // namespace blobfs::fsck
