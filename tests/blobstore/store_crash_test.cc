// Power cuts at every point of a workload: what a cut could leave is mounted and held against what
// was promised. BLOBFS_SEED chooses the workload, BLOBFS_CUTS how many cuts are tried.
//
// Promised (design, section 7; blobstore.h): after a cut the metadata is the state after some
// prefix of the committed transactions, which holds everything that was synced; data that was
// synced is there; no sector shows what was never written to that place of that blob; all space is
// accounted for; a cut during the recovery changes nothing of that.

#include <absl/functional/function_ref.h>
#include <gtest/gtest-spi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <tuple>
#include <vector>

#include "driver/memory/dma_buffer.h"
#include "driver/soft/power_cut_medium.h"
#include "lost_superblocks.h"
#include "store_fixture.h"

namespace blobfs::blobstore {
namespace {

using driver::PowerCutMedium;
using driver::SparseImage;

constexpr std::uint64_t kDeviceBytes = 24 << 20;
constexpr std::uint64_t kFreeBytes = 2 << 20;
constexpr std::size_t kSector = 512;
constexpr std::size_t kMostSectors = 640;  // of a blob
constexpr std::uint64_t kActors = 3;
// A run is the same for the same seed: no clock takes part.
constexpr std::uint64_t kVirtualTurnUs = 5;
// As long as the store waits before it makes a checkpoint by itself.
constexpr std::uint64_t kSlowPolls = 600;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// What every written sector holds: whose it is, where, and by which write. No two are alike.
struct Stamp {
    std::uint64_t blob, sector, write, check;
};
Stamp stamp(std::uint64_t blob, std::uint64_t sector, std::uint64_t write) {
    return {blob, sector, write, blob * 31 + sector * 17 + write};
}

// One step of the history of a blob's transactional state.
struct Version {
    std::uint64_t sequence;  // of the transaction that made it
    bool exists;
    std::uint64_t size;
    std::string record;
};

// One event in the history of a sector's data.
struct SectorEvent {
    std::uint64_t write;    // 0: zeroes (cut off, deallocated)
    std::size_t issued_at;  // journal length when it was sent
    std::size_t synced_at;  // journal length when a sync that covers it had returned; or never
    bool done = false;      // the call that made it has returned
    bool refused = false;   // with an error: nothing, or a part of it, is there
};
constexpr std::size_t kNever = ~std::size_t{0};

struct BlobHistory {
    std::vector<Version> versions;
    std::map<std::uint64_t, std::vector<SectorEvent>> sectors;
};

struct SyncPoint {
    std::size_t journal;     // length when it returned
    std::uint64_t sequence;  // everything up to it was durable
};

// Runs a workload on a power-cut medium and remembers what happened.
class Workload {
  public:
    Workload(driver::Reactor& reactor, std::uint64_t seed, std::optional<OrderRule> broken = {})
        : reactor_(reactor), random_(seed), broken_(broken) {}

    void run(Suspend& suspend, std::unique_ptr<PowerCutMedium> medium, std::uint64_t steps,
             const FormatOptions& format);
    // Goes on with what a cut has left of an earlier one: all that is found then is durable.
    void go_on(Suspend& suspend, std::unique_ptr<PowerCutMedium> medium, std::uint64_t steps,
               const Workload& earlier);

    std::map<std::uint64_t, BlobHistory> blobs;
    std::vector<SyncPoint> syncs;
    std::size_t formatted_at = 0;
    // Before that the copy of the superblock may be of a checkpoint before what was found.
    std::size_t copied_at = 0;

    PowerCutMedium* medium = nullptr;
    std::unique_ptr<Device> device;

  private:
    std::uint64_t below(std::uint64_t n) { return random_() % n; }
    void step(Suspend& suspend, std::uint64_t actor);
    void change(Suspend& suspend, std::uint64_t id);
    void sync(Suspend& suspend);
    std::uint64_t commit(Suspend& suspend, Transaction& transaction) {
        return value(must(store_->commit(suspend, transaction)));
    }
    // The device is nearly full all the time: what does not fit does not happen.
    static bool full(const Result<void>& result) {
        if (!result && result.error().code == Errc::kNoSpace) return true;
        must(result);
        return false;
    }
    void fill_device(Suspend& suspend);
    void open(Suspend& suspend);
    void work(Suspend& suspend, std::uint64_t steps);
    void find_blob(Suspend& suspend, std::uint64_t id, const BlobHistory& earlier);
    void write(Suspend& suspend, std::uint64_t id, std::uint64_t first, std::uint64_t sectors);
    void commit_change(Suspend& suspend, std::uint64_t id, Version version,
                       Transaction& transaction);
    void comb(Suspend& suspend, std::uint64_t id);
    // What was just sent to the blob did not happen, or not whole.
    void refuse(std::uint64_t id) {
        for (auto& [sector, events] : blobs[id].sectors) {
            if (!events.back().done) events.back().refused = true;
        }
    }
    void remember(std::uint64_t id, Version version) {
        blobs[id].versions.push_back(std::move(version));
    }

    driver::Reactor& reactor_;
    std::mt19937_64 random_;
    std::optional<OrderRule> broken_;
    std::unique_ptr<Blobstore> store_;
    std::map<std::uint64_t, std::vector<std::uint64_t>> live_;  // by actor
    std::uint64_t writes_ = 0;
};

void Workload::sync(Suspend& suspend) {
    // Covers what had returned before the call.
    std::uint64_t sequence = 0;
    std::vector<std::tuple<std::uint64_t, std::uint64_t, std::size_t>> covered;
    for (auto& [id, blob] : blobs) {
        for (const Version& version : blob.versions)
            sequence = std::max(sequence, version.sequence);
        for (auto& [sector, history] : blob.sectors) {
            for (std::size_t i = 0; i < history.size(); ++i) {
                if (history[i].done && history[i].synced_at == kNever) {
                    covered.emplace_back(id, sector, i);
                }
            }
        }
    }
    must(below(6) == 0 ? store_->checkpoint(suspend) : store_->sync(suspend));
    const std::size_t now = medium->journal().size();
    syncs.push_back({.journal = now, .sequence = sequence});
    for (const auto& [id, sector, i] : covered) {
        SectorEvent& event = blobs[id].sectors[sector][i];
        event.synced_at = std::min(event.synced_at, now);
    }
}

void Workload::change(Suspend& suspend, std::uint64_t id) {
    const BlobId blob{id};
    BlobHistory& history = blobs[id];
    Version version = history.versions.back();
    Transaction transaction;
    // What this does to sectors is noted when it is sent, and as done when it has returned.
    const std::uint64_t kind = below(41);
    if (kind < 24) {
        const std::uint64_t first = below(4) == 0 ? below(kMostSectors - 40) : below(48);
        return write(suspend, id, first, 1 + below(below(3) == 0 ? 40 : 9));
    } else if (kind == 40 && broken_ != OrderRule::kNeverInPlace) {
        // (With pages that are used again at once so many changes end in the cache's own check.)
        return comb(suspend, id);
    } else if (kind < 32) {
        const std::uint64_t size = below(kMostSectors) * kSector;
        for (auto& [sector, events] : history.sectors) {
            if (sector * kSector < size) continue;
            events.push_back(
                {.write = 0, .issued_at = medium->journal().size(), .synced_at = kNever});
        }
        if (full(store_->truncate(suspend, blob, size, transaction))) return refuse(id);
        version.size = size;
    } else {
        const std::uint64_t first = below(64), sectors = 1 + below(64);
        for (std::uint64_t i = first; i < first + sectors; ++i) {
            const auto found = history.sectors.find(i);
            if (found == history.sectors.end()) continue;
            found->second.push_back(
                {.write = 0, .issued_at = medium->journal().size(), .synced_at = kNever});
        }
        if (full(store_->deallocate(suspend, blob, first * kSector, sectors * kSector,
                                    transaction))) {
            return refuse(id);
        }
    }
    commit_change(suspend, id, version, transaction);
}

void Workload::commit_change(Suspend& suspend, std::uint64_t id, Version version,
                             Transaction& transaction) {
    version.record = std::to_string(below(1'000'000));
    transaction.put_record(BlobId{id}, "state", version.record);
    const auto committed = store_->commit(suspend, transaction);
    if (!committed && committed.error().code == Errc::kNoSpace) return refuse(id);
    version.sequence = value(must(committed));
    remember(id, version);
    for (auto& [sector, events] : blobs[id].sectors) {
        if (!events.back().refused) events.back().done = true;
    }
}

// What this does to sectors is noted when it is sent, and as done when it has returned.
void Workload::write(Suspend& suspend, std::uint64_t id, std::uint64_t first,
                     std::uint64_t sectors) {
    BlobHistory& history = blobs[id];
    Version version = history.versions.back();
    const std::uint64_t write = ++writes_;
    const driver::DmaBuffer data = must(driver::DmaBuffer::allocate(64 * kSector));
    for (std::uint64_t i = 0; i < sectors; ++i) {
        const Stamp mark = stamp(id, first + i, write);
        for (std::size_t at = 0; at < kSector; at += sizeof(mark)) {
            std::memcpy(data.data() + i * kSector + at, &mark, sizeof(mark));
        }
        history.sectors[first + i].push_back(
            {.write = write, .issued_at = medium->journal().size(), .synced_at = kNever});
    }
    Transaction transaction;
    const ConstDmaSpan from = data.span().first(sectors * kSector);
    // Committed before its data is there: whatever is done from then on comes behind it.
    const auto committed = [&](bool) {
        const std::uint64_t size = std::max(version.size, (first + sectors) * kSector);
        if (size == version.size) return;
        Transaction nothing;
        version.size = size;
        version.sequence = commit(suspend, nothing);  // of the last one; does not suspend
        remember(id, version);
    };
    std::optional<UnderWay> under_way;
    if (below(2) == 0) under_way.emplace(committed);
    const auto put = [&]() -> Result<void> {
        TRY_ASSIGN(const bool overwritten,
                   store_->overwrite(suspend, BlobId{id}, first * kSector, from));
        if (overwritten) return {};
        return store_->write(suspend, BlobId{id}, first * kSector, from, transaction, under_way);
    };
    if (full(put())) return refuse(id);
    version.size = std::max(version.size, (first + sectors) * kSector);
    commit_change(suspend, id, version, transaction);
}

// So many extents that cutting the blob takes more than one transaction.
void Workload::comb(Suspend& suspend, std::uint64_t id) {
    constexpr std::uint64_t kBlockSectors = kBlockBytes / kSector;
    for (std::uint64_t first = 0; first < kMostSectors - kBlockSectors;
         first += 2 * kBlockSectors) {
        write(suspend, id, first, kBlockSectors);
    }
}

void Workload::step(Suspend& suspend, std::uint64_t actor) {
    std::vector<std::uint64_t>& mine = live_[actor];
    if (mine.empty() || (mine.size() < 5 && below(6) == 0)) {
        const BlobId blob = store_->allocate_id();
        Transaction transaction;
        transaction.create_blob(blob, "attributes");
        transaction.put_record(blob, "state", "new");
        const std::uint64_t sequence = commit(suspend, transaction);
        remember(value(blob), {.sequence = sequence, .exists = true, .size = 0, .record = "new"});
        mine.push_back(value(blob));
        return;
    }
    if (below(7) == 0) return sync(suspend);
    const std::size_t victim = below(mine.size());
    const std::uint64_t id = mine[victim];
    if (below(12) == 0) {
        Transaction transaction;
        transaction.add_orphan(BlobId{id});
        transaction.put_record(BlobId{id}, "state", "orphan");
        Version version = blobs[id].versions.back();
        version.record = "orphan";
        version.sequence = commit(suspend, transaction);
        remember(id, version);
        mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(victim));
        must(store_->delete_blob(suspend, BlobId{id}));
        return;
    }
    change(suspend, id);
}

// Leaves so little space that freed blocks are soon used again.
void Workload::fill_device(Suspend& suspend) {
    const BlobId filler = store_->allocate_id();
    Transaction transaction;
    transaction.create_blob(filler, "filler");
    commit(suspend, transaction);
    const std::uint64_t bytes = store_->space().available_bytes - kFreeBytes;
    must(store_->preallocate(suspend, filler, 0, bytes, transaction));
    commit(suspend, transaction);
    must(store_->checkpoint(suspend));
}

void Workload::open(Suspend& suspend) {
    OpenOptions options;
    options.commit_interval_ms = 1;
    options.checkpoint_interval_ms = 3;
    options.broken_rule = broken_;
    store_ = must(Blobstore::open(suspend, *device, options));
}

void Workload::run(Suspend& suspend, std::unique_ptr<PowerCutMedium> with, std::uint64_t steps,
                   const FormatOptions& format) {
    medium = with.get();
    device = must(Device::open(suspend, std::move(with)));
    must(Blobstore::format(suspend, *device, format));
    open(suspend);
    fill_device(suspend);
    formatted_at = medium->journal().size();
    work(suspend, steps);
}

// A blob as it is after a recovery is the beginning of its history.
void Workload::find_blob(Suspend& suspend, std::uint64_t id, const BlobHistory& earlier) {
    const auto attributes = store_->attributes(suspend, BlobId{id});
    std::string record;
    if (!attributes || !must(store_->record(suspend, BlobId{id}, "state", record)) ||
        record == "orphan") {
        return;
    }
    remember(id, {.sequence = 1, .exists = true, .size = attributes->size, .record = record});
    live_[id % kActors].push_back(id);
    const driver::DmaBuffer buffer =
        must(driver::DmaBuffer::allocate((kMostSectors + 8) * kSector));
    must(store_->read(suspend, BlobId{id}, 0, buffer.span()));
    for (const auto& [sector, events] : earlier.sectors) {
        Stamp found{};
        if (sector * kSector < attributes->size) {
            std::memcpy(&found, buffer.data() + sector * kSector, sizeof(found));
        }
        blobs[id].sectors[sector].push_back(
            {.write = found.write, .issued_at = 0, .synced_at = 0, .done = true});
    }
}

void Workload::go_on(Suspend& suspend, std::unique_ptr<PowerCutMedium> with, std::uint64_t steps,
                     const Workload& earlier) {
    medium = with.get();
    device = must(Device::open(suspend, std::move(with)));
    open(suspend);
    copied_at = medium->journal().size();
    writes_ = earlier.writes_;
    for (const auto& [id, history] : earlier.blobs) find_blob(suspend, id, history);
    syncs.push_back({.journal = 0, .sequence = 1});
    work(suspend, steps);
}

void Workload::work(Suspend& suspend, std::uint64_t steps) {
    driver::WaitGroup group;
    for (std::uint64_t actor = 0; actor < kActors; ++actor) {
        group.add();
        reactor_.spawn([&, actor](Suspend& fiber) {
            for (std::uint64_t i = 0; i < steps / kActors; ++i) {
                step(fiber, actor);
                if (below(20) == 0) fiber.sleep_us(500);
            }
            group.done();
        });
    }
    group.wait(suspend);
    store_->abandon(suspend);
    store_.reset();
}

// Holds one store, opened after a cut, against the history. Answers the prefix that it shows.
class Verdict {
  public:
    Verdict(const Workload& workload, std::size_t cut) : workload_(workload), cut_(cut) {}

    void check(Suspend& suspend, Blobstore& store);
    std::uint64_t first_possible = 0, last_possible = ~std::uint64_t{0};

  private:
    void check_blob(Suspend& suspend, Blobstore& store, std::uint64_t id,
                    const BlobHistory& history);
    void check_data(Suspend& suspend, Blobstore& store, std::uint64_t id,
                    const BlobHistory& history, std::uint64_t size);
    void check_sector(std::uint64_t id, std::uint64_t sector, const std::byte* bytes,
                      const std::vector<SectorEvent>* history);

    const Workload& workload_;
    std::size_t cut_;
    std::vector<const BlobHistory*> gone_;
};

void Verdict::check_sector(std::uint64_t id, std::uint64_t sector, const std::byte* bytes,
                           const std::vector<SectorEvent>* history) {
    Stamp found;
    std::memcpy(&found, bytes, sizeof(found));
    for (std::size_t at = 0; at < kSector; at += sizeof(found)) {
        ASSERT_EQ(std::memcmp(bytes + at, &found, sizeof(found)), 0)
            << "blob " << id << " sector " << sector << " is torn";
    }
    const bool zero = found.blob == 0 && found.write == 0 && found.check == 0;
    if (!zero) {
        ASSERT_TRUE(found.blob == id && found.sector == sector)
            << "blob " << id << " sector " << sector << " shows blob " << found.blob << " sector "
            << found.sector;
    }
    if (history == nullptr) {
        ASSERT_TRUE(zero) << "blob " << id << " sector " << sector << " was never written";
        return;
    }
    // Allowed: the last event that was synced before the cut, and all that were sent after it and
    // before the cut; zeroes when none was synced.
    std::size_t from = 0;
    bool synced = false;
    for (std::size_t i = 0; i < history->size(); ++i) {
        if ((*history)[i].synced_at <= cut_) {
            from = i;
            synced = true;
        }
    }
    bool allowed = zero && !synced;
    for (std::size_t i = from; i < history->size() && !allowed; ++i) {
        allowed = (*history)[i].write == found.write && (*history)[i].issued_at <= cut_;
    }
    ASSERT_TRUE(allowed) << "blob " << id << " sector " << sector << " shows write " << found.write
                         << ", not what was synced last or sent later";
}

void Verdict::check_data(Suspend& suspend, Blobstore& store, std::uint64_t id,
                         const BlobHistory& history, std::uint64_t size) {
    const driver::DmaBuffer buffer =
        must(driver::DmaBuffer::allocate((kMostSectors + 8) * kSector));
    const auto got = store.read(suspend, BlobId{id}, 0, buffer.span());
    ASSERT_TRUE(got) << got.error().message();
    ASSERT_EQ(*got, size);
    for (std::uint64_t sector = 0; sector < size / kSector; ++sector) {
        const auto events = history.sectors.find(sector);
        ASSERT_NO_FATAL_FAILURE(
            check_sector(id, sector, buffer.data() + sector * kSector,
                         events == history.sectors.end() ? nullptr : &events->second));
    }
}

void Verdict::check_blob(Suspend& suspend, Blobstore& store, std::uint64_t id,
                         const BlobHistory& history) {
    const auto attributes = store.attributes(suspend, BlobId{id});
    if (!attributes) {
        ASSERT_EQ(attributes.error().code, Errc::kNotFound);
        // Not created yet; or orphaned and deleted: which of them, the other blobs must tell.
        if (history.versions.back().record == "orphan") {
            gone_.push_back(&history);
        } else {
            last_possible = std::min(last_possible, history.versions.front().sequence - 1);
        }
        return;
    }
    std::string record;
    const auto found = store.record(suspend, BlobId{id}, "state", record);
    ASSERT_TRUE(found) << found.error().message();
    ASSERT_TRUE(*found);
    // An orphan may be half deleted.
    if (record == "orphan") {
        first_possible = std::max(first_possible, history.versions.back().sequence);
        return;
    }
    for (std::size_t i = 0; i < history.versions.size(); ++i) {
        const Version& version = history.versions[i];
        if (version.record != record || version.size != attributes->size) continue;
        first_possible = std::max(first_possible, version.sequence);
        if (i + 1 < history.versions.size()) {
            last_possible = std::min(last_possible, history.versions[i + 1].sequence - 1);
        }
        return check_data(suspend, store, id, history, version.size);
    }
    FAIL() << "blob " << id << " is in a state that it never was in: record " << record << ", size "
           << attributes->size;
}

void Verdict::check(Suspend& suspend, Blobstore& store) {
    for (const SyncPoint& sync : workload_.syncs) {
        if (sync.journal <= cut_) first_possible = std::max(first_possible, sync.sequence);
    }
    for (const auto& [id, history] : workload_.blobs) {
        ASSERT_NO_FATAL_FAILURE(check_blob(suspend, store, id, history));
    }
    for (const BlobHistory* history : gone_) {
        if (first_possible < history->versions.front().sequence) continue;
        first_possible = std::max(first_possible, history->versions.back().sequence);
    }
    EXPECT_LE(first_possible, last_possible)
        << "not the state after a prefix of the transactions, or one that lacks what was synced";
    const auto findings = store.check(suspend);
    ASSERT_TRUE(findings) << findings.error().message();
    for (const std::string& finding : *findings) ADD_FAILURE() << finding;
}

std::unique_ptr<PowerCutMedium> medium_with(SparseImage image) {
    return PowerCutMedium::create({.bytes = kDeviceBytes}, std::move(image));
}

// Opens the image, checks it; then cuts the power during that recovery too, some times.
void check_image(Suspend& suspend, const Workload& workload, std::size_t cut, SparseImage image,
                 int depth, std::mt19937_64& random) {
    auto owned = medium_with(std::move(image));
    PowerCutMedium* medium = owned.get();
    auto device = must(Device::open(suspend, std::move(owned)));
    std::size_t recovered_at = 0;
    {
        OpenOptions options;
        options.commit_interval_ms = 0;
        auto store = Blobstore::open(suspend, *device, options);
        if (!store) {
            ADD_FAILURE() << "cannot be opened: " << store.error().message();
        } else {
            recovered_at = medium->journal().size();
            Verdict verdict(workload, cut);
            verdict.check(suspend, **store);
            (*store)->abandon(suspend);
        }
    }
    if (depth > 0 && recovered_at != 0) {
        const std::size_t second = random() % (recovered_at + 1);
        check_image(suspend, workload, cut, medium->image(second, random()), depth - 1, random);
    }
    must(device->close(suspend));
}

// Clusters and pages of several lengths; the first is what the rules are broken on.
FormatOptions format_of_round(std::uint64_t round) {
    switch (round % 4) {
        case 1:
            return {.cluster_bytes = 16384};
        case 3:
            return {.page_bytes = 16384};
        default:
            return {};
    }
}

// Workloads and cuts from a seed until there were so many cuts, or `enough` says so. After each
// workload another one goes on with what a cut has left of it, and is cut in its turn, from the
// first write of the recovery on.
// Of some images the superblocks are those that the copy has kept; answers of how many.
class Explorer {
  public:
    Explorer(std::uint64_t seed, std::uint64_t cuts, std::optional<OrderRule> broken,
             absl::FunctionRef<bool()> enough)
        : seed_(seed), cuts_(cuts), broken_(broken), enough_(enough), random_(seed) {}

    std::uint64_t run() {
        for (std::uint64_t round = 0; !over(); ++round) {
            driver::Reactor reactor(
                {.shuffle_seed = seed_ + round, .virtual_turn_us = kVirtualTurnUs});
            reactor.block_on([&](Suspend& suspend) { run_round(suspend, reactor, round); });
        }
        return restored_;
    }

  private:
    [[nodiscard]] bool over() const { return done_ >= cuts_ || enough_(); }
    void run_round(Suspend& suspend, driver::Reactor& reactor, std::uint64_t round) {
        const driver::PowerCutOptions medium{.bytes = kDeviceBytes,
                                             .lba_bytes = round % 8 < 4 ? 512u : 4096u,
                                             .shuffle_seed = round % 2 == 0 ? seed_ | 1 : 0,
                                             .slow_polls = round % 4 == 2 ? kSlowPolls : 0};
        Workload first(reactor, seed_ + round, broken_);
        first.run(suspend, PowerCutMedium::create(medium), 300, format_of_round(round));
        cut(suspend, first, round, 170);
        const std::size_t at = choose_cut(first);
        SparseImage image = first.medium->image(at, random_());
        must(first.device->close(suspend));
        // What a store leaves that breaks a rule, nothing has to go on with.
        if (over() || broken_) return;
        Workload second(reactor, ~seed_ + round, broken_);
        second.go_on(suspend, PowerCutMedium::create(medium, std::move(image)), 150, first);
        cut(suspend, second, round, 80);
        must(second.device->close(suspend));
    }
    std::size_t choose_cut(const Workload& workload) {
        const std::size_t events = workload.medium->journal().size();
        return workload.formatted_at + random_() % (events - workload.formatted_at + 1);
    }
    void cut(Suspend& suspend, const Workload& workload, std::uint64_t round, int times) {
        for (int i = 0; i < times && !over(); ++i, ++done_) {
            const std::size_t at = choose_cut(workload);
            const std::uint64_t choice = random_() % 4 == 0 ? random_() % 2 : random_();
            SCOPED_TRACE("round " + std::to_string(round) + ", cut " + std::to_string(at) + " of " +
                         std::to_string(workload.medium->journal().size()) + ", choice " +
                         std::to_string(choice));
            SparseImage image = workload.medium->image(at, choice);
            if (i % 8 == 1 && at >= workload.copied_at &&
                restore_superblocks_from_copy(image, kDeviceBytes)) {
                ++restored_;
            }
            check_image(suspend, workload, at, std::move(image), i % 3 == 0 ? 2 : 0, random_);
        }
    }

    const std::uint64_t seed_, cuts_;
    const std::optional<OrderRule> broken_;
    const absl::FunctionRef<bool()> enough_;
    std::mt19937_64 random_;
    std::uint64_t done_ = 0, restored_ = 0;
};

TEST(BlobstoreCrash, AnyCutLeavesAPrefixThatHoldsWhatWasSynced) {
    const std::uint64_t seed = from_environment("BLOBFS_SEED", std::random_device()());
    const std::uint64_t cuts = from_environment("BLOBFS_CUTS", 2500);
    std::printf("seed %lu: rerun with BLOBFS_SEED=%lu\n", seed, seed);
    must(driver::start_environment({.memory_bytes = std::size_t{768} << 20}));
    const std::uint64_t restored =
        Explorer(seed, cuts, {}, [] { return testing::Test::HasFailure(); }).run();
    if (cuts > 1000) {
        EXPECT_GT(restored, cuts / 20);
    }
}

// So a finding comes again with its seed.
TEST(BlobstoreCrash, TheSameSeedIsTheSameRun) {
    must(driver::start_environment({.memory_bytes = std::size_t{768} << 20}));
    const auto journal_of = [](std::uint64_t seed) {
        std::vector<std::tuple<std::uint64_t, std::uint64_t, std::size_t, bool>> events;
        driver::Reactor reactor({.shuffle_seed = seed, .virtual_turn_us = kVirtualTurnUs});
        reactor.block_on([&](Suspend& suspend) {
            Workload workload(reactor, seed);
            workload.run(suspend,
                         PowerCutMedium::create({.bytes = kDeviceBytes, .shuffle_seed = seed}), 300,
                         {});
            for (const PowerCutMedium::Event& event : workload.medium->journal()) {
                events.emplace_back(event.offset, event.bytes, event.started, event.durable);
            }
            must(workload.device->close(suspend));
        });
        return events;
    };
    EXPECT_TRUE(journal_of(7) == journal_of(7));
    EXPECT_FALSE(journal_of(7) == journal_of(8));
}

// The explorer bites: a store that does not keep one of the rules is found out.
class BlobstoreCrashWithout : public testing::TestWithParam<OrderRule> {};

TEST_P(BlobstoreCrashWithout, IsFoundOut) {
    must(driver::start_environment({.memory_bytes = std::size_t{768} << 20}));
    testing::TestPartResultArray found;
    {
        const testing::ScopedFakeTestPartResultReporter reporter(
            testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &found);
        Explorer(from_environment("BLOBFS_SEED", 1), 5000, GetParam(), [&] {
            return found.size() != 0;
        }).run();
    }
    ASSERT_GT(found.size(), 0) << "nothing was found in 5000 cuts";
    std::printf("found: %s\n", found.GetTestPartResult(0).message());
}

std::string rule_name(const testing::TestParamInfo<OrderRule>& rule) {
    constexpr const char* kNames[] = {"DataBeforeLog", "LogBeforeAnswer", "DurableBeforeReuse",
                                      "NeverInPlace",  "DeleteWhenFull",  "SettleBeforeAnswer",
                                      "DataUnderWay",  "EndBeforeFlush"};
    return kNames[static_cast<std::size_t>(rule.param)];
}

// The fifth rule is one of space, not of cuts: see BlobstoreSpace.
INSTANTIATE_TEST_SUITE_P(Rule, BlobstoreCrashWithout,
                         testing::Values(OrderRule::kDataBeforeLog, OrderRule::kLogBeforeAnswer,
                                         OrderRule::kDurableBeforeReuse, OrderRule::kNeverInPlace,
                                         OrderRule::kSettleBeforeAnswer, OrderRule::kDataUnderWay,
                                         OrderRule::kEndBeforeFlush),
                         rule_name);

}  // namespace
}  // namespace blobfs::blobstore
