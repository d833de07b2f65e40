#include "tests/fs/crash_workload.h"

#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {

void CrashWorkload::start(Suspend& suspend) {
    buffer_ = must(driver::DmaBuffer::allocate(kFileSectors * kSector));
    answered(suspend);
    synced();
    // What lies in the files is their history so far.
    std::map<InodeNumber, std::uint64_t> files;
    describe(suspend, fs(), root_, "", &files);
    for (const auto& [inode, size] : files) {
        if (size > kFileSectors * kSector) continue;  // the filler
        history_.older.insert(value(inode));
        const std::size_t bytes = must(fs().read(suspend, inode, 0, buffer_.span()));
        for (std::uint64_t sector = 0; sector < bytes / kSector; ++sector) {
            const Stamp found = Stamp::at(buffer_.data() + sector * kSector);
            writes_ = std::max(writes_, found.write);
            history_.sectors[value(inode)][sector].push_back({.write = found.write,
                                                              .issued_at = 0,
                                                              .operation = history_.operations,
                                                              .shows = found});
        }
    }
    writes_ += 1000;  // none is like one that was lost
}

void CrashWorkload::answered(Suspend& suspend) {
    ++history_.operations;
    history_.after[describe(suspend, fs(), root_, "", nullptr)].push_back(history_.operations);
}

void CrashWorkload::synced() {
    history_.syncs.push_back({world_.medium->journal().size(), history_.operations});
}

void CrashWorkload::sync(Suspend& suspend) {
    must(fs().sync(suspend));
    world_.early.settle_all(suspend);  // what comes later is no part of this
    synced();
}

InodeNumber CrashWorkload::create(Suspend& suspend, InodeNumber parent, const std::string& name) {
    const auto made = fs().create(suspend, kRootUser, parent, name, 0644, true);
    if (!made) return {};
    fs().forget(made->inode, 1);
    return made->inode;
}

InodeNumber CrashWorkload::lookup(Suspend& suspend, const std::string& name) {
    const Attributes found = must(fs().lookup(suspend, root_, name));
    fs().forget(found.inode, 1);
    return found.inode;
}

void CrashWorkload::expect_usual(const Error& error) {
    const bool failed = world_.options.failing && (error.code == Errc::kIo || fs().read_only());
    EXPECT_TRUE(error.code == Errc::kNoSpace || failed) << error.message();
}

// Data. -----------------------------------------------------------------------------------------

CrashWorkload::Write CrashWorkload::begin_write(Suspend& suspend, InodeNumber file,
                                                std::uint64_t first, std::uint64_t count) {
    return {.file = file,
            .first = first,
            .count = count,
            .number = ++writes_,
            .old_end = must(fs().getattr(suspend, file)).size / kSector};
}

void CrashWorkload::send(const Write& write, std::uint64_t sector, const Stamp& shows) {
    history_.sectors[value(write.file)][sector].push_back(
        {.write = write.number,
         .issued_at = world_.medium->journal().size(),
         .operation = history_.operations + 1,
         .shows = shows});
}

void CrashWorkload::write(Suspend& suspend, InodeNumber file, std::uint64_t first,
                          std::uint64_t count, bool early) {
    const Write write = begin_write(suspend, file, first, count);
    auto from = must(driver::DmaBuffer::allocate(count * kSector));
    for (std::uint64_t i = 0; i < count; ++i) {
        const Stamp mark = Stamp::of(value(file), first + i, write.number);
        for (std::size_t at = 0; at < kSector; at += sizeof(mark)) {
            std::memcpy(from.data() + i * kSector + at, &mark, sizeof(mark));
        }
        send(write, first + i, mark);
    }
    carry_out(
        suspend, write, early,
        [this, write, from = std::move(from)](
            Suspend& own, std::optional<absl::FunctionRef<void()>> told) -> Result<std::size_t> {
            const auto under_way = [&](bool) { (*told)(); };
            WriteOptions options{.keep_times = told.has_value(), .whole = told.has_value()};
            if (told) options.under_way.emplace(under_way);
            TRY_ASSIGN(const Written written,
                       fs().write(own, write.file, write.first * kSector, from.span(), options));
            return written.bytes;
        });
}

// What is read before the copy is what the copy reads: that waits for the source's data, too.
void CrashWorkload::copy(Suspend& suspend, const Copy& wanted, bool early) {
    const auto read = fs().read(suspend, wanted.from, wanted.from_first * kSector,
                                buffer_.span().first(wanted.count * kSector));
    if (!read) {
        EXPECT_TRUE(fs().read_only()) << read.error().message();
        return;
    }
    const Write write = begin_write(suspend, wanted.to, wanted.to_first, *read / kSector);
    for (std::uint64_t i = 0; i < write.count; ++i) {
        send(write, write.first + i, Stamp::at(buffer_.data() + i * kSector));
    }
    // In one piece, as each is a transaction.
    auto through = must(driver::DmaBuffer::allocate(kFileSectors * kSector));
    carry_out(suspend, write, early,
              [this, wanted, through = std::move(through)](
                  Suspend& own, std::optional<absl::FunctionRef<void()>> told) {
                  const auto under_way = [&](std::size_t, bool) { (*told)(); };
                  CopyOptions options{.keep_times = told.has_value()};
                  if (told) options.under_way.emplace(under_way);
                  return fs().copy_file_range(own, wanted.from, wanted.from_first * kSector,
                                              wanted.to, wanted.to_first * kSector,
                                              wanted.count * kSector, through.span(), options);
              });
}

void CrashWorkload::carry_out(Suspend& suspend, const Write& write, bool early, Act act) {
    if (early && world_.early.admits(write.file)) {
        return carry_out_early(suspend, write, std::move(act));
    }
    const Result<std::size_t> written = act(suspend, std::nullopt);
    if (!written) expect_usual(written.error());
    history_.failed(write.file, write.first + (written ? *written / kSector : 0), write.number,
                    write.old_end);
    if (written) world_.early.clear_error(write.file);
}

// As Operations answers writes of the kernel's cache, and copies.
void CrashWorkload::carry_out_early(Suspend& suspend, const Write& write, Act act) {
    const auto is_answered = std::make_shared<bool>(false);
    driver::Fiber& caller = suspend.current();
    const auto answer = [is_answered, &caller] {
        *is_answered = true;
        caller.wake();
    };
    suspend.reactor().spawn([this, write, answer, act = std::move(act)](Suspend& own) mutable {
        std::optional<fuse::EarlyAnswers::Ticket> early;
        const auto answer_early = [&] {
            if (!world_.early.admits(write.file)) return;
            early = world_.early.begin(write.file);
            ++world_.answered_early;
            answer();
        };
        const Result<std::size_t> written = act(own, answer_early);
        std::optional<Error> error;
        if (!written) {
            error = written.error();
            expect_usual(*error);
            EXPECT_FALSE(early && error->code == Errc::kNoSpace) << "after the answer";
        }
        const std::uint64_t whole = written ? *written / kSector : 0;
        EXPECT_TRUE(!early || error || whole == write.count) << "short after the answer";
        if (whole < write.count) {
            history_.failed(write.file, write.first + whole, write.number, write.old_end);
        }
        if (early) {
            world_.early.end(*early, error);
        } else {
            answer();
        }
    });
    while (!*is_answered) suspend.park();
}

void CrashWorkload::send_zeroes(InodeNumber file, std::uint64_t first, std::uint64_t count) {
    for (auto& [sector, events] : history_.sectors[value(file)]) {
        if (sector < first || sector - first >= count) continue;
        events.push_back({.write = 0,
                          .issued_at = world_.medium->journal().size(),
                          .operation = history_.operations + 1});
    }
}

void CrashWorkload::zeroes_failed(InodeNumber file, std::uint64_t first, std::uint64_t count) {
    for (auto& [sector, events] : history_.sectors[value(file)]) {
        if (sector >= first && sector - first < count) events.back().may_be = true;
    }
}

void CrashWorkload::truncate(Suspend& suspend, InodeNumber file, std::uint64_t to) {
    constexpr auto kToTheEnd = std::numeric_limits<std::uint64_t>::max();
    send_zeroes(file, to, kToTheEnd);
    SetAttributes change;
    change.size = to * kSector;
    const auto set = fs().setattr(suspend, kRootUser, file, change);
    if (!set) expect_usual(set.error());
    if (!set) zeroes_failed(file, to, kToTheEnd);
}

void CrashWorkload::allocate(Suspend& suspend, InodeNumber file) {
    constexpr std::uint32_t kModes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    const std::uint32_t mode = kModes[below(std::size(kModes))];
    const std::uint64_t first = below(kFileSectors - 40), count = 1 + below(40);
    const bool zeroes = mode == FALLOC_FL_ZERO_RANGE || (mode & FALLOC_FL_PUNCH_HOLE) != 0;
    if (zeroes) send_zeroes(file, first, count);
    const auto done = fs().fallocate(suspend, file, mode, first * kSector, count * kSector);
    if (!done) expect_usual(done.error());
    if (!done && zeroes) zeroes_failed(file, first, count);
}

void CrashWorkload::read(Suspend& suspend, InodeNumber file) {
    const auto bytes = fs().read(suspend, file, 0, buffer_.span());
    if (!bytes) {
        EXPECT_TRUE(fs().read_only()) << bytes.error().message();
        return;
    }
    constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();
    history_.expect_content(file, buffer_.span().first(*bytes), kAll, kAll);
}

// Any of it. ------------------------------------------------------------------------------------

std::vector<CrashWorkload::Found> CrashWorkload::everything(Suspend& suspend,
                                                            InodeNumber directory) {
    std::vector<Found> found;
    must(fs().readdir(suspend, directory, 2, false, [&](const DirectoryEntry& entry) {
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

void CrashWorkload::random_step(Suspend& suspend) {
    const std::vector<Found> all = everything(suspend, root_);
    std::vector<InodeNumber> directories{root_};
    std::vector<Found> files;
    for (const Found& entry : all) {
        if (entry.directory) directories.push_back(entry.inode);
        if (!entry.directory && S_ISREG(must(fs().getattr(suspend, entry.inode)).mode)) {
            files.push_back(entry);
        }
    }
    const bool any = !files.empty();
    const std::uint64_t kind = below(30);
    if (any && (kind < 3 || fs().read_only())) {
        return read(suspend, files[below(files.size())].inode);
    }
    if (any && kind < 6) {
        return sync_somehow(suspend, files[below(files.size())].inode);
    }
    if (any && kind < 8) {
        copy_somewhere(suspend, files);
    } else if (any && kind < 19) {
        change_file(suspend, files[below(files.size())].inode);
    } else {
        change_names(suspend, all, files, directories[below(directories.size())]);
    }
    answered(suspend);
}

void CrashWorkload::sync_somehow(Suspend& suspend, InodeNumber file) {
    world_.early.settle_all(suspend);
    const auto done = below(4) == 0 ? fs().sync(suspend) : fs().fsync(suspend, file, below(2) == 0);
    answered(suspend);
    if (!done) return expect_usual(done.error());
    synced();
}

void CrashWorkload::copy_somewhere(Suspend& suspend, const std::vector<Found>& files) {
    Copy copy{.from = files[below(files.size())].inode,
              .from_first = below(kFileSectors / 2),
              .to = files[below(files.size())].inode,
              .to_first = below(kFileSectors / 2),
              .count = 1 + below(kFileSectors / 2)};
    if (copy.from == copy.to) {
        // One half to the other.
        copy.count = std::min(copy.count, kFileSectors / 2 - copy.from_first);
        copy.to_first = kFileSectors / 2 + copy.to_first % (kFileSectors / 2 - copy.count + 1);
    }
    this->copy(suspend, copy, below(4) != 0);
}

void CrashWorkload::change_file(Suspend& suspend, InodeNumber file) {
    const std::uint64_t kind = below(14);
    if (kind < 6) {
        write(suspend, file, below(kFileSectors - 40), 1 + below(below(3) == 0 ? 40 : 8),
              below(3) != 0);
    } else if (kind < 8) {
        truncate(suspend, file, below(kFileSectors));
    } else if (kind < 12) {
        allocate(suspend, file);
    } else if (kind == 12) {
        (void)fs().setxattr(suspend, file, "user.x", std::string(below(400), 'x'), XattrMode::kAny);
    } else {
        SetAttributes change;
        change.mode = 0600 + static_cast<std::uint32_t>(below(64));
        (void)fs().setattr(suspend, kRootUser, file, change);
    }
}

void CrashWorkload::change_names(Suspend& suspend, const std::vector<Found>& all,
                                 const std::vector<Found>& files, InodeNumber parent) {
    const std::string name = "n" + std::to_string(below(12));
    const std::uint64_t kind = all.empty() ? below(5) : below(12);
    if (kind < 3) {
        const InodeNumber file = create(suspend, parent, name);
        if (value(file) == 0) return;
        answered(suspend);
        write(suspend, file, 0, 1 + below(below(2) == 0 ? 2 : 40), below(3) != 0);
    } else if (kind == 3) {
        const auto made = fs().mkdir(suspend, kRootUser, parent, name, 0755);
        if (made) fs().forget(made->inode, 1);
    } else if (kind == 4) {
        const auto made = fs().symlink(suspend, kRootUser, parent, name, "to/" + name);
        if (made) fs().forget(made->inode, 1);
    } else if (kind < 9) {
        const Found& from = all[below(all.size())];
        const auto mode = below(5) == 0   ? RenameMode::kExchange
                          : below(5) == 0 ? RenameMode::kNoReplace
                                          : RenameMode::kReplace;
        (void)fs().rename(suspend, from.parent, from.name, parent, name, mode);
    } else if (kind == 9 && !files.empty()) {
        const auto linked = fs().link(suspend, files[below(files.size())].inode, parent, name);
        if (linked) fs().forget(linked->inode, 1);
    } else {
        const Found& gone = all[below(all.size())];
        (void)(gone.directory ? fs().rmdir(suspend, gone.parent, gone.name)
                              : fs().unlink(suspend, gone.parent, gone.name));
    }
}

}  // namespace blobfs::fs
