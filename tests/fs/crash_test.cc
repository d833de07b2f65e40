// Power cuts at every point of work on a filesystem, through the library: what a cut could leave is
// opened, checked, and held against what was answered. BLOBFS_SEED chooses the workload,
// BLOBFS_CUTS how many cuts are tried.
//
// Promised (design, section 7): the names, types, modes, sizes and links are those after some
// prefix of the operations in the order in which they were answered, which holds everything before
// the last fsync; a file shows in each sector what was written to that place of it, not older than
// the last fsync; a file that was written once shows all of what its size says; fsck.blobfs finds
// nothing, before the log is replayed, and both checks of what is open are clean; a cut during the
// recovery changes nothing of that. Of several who work at the same time, each in a directory of
// its own, that holds for each.

#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "driver/memory/dma_buffer.h"
#include "driver/soft/power_cut_medium.h"
#include "fs/filesystem.h"
#include "fs/fsck/image_check.h"
#include "tests/blobstore/lost_superblocks.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

using driver::PowerCutMedium;
using driver::SparseImage;

constexpr std::uint64_t kDeviceBytes = 24 << 20;
constexpr std::size_t kSector = 512;
constexpr std::size_t kFileSectors = 96;
constexpr std::size_t kFiberStackBytes = std::size_t{256} << 10;  // as fsck.blobfs
// A run is the same for the same seed: no clock takes part.
constexpr std::uint64_t kVirtualTurnUs = 20;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// What every sector that is written holds. No two are alike.
struct Stamp {
    std::uint64_t file, sector, write, check;
};
Stamp stamp(std::uint64_t file, std::uint64_t sector, std::uint64_t write) {
    return {file, sector, write, file * 31 + sector * 17 + write};
}

struct SectorEvent {
    std::uint64_t write;  // 0: zeroes
    std::size_t issued_at;
    std::size_t operation;
    bool may_be = false;  // it was refused: perhaps a part of it is there
};

// All of the tree as text, one line an entry.
std::string describe(Suspend& suspend, Filesystem& fs, InodeNumber directory,
                     const std::string& path, std::map<InodeNumber, std::uint64_t>* files) {
    struct Entry {
        std::string name;
        InodeNumber inode;
    };
    std::vector<Entry> entries;
    must(fs.readdir(suspend, directory, 2, false, [&](const DirectoryEntry& entry) {
        entries.push_back({std::string(entry.name), entry.inode});
        return true;
    }));
    std::ranges::sort(entries, {}, &Entry::name);
    std::string text;
    for (const Entry& entry : entries) {
        const Attributes attributes = must(fs.getattr(suspend, entry.inode));
        text += path + "/" + entry.name + " " + std::to_string(value(entry.inode)) + " " +
                std::to_string(attributes.mode) + " " + std::to_string(attributes.nlink) + " " +
                std::to_string(attributes.uid);
        if (!S_ISDIR(attributes.mode)) text += " " + std::to_string(attributes.size);
        if (S_ISLNK(attributes.mode)) text += " " + must(fs.readlink(suspend, entry.inode));
        for (const std::string& name : must(fs.listxattr(suspend, entry.inode))) {
            text += " " + name + "=" + must(fs.getxattr(suspend, entry.inode, name));
        }
        text += "\n";
        if (S_ISREG(attributes.mode) && files != nullptr) {
            (*files)[entry.inode] = attributes.size;
        }
        if (S_ISDIR(attributes.mode)) {
            text += describe(suspend, fs, entry.inode, path + "/" + entry.name, files);
        }
    }
    return text;
}

// A filesystem on a power-cut medium, for one who works on it or for several.
struct World {
    // A new one, of which nearly all but free_bytes is in use unless that is 0.
    void make(Suspend& suspend, std::unique_ptr<PowerCutMedium> with, std::uint64_t free_bytes);
    // What a cut has left.
    void recover(Suspend& suspend, SparseImage image);
    // From here on it may be cut.
    void start(Suspend& suspend) {
        must(fs->sync(suspend));
        started_at = medium->journal().size();
    }
    void end(Suspend& suspend) {
        fs->abandon(suspend);
        fs.reset();
        end_of_journal = medium->journal().size();
    }

    PowerCutMedium* medium = nullptr;
    std::unique_ptr<Device> device;
    std::unique_ptr<Filesystem> fs;
    std::size_t started_at = 0, end_of_journal = 0;

  private:
    void open(Suspend& suspend);
    std::int64_t seconds_ = 0;
};

// Work in one directory of it, and what of that was promised.
class Workload {
  public:
    Workload(std::uint64_t seed, World& world, InodeNumber directory = kRootInode)
        : fs(world.fs), medium(world.medium), root(directory), random_(seed) {}

    // What is there now is durable: after start() of the world.
    void start(Suspend& suspend);
    void random_step(Suspend& suspend);

    // One answered operation: remembers the state after it.
    void answered(Suspend& suspend) {
        ++operations;
        after[describe(suspend, *fs, root, "", nullptr)].push_back(operations);
        issued.push_back(medium->journal().size());
    }
    void synced() { syncs.push_back({medium->journal().size(), operations}); }

    InodeNumber create(Suspend& suspend, InodeNumber parent, const std::string& name) {
        const auto made = fs->create(suspend, kRootUser, parent, name, 0644, true);
        if (!made) return {};
        fs->forget(made->inode, 1);
        return made->inode;
    }
    bool write(Suspend& suspend, InodeNumber file, std::uint64_t first, std::uint64_t sectors);
    void truncate(Suspend& suspend, InodeNumber file, std::uint64_t sectors);
    // Space without data, zeroes, or a hole.
    void allocate(Suspend& suspend, InodeNumber file);

    std::unique_ptr<Filesystem>& fs;
    PowerCutMedium* const medium;
    const InodeNumber root;
    std::size_t operations = 0;
    std::map<std::string, std::vector<std::size_t>>
        after;                        // state -> operations after which it was
    std::vector<std::size_t> issued;  // length of the journal after each operation
    struct Sync {
        std::size_t journal, operations;
    };
    std::vector<Sync> syncs;
    std::map<std::uint64_t, std::map<std::uint64_t, std::vector<SectorEvent>>> sectors;
    std::set<std::uint64_t> older;  // files that were there at the start

  private:
    std::uint64_t below(std::uint64_t n) { return random_() % n; }
    struct Found {
        InodeNumber parent{};
        std::string name;
        InodeNumber inode{};
        bool directory = false;
    };
    std::vector<Found> everything(Suspend& suspend, InodeNumber directory);

    std::mt19937_64 random_;
    std::uint64_t writes_ = 0;
    driver::DmaBuffer buffer_;
};

void World::make(Suspend& suspend, std::unique_ptr<PowerCutMedium> with,
                 std::uint64_t free_bytes) {
    medium = with.get();
    device = must(Device::open(suspend, std::move(with)));
    must(Filesystem::format(suspend, *device, {}));
    open(suspend);
    if (free_bytes == 0) return;
    // So little space is left that what is freed is soon used again.
    const Attributes filler =
        must(fs->create(suspend, kRootUser, kRootInode, "filler", 0644, true));
    fs->forget(filler.inode, 1);
    const std::uint64_t available = fs->store().space().available_bytes;
    must(fs->fallocate(suspend, filler.inode, 0, 0, available - free_bytes));
}

void World::recover(Suspend& suspend, SparseImage image) {
    auto owned = PowerCutMedium::create({.bytes = kDeviceBytes}, std::move(image));
    medium = owned.get();
    device = must(Device::open(suspend, std::move(owned)));
    open(suspend);
}

void World::open(Suspend& suspend) {
    OpenOptions options;
    options.store.commit_interval_ms = 1;
    options.store.checkpoint_interval_ms = 3;
    options.write_back_ms = 1;
    options.clock = [this] { return Timestamp{.seconds = ++seconds_, .nanoseconds = 0}; };
    fs = must(Filesystem::open(suspend, *device, std::move(options)));
}

void Workload::start(Suspend& suspend) {
    buffer_ = must(driver::DmaBuffer::allocate(kFileSectors * kSector));
    answered(suspend);
    synced();
    // What lies in the files is their history so far.
    std::map<InodeNumber, std::uint64_t> files;
    describe(suspend, *fs, root, "", &files);
    for (const auto& [inode, size] : files) {
        if (size > kFileSectors * kSector) continue;  // the filler
        older.insert(value(inode));
        const std::size_t bytes = must(fs->read(suspend, inode, 0, buffer_.span()));
        for (std::uint64_t sector = 0; sector < bytes / kSector; ++sector) {
            Stamp found;
            std::memcpy(&found, buffer_.data() + sector * kSector, sizeof(found));
            writes_ = std::max(writes_, found.write);
            sectors[value(inode)][sector].push_back(
                {.write = found.write, .issued_at = 0, .operation = operations});
        }
    }
}

bool Workload::write(Suspend& suspend, InodeNumber file, std::uint64_t first, std::uint64_t count) {
    const std::uint64_t write = ++writes_;
    for (std::uint64_t i = 0; i < count; ++i) {
        const Stamp mark = stamp(value(file), first + i, write);
        for (std::size_t at = 0; at < kSector; at += sizeof(mark)) {
            std::memcpy(buffer_.data() + i * kSector + at, &mark, sizeof(mark));
        }
        sectors[value(file)][first + i].push_back(
            {.write = write, .issued_at = medium->journal().size(), .operation = operations + 1});
    }
    const auto written =
        fs->write(suspend, file, first * kSector, buffer_.span().first(count * kSector), {});
    EXPECT_TRUE(written || written.error().code == Errc::kNoSpace) << written.error().message();
    const std::size_t whole = written ? written->bytes / kSector : 0;
    for (std::uint64_t i = whole; i < count; ++i) {
        sectors[value(file)][first + i].back().may_be = true;
    }
    return written.has_value();
}

void Workload::truncate(Suspend& suspend, InodeNumber file, std::uint64_t to) {
    for (auto& [sector, events] : sectors[value(file)]) {
        if (sector < to) continue;
        events.push_back(
            {.write = 0, .issued_at = medium->journal().size(), .operation = operations + 1});
    }
    SetAttributes change;
    change.size = to * kSector;
    const auto set = fs->setattr(suspend, kRootUser, file, change);
    EXPECT_TRUE(set || set.error().code == Errc::kNoSpace) << set.error().message();
}

void Workload::allocate(Suspend& suspend, InodeNumber file) {
    constexpr std::uint32_t kModes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    const std::uint32_t mode = kModes[below(std::size(kModes))];
    const std::uint64_t first = below(kFileSectors - 40), count = 1 + below(40);
    if (mode == FALLOC_FL_ZERO_RANGE || (mode & FALLOC_FL_PUNCH_HOLE) != 0) {
        for (auto& [sector, events] : sectors[value(file)]) {
            if (sector < first || sector >= first + count) continue;
            events.push_back(
                {.write = 0, .issued_at = medium->journal().size(), .operation = operations + 1});
        }
    }
    const auto done = fs->fallocate(suspend, file, mode, first * kSector, count * kSector);
    EXPECT_TRUE(done || done.error().code == Errc::kNoSpace) << done.error().message();
}

std::vector<Workload::Found> Workload::everything(Suspend& suspend, InodeNumber directory) {
    std::vector<Found> found;
    must(fs->readdir(suspend, directory, 2, false, [&](const DirectoryEntry& entry) {
        if (entry.name != "filler") {
            found.push_back(
                {directory, std::string(entry.name), entry.inode, entry.type == S_IFDIR});
        }
        return true;
    }));
    const std::size_t here = found.size();
    for (std::size_t i = 0; i < here; ++i) {
        if (!found[i].directory) continue;
        for (Found& below : everything(suspend, found[i].inode)) found.push_back(std::move(below));
    }
    return found;
}

// One operation: whether it succeeds or is refused is checked elsewhere (the model test).
void Workload::random_step(Suspend& suspend) {
    const std::vector<Found> all = everything(suspend, root);
    std::vector<InodeNumber> directories{root};
    std::vector<Found> files;
    for (const Found& entry : all) {
        if (entry.directory) directories.push_back(entry.inode);
        if (!entry.directory && S_ISREG(must(fs->getattr(suspend, entry.inode)).mode)) {
            files.push_back(entry);
        }
    }
    const InodeNumber parent = directories[below(directories.size())];
    const std::string name = "n" + std::to_string(below(12));
    const std::uint64_t kind = files.empty() ? below(4) : below(27);
    if (kind < 3) {
        if (const InodeNumber file = create(suspend, parent, name); value(file) != 0) {
            answered(suspend);
            write(suspend, file, 0, 1 + below(below(2) == 0 ? 2 : 40));
        }
    } else if (kind == 3) {
        if (const auto made = fs->mkdir(suspend, kRootUser, parent, name, 0755)) {
            fs->forget(made->inode, 1);
        }
    } else if (kind == 4) {
        if (const auto made = fs->symlink(suspend, kRootUser, parent, name, "to/" + name)) {
            fs->forget(made->inode, 1);
        }
    } else if (kind < 10) {
        const InodeNumber file = files[below(files.size())].inode;
        write(suspend, file, below(kFileSectors - 40), 1 + below(below(3) == 0 ? 40 : 8));
    } else if (kind < 12) {
        truncate(suspend, files[below(files.size())].inode, below(kFileSectors));
    } else if (kind < 16) {
        const Found& from = all[below(all.size())];
        const auto mode = below(5) == 0   ? RenameMode::kExchange
                          : below(5) == 0 ? RenameMode::kNoReplace
                                          : RenameMode::kReplace;
        (void)fs->rename(suspend, from.parent, from.name, parent, name, mode);
    } else if (kind == 16) {
        if (const auto linked = fs->link(suspend, files[below(files.size())].inode, parent, name)) {
            fs->forget(linked->inode, 1);
        }
    } else if (kind < 19) {
        const Found& gone = all[below(all.size())];
        (void)(gone.directory ? fs->rmdir(suspend, gone.parent, gone.name)
                              : fs->unlink(suspend, gone.parent, gone.name));
    } else if (kind == 19) {
        SetAttributes change;
        change.mode = 0600 + static_cast<std::uint32_t>(below(64));
        (void)fs->setattr(suspend, kRootUser, all[below(all.size())].inode, change);
    } else if (kind == 20) {
        (void)fs->setxattr(suspend, files[below(files.size())].inode, "user.x",
                           std::string(below(400), 'x'), XattrMode::kAny);
    } else if (kind < 24) {
        allocate(suspend, files[below(files.size())].inode);
    } else {
        const InodeNumber file = files[below(files.size())].inode;
        must(below(4) == 0 ? fs->sync(suspend) : fs->fsync(suspend, file, below(2) == 0));
        answered(suspend);
        synced();
        return;
    }
    answered(suspend);
}

// What a cut left, opened.
class Verdict {
  public:
    Verdict(const Workload& workload, std::size_t cut) : workload_(workload), cut_(cut) {}
    void check(Suspend& suspend, Filesystem& fs);

  private:
    void check_file(Suspend& suspend, Filesystem& fs, InodeNumber inode, std::uint64_t size,
                    std::size_t synced);

    const Workload& workload_;
    std::size_t cut_;
};

void Verdict::check_file(Suspend& suspend, Filesystem& fs, InodeNumber inode, std::uint64_t size,
                         std::size_t synced) {
    const auto history = workload_.sectors.find(value(inode));
    if (history == workload_.sectors.end()) return;  // the filler
    const driver::DmaBuffer buffer = must(driver::DmaBuffer::allocate(kFileSectors * kSector));
    const auto got = fs.read(suspend, inode, 0, buffer.span());
    ASSERT_TRUE(got) << got.error().message();
    ASSERT_EQ(*got, size);
    const std::size_t first_operation =
        history->second.empty() ? 0 : history->second.begin()->second.front().operation;
    const bool once =
        !workload_.older.contains(value(inode)) &&
        std::ranges::all_of(history->second, [&](const auto& sector) {
            return sector.second.size() == 1 && sector.second.front().operation == first_operation;
        });
    for (std::uint64_t sector = 0; sector < size / kSector; ++sector) {
        Stamp found;
        std::memcpy(&found, buffer.data() + sector * kSector, sizeof(found));
        const bool zero = found.file == 0 && found.check == 0;
        ASSERT_TRUE(zero || (found.file == value(inode) && found.sector == sector))
            << "file " << value(inode) << " sector " << sector << " shows file " << found.file
            << " sector " << found.sector;
        const auto events = history->second.find(sector);
        if (events == history->second.end()) {
            ASSERT_TRUE(zero) << "file " << value(inode) << " sector " << sector
                              << " was never written";
            continue;
        }
        // The last event before the last sync, and all that were sent after it and before the cut.
        std::size_t from = 0;
        bool durable = false;
        for (std::size_t i = 0; i < events->second.size(); ++i) {
            if (events->second[i].operation <= synced && !events->second[i].may_be) {
                from = i;
                durable = true;
            }
        }
        bool allowed = zero && !durable;
        for (std::size_t i = from; i < events->second.size() && !allowed; ++i) {
            allowed = events->second[i].write == found.write && events->second[i].issued_at <= cut_;
        }
        std::string all;
        for (const SectorEvent& event : events->second) {
            all += "\n  operation " + std::to_string(event.operation) + ", write " +
                   std::to_string(event.write) + ", sent at " + std::to_string(event.issued_at) +
                   (event.may_be ? ", refused" : "");
        }
        ASSERT_TRUE(allowed) << "file " << value(inode) << " sector " << sector << " shows write "
                             << found.write << "; durable to operation " << synced << "; was:" << all;
        // Changed once, by a write from its beginning: when its size is there, all of it is.
        if (zero && once) {
            ADD_FAILURE() << "file " << value(inode) << " has the size of a write, but not sector "
                          << sector << " of it";
        }
    }
}

void Verdict::check(Suspend& suspend, Filesystem& fs) {
    std::size_t synced = 0;
    for (const Workload::Sync& sync : workload_.syncs) {
        if (sync.journal <= cut_) synced = std::max(synced, sync.operations);
    }
    std::map<InodeNumber, std::uint64_t> files;
    const std::string state = describe(suspend, fs, workload_.root, "", &files);
    const auto found = workload_.after.find(state);
    ASSERT_TRUE(found != workload_.after.end()) << "a state that never was:\n" << state;
    const std::size_t last = found->second.back();
    ASSERT_GE(last, synced) << "the state after operation " << last << ", but " << synced
                            << " were made durable";
    for (const auto& [inode, size] : files) {
        ASSERT_NO_FATAL_FAILURE(check_file(suspend, fs, inode, size, synced));
    }
}

void expect_sound(Suspend& suspend, Filesystem& fs) {
    // The checks want nobody else at work: orphans are being deleted.
    for (int turn = 0; turn < 1000; ++turn) suspend.yield();
    const auto findings = fs.check(suspend);
    ASSERT_TRUE(findings) << findings.error().message();
    for (const std::string& finding : *findings) ADD_FAILURE() << finding;
    const auto below = fs.store().check(suspend);
    ASSERT_TRUE(below) << below.error().message();
    for (const std::string& finding : *below) ADD_FAILURE() << "store: " << finding;
}

// Before anybody mounts it: nothing but a superblock may be torn.
void check_offline(Suspend& suspend, Device& device) {
    // Not on the stack of a fiber.
    const auto slots = std::make_unique<blobstore::SuperblockSlots>(
        must(blobstore::read_superblocks(suspend, device)));
    const auto check = std::make_unique<fsck::ImageCheck>(device, *slots, must(slots->newest()));
    must(check->run(suspend, [](fsck::Phase, std::uint64_t, std::uint64_t) {}));
    for (const fsck::Finding& finding : check->findings().list()) {
        EXPECT_TRUE(finding.problem == fsck::Problem::kSuperblockSlot ||
                    finding.problem == fsck::Problem::kSuperblockCopy)
            << "fsck: " << finding.text;
    }
}

using Workloads = std::vector<std::unique_ptr<Workload>>;

void check_image(Suspend& suspend, const Workloads& workloads, std::size_t cut, SparseImage image,
                 int depth, std::mt19937_64& random) {
    auto owned = PowerCutMedium::create({.bytes = kDeviceBytes}, std::move(image));
    PowerCutMedium* medium = owned.get();
    auto device = must(Device::open(suspend, std::move(owned)));
    check_offline(suspend, *device);
    std::size_t recovered_at = 0;
    OpenOptions options;
    options.store.commit_interval_ms = 0;
    if (auto fs = Filesystem::open(suspend, *device, std::move(options))) {
        recovered_at = medium->journal().size();
        for (const auto& workload : workloads) Verdict(*workload, cut).check(suspend, **fs);
        expect_sound(suspend, **fs);
        (*fs)->abandon(suspend);
    } else {
        ADD_FAILURE() << "cannot be opened: " << fs.error().message();
    }
    if (depth > 0 && recovered_at != 0) {
        const std::size_t second = random() % (recovered_at + 1);
        check_image(suspend, workloads, cut, medium->image(second, random()), depth - 1, random);
    }
    must(device->close(suspend));
}

class FilesystemCrash : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    }
};

// Rounds of work on a filesystem and cuts of it; every third is the work of several at the same time,
// and after each round another one goes on with what a cut has left, and is cut in its turn.
class Explorer {
  public:
    Explorer(std::uint64_t seed, std::uint64_t cuts) : seed_(seed), cuts_(cuts), random_(seed) {}

    void run() {
        for (std::uint64_t round = 0; !over(); ++round) {
            driver::Reactor reactor({.fiber_stack_bytes = kFiberStackBytes,
                                     .shuffle_seed = seed_ + round,
                                     .virtual_turn_us = kVirtualTurnUs});
            reactor.block_on([&](Suspend& suspend) { explore(suspend, round); });
        }
    }

    static std::vector<InodeNumber> make_roots(Suspend& suspend, World& world, int count) {
        std::vector<InodeNumber> roots;
        for (int i = 0; i < count; ++i) {
            const std::string name = "actor" + std::to_string(i);
            const Attributes made =
                must(world.fs->mkdir(suspend, kRootUser, kRootInode, name, 0755));
            world.fs->forget(made.inode, 1);
            roots.push_back(made.inode);
        }
        return roots;
    }
    static Workloads work(Suspend& suspend, World& world, const std::vector<InodeNumber>& roots,
                          std::uint64_t seed, int steps) {
        Workloads workloads;
        world.start(suspend);
        for (const InodeNumber root : roots) {
            workloads.push_back(
                std::make_unique<Workload>(seed * 16 + workloads.size(), world, root));
            workloads.back()->start(suspend);
        }
        driver::WaitGroup group;
        for (const auto& workload : workloads) {
            group.add();
            suspend.reactor().spawn([&, steps](Suspend& own) {
                const auto count = static_cast<std::size_t>(steps) / workloads.size() + 15;
                for (std::size_t i = 0; i < count; ++i) workload->random_step(own);
                group.done();
            });
        }
        group.wait(suspend);
        world.end(suspend);
        return workloads;
    }

  private:
    [[nodiscard]] bool over() const { return done_ >= cuts_ || testing::Test::HasFailure(); }

    void explore(Suspend& suspend, std::uint64_t round) {
        World first;
        first.make(suspend,
                   PowerCutMedium::create({.bytes = kDeviceBytes,
                                           .shuffle_seed = round % 2 == 0 ? seed_ | 1 : 0}),
                   // A write that takes one transaction after the other, as space runs out, can be
                   // cut between them: only for one, who hardly ever gets there.
                   round % 3 == 2 || round % 4 < 2 ? 0 : 400 * 1024);
        const std::vector<InodeNumber> roots =
            round % 3 == 2 ? make_roots(suspend, first, 4) : std::vector{kRootInode};
        const Workloads before = work(suspend, first, roots, round, 150);
        cut(suspend, first, before, round, 110);
        World second;
        second.recover(suspend, first.medium->image(choose_cut(first), random_()));
        // What was made last may be gone, but not the directories.
        const Workloads after = work(suspend, second, roots, round + (1u << 20), 60);
        cut(suspend, second, after, round, 40);
        must(second.device->close(suspend));
        must(first.device->close(suspend));
    }

    std::size_t choose_cut(const World& world) {
        return world.started_at + random_() % (world.end_of_journal - world.started_at + 1);
    }
    void cut(Suspend& suspend, const World& world, const Workloads& workloads, std::uint64_t round,
             int times) {
        for (int i = 0; i < times && !over(); ++i, ++done_) {
            const std::size_t at = choose_cut(world);
            const std::uint64_t choice = random_() % 4 == 0 ? random_() % 2 : random_();
            SCOPED_TRACE("round " + std::to_string(round) + ", cut " + std::to_string(at) + " of " +
                         std::to_string(world.end_of_journal) + ", choice " +
                         std::to_string(choice) + ", " + std::to_string(workloads.size()) +
                         " at work");
            SparseImage image = world.medium->image(at, choice);
            if (i % 8 == 1) blobstore::restore_superblocks_from_copy(image, kDeviceBytes);
            check_image(suspend, workloads, at, std::move(image), i % 4 == 0 ? 1 : 0, random_);
        }
    }

    const std::uint64_t seed_, cuts_;
    std::mt19937_64 random_;
    std::uint64_t done_ = 0;
};

TEST_F(FilesystemCrash, AnyCutLeavesThePrefixThatHoldsWhatWasSynced) {
    const std::uint64_t seed = from_environment("BLOBFS_SEED", std::random_device()());
    const std::uint64_t cuts = from_environment("BLOBFS_CUTS", 1800);
    std::printf("seed %lu: rerun with BLOBFS_SEED=%lu\n", seed, seed);
    Explorer(seed, cuts).run();
}

// So a finding comes again with its seed.
TEST_F(FilesystemCrash, TheSameSeedIsTheSameRun) {
    const auto journal_of = [](std::uint64_t seed) {
        std::vector<std::tuple<std::uint64_t, std::uint64_t, std::size_t, bool>> events;
        driver::Reactor reactor({.fiber_stack_bytes = kFiberStackBytes,
                                 .shuffle_seed = seed,
                                 .virtual_turn_us = kVirtualTurnUs});
        reactor.block_on([&](Suspend& suspend) {
            World world;
            world.make(suspend,
                       PowerCutMedium::create({.bytes = kDeviceBytes, .shuffle_seed = seed}),
                       400 * 1024);
            Explorer::work(suspend, world, Explorer::make_roots(suspend, world, 3), seed, 150);
            for (const PowerCutMedium::Event& event : world.medium->journal()) {
                events.emplace_back(event.offset, event.bytes, event.started, event.durable);
            }
            must(world.device->close(suspend));
        });
        return events;
    };
    EXPECT_TRUE(journal_of(7) == journal_of(7));
    EXPECT_FALSE(journal_of(7) == journal_of(8));
}

// Each kind of operation alone: every cut, and every subset of what was under way where these are
// few.
struct Script {
    const char* name;
    std::function<void(Suspend&, Workload&)> prepare, act;
};

InodeNumber file_of(Suspend& suspend, Workload& workload, const std::string& name,
                    std::uint64_t sectors) {
    const InodeNumber file = workload.create(suspend, kRootInode, name);
    workload.answered(suspend);
    workload.write(suspend, file, 0, sectors);
    workload.answered(suspend);
    return file;
}
InodeNumber named(Suspend& suspend, Workload& workload, const std::string& name) {
    const Attributes found = must(workload.fs->lookup(suspend, kRootInode, name));
    workload.fs->forget(found.inode, 1);
    return found.inode;
}

const std::vector<Script>& scripts() {
    static const auto two = [](Suspend& s, Workload& w) {
        file_of(s, w, "a", 20);
        file_of(s, w, "b", 10);
    };
    static const std::vector<Script> all = {
        {"Create", [](Suspend&, Workload&) {},
         [](Suspend& s, Workload& w) {
             w.create(s, kRootInode, "new");
             w.answered(s);
         }},
        {"CreateAndWrite", [](Suspend&, Workload&) {},
         [](Suspend& s, Workload& w) { file_of(s, w, "new", 20); }},
        {"Overwrite", two,
         [](Suspend& s, Workload& w) {
             w.write(s, named(s, w, "a"), 4, 9);
             w.answered(s);
         }},
        {"Append", two,
         [](Suspend& s, Workload& w) {
             w.write(s, named(s, w, "a"), 20, 17);
             w.answered(s);
         }},
        {"TruncateDown", two,
         [](Suspend& s, Workload& w) {
             w.truncate(s, named(s, w, "a"), 5);
             w.answered(s);
         }},
        {"TruncateUp", two,
         [](Suspend& s, Workload& w) {
             w.truncate(s, named(s, w, "a"), 60);
             w.answered(s);
         }},
        {"RenameOver", two,
         [](Suspend& s, Workload& w) {
             must(w.fs->rename(s, kRootInode, "a", kRootInode, "b", RenameMode::kReplace));
             w.answered(s);
         }},
        {"Exchange", two,
         [](Suspend& s, Workload& w) {
             must(w.fs->rename(s, kRootInode, "a", kRootInode, "b", RenameMode::kExchange));
             w.answered(s);
         }},
        {"ReplaceBySavePattern", two,
         [](Suspend& s, Workload& w) {
             file_of(s, w, "a.new", 30);
             must(w.fs->rename(s, kRootInode, "a.new", kRootInode, "a", RenameMode::kReplace));
             w.answered(s);
         }},
        {"Link", two,
         [](Suspend& s, Workload& w) {
             w.fs->forget(must(w.fs->link(s, named(s, w, "a"), kRootInode, "c")).inode, 1);
             w.answered(s);
         }},
        {"Unlink", two,
         [](Suspend& s, Workload& w) {
             must(w.fs->unlink(s, kRootInode, "a"));
             w.answered(s);
             file_of(s, w, "c", 20);
         }},
        {"MakeAndRemoveDirectory", [](Suspend&, Workload&) {},
         [](Suspend& s, Workload& w) {
             w.fs->forget(must(w.fs->mkdir(s, kRootUser, kRootInode, "d", 0755)).inode, 1);
             w.answered(s);
             must(w.fs->rmdir(s, kRootInode, "d"));
             w.answered(s);
         }},
        {"TemporaryFileThatGetsAName", two,
         [](Suspend& s, Workload& w) {
             const InodeNumber file =
                 must(w.fs->tmpfile(s, kRootUser, kRootInode, 0644)).inode;
             w.write(s, file, 0, 12);
             w.answered(s);
             w.fs->forget(must(w.fs->link(s, file, kRootInode, "c")).inode, 2);
             w.answered(s);
         }},
        {"Allocate", two,
         [](Suspend& s, Workload& w) {
             for (int i = 0; i < 4; ++i) {
                 w.allocate(s, named(s, w, "a"));
                 w.answered(s);
             }
         }},
        {"SetXattr", two,
         [](Suspend& s, Workload& w) {
             must(w.fs->setxattr(s, named(s, w, "a"), "user.x", std::string(3000, 'x'),
                                 XattrMode::kAny));
             w.answered(s);
         }},
    };
    return all;
}

class FilesystemCrashScript : public testing::TestWithParam<std::size_t> {
  protected:
    static void SetUpTestSuite() {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    }
};

TEST_P(FilesystemCrashScript, HoldsAtEveryCut) {
    const Script& script = scripts()[GetParam()];
    std::mt19937_64 random(1);
    driver::Reactor reactor(
        {.fiber_stack_bytes = kFiberStackBytes, .virtual_turn_us = kVirtualTurnUs});
    reactor.block_on([&](Suspend& suspend) {
        World world;
        world.make(suspend, PowerCutMedium::create({.bytes = kDeviceBytes}), 0);
        world.start(suspend);
        Workloads workloads;
        Workload& workload = *workloads.emplace_back(std::make_unique<Workload>(1, world));
        workload.start(suspend);
        script.prepare(suspend, workload);
        must(world.fs->sync(suspend));
        workload.synced();
        const std::size_t from = world.medium->journal().size();
        script.act(suspend, workload);
        must(world.fs->sync(suspend));
        workload.synced();
        world.end(suspend);
        std::size_t images = 0;
        for (std::size_t cut = from; cut <= world.end_of_journal && !HasFailure(); ++cut) {
            const std::vector<std::size_t> undecided = world.medium->undecided(cut);
            constexpr std::size_t kAllSubsetsOf = 5;
            if (undecided.size() <= kAllSubsetsOf) {
                for (std::size_t subset = 0; subset < std::size_t{1} << undecided.size();
                     ++subset) {
                    std::vector<std::size_t> survivors;
                    for (std::size_t i = 0; i < undecided.size(); ++i) {
                        if ((subset >> i & 1) != 0) survivors.push_back(undecided[i]);
                    }
                    SCOPED_TRACE("cut " + std::to_string(cut) + ", subset " +
                                 std::to_string(subset));
                    check_image(suspend, workloads, cut, world.medium->image_with(cut, survivors),
                                0, random);
                    ++images;
                }
            }
            for (std::uint64_t choice = 0; choice < 16; ++choice) {
                SCOPED_TRACE("cut " + std::to_string(cut) + ", choice " + std::to_string(choice));
                check_image(suspend, workloads, cut, world.medium->image(cut, choice), 1, random);
                ++images;
            }
        }
        std::printf("%zu images\n", images);
        EXPECT_GT(images, 10u);
        must(world.device->close(suspend));
    });
}

std::string script_name(const testing::TestParamInfo<std::size_t>& script) {
    return scripts()[script.param].name;
}

INSTANTIATE_TEST_SUITE_P(Operation, FilesystemCrashScript,
                         testing::Range(std::size_t{0}, scripts().size()), script_name);

}  // namespace
}  // namespace blobfs::fs
