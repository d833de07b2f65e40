#include "tests/fs/crash_history.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {

Stamp Stamp::at(const std::byte* bytes) {
    Stamp found;
    std::memcpy(&found, bytes, sizeof(found));
    return found;
}

std::size_t History::synced(std::size_t cut) const {
    std::size_t result = 0;
    for (const Sync& sync : syncs) {
        if (sync.journal <= cut) result = std::max(result, sync.operations);
    }
    return result;
}

void History::failed(InodeNumber file, std::uint64_t first, std::uint64_t write,
                     std::uint64_t old_end) {
    for (auto& [sector, events] : sectors[value(file)]) {
        if (sector < first) continue;
        const auto found = std::ranges::find(events, write, &SectorEvent::write);
        if (found == events.end()) continue;
        found->may_be = true;
        SectorEvent zeroes = *found;
        zeroes.write = 0;
        zeroes.shows = {};
        zeroes.uncovers = sector >= old_end && old_end % kClusterSectors != 0 &&
                          sector / kClusterSectors == old_end / kClusterSectors;
        events.insert(std::next(found), zeroes);
    }
}

void History::expect_content(InodeNumber file, std::span<const std::byte> content,
                             std::size_t durable, std::size_t cut) const {
    const auto history = sectors.find(value(file));
    if (history == sectors.end()) return;  // none of ours
    const auto& events = history->second;
    const std::size_t operation = events.empty() ? 0 : events.begin()->second.front().operation;
    const bool written_once =
        !older.contains(value(file)) && std::ranges::all_of(events, [&](const auto& sector) {
            return sector.second.size() == 1 && sector.second.front().operation == operation;
        });
    for (std::uint64_t sector = 0; sector < content.size() / kSector; ++sector) {
        ASSERT_NO_FATAL_FAILURE(expect_sector(file, sector, content.data() + sector * kSector,
                                              durable, cut, written_once));
    }
}

void History::expect_sector(InodeNumber file, std::uint64_t sector, const std::byte* bytes,
                            std::size_t durable, std::size_t cut, bool written_once) const {
    const Stamp found = Stamp::at(bytes);
    const std::string place =
        "file " + std::to_string(value(file)) + " sector " + std::to_string(sector);
    for (std::size_t at = 0; at < kSector; at += sizeof(found)) {
        ASSERT_EQ(std::memcmp(bytes + at, &found, sizeof(found)), 0) << place << " is torn";
    }
    const auto& all = sectors.at(value(file));
    const auto events = all.find(sector);
    if (events == all.end()) {
        ASSERT_TRUE(found.zero()) << place << " was never written, but shows file " << found.file
                                  << " sector " << found.sector;
        return;
    }
    const bool in_its_place = found.file == value(file) && found.sector == sector;
    ASSERT_TRUE(found.zero() || in_its_place ||
                std::ranges::find(events->second, found, &SectorEvent::shows) !=
                    events->second.end())
        << place << " shows file " << found.file << " sector " << found.sector;
    // The last change that must be there, and all that were sent after it and before the cut.
    auto from = events->second.begin();
    bool any_durable = false;
    for (auto event = from; event != events->second.end(); ++event) {
        if (event->operation > durable || event->may_be) continue;
        from = event;
        any_durable = true;
    }
    const bool allowed =
        (found.zero() && !any_durable) ||
        std::any_of(from, events->second.end(), [&](const SectorEvent& event) {
            return (event.shows == found || event.uncovers) && event.issued_at <= cut;
        });
    std::string changes;
    for (const SectorEvent& event : events->second) {
        changes += "\n  operation " + std::to_string(event.operation) + ", write " +
                   std::to_string(event.write) + ", sent at " + std::to_string(event.issued_at) +
                   (event.may_be ? ", failed" : "");
    }
    ASSERT_TRUE(allowed) << place << " shows write " << found.write
                         << "; all is there up to operation " << durable << "; was:" << changes;
    // When the size is there that it has of one write, all of that is.
    ASSERT_FALSE(found.zero() && written_once && !events->second.front().shows.zero())
        << place << ": the file has the size of a write, but not this sector of it";
}

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

}  // namespace blobfs::fs
