#pragma once

// What was done in a directory, what was answered, and what a power cut may leave of it. Reactor
// thread.

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "fs/filesystem.h"

namespace blobfs::fs {

inline constexpr std::size_t kSector = 512;
inline constexpr std::size_t kFileSectors = 96;  // of the largest file
inline constexpr std::size_t kClusterSectors = 8;

// What every sector that is written is filled with. No two are alike, unless they are copied.
struct Stamp {
    std::uint64_t file = 0, sector = 0, write = 0, check = 0;

    static Stamp of(std::uint64_t file, std::uint64_t sector, std::uint64_t write) {
        return {file, sector, write, file * 31 + sector * 17 + write};
    }
    // What the bytes begin with. REQUIRES so many.
    static Stamp at(const std::byte* bytes);
    bool operator==(const Stamp&) const = default;
    [[nodiscard]] bool zero() const { return file == 0 && sector == 0 && write == 0 && check == 0; }
    [[nodiscard]] bool whole() const { return !zero() && check == of(file, sector, write).check; }
};

// One change of a sector.
struct SectorEvent {
    std::uint64_t write;    // its number; 0: zeroes
    std::size_t issued_at;  // length of the medium's journal then
    std::size_t operation;  // it is a part of
    Stamp shows{};          // of another place, or zero, where it was copied
    bool may_be = false;    // it failed: perhaps a part of it is there
    bool uncovers = false;  // or what other writes put there of which a crash left the data only
};

struct History {
    // Operations are counted from 1, in the order in which they were answered.
    std::size_t operations = 0;
    // All names with attributes (describe()) -> after which operations they were so, ascending.
    std::map<std::string, std::vector<std::size_t>> after;
    // Everything up to the operation was durable when the medium's journal was so long.
    struct Sync {
        std::size_t journal, operations;
    };
    std::vector<Sync> syncs;
    // Of each file, of each sector that was ever changed: what it was changed to, in order.
    std::map<std::uint64_t, std::map<std::uint64_t, std::vector<SectorEvent>>> sectors;
    std::set<std::uint64_t> older;  // files that were there at the start

    [[nodiscard]] std::size_t synced(std::size_t cut) const;
    // A write to the file failed that had been sent: each of its sectors from the first one on may
    // be there or not, or read as zeroes. The file had ended at old_end: what lay behind that in
    // the same cluster was the file's own.
    void failed(InodeNumber file, std::uint64_t first, std::uint64_t write, std::uint64_t old_end);
    // Fails the test unless this may be what the file holds: all changes up to the operation are
    // there, none that was sent after the cut.
    void expect_content(InodeNumber file, std::span<const std::byte> content, std::size_t durable,
                        std::size_t cut) const;

  private:
    void expect_sector(InodeNumber file, std::uint64_t sector, const std::byte* bytes,
                       std::size_t durable, std::size_t cut, bool written_once) const;
};

// All below the directory as text, one line an entry; files, unless null: the regular ones with
// their sizes. Suspends.
std::string describe(Suspend& suspend, Filesystem& fs, InodeNumber directory,
                     const std::string& path, std::map<InodeNumber, std::uint64_t>* files);

}  // namespace blobfs::fs
