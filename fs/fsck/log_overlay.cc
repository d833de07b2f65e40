#include "fs/fsck/log_overlay.h"

#include <algorithm>

#include "blobstore/log_reader.h"
#include "blobstore/page.h"

namespace blobfs::fsck {

using blobstore::LogOperation;
using blobstore::LogOperationType;
using blobstore::Sequence;
using blobstore::Superblock;
using driver::Suspend;

namespace {

// What recovery would refuse.
const char* fault_of(const Superblock& superblock, const LogOperation& operation) {
    switch (operation.type) {
        case LogOperationType::kPut:
            return operation.value.size() > blobstore::max_value_bytes(superblock.page_bytes)
                       ? "a value that no page takes"
                       : nullptr;
        case LogOperationType::kAllocate:
        case LogOperationType::kFree: {
            const blobstore::Run& run = operation.run;
            const bool inside = run.first() >= log_end(superblock) &&
                                run.first() < superblock.block_count &&
                                run.blocks <= superblock.block_count - run.first();
            return inside ? nullptr : "blocks that the filesystem does not have";
        }
        default:
            return nullptr;
    }
}

void apply(const LogOperation& operation, LogOverlay& overlay) {
    switch (operation.type) {
        case LogOperationType::kPut:
            overlay.keys.put(operation.key, operation.value);
            return;
        case LogOperationType::kErase:
            overlay.keys.erase(operation.key);
            return;
        case LogOperationType::kAllocate:
            overlay.used.add(operation.run,
                             [&](const blobstore::Run& part) { overlay.used_twice.add(part); });
            return;
        case LogOperationType::kFree:
            overlay.freed.add(operation.run);
            return;
        case LogOperationType::kNextBlobId:
            overlay.next_blob_id = std::max(overlay.next_blob_id, value(operation.next_blob_id));
            return;
        default:
            return;
    }
}

}  // namespace

Result<LogOverlay> read_log(Suspend& suspend, driver::Device& device, const Superblock& superblock,
                            Findings& findings) {
    LogOverlay overlay;
    const char* fault = nullptr;
    bool has_data = false;
    blobstore::LogReader reader(
        device,
        {.uuid = superblock.uuid, .start = superblock.log_start, .blocks = superblock.log_blocks},
        superblock.epoch);
    const blobstore::LogPosition from{.block = superblock.log_position,
                                      .batch = superblock.log_batch};
    auto end = reader.replay(suspend, from, Sequence{superblock.transaction},
                             [&](Suspend&, Sequence, const LogOperation& operation) -> Result<void> {
                                 fault = fault_of(superblock, operation);
                                 if (fault != nullptr) return fail(Errc::kCorrupt, fault);
                                 has_data = has_data || operation.type == LogOperationType::kData;
                                 apply(operation, overlay);
                                 return {};
                             });
    // Which of it counts is known when the last batch is, that behind a damaged one included.
    blobstore::WriteAheadLog::Beyond beyond;
    if (end) {
        TRY_ASSIGN(beyond, reader.batches_beyond(suspend, end->position));
    }
    if (end && has_data) {
        const std::uint64_t data_from = std::max(end->data_from, beyond.data_from);
        end = reader.replay(suspend, from, Sequence{superblock.transaction},
                            [&](Suspend& s, Sequence, const LogOperation& operation) {
                                const bool counts = operation.type == LogOperationType::kData &&
                                                    operation.batch >= data_from;
                                return counts ? overlay.data.add(s, device, superblock, operation)
                                              : Result<void>();
                            });
    }
    if (end) {
        overlay.batches = end->batches;
        if (beyond.batches != 0) {
            const std::uint64_t block = superblock.log_start + end->position.block;
            findings.add({.problem = Problem::kLogDamaged,
                          .text = "the log is damaged at block " + std::to_string(block) +
                                  ": batch " + std::to_string(end->position.batch) +
                                  " is not there, and " + std::to_string(beyond.batches) +
                                  " later ones are, which cannot be replayed without it",
                          .block = block});
        }
        return overlay;
    }
    if (end.error().code != Errc::kCorrupt) return fail(end.error());
    overlay.batches = 1;
    findings.add({.problem = Problem::kLogDamaged,
                  .text = std::string("the log is damaged: ") + end.error().message(),
                  .block = fault == nullptr ? end.error().address / blobstore::kBlockBytes : 0});
    return overlay;
}

}  // namespace blobfs::fsck
