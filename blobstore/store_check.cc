// Holds everything against everything: the tree's pages and keys, blobs against their extents,
// runs against each other and against the allocation map, counts.

#include <absl/container/flat_hash_set.h>

#include <algorithm>

#include "blobstore/extent_map.h"
#include "blobstore/page.h"
#include "blobstore/store_state.h"

namespace blobfs::blobstore {

namespace {

constexpr std::size_t kMostFindings = 1000;

class Checker {
  public:
    explicit Checker(Blobstore::State& store) : store_(store) {}

    Result<std::vector<std::string>> run(Suspend& suspend);

  private:
    struct Owned {
        Run run;
        std::uint64_t owner;  // blob id; 0: metadata
    };

    void find(std::string text) {
        if (findings_.size() < kMostFindings) findings_.push_back(std::move(text));
    }
    void visit_entry(KeyView key, ValueView value);
    void visit_store_key(KeyView key, ValueView value);
    void start_blob(BlobId blob);
    void finish_blob();
    void check_runs();
    Result<void> check_map(Suspend& suspend);

    Blobstore::State& store_;
    std::vector<std::string> findings_;
    std::vector<Owned> owned_;
    absl::flat_hash_set<std::uint64_t> orphans_, orphans_found_;
    std::uint64_t blobs_ = 0, highest_ = 0;
    bool unreadable_ = false;

    // The blob whose keys are being visited.
    std::uint64_t blob_ = 0;
    bool attributes_ = false, inline_flag_ = false, inline_data_ = false;
    std::uint64_t claimed_ = 0, mapped_ = 0, last_end_ = 0;
};

std::string named(const char* what, std::uint64_t number) {
    return std::string(what) + " " + std::to_string(number);
}

void Checker::start_blob(BlobId blob) {
    blob_ = value(blob);
    attributes_ = inline_flag_ = inline_data_ = false;
    claimed_ = mapped_ = last_end_ = 0;
}

void Checker::finish_blob() {
    if (blob_ == 0) return;
    if (!attributes_) {
        find(named("blob", blob_) + " has keys but no attributes");
        return;
    }
    ++blobs_;
    highest_ = std::max(highest_, blob_);
    if (orphans_.contains(blob_)) orphans_found_.insert(blob_);
    // A blob that is being deleted or cut may have fewer.
    if (claimed_ != mapped_ && !orphans_.contains(blob_)) {
        find(named("blob", blob_) + " says that it has " + std::to_string(claimed_) +
             " blocks, its extents have " + std::to_string(mapped_));
    }
    if (inline_data_ && !inline_flag_) find(named("blob", blob_) + " has inline data unasked");
    if (inline_flag_ && mapped_ != 0) find(named("blob", blob_) + " is inline and has extents");
}

void Checker::visit_store_key(KeyView key, ValueView bytes) {
    if (key.size() == 17) {
        const KeyKind kind = key_kind(key);
        const bool known =
            (kind == KeyKind::kOrphan && bytes.empty()) ||
            (kind == KeyKind::kTruncation && bytes.size() == sizeof(TruncationValue) &&
             load<TruncationValue>(bytes).size <= kMaxBlobBytes);
        if (known) {
            orphans_.insert(load_big_endian(key_tail(key)));
            return;
        }
    }
    find("a key of the store itself is of an unknown kind");
}

void Checker::visit_entry(KeyView key, ValueView bytes) {
    if (key.size() < 9) return find("a key is too short");
    const BlobId blob = key_blob(key);
    if (value(blob) == 0) return visit_store_key(key, bytes);
    if (value(blob) != blob_) {
        finish_blob();
        start_blob(blob);
    }
    switch (key_kind(key)) {
        case KeyKind::kAttributes: {
            attributes_ = true;
            if (key.size() != 9 || bytes.size() < sizeof(AttributesValue) ||
                bytes.size() > sizeof(AttributesValue) + kMaxAttributeBlockBytes) {
                return find(named("blob", blob_) + " has attributes of a wrong length");
            }
            const auto head = load<AttributesValue>(bytes);
            claimed_ = head.allocated_blocks;
            inline_flag_ = (head.flags & kBlobInline) != 0;
            const bool possible = head.size <= kMaxBlobBytes && (head.flags & ~kBlobInline) == 0 &&
                                  head.reserved == 0;
            // What is to be deleted needs none.
            if (!possible && !orphans_.contains(blob_)) {
                find(named("blob", blob_) + " has impossible attributes");
            }
            return;
        }
        case KeyKind::kInlineData:
            inline_data_ = true;
            if (key.size() != 9 || bytes.size() > store_.inline_limit()) {
                find(named("blob", blob_) + " has too much inline data");
            }
            return;
        case KeyKind::kExtent: {
            const auto extent = decode_extent(key, bytes, store_.extent_bounds());
            if (!extent) return find(named("blob", blob_) + " has an impossible extent");
            if (extent->first < last_end_) find(named("blob", blob_) + " has overlapping extents");
            if (extent->first % store_.cluster_blocks() != 0 ||
                extent->blocks % store_.cluster_blocks() != 0 ||
                extent->device % store_.cluster_blocks() != 0) {
                find(named("blob", blob_) + " has an extent that is not whole clusters");
            }
            last_end_ = extent->end();
            mapped_ += extent->blocks;
            owned_.push_back({Run{BlockIndex{extent->device}, extent->blocks}, blob_});
            return;
        }
        case KeyKind::kXattr:
            if (key_tail(key).size() < 3 || key_tail(key)[key_tail(key).size() - 2] != '\0') {
                find(named("blob", blob_) + " has an extended attribute without a name");
            }
            return;
        case KeyKind::kRecord:
            if (key_tail(key).size() > kMaxRecordKeyBytes || bytes.size() > kMaxRecordValueBytes) {
                find(named("blob", blob_) + " has a record that is too long");
            }
            return;
        default:
            find(named("blob", blob_) + " has a key of an unknown kind");
    }
}

void Checker::check_runs() {
    std::sort(owned_.begin(), owned_.end(),
              [](const Owned& a, const Owned& b) { return a.run.first() < b.run.first(); });
    for (std::size_t i = 1; i < owned_.size(); ++i) {
        if (owned_[i - 1].run.end() > owned_[i].run.first()) {
            find(named("block", owned_[i].run.first()) + " belongs to " +
                 (owned_[i - 1].owner == 0 ? "metadata" : named("blob", owned_[i - 1].owner)) +
                 " and to " + (owned_[i].owner == 0 ? "metadata" : named("blob", owned_[i].owner)));
        }
    }
}

Result<void> Checker::check_map(Suspend& suspend) {
    std::vector<Run> used;
    const auto own = [&](const Run& run) { owned_.push_back({run, 0}); };
    const auto note_used = [&](const Run& run) { used.push_back(run); };
    const SpaceAllocator::Visitor visitor{.map_page = own, .used = note_used, .pending = own};
    TRY(store_.space.walk(suspend, visitor));
    check_runs();
    if (unreadable_) return {};  // what is below a damaged page is used, but by whom is not known
    // Both lists are ascending: walk them side by side, block ranges as one line.
    std::size_t i = 0, k = 0;
    std::uint64_t at = 0, used_blocks = 0;
    for (const Run& run : used) used_blocks += run.blocks;
    constexpr std::uint64_t kEnd = ~std::uint64_t{0};
    while (i < owned_.size() || k < used.size()) {
        const bool in_owned = i < owned_.size() && owned_[i].run.first() <= at;
        const bool in_used = k < used.size() && used[k].first() <= at;
        const auto edge = [&](bool inside, std::uint64_t first, std::uint64_t end) {
            return inside ? end : first;
        };
        const std::uint64_t next = std::min(
            i < owned_.size() ? edge(in_owned, owned_[i].run.first(), owned_[i].run.end()) : kEnd,
            k < used.size() ? edge(in_used, used[k].first(), used[k].end()) : kEnd);
        if (next > at && in_owned != in_used) {
            find("blocks " + std::to_string(at) + " to " + std::to_string(next - 1) +
                 (in_owned ? " are in use but free in the allocation map"
                           : " are used in the allocation map but by nobody"));
        }
        at = std::max(at, next);
        while (i < owned_.size() && owned_[i].run.end() <= at) ++i;
        while (k < used.size() && used[k].end() <= at) ++k;
    }
    const std::uint64_t free_blocks = store_.superblock.block_count - used_blocks;
    if (!store_.read_only && free_blocks != store_.superblock.free_blocks) {
        find("the superblock says that " + std::to_string(store_.superblock.free_blocks) +
             " blocks are free, the map says " + std::to_string(free_blocks));
    }
    return {};
}

Result<std::vector<std::string>> Checker::run(Suspend& suspend) {
    owned_.push_back({Run{BlockIndex{0}, log_end(store_.superblock)}, 0});
    const std::uint64_t page_blocks = store_.superblock.page_bytes / kBlockBytes;
    TRY(store_.tree.walk(suspend, [&](const Btree::WalkedPage& walked) {
        if (walked.page == nullptr) {
            unreadable_ = true;
            find("a tree page is damaged: " + walked.error.message());
            return true;
        }
        owned_.push_back({Run{BlockIndex{walked.pointer.block}, page_blocks}, 0});
        if (walked.level == 0) {
            for (std::size_t i = 0; i < walked.page->size(); ++i) {
                visit_entry(walked.page->key(i), walked.page->value(i));
            }
        }
        return true;
    }));
    finish_blob();
    for (const std::uint64_t orphan : orphans_) {
        if (!orphans_found_.contains(orphan)) find(named("orphan", orphan) + " does not exist");
    }
    if (!unreadable_ && blobs_ != store_.blob_count) {
        find("there are " + std::to_string(blobs_) + " blobs, " +
             std::to_string(store_.blob_count) + " were counted");
    }
    if (highest_ >= store_.next_blob_id) find(named("blob", highest_) + " has an id not given yet");
    TRY(check_map(suspend));
    return std::move(findings_);
}

}  // namespace

Result<std::vector<std::string>> Blobstore::check(Suspend& suspend) {
    if (!state_->read_only) {
        // Twice: the first frees what is pending, the second makes the map say so.
        TRY(state_->checkpoint(suspend, SuperblockState::kInUse));
        TRY(state_->checkpoint(suspend, SuperblockState::kInUse));
    }
    Checker checker(*state_);
    return checker.run(suspend);
}

}  // namespace blobfs::blobstore
