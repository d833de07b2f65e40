#include "tools/bench/store/blob_benchmark.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <random>

#include "blobstore/blobstore.h"
#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"

namespace blobfs::bench {

using blobstore::BlobId;
using blobstore::Blobstore;
using blobstore::Transaction;
using driver::Device;
using driver::DmaBuffer;
using driver::Suspend;
using Time = std::chrono::steady_clock;

namespace {

constexpr std::size_t kOwnMemoryBytes = std::size_t{256} << 20;
constexpr std::uint64_t kFillBytes = std::uint64_t{1} << 20;
// Looking at the clock costs as much as a part of a read.
constexpr unsigned kIosPerLook = 64;

double seconds_since(Time::time_point begin) {
    return std::chrono::duration<double>(Time::now() - begin).count();
}

// What the fibers share.
struct Run {
    Blobstore& store;
    const BlobWorkload& workload;
    BlobId blob;
    std::uint64_t blocks;
    Time::time_point begin;
    // One for all, as in blobfs-perf: those of all fibers would not fit into the first cache.
    std::mt19937_64 random{1};
    std::uint64_t ios = 0;
    std::optional<Error> error{};
    driver::WaitGroup fibers{};
};

Result<void> one_io(Suspend& suspend, Run& run, std::uint64_t offset, driver::DmaSpan memory) {
    if (!run.workload.writes) {
        TRY(run.store.read(suspend, run.blob, offset, memory));
        return {};
    }
    TRY_ASSIGN(const bool overwritten, run.store.overwrite(suspend, run.blob, offset, memory));
    if (overwritten) return {};
    Transaction transaction;
    TRY(run.store.write(suspend, run.blob, offset, memory, transaction));
    if (!transaction.empty()) TRY(run.store.commit(suspend, transaction));
    return {};
}

std::uint64_t below(std::mt19937_64& random, std::uint64_t limit) {
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(random()) * limit >> 64);
}

void load(Suspend& suspend, Run& run, driver::DmaSpan memory) {
    for (unsigned i = 0; !run.error; ++i) {
        if (i % kIosPerLook == 0 && seconds_since(run.begin) >= run.workload.seconds) break;
        const std::uint64_t offset = below(run.random, run.blocks) * run.workload.block_bytes;
        if (const auto done = one_io(suspend, run, offset, memory); !done) {
            run.error = done.error();
            break;
        }
        ++run.ios;
    }
    run.fibers.done();
}

Result<BlobId> fill(Suspend& suspend, Blobstore& store, std::uint64_t bytes) {
    TRY_ASSIGN(DmaBuffer buffer, DmaBuffer::allocate(kFillBytes));
    std::mt19937_64 random(1);
    for (std::byte& byte : buffer.span()) byte = static_cast<std::byte>(random());
    const BlobId blob = store.allocate_id();
    Transaction creation;
    creation.create_blob(blob, "");
    TRY(store.commit(suspend, creation));
    for (std::uint64_t at = 0; at < bytes; at += kFillBytes) {
        Transaction transaction;
        TRY(store.write(suspend, blob, at, buffer.span().first(std::min(kFillBytes, bytes - at)),
                        transaction));
        TRY(store.commit(suspend, transaction));
    }
    TRY(store.checkpoint(suspend));
    return blob;
}

Result<BlobResult> on_store(Suspend& suspend, driver::Reactor& reactor, Blobstore& store,
                            const BlobWorkload& workload, std::uint64_t bytes) {
    TRY_ASSIGN(const BlobId blob, fill(suspend, store, bytes));
    TRY_ASSIGN(DmaBuffer memory, DmaBuffer::allocate(workload.depth * workload.block_bytes));
    Run run{.store = store,
            .workload = workload,
            .blob = blob,
            .blocks = bytes / workload.block_bytes,
            .begin = Time::now()};
    run.fibers.add(workload.depth);
    for (std::uint32_t i = 0; i < workload.depth; ++i) {
        const driver::DmaSpan part =
            memory.span().subspan(i * workload.block_bytes, workload.block_bytes);
        reactor.spawn([&run, part](Suspend& fiber) { load(fiber, run, part); });
    }
    run.fibers.wait(suspend);
    if (run.error) return fail(*run.error);
    return BlobResult{.ios = run.ios, .seconds = seconds_since(run.begin)};
}

}  // namespace

Result<BlobResult> run_blob_benchmark(const BlobWorkload& workload) {
    TRY(driver::start_environment({.memory_bytes = kOwnMemoryBytes}));
    driver::Reactor reactor;
    return reactor.block_on([&](Suspend& suspend) -> Result<BlobResult> {
        TRY_ASSIGN(const std::unique_ptr<Device> device,
                   Device::open(suspend, workload.device, {}));
        std::uint64_t bytes = workload.blob_bytes;
        if (bytes == 0) bytes = device->properties().bytes / 2;
        bytes -= bytes % workload.block_bytes;
        if (bytes == 0) return fail(Errc::kInvalidArgument, "the blob is smaller than a block");
        TRY(Blobstore::format(suspend, *device, {}));
        TRY_ASSIGN(const std::unique_ptr<Blobstore> store, Blobstore::open(suspend, *device, {}));
        const Result<BlobResult> result = on_store(suspend, reactor, *store, workload, bytes);
        TRY(store->close(suspend));
        TRY(device->close(suspend));
        return result;
    });
}

}  // namespace blobfs::bench
