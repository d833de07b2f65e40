#include "tools/fsck/repair.h"

#include <algorithm>

#include "blobstore/blobstore.h"
#include "blobstore/store_state.h"
#include "tools/fsck/edit_plan.h"
#include "tools/fsck/store_rewrite.h"

namespace blobfs::fsck {

using blobstore::AttributesValue;
using blobstore::Blobstore;
using blobstore::Key;
using blobstore::KeyKind;
using blobstore::Run;
using blobstore::Superblock;
using blobstore::Transaction;
using driver::Device;
using driver::Suspend;

namespace {

constexpr std::size_t kKeysPerTransaction = 16;
constexpr std::size_t kRunsPerTransaction = 256;

Result<std::unique_ptr<Blobstore>> open_store(Suspend& suspend, Device& device) {
    return Blobstore::open(suspend, device, {.commit_interval_ms = 0, .keep_orphans = true});
}

// Both slots and their copy again, with the counters that the check found.
Result<void> write_superblocks(Suspend& suspend, Device& device, const Superblock& corrected) {
    Superblock fresh = corrected;
    // The slot of the next generation is the one that does not hold the newest.
    for (int i = 0; i < 2; ++i) {
        ++fresh.generation;
        TRY(write_superblock(suspend, device, fresh));
    }
    return write_superblock_copy(suspend, device, fresh);
}

class StoreEdit {
  public:
    StoreEdit(Suspend& suspend, Blobstore& store) : suspend_(suspend), store_(store) {}

    Result<void> change(const EditPlan& plan);
    Result<void> free(std::span<const Run> runs);

  private:
    Result<void> add(Transaction::State& transaction, const std::string& key,
                     const std::optional<std::string>& value);
    Result<void> commit(Transaction& transaction) {
        TRY(store_.commit(suspend_, transaction));
        return {};
    }

    Suspend& suspend_;
    Blobstore& store_;
};

Result<void> StoreEdit::add(Transaction::State& transaction, const std::string& key,
                            const std::optional<std::string>& value) {
    const bool attributes = key.size() == 9 && blobstore::key_kind(key) == KeyKind::kAttributes;
    std::string present;
    TRY_ASSIGN(const bool there, store_.state().tree.get(suspend_, key, present));
    if (!value) {
        if (there) transaction.erase(key);
    } else if (attributes && !there && value->size() >= sizeof(AttributesValue)) {
        // A new blob is counted.
        auto& update = transaction.attributes_of(blobstore::key_blob(key));
        update.create = true;
        update.block = value->substr(sizeof(AttributesValue));
        auto& next = store_.state().next_blob_id;
        next = std::max(next, blobstore::value(blobstore::key_blob(key)) + 1);
    } else {
        transaction.put(key, *value);
    }
    return {};
}

Result<void> StoreEdit::change(const EditPlan& plan) {
    auto next = plan.keys.changes().begin();
    const auto end = plan.keys.changes().end();
    while (next != end) {
        Transaction transaction;
        transaction.set_urgent();
        for (std::size_t i = 0; i < kKeysPerTransaction && next != end; ++i, ++next) {
            TRY(add(transaction.state(), next->first, next->second));
        }
        TRY(commit(transaction));
    }
    return {};
}

Result<void> StoreEdit::free(std::span<const Run> runs) {
    while (!runs.empty()) {
        const std::size_t count = std::min(kRunsPerTransaction, runs.size());
        Transaction transaction;
        transaction.set_urgent();
        const auto part = runs.first(count);
        transaction.state().frees.assign(part.begin(), part.end());
        TRY(commit(transaction));
        runs = runs.subspan(count);
    }
    return {};
}

// Opens the store, makes the changes, closes it clean. After an error the device is what a crash
// would have left.
Result<void> edit_store(Suspend& suspend, Device& device, const EditPlan& plan,
                        std::span<const Run> leaked) {
    TRY_ASSIGN(const std::unique_ptr<Blobstore> store, open_store(suspend, device));
    StoreEdit edit(suspend, *store);
    Result<void> status = edit.change(plan);
    if (status) status = edit.free(leaked);
    if (!status) {
        store->abandon(suspend);
        return status;
    }
    return store->close(suspend);
}

}  // namespace

Result<void> replay_log(Suspend& suspend, Device& device) {
    return edit_store(suspend, device, {}, {});
}

Result<std::string> repair(Suspend& suspend, Device& device, ImageCheck& check,
                           std::span<const Finding* const> accepted, Progress progress) {
    const auto any = [&](auto condition) {
        return std::any_of(accepted.begin(), accepted.end(),
                           [&](const Finding* finding) { return condition(finding->problem); });
    };
    TRY_ASSIGN(const EditPlan plan, plan_edits(suspend, check, accepted));
    if (any([](Problem problem) { return info_of(problem).rewrite; })) {
        TRY_ASSIGN(const RewriteReport report,
                   rewrite_store(suspend, device, check, plan, progress));
        TRY(edit_store(suspend, device, {}, report.left_over));
        std::string text = "wrote the tree (" + std::to_string(report.pages) +
                           " pages) and the allocation map anew";
        if (!check.whole()) {
            text += "; found " + std::to_string(report.found_entries) +
                    " entries of the lost parts in pages on the device";
        }
        return text;
    }
    if (any([](Problem problem) {
            return problem == Problem::kSuperblockSlot || problem == Problem::kSuperblockCopy ||
                   problem == Problem::kSuperblocksLost || problem == Problem::kSuperblockCounts;
        })) {
        const bool counts =
            any([](Problem problem) { return problem == Problem::kSuperblockCounts; });
        TRY(write_superblocks(suspend, device, counts ? check.corrected() : check.superblock()));
    }
    if (!plan.keys.empty() || !plan.leaked.empty()) {
        TRY(edit_store(suspend, device, plan, plan.leaked));
    }
    return std::string();
}

}  // namespace blobfs::fsck
