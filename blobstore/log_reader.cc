#include "blobstore/log_reader.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace blobfs::blobstore {

using driver::DmaBuffer;
using driver::Suspend;

Result<std::string_view> LogReader::load_blocks(Suspend& suspend, std::uint64_t block,
                                                std::uint64_t blocks) {
    const std::uint64_t capacity = window_.size() / kBlockBytes;
    CHECK(blocks <= capacity && block + blocks <= geometry_.blocks);
    if (block < window_block_ || block + blocks > window_block_ + window_blocks_) {
        // As much ahead as fits: the batches that follow are there then. Where that cannot be read
        // it may be beyond the log's end, so only what is needed counts.
        const std::uint64_t ahead = std::min(capacity, geometry_.blocks - block);
        window_blocks_ = 0;
        window_block_ = block;
        const auto span = window_.span();
        if (device_.read(suspend, byte_offset(block), span.first(ahead * kBlockBytes))) {
            window_blocks_ = ahead;
        } else {
            TRY(device_.read(suspend, byte_offset(block), span.first(blocks * kBlockBytes)));
            window_blocks_ = blocks;
        }
    }
    return std::string_view(
        reinterpret_cast<const char*>(window_.data()) + (block - window_block_) * kBlockBytes,
        blocks * kBlockBytes);
}

bool LogReader::is_expected(const LogBatchHeader& header, std::uint64_t block,
                            std::uint64_t number) const {
    return header.magic == kLogMagic && header.uuid == geometry_.uuid && header.epoch == epoch_ &&
           header.batch == number && header.blocks >= 1 && header.blocks <= kMaxBatchBlocks &&
           header.blocks <= geometry_.blocks - block &&
           header.payload_bytes <= std::uint64_t{header.blocks} * kBlockBytes - sizeof(header);
}

Result<std::optional<LogReader::FoundBatch>> LogReader::find_batch(Suspend& suspend,
                                                                   std::uint64_t block,
                                                                   std::uint64_t number) {
    TRY_ASSIGN(std::string_view bytes, load_blocks(suspend, block, 1));
    FoundBatch found{.header = load<LogBatchHeader>(bytes), .payload = {}, .block = block};
    if (!is_expected(found.header, block, number)) return std::optional<FoundBatch>();
    TRY_ASSIGN(bytes, load_blocks(suspend, block, found.header.blocks));
    found.payload = bytes.substr(sizeof(LogBatchHeader), found.header.payload_bytes);
    if (!is_whole(found)) return std::optional<FoundBatch>();
    return std::optional<FoundBatch>(found);
}

bool LogReader::is_whole(const FoundBatch& batch) const {
    LogBatchHeader unsummed = batch.header;
    unsummed.checksum = 0;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, &unsummed, sizeof(unsummed));
    XXH3_64bits_update(&state, batch.payload.data(), batch.payload.size());
    return XXH3_64bits_digest(&state) == batch.header.checksum;
}

Result<std::optional<LogReader::FoundBatch>> LogReader::find_any(Suspend& suspend,
                                                                 std::uint64_t block,
                                                                 std::uint64_t lowest) {
    TRY_ASSIGN(const std::string_view bytes, load_blocks(suspend, block, 1));
    const auto header = load<LogBatchHeader>(bytes);
    if (header.batch < lowest || !is_expected(header, block, header.batch)) {
        return std::optional<FoundBatch>();
    }
    return find_batch(suspend, block, header.batch);
}

Result<void> LogReader::check_content(const FoundBatch& batch, Sequence last_transaction) const {
    const std::uint64_t at = byte_offset(batch.block);
    const auto& header = batch.header;
    if (header.first_transaction != value(last_transaction) + 1 || header.transactions == 0 ||
        header.blocks !=
            round_up(sizeof(header) + header.payload_bytes, kBlockBytes) / kBlockBytes) {
        return fail(Errc::kCorrupt, "replaying the log: a batch header that makes no sense", at);
    }
    std::string_view rest = batch.payload;
    for (std::uint32_t i = 0; i < header.transactions; ++i) {
        const auto bytes =
            parse_transaction(rest, [](const LogOperation&) { return Result<void>(); });
        if (!bytes) {
            Error error = bytes.error();
            error.address = at;
            return fail(error);
        }
        rest.remove_prefix(*bytes);
    }
    if (!rest.empty()) {
        return fail(Errc::kCorrupt, "replaying the log: bytes behind the last transaction", at);
    }
    return {};
}

Result<void> LogReader::make_window() {
    if (window_) return {};
    const std::uint64_t blocks = std::min<std::uint64_t>(kMaxBatchBlocks, geometry_.blocks);
    TRY_ASSIGN(window_, DmaBuffer::allocate(blocks * kBlockBytes));
    return {};
}

Result<WriteAheadLog::Beyond> LogReader::batches_beyond(Suspend& suspend, const LogPosition& end) {
    TRY(make_window());
    WriteAheadLog::Beyond beyond;
    std::uint64_t last = 0;
    for (std::uint64_t block = 0; block < geometry_.blocks;) {
        const auto found = find_any(suspend, block, end.batch);
        // What cannot be read here is not needed: it proves nothing.
        if (!found || !*found) {
            ++block;
            continue;
        }
        const LogBatchHeader& header = (*found)->header;
        ++beyond.batches;
        if (header.batch > last) {
            last = header.batch;
            beyond.data_from = last - std::min<std::uint64_t>(header.data_batches, last);
        }
        block += header.blocks;
    }
    return beyond;
}

Result<WriteAheadLog::End> LogReader::replay(Suspend& suspend, const LogPosition& from,
                                             Sequence last_transaction,
                                             WriteAheadLog::Visit visit) {
    if (from.block >= geometry_.blocks) {
        return fail(Errc::kCorrupt, "replaying the log: it starts beyond its end");
    }
    TRY(make_window());
    WriteAheadLog::End end{.position = from, .last_transaction = last_transaction, .batches = 0};
    // Every batch takes a block, so more batches than the ring has cannot be.
    while (end.batches < geometry_.blocks) {
        TRY_ASSIGN(auto found, find_batch(suspend, end.position.block, end.position.batch));
        // A batch that did not fit before the ring's end was put at its start.
        if (!found && end.position.block != 0) {
            TRY_ASSIGN(found, find_batch(suspend, 0, end.position.batch));
        }
        if (!found) break;
        TRY(check_content(*found, end.last_transaction));
        std::string_view rest = found->payload;
        for (std::uint32_t i = 0; i < found->header.transactions; ++i) {
            const Sequence number{value(end.last_transaction) + 1};
            TRY_ASSIGN(const std::size_t bytes,
                       parse_transaction(rest, [&](const LogOperation& operation) {
                           LogOperation of_batch = operation;
                           of_batch.batch = end.position.batch;
                           return visit(suspend, number, of_batch);
                       }));
            rest.remove_prefix(bytes);
            end.last_transaction = number;
        }
        ++end.batches;
        end.data_from =
            end.position.batch - std::min<std::uint64_t>(found->header.data_batches,
                                                         end.position.batch);
        end.position = {.block = (found->block + found->header.blocks) % geometry_.blocks,
                        .batch = end.position.batch + 1};
    }
    return end;
}

}  // namespace blobfs::blobstore
