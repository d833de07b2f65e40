#include "fs/fsck/block_bits.h"

#include <algorithm>
#include <bit>

namespace blobfs::fsck {

using blobstore::BlockIndex;
using blobstore::Run;

namespace {

// Calls visit(word index, mask) for each word that the run touches.
template <class Visit>
void for_each_mask(const Run& run, Visit visit) {
    std::uint64_t at = run.first();
    while (at < run.end()) {
        const std::uint64_t word = at / BlockBits::kBlocksPerWord;
        const std::uint64_t low = at % BlockBits::kBlocksPerWord;
        const std::uint64_t end = std::min(run.end(), (word + 1) * BlockBits::kBlocksPerWord);
        const std::uint64_t count = end - at;
        const std::uint64_t mask = count == 64 ? ~0ull : ((1ull << count) - 1) << low;
        visit(word, mask);
        at = end;
    }
}

}  // namespace

BlockBits::Chunk& BlockBits::chunk(std::uint64_t number) {
    if (number != last_number_) {
        auto& slot = chunks_[number];
        if (!slot) slot = std::make_unique<Chunk>();
        last_ = slot.get();
        last_number_ = number;
    }
    return *last_;
}

void BlockBits::add(const Run& run) {
    for_each_mask(run, [&](std::uint64_t index, std::uint64_t mask) {
        chunk(index / kWordsPerChunk)[index % kWordsPerChunk] |= mask;
    });
}

void BlockBits::add(const Run& run, absl::FunctionRef<void(const Run& part)> overlap) {
    RunCollector parts(overlap);
    for_each_mask(run, [&](std::uint64_t index, std::uint64_t mask) {
        std::uint64_t& word = chunk(index / kWordsPerChunk)[index % kWordsPerChunk];
        if ((word & mask) != 0) parts.add_word(index, word & mask);
        word |= mask;
    });
    parts.finish();
}

void BlockBits::add_all(const BlockBits& other) {
    for (const auto& [number, bits] : other.chunks_) {
        Chunk& into = chunk(number);
        for (std::size_t i = 0; i < kWordsPerChunk; ++i) into[i] |= (*bits)[i];
    }
}

bool BlockBits::intersects(const Run& run) const {
    bool found = false;
    for_each_mask(run, [&](std::uint64_t index, std::uint64_t mask) {
        found = found || (word(index) & mask) != 0;
    });
    return found;
}

std::uint64_t BlockBits::word(std::uint64_t index) const {
    const std::uint64_t number = index / kWordsPerChunk;
    if (number == last_number_) return (*last_)[index % kWordsPerChunk];
    const auto found = chunks_.find(number);
    return found == chunks_.end() ? 0 : (*found->second)[index % kWordsPerChunk];
}

void BlockBits::for_each_word(
    absl::FunctionRef<void(std::uint64_t index, std::uint64_t bits)> visit) const {
    for (const auto& [number, bits] : chunks_) {
        for (std::size_t i = 0; i < kWordsPerChunk; ++i) {
            if ((*bits)[i] != 0) visit(number * kWordsPerChunk + i, (*bits)[i]);
        }
    }
}

void BlockBits::for_each_run(absl::FunctionRef<void(const Run&)> visit) const {
    RunCollector runs(visit);
    for_each_word([&](std::uint64_t index, std::uint64_t bits) { runs.add_word(index, bits); });
    runs.finish();
}

void RunCollector::add_word(std::uint64_t index, std::uint64_t bits) {
    while (bits != 0) {
        const auto low = static_cast<std::uint64_t>(std::countr_zero(bits));
        const auto count = static_cast<std::uint64_t>(std::countr_one(bits >> low));
        add(Run{BlockIndex{index * BlockBits::kBlocksPerWord + low}, count});
        if (low + count == 64) break;
        bits &= ~0ull << (low + count);
    }
}

void RunCollector::add(const Run& run) {
    if (open_.blocks != 0 && open_.end() == run.first()) {
        open_.blocks += run.blocks;
        return;
    }
    finish();
    open_ = run;
}

void RunCollector::finish() {
    if (open_.blocks != 0) visit_(open_);
    open_ = {};
}

}  // namespace blobfs::fsck
