#include "tests/fuzz/image_trial.h"

#include <linux/falloc.h>

#include <set>

#include "blobstore/store_state.h"

namespace blobfs::fuzz {

using driver::Suspend;
using fs::Filesystem;
using fs::InodeNumber;
using fsck::RepairMode;

namespace {

// What came of it does not matter.
template <class Any>
void ignore(const Any&) {}

constexpr std::size_t kMostEntries = 500;
constexpr std::size_t kCacheBytes = std::size_t{4} << 20;

}  // namespace

void ImageTrial::read_all(Suspend& suspend, Filesystem& filesystem) {
    std::vector<InodeNumber> to_visit = {fs::kRootInode};
    std::set<InodeNumber> seen = {fs::kRootInode};
    for (std::size_t i = 0; i < to_visit.size(); ++i) {
        const InodeNumber inode = to_visit[i];
        ignore(filesystem.getattr(suspend, inode));
        ignore(filesystem.read(suspend, inode, 0, images_.buffer()));
        ignore(filesystem.readlink(suspend, inode));
        ignore(filesystem.seek(suspend, inode, 0, fs::SeekFor::kHole));
        ignore(filesystem.seek(suspend, inode, 5000, fs::SeekFor::kData));
        if (const auto names = filesystem.listxattr(suspend, inode)) {
            for (const std::string& name : *names) {
                ignore(filesystem.getxattr(suspend, inode, name));
            }
        }
        std::vector<std::string> names;
        ignore(filesystem.readdir(suspend, inode, 0, true, [&](const fs::DirectoryEntry& entry) {
            if (entry.attributes != nullptr) filesystem.forget(entry.inode, 1);
            if (names.size() < 3) names.emplace_back(entry.name);
            if (seen.insert(entry.inode).second) to_visit.push_back(entry.inode);
            return to_visit.size() < kMostEntries;
        }));
        for (const std::string& name : names) {
            if (const auto found = filesystem.lookup(suspend, inode, name)) {
                filesystem.forget(found->inode, 1);
            }
        }
    }
}

void ImageTrial::change_one(Suspend& suspend, Filesystem& filesystem) {
    const InodeNumber inode{1 + mutation_.below(kImageInodes)};
    const InodeNumber other{1 + mutation_.below(4)};
    const std::string name = "file" + std::to_string(mutation_.below(kImageFiles));
    const auto forget = [&](const Result<fs::Attributes>& made) {
        if (made) filesystem.forget(made->inode, 1);
    };
    switch (mutation_.below(16)) {
        case 0:
            return ignore(filesystem.write(suspend, inode, mutation_.below(30'000),
                                           images_.buffer().first(5000), {}));
        case 1:
            return ignore(
                filesystem.setattr(suspend, kImageUser, inode, {.size = mutation_.below(60'000)}));
        case 2:
            return ignore(filesystem.unlink(suspend, other, name));
        case 3:
            return ignore(filesystem.rename(suspend, other, name, fs::kRootInode, name,
                                            fs::RenameMode::kReplace));
        case 4:
            return forget(filesystem.create(suspend, kImageUser, inode, "new", 0600, true));
        case 5:
            return ignore(filesystem.fallocate(suspend, inode,
                                               FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                                               mutation_.below(30'000), mutation_.below(30'000)));
        case 6:
            return ignore(filesystem.fallocate(suspend, inode, 0, mutation_.below(60'000),
                                               mutation_.below(60'000)));
        case 7:
            return ignore(filesystem.copy_file_range(
                suspend, inode, 0, InodeNumber{1 + mutation_.below(kImageInodes)},
                mutation_.below(30'000), 20'000, images_.buffer()));
        case 8:
            return ignore(filesystem.setxattr(suspend, inode, "user.y",
                                              std::string(mutation_.below(3000), 'y'),
                                              fs::XattrMode::kAny));
        case 9:
            return ignore(filesystem.removexattr(suspend, inode, "user.x"));
        case 10:
            return ignore(
                filesystem.rmdir(suspend, other, mutation_.below(2) == 0 ? "inner" : name));
        case 11:
            return forget(filesystem.link(suspend, inode, other, "link"));
        case 12:
            return ignore(filesystem.rename(suspend, InodeNumber{2}, "inner", other, name,
                                            fs::RenameMode::kExchange));
        case 13:
            return ignore(filesystem.setattr(suspend, kImageUser, inode,
                                             {.mode = 0700, .uid = 5, .mtime_now = true}));
        case 14:
            return forget(filesystem.mkdir(suspend, kImageUser, inode, "newdir", 0755));
        default:
            return ignore(filesystem.sync(suspend));
    }
}

void ImageTrial::change_some(Suspend& suspend, Filesystem& filesystem) {
    for (int i = 0; i < 30 && !mutation_.over(); ++i) change_one(suspend, filesystem);
    ignore(filesystem.sync(suspend));
}

// Mounts it, uses it, unmounts it. With `sound` all of that has to succeed.
void ImageTrial::mount(Suspend& suspend, bool read_only, bool sound) {
    const auto opened = Filesystem::open(
        suspend, images_.device(), {.store = {.read_only = read_only, .cache_bytes = kCacheBytes}});
    if (!opened) {
        // A feature that allows reading only is no damage.
        hold(!sound || opened.error().code == Errc::kReadOnly,
             "what is sound is mounted: " + opened.error().message());
        return;
    }
    Filesystem& filesystem = **opened;
    read_all(suspend, filesystem);
    // What is not sound keeps them busy for long.
    if (sound || mutation_.below(16) == 1) {
        const auto names = filesystem.check(suspend);
        const auto store = filesystem.store().check(suspend);
        const std::string where = read_only ? "mounted read-only: " : "mounted: ";
        hold((names && store) || !sound, where + "what is sound can be checked");
        if (sound && names && !names->empty()) hold(false, where + names->front());
        if (sound && store && !store->empty()) hold(false, where + store->front());
    }
    if (!read_only) change_some(suspend, filesystem);
    const auto closed = filesystem.close(suspend);
    hold(closed || !sound, "what is sound is unmounted");
}

std::optional<fsck::CheckReport> ImageTrial::check(Suspend& suspend, RepairMode mode) {
    fsck::CheckRequest request;
    request.device = "memory";
    request.mode = mode;
    request.force = true;
    auto report = fsck::check_opened(suspend, images_.device(), request);
    if (!report) return std::nullopt;
    return std::move(*report);
}

void ImageTrial::check_only(Suspend& suspend) {
    images_.put(image_);
    const auto found = check(suspend, RepairMode::kNone);
    hold(images_.unchanged(), "a check changes nothing");
    verdict_ = !found ? Verdict::kRefused : found->left == 0 ? Verdict::kSound : Verdict::kUnsound;
}

void ImageTrial::mounts(Suspend& suspend) {
    const bool sound = verdict_ == Verdict::kSound;
    images_.put(image_);
    mount(suspend, true, sound);
    hold(images_.unchanged(), "a read-only mount changes nothing");
    mount(suspend, false, sound);
    if (sound) {
        const auto after = check(suspend, RepairMode::kNone);
        hold(after && after->left == 0,
             "what is sound stays so in use: " +
                 (after && !after->problems.empty() ? after->problems.front().text : ""));
    } else {
        mount(suspend, false, false);
    }
}

void ImageTrial::repairs(Suspend& suspend) {
    images_.put(image_);
    const auto repaired = check(suspend, RepairMode::kAll);
    if (!repaired) return;
    hold(repaired->left == 0,
         "a repair leaves nothing to repair: " +
             (repaired->problems.empty() ? "" : repaired->problems.back().text));
    if (repaired->left == 0) mount(suspend, false, true);
}

void ImageTrial::checks(Suspend& suspend) {
    check_only(suspend);
    if (verdict_ == Verdict::kSound) mounts(suspend);
    if (verdict_ == Verdict::kUnsound) repairs(suspend);
}

void ImageTrial::everything(Suspend& suspend) {
    check_only(suspend);
    mounts(suspend);
    repairs(suspend);
}

}  // namespace blobfs::fuzz
