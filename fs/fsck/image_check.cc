#include "fs/fsck/image_check.h"

#include <algorithm>
#include <bit>

#include "blobstore/extent_map.h"
#include "fs/fsck/map_walk.h"

namespace blobfs::fsck {

using blobstore::BlobId;
using blobstore::BlockIndex;
using blobstore::Extent;
using blobstore::kBlockBytes;
using blobstore::Key;
using blobstore::KeyKind;
using blobstore::KeyView;
using blobstore::kSuperblockBlocks;
using blobstore::PagePointer;
using blobstore::PageView;
using blobstore::Run;
using blobstore::Superblock;
using blobstore::ValueView;
using driver::Suspend;

namespace {

constexpr int kMostPathNames = 64;

TreeRoot root_of(const Superblock& superblock) {
    return {.page = superblock.tree_root, .height = superblock.tree_height};
}

std::string page_text(const PagePointer& pointer) {
    return "the page at block " + std::to_string(pointer.block);
}

}  // namespace

std::string_view to_string(Phase phase) {
    switch (phase) {
        case Phase::kLog:
            return "reading the log";
        case Phase::kTree:
            return "checking files and pages";
        case Phase::kMap:
            return "checking free space";
        case Phase::kNames:
            return "checking names";
        case Phase::kSearch:
            return "searching for lost pages";
        case Phase::kRewrite:
            return "writing the tree";
    }
    return "";
}

ImageCheck::ImageCheck(driver::Device& device, const blobstore::SuperblockSlots& slots,
                       const Superblock& superblock, const CheckOptions& options)
    : device_(device),
      slots_(slots),
      superblock_(superblock),
      options_(options),
      corrected_(superblock),
      names_(findings_, options.most_name_bytes),
      keys_(std::make_unique<KeyCheck>(superblock_, findings_, names_)) {}

void ImageCheck::check_slots() {
    if (!slots_.slots[0] && !slots_.slots[1]) {
        findings_.add({.problem = Problem::kSuperblocksLost,
                       .text = std::string("both superblocks are lost (") +
                               slots_.slots[0].error().message() +
                               "); there is a copy, of generation " +
                               std::to_string(superblock_.generation),
                       .block = superblock_.block_count});
        return;
    }
    if (!slots_.copy) {
        findings_.add(
            {.problem = Problem::kSuperblockCopy,
             .text = std::string("the copy of the superblock: ") + slots_.copy.error().message(),
             .block = superblock_.block_count});
    }
    for (unsigned slot = 0; slot < 2; ++slot) {
        const auto& content = slots_.slots[slot];
        if (content) continue;
        findings_.add(
            {.problem = Problem::kSuperblockSlot,
             .text = "superblock slot " + std::to_string(slot) + ": " + content.error().message(),
             .block = kSuperblockBlocks[slot]});
    }
}

void ImageCheck::lose(const KeyRange& range) { lost_.push_back(range); }

Result<void> ImageCheck::check_tree(Suspend& suspend, Progress progress) {
    const std::uint64_t page_blocks = superblock_.page_bytes / kBlockBytes;
    const auto enter = [&](const PagePointer& pointer, std::uint32_t, const KeyRange& range) {
        bool twice = false;
        metadata_.add(Run{BlockIndex{pointer.block}, page_blocks},
                      [&](const Run&) { twice = true; });
        if (!twice) return true;
        findings_.add({.problem = Problem::kTreePageTwice,
                       .text = page_text(pointer) + " of the tree lies where another page lies",
                       .block = pointer.block});
        lose(range);
        return false;
    };
    const auto damaged = [&](const PagePointer& pointer, std::uint32_t level, const KeyRange& range,
                             const Error& error) {
        findings_.add({.problem = Problem::kTreePage,
                       .text = page_text(pointer) + " of the tree (level " + std::to_string(level) +
                               ") is damaged: " + error.message(),
                       .block = pointer.block});
        lose(range);
    };
    MergedEntries merged(log_.keys);
    const auto visit = [&](KeyView key, ValueView value) -> Result<void> {
        keys_->entry(key, value);
        return {};
    };
    const auto leaf = [&](const PageView& page) -> Result<void> {
        for (std::size_t i = 0; i < page.size(); ++i) {
            const KeyView key = page.key(i);
            blobs_in_tree_ += key.size() == 9 && blobstore::value(blobstore::key_blob(key)) != 0 &&
                                      blobstore::key_kind(key) == KeyKind::kAttributes
                                  ? 1u
                                  : 0u;
        }
        progress(Phase::kTree, std::min(keys_->blobs(), superblock_.blob_count),
                 superblock_.blob_count);
        return merged.leaf(page, visit);
    };
    TRY(walk_tree(suspend, *reader_, root_of(superblock_),
                  {.enter = enter, .leaf = leaf, .damaged = damaged}));
    TRY(merged.finish(visit));
    std::sort(lost_.begin(), lost_.end(),
              [](const KeyRange& a, const KeyRange& b) { return a.lower < b.lower; });
    keys_->finish(whole());
    return {};
}

void ImageCheck::compare_word(std::uint64_t index, std::uint64_t on_device,
                              RunCollector& not_marked, RunCollector& leaked,
                              RunCollector& log_wrong) {
    const std::uint64_t used = on_device | log_.used.word(index);
    const std::uint64_t marked = used & ~log_.freed.word(index);
    const std::uint64_t owned = metadata_.word(index) | keys_->data().word(index);
    used_blocks_ += static_cast<std::uint64_t>(std::popcount(marked));
    not_marked.add_word(index, owned & ~marked);
    leaked.add_word(index, marked & ~owned);
    // What the log makes used must have been free, and the other way round, or recovery refuses it.
    log_wrong.add_word(index, (on_device & log_.used.word(index)) | log_.used_twice.word(index) |
                                  (log_.freed.word(index) & ~used));
}

Result<void> ImageCheck::check_map(Suspend& suspend, Progress progress) {
    const std::uint64_t page_blocks = superblock_.page_bytes / kBlockBytes;
    const auto not_marked_run = [&](const Run& run) {
        findings_.add({.problem = Problem::kBlocksNotMarked,
                       .text = blocks_text(run) + " are in use, but free in the allocation map",
                       .block = run.first()});
    };
    const auto leaked_run = [&](const Run& run) {
        if (!whole()) return;  // what is lost may use them
        Finding finding{.problem = Problem::kBlocksLeaked,
                        .text = blocks_text(run) + " are used in the allocation map, but by nobody",
                        .block = run.first()};
        finding.leaked.push_back(run);
        findings_.add(std::move(finding));
    };
    const auto log_wrong_run = [&](const Run& run) {
        findings_.add({.problem = Problem::kBlocksNotMarked,
                       .text = blocks_text(run) + " become used or free by the log, and are so " +
                               "already in the allocation map",
                       .block = run.first()});
    };
    // The map's own pages are used, too: its bits are compared when all of them are known.
    const auto enter = [&](const PagePointer& pointer) {
        bool twice = false;
        metadata_.add(Run{BlockIndex{pointer.block}, page_blocks},
                      [&](const Run&) { twice = true; });
        if (twice) {
            findings_.add(
                {.problem = Problem::kMapPage,
                 .text = page_text(pointer) + " of the allocation map lies where another page lies",
                 .block = pointer.block});
        }
        return !twice;
    };
    const auto damaged = [&](const PagePointer& pointer, const Error& error) {
        findings_.add(
            {.problem = Problem::kMapPage,
             .text = page_text(pointer) + " of the allocation map is damaged: " + error.message(),
             .block = pointer.block});
    };
    const auto miscounted = [&](const PagePointer& pointer, std::uint64_t above,
                                std::uint64_t counted) {
        findings_.add({.problem = Problem::kMapCounts,
                       .text = page_text(pointer) + " of the allocation map has " +
                               std::to_string(counted) + " free blocks, and " +
                               std::to_string(above) + " are counted above it",
                       .block = pointer.block});
    };
    struct Bitmap {
        std::uint64_t first_word;
        std::vector<std::uint64_t> words;
    };
    std::vector<Bitmap> bitmaps;
    std::vector<Run> unused;
    TRY(walk_map(suspend, *reader_, superblock_,
                 {.enter = enter,
                  .bitmap =
                      [&](std::uint64_t first_word, std::span<const std::uint64_t> words) {
                          bitmaps.push_back({first_word, {words.begin(), words.end()}});
                          progress(Phase::kMap, first_word * 64, superblock_.block_count);
                      },
                  .unused = [&](const Run& run) { unused.push_back(run); },
                  .damaged = damaged,
                  .miscounted = miscounted}));
    RunCollector not_marked(not_marked_run);
    RunCollector leaked(leaked_run);
    RunCollector log_wrong(log_wrong_run);
    for (const Bitmap& bitmap : bitmaps) {
        for (std::size_t i = 0; i < bitmap.words.size(); ++i) {
            compare_word(bitmap.first_word + i, bitmap.words[i], not_marked, leaked, log_wrong);
        }
    }
    // Where the map has no page everything is free; only what somebody owns needs a look.
    BlockBits owned;
    owned.add_all(metadata_);
    owned.add_all(keys_->data());
    owned.add_all(log_.used);
    owned.add_all(log_.freed);
    owned.for_each_word([&](std::uint64_t index, std::uint64_t) {
        const auto part = std::lower_bound(
            unused.begin(), unused.end(), index * 64,
            [](const Run& run, std::uint64_t block) { return run.end() <= block; });
        if (part != unused.end() && part->first() <= index * 64) {
            compare_word(index, 0, not_marked, leaked, log_wrong);
        }
    });
    not_marked.finish();
    leaked.finish();
    log_wrong.finish();
    metadata_.for_each_word([&](std::uint64_t index, std::uint64_t bits) {
        RunCollector both([&](const Run& run) { contested_.add(run); });
        both.add_word(index, bits & keys_->data().word(index));
        both.finish();
    });
    contested_.add_all(keys_->twice());
    return {};
}

void ImageCheck::blame_extent(KeyView key, const Extent& extent, BlockBits& seen) {
    const Run run{BlockIndex{extent.device}, extent.blocks};
    if (!contested_.intersects(run)) return;
    const std::uint64_t blob = blobstore::value(blobstore::key_blob(key));
    const std::string where =
        inode_text(blob) + ": the extent at block " + std::to_string(extent.first);
    if (metadata_.intersects(run)) {
        Finding finding{.problem = Problem::kBlocksOfMetadata,
                        .text = where + " (" + blocks_text(run) + ") lies where metadata lie",
                        .inode = blob,
                        .block = run.first()};
        finding.keys.push_back({std::string(key), std::nullopt});
        findings_.add(std::move(finding));
        return;
    }
    bool later = false;
    seen.add(run, [&](const Run&) { later = true; });
    if (!later) return;
    Finding finding{.problem = Problem::kBlocksTwice,
                    .text = where + " (" + blocks_text(run) + ") belongs to another file, too",
                    .inode = blob,
                    .block = run.first()};
    finding.copies.push_back({std::string(key)});
    findings_.add(std::move(finding));
}

Result<void> ImageCheck::find_owners(Suspend& suspend) {
    BlockBits seen;
    return for_each_entry(suspend, {}, [&](KeyView key, ValueView value) -> Result<void> {
        if (key.size() != 17 || blobstore::value(blobstore::key_blob(key)) == 0 ||
            blobstore::key_kind(key) != KeyKind::kExtent) {
            return {};
        }
        const auto extent = blobstore::decode_extent(key, value, extent_bounds_of(superblock_));
        if (extent) blame_extent(key, *extent, seen);
        return {};
    });
}

void ImageCheck::check_counters() {
    if (!whole()) return;
    std::string wrong;
    const auto hold = [&](const char* what, std::uint64_t& said, std::uint64_t right) {
        if (said == right) return;
        wrong += (wrong.empty() ? "" : "; ") + std::string(what) + " is " + std::to_string(said) +
                 ", should be " + std::to_string(right);
        said = right;
    };
    hold("the number of files", corrected_.blob_count, blobs_in_tree_);
    const std::uint64_t next = std::max(corrected_.next_blob_id, log_.next_blob_id);
    if (keys_->highest_blob() >= next) {
        hold("the next inode number", corrected_.next_blob_id, keys_->highest_blob() + 1);
    }
    if (wrong.empty()) return;
    findings_.add({.problem = Problem::kSuperblockCounts,
                   .text = "the superblock: " + wrong,
                   .block = kSuperblockBlocks[blobstore::superblock_slot(superblock_.generation)]});
}

Result<void> ImageCheck::run(Suspend& suspend, Progress progress) {
    TRY_ASSIGN(PageReader reader, PageReader::create(device_,
                                                     {.uuid = superblock_.uuid,
                                                      .page_bytes = superblock_.page_bytes,
                                                      .block_count = superblock_.block_count},
                                                     options_.pace));
    reader_ = std::make_unique<PageReader>(std::move(reader));
    check_slots();
    if (!options_.without_log) {
        progress(Phase::kLog, 0, 1);
        TRY_ASSIGN(log_, read_log(suspend, device_, superblock_, findings_));
    }
    metadata_.add(Run{BlockIndex{0}, log_end(superblock_)});
    TRY(check_tree(suspend, progress));
    TRY(check_map(suspend, progress));
    if (!contested_.empty()) TRY(find_owners(suspend));
    check_counters();
    progress(Phase::kNames, 0, 1);
    return names_.finish(whole(), [&](std::string_view key) { return read_key(suspend, key); });
}

Result<std::string> ImageCheck::read_key(Suspend& suspend, KeyView key) {
    if (const auto* change = log_.keys.find(key)) return change->value_or("");
    PagePointer at = superblock_.tree_root;
    for (std::uint32_t level = superblock_.tree_height; level-- > 0;) {
        TRY(reader_->read(suspend, std::span(&at, 1)));
        if (!reader_->status(0) ||
            blobstore::validate_page(reader_->bytes(0),
                                     {.level = level, .block_count = superblock_.block_count}) !=
                nullptr) {
            return std::string();
        }
        const PageView page(reader_->bytes(0).data());
        if (level == 0) {
            const PageView::Position position = page.find(key);
            return position.found ? std::string(page.value(position.index)) : std::string();
        }
        at = page.child(page.child_of(key));
    }
    return std::string();
}

std::string ImageCheck::path_of(Suspend& suspend, std::uint64_t inode) {
    std::string path;
    const std::uint64_t root = fs::value(fs::kRootInode);
    for (int i = 0; i < kMostPathNames && inode != root; ++i) {
        const NameCheck::Place place = names_.place_of(inode);
        if (place.directory == 0) return {};
        const std::string key = fs::big_endian_key(place.key);
        const auto bytes = read_key(suspend, Key(BlobId{place.directory}, KeyKind::kRecord, key));
        if (!bytes) return {};
        const auto entry = fs::decode_entry(fs::InodeNumber{place.directory}, key, *bytes);
        if (!entry) return {};
        path = "/" + std::string(entry->name) + path;
        inode = place.directory;
    }
    if (inode != root) return {};
    return path.empty() ? "/" : path;
}

Result<void> ImageCheck::for_each_entry(Suspend& suspend, const KeyOverlay& edits,
                                        MergedEntries::Visit visit) {
    KeyOverlay both;
    both.add_all(log_.keys);
    both.add_all(edits);
    MergedEntries merged(both);
    // Pages that are reached twice were told of before.
    BlockBits visited;
    const std::uint64_t page_blocks = superblock_.page_bytes / kBlockBytes;
    const auto enter = [&](const PagePointer& pointer, std::uint32_t, const KeyRange&) {
        bool twice = false;
        visited.add(Run{BlockIndex{pointer.block}, page_blocks}, [&](const Run&) { twice = true; });
        return !twice;
    };
    TRY(walk_tree(
        suspend, *reader_, root_of(superblock_),
        {.enter = enter,
         .leaf = [&](const PageView& page) { return merged.leaf(page, visit); },
         .damaged = [](const PagePointer&, std::uint32_t, const KeyRange&, const Error&) {}}));
    return merged.finish(visit);
}

}  // namespace blobfs::fsck
