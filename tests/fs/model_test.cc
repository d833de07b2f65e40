// Random operations against a model in memory, with remounts, clean and after a power cut.
// BLOBFS_SEED chooses the seed, BLOBFS_OPERATIONS how many operations.

#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "fs/filesystem_state.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct ModelInode {
    std::uint32_t mode = 0;
    std::uint32_t uid = 0, gid = 0;
    std::uint32_t nlink = 0;
    Timestamp mtime, ctime;
    std::string data;    // of files
    std::string target;  // of symbolic links
    std::map<std::string, InodeNumber> entries;
    InodeNumber parent{};
    std::map<std::string, std::string> xattrs;
    bool temporary = false;

    [[nodiscard]] bool directory() const { return S_ISDIR(mode); }
    [[nodiscard]] bool regular() const { return S_ISREG(mode); }
};

class ModelTest : public FilesystemTest {
  protected:
    ModelTest()
        : FilesystemTest(std::uint64_t{512} << 20, from_environment("BLOBFS_SEED", 0) + 1) {}

    void start(std::uint64_t seed) {
        random_.seed(seed);
        ModelInode root;
        root.mode = S_IFDIR | 0755;
        root.nlink = 2;
        root.parent = kRootInode;
        model_[kRootInode] = root;
    }
    void touch_root() { touch(model_.at(kRootInode)); }
    void step(Suspend& suspend);
    void verify(Suspend& suspend);
    void check_remount(Suspend& suspend);

  private:
    using Outcome = std::optional<Errc>;  // nothing: it succeeds

    std::uint64_t below(std::uint64_t n) { return random_() % n; }
    std::string any_name() {
        static const std::string kLong(255, 'L');
        const std::uint64_t n = below(14);
        return n == 13 ? kLong : "name" + std::to_string(n);
    }
    InodeNumber any(bool directories_only) {
        std::vector<InodeNumber> numbers;
        for (const auto& [number, inode] : model_) {
            if (!directories_only || inode.directory()) {
                numbers.push_back(number);
            }
        }
        return numbers[below(numbers.size())];
    }
    InodeNumber any_directory() { return any(true); }
    InodeNumber any_inode() { return any(false); }
    std::string any_text(std::size_t bytes) {
        std::string text(bytes, '\0');
        const auto salt = static_cast<unsigned>(random_());
        for (std::size_t i = 0; i < bytes; ++i) {
            text[i] = static_cast<char>(salt + i * 13 + i / 257);
        }
        return text;
    }
    std::uint64_t any_offset() {
        switch (below(4)) {
            case 0:
                return below(100);
            case 1:
                return below(32) * 4096;
            default:
                return below(100'000);
        }
    }
    std::size_t any_length() { return 1 + (below(3) == 0 ? below(60'000) : below(5'000)); }

    template <class T>
    bool expect(const Result<T>& result, const Outcome& outcome, const std::string& what) {
        const std::string happened = result ? "success" : result.error().message();
        const bool same = outcome ? !result && result.error().code == *outcome : result.has_value();
        EXPECT_TRUE(same) << "operation " << operation_ << ", " << what << ": " << happened
                          << ", the model: " << (outcome ? to_string(*outcome) : "success");
        return same && result.has_value();
    }
    // What making a name in this directory answers.
    Outcome naming(const ModelInode& directory, const std::string& name) const {
        if (directory.nlink == 0) {
            return Errc::kNotFound;
        }
        return directory.entries.contains(name) ? Outcome(Errc::kExists) : std::nullopt;
    }
    // Directories with setgid pass their group on.
    static void inherit_group(const ModelInode& directory, ModelInode& inode) {
        if ((directory.mode & S_ISGID) != 0) {
            inode.gid = directory.gid;
            inode.mode |= inode.directory() ? S_ISGID : 0u;
        }
    }
    void touch(ModelInode& inode) { inode.mtime = inode.ctime = clock; }
    void add(const Attributes& made, InodeNumber parent, const std::string& name, ModelInode inode);
    void drop_name(InodeNumber number, std::uint32_t links);
    void reference_or_forget(InodeNumber number);
    bool is_above(InodeNumber upper, InodeNumber lower) const;

    void make(Suspend& suspend);
    void link(Suspend& suspend);
    void remove(Suspend& suspend);
    void rename(Suspend& suspend);
    void replace_or_exchange(const std::pair<InodeNumber, std::string>& from,
                             const std::pair<InodeNumber, std::string>& to, RenameMode mode);
    Outcome renaming(const std::pair<InodeNumber, std::string>& from,
                     const std::pair<InodeNumber, std::string>& to, RenameMode mode) const;
    void write_data(Suspend& suspend);
    void truncate(Suspend& suspend);
    void allocate(Suspend& suspend);
    void copy(Suspend& suspend);
    void change_attributes(Suspend& suspend);
    void change_xattrs(Suspend& suspend);
    void tmpfile(Suspend& suspend);
    void forget_one();
    void verify_inode(Suspend& suspend, InodeNumber number, const ModelInode& inode);

    std::mt19937_64 random_;
    std::map<InodeNumber, ModelInode> model_;
    std::set<InodeNumber> held_;  // referenced by us
    int operation_ = 0;
};

void ModelTest::add(const Attributes& made, InodeNumber parent, const std::string& name,
                    ModelInode inode) {
    EXPECT_FALSE(model_.contains(made.inode)) << "an inode number was used twice";
    ModelInode& directory = model_.at(parent);
    touch(inode);
    inode.nlink = inode.directory() ? 2 : 1;
    if (inode.directory()) {
        inode.parent = parent;
        ++directory.nlink;
    }
    directory.entries[name] = made.inode;
    touch(directory);
    model_[made.inode] = std::move(inode);
    reference_or_forget(made.inode);
}

// A reference was counted by the filesystem: keep it now and then.
void ModelTest::reference_or_forget(InodeNumber number) {
    if (held_.size() < 20 && below(5) == 0 && held_.insert(number).second) {
        return;
    }
    fs->forget(number, 1);
}

void ModelTest::drop_name(InodeNumber number, std::uint32_t links) {
    ModelInode& inode = model_.at(number);
    inode.nlink -= links;
    inode.ctime = clock;
    if (inode.nlink == 0 && !held_.contains(number)) {
        model_.erase(number);
    }
}

bool ModelTest::is_above(InodeNumber upper, InodeNumber lower) const {
    while (lower != upper && lower != kRootInode) {
        lower = model_.at(lower).parent;
    }
    return lower == upper;
}

void ModelTest::make(Suspend& suspend) {
    const InodeNumber parent = any_directory();
    const std::string name = any_name();
    const Outcome outcome = naming(model_.at(parent), name);
    ModelInode inode;
    inode.uid = kUser.uid;
    inode.gid = kUser.gid;
    Result<Attributes> made = fail(Errc::kIo, "");
    switch (below(6)) {
        case 0:
        case 1:
            inode.mode = S_IFDIR | 0755;
            made = fs->mkdir(suspend, kUser, parent, name, 0777);
            break;
        case 2:
            inode.mode = S_IFLNK | 0777;
            inode.target = std::string(1 + below(below(3) == 0 ? 4095 : 100), 't');
            made = fs->symlink(suspend, kUser, parent, name, inode.target);
            break;
        case 3:
            inode.mode = S_IFIFO | 0600;
            made = fs->mknod(suspend, kUser, parent, name, S_IFIFO | 0622, 0);
            break;
        default:
            inode.mode = S_IFREG | 0644;
            made = fs->create(suspend, kUser, parent, name, 0666, true);
    }
    inherit_group(model_.at(parent), inode);
    if (expect(made, outcome, "making " + name)) {
        add(*made, parent, name, inode);
    }
}

void ModelTest::link(Suspend& suspend) {
    const InodeNumber number = any_inode();
    const InodeNumber parent = any_directory();
    const std::string name = any_name();
    ModelInode& inode = model_.at(number);
    Outcome outcome = naming(model_.at(parent), name);
    if (model_.at(parent).nlink != 0 && inode.directory()) {
        outcome = Errc::kPermission;
    } else if (!outcome && inode.nlink == 0 && !inode.temporary) {
        outcome = Errc::kNotFound;
    }
    const auto linked = fs->link(suspend, number, parent, name);
    if (expect(linked, outcome, "linking " + name)) {
        ++inode.nlink;
        inode.temporary = false;
        inode.ctime = clock;
        model_.at(parent).entries[name] = number;
        touch(model_.at(parent));
        fs->forget(number, 1);
    }
}

void ModelTest::remove(Suspend& suspend) {
    const InodeNumber parent = any_directory();
    const std::string name = any_name();
    ModelInode& directory = model_.at(parent);
    const auto found = directory.entries.find(name);
    const bool of_directory = below(3) == 0;
    Outcome outcome;
    if (found == directory.entries.end()) {
        outcome = Errc::kNotFound;
    } else if (of_directory && !model_.at(found->second).directory()) {
        outcome = Errc::kNotDirectory;
    } else if (!of_directory && model_.at(found->second).directory()) {
        outcome = Errc::kIsDirectory;
    } else if (of_directory && !model_.at(found->second).entries.empty()) {
        outcome = Errc::kNotEmpty;
    }
    const auto removed =
        of_directory ? fs->rmdir(suspend, parent, name) : fs->unlink(suspend, parent, name);
    if (expect(removed, outcome, "removing " + name)) {
        const InodeNumber number = found->second;
        directory.entries.erase(found);
        directory.nlink -= of_directory ? 1u : 0u;
        touch(directory);
        drop_name(number, of_directory ? 2 : 1);
    }
}

ModelTest::Outcome ModelTest::renaming(const std::pair<InodeNumber, std::string>& from,
                                       const std::pair<InodeNumber, std::string>& to,
                                       RenameMode mode) const {
    const ModelInode& old_directory = model_.at(from.first);
    const ModelInode& new_directory = model_.at(to.first);
    if (old_directory.nlink == 0 || new_directory.nlink == 0) {
        return Errc::kNotFound;
    }
    const auto source = old_directory.entries.find(from.second);
    const auto target = new_directory.entries.find(to.second);
    const bool replaces = target != new_directory.entries.end();
    if (source == old_directory.entries.end()) {
        return Errc::kNotFound;
    }
    if (replaces && mode == RenameMode::kNoReplace) {
        return Errc::kExists;
    }
    if (!replaces && mode == RenameMode::kExchange) {
        return Errc::kNotFound;
    }
    if (replaces && source->second == target->second) {
        return std::nullopt;
    }
    const ModelInode& moved = model_.at(source->second);
    if (from.first != to.first && moved.directory() && is_above(source->second, to.first)) {
        return Errc::kLoop;
    }
    if (!replaces) {
        return std::nullopt;
    }
    const ModelInode& replaced = model_.at(target->second);
    if (from.first != to.first && replaced.directory() && is_above(target->second, from.first)) {
        return mode == RenameMode::kExchange ? Errc::kLoop : Errc::kNotEmpty;
    }
    if (mode == RenameMode::kExchange) {
        return std::nullopt;
    }
    if (moved.directory() && !replaced.directory()) {
        return Errc::kNotDirectory;
    }
    if (!moved.directory() && replaced.directory()) {
        return Errc::kIsDirectory;
    }
    return replaced.directory() && !replaced.entries.empty() ? Outcome(Errc::kNotEmpty)
                                                             : std::nullopt;
}

void ModelTest::replace_or_exchange(const std::pair<InodeNumber, std::string>& from,
                                    const std::pair<InodeNumber, std::string>& to,
                                    RenameMode mode) {
    ModelInode& old_directory = model_.at(from.first);
    ModelInode& new_directory = model_.at(to.first);
    const InodeNumber source = old_directory.entries.at(from.second);
    const auto found = new_directory.entries.find(to.second);
    const std::optional<InodeNumber> target =
        found == new_directory.entries.end() ? std::nullopt : std::optional(found->second);
    if (target == source) {
        return;
    }
    touch(old_directory);
    touch(new_directory);
    const auto move = [&](InodeNumber number, ModelInode& left, ModelInode& entered,
                          InodeNumber parent) {
        ModelInode& inode = model_.at(number);
        inode.ctime = clock;
        if (inode.directory()) {
            --left.nlink;
            ++entered.nlink;
            inode.parent = parent;
        }
    };
    move(source, old_directory, new_directory, to.first);
    new_directory.entries[to.second] = source;
    if (mode == RenameMode::kExchange) {
        old_directory.entries[from.second] = *target;
        move(*target, new_directory, old_directory, from.first);
        return;
    }
    old_directory.entries.erase(from.second);
    if (target) {
        const bool directory = model_.at(*target).directory();
        new_directory.nlink -= directory ? 1u : 0u;
        drop_name(*target, directory ? 2 : 1);
    }
}

void ModelTest::rename(Suspend& suspend) {
    const std::pair<InodeNumber, std::string> from{any_directory(), any_name()};
    const std::pair<InodeNumber, std::string> to{below(2) == 0 ? from.first : any_directory(),
                                                 any_name()};
    const auto mode = static_cast<RenameMode>(below(3));
    const Outcome outcome = renaming(from, to, mode);
    const auto renamed = fs->rename(suspend, from.first, from.second, to.first, to.second, mode);
    if (expect(renamed, outcome, "renaming " + from.second + " to " + to.second)) {
        replace_or_exchange(from, to, mode);
    }
}

void ModelTest::write_data(Suspend& suspend) {
    const InodeNumber number = any_inode();
    ModelInode& inode = model_.at(number);
    const std::uint64_t offset = any_offset();
    const std::string text = any_text(any_length());
    const bool kill = below(4) == 0;
    const Outcome outcome = inode.directory()  ? Outcome(Errc::kIsDirectory)
                            : !inode.regular() ? Outcome(Errc::kInvalidArgument)
                                               : std::nullopt;
    if (outcome && kill) {
        return;
    }
    const auto written =
        write(suspend, number, offset, text, {.kill_privileges = kill, .durable = below(20) == 0});
    if (expect(written, outcome, "writing")) {
        EXPECT_EQ(*written, text.size());
        inode.data.resize(std::max<std::size_t>(inode.data.size(), offset + text.size()));
        inode.data.replace(offset, text.size(), text);
        inode.mode = kill ? without_set_id(inode.mode) : inode.mode;
        touch(inode);
    }
}

void ModelTest::truncate(Suspend& suspend) {
    const InodeNumber number = any_inode();
    ModelInode& inode = model_.at(number);
    const std::uint64_t size = below(3) == 0 ? 0 : any_offset();
    const Outcome outcome = inode.directory()  ? Outcome(Errc::kIsDirectory)
                            : !inode.regular() ? Outcome(Errc::kInvalidArgument)
                                               : std::nullopt;
    if (expect(fs->setattr(suspend, kRootUser, number, {.size = size}), outcome, "truncating")) {
        if (size != inode.data.size()) touch(inode);
        inode.data.resize(size);
    }
}

void ModelTest::allocate(Suspend& suspend) {
    const InodeNumber number = any_inode();
    ModelInode& inode = model_.at(number);
    if (!inode.regular()) {
        return;
    }
    static constexpr std::uint32_t kModes[] = {
        0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
    const std::uint32_t mode = kModes[below(4)];
    const std::uint64_t offset = any_offset();
    const std::uint64_t length = any_length();
    if (expect(fs->fallocate(suspend, number, mode, offset, length), {}, "allocating")) {
        touch(inode);
        if ((mode & FALLOC_FL_KEEP_SIZE) == 0) {
            inode.data.resize(std::max<std::size_t>(inode.data.size(), offset + length));
        }
        if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 &&
            offset < inode.data.size()) {
            const std::size_t zeroes = std::min<std::size_t>(length, inode.data.size() - offset);
            inode.data.replace(offset, zeroes, zeroes, '\0');
        }
    }
}

void ModelTest::copy(Suspend& suspend) {
    const InodeNumber from = any_inode();
    const InodeNumber to = any_inode();
    if (from == to || !model_.at(from).regular() || !model_.at(to).regular()) {
        return;
    }
    const ModelInode& source = model_.at(from);
    ModelInode& target = model_.at(to);
    const std::uint64_t from_offset = any_offset();
    const std::uint64_t to_offset = any_offset();
    const std::uint64_t length = any_length();
    const auto copied =
        fs->copy_file_range(suspend, from, from_offset, to, to_offset, length, buffer.span());
    if (expect(copied, {}, "copying")) {
        const std::string text =
            from_offset < source.data.size() ? source.data.substr(from_offset, length) : "";
        EXPECT_EQ(*copied, text.size());
        if (!text.empty()) {
            target.data.resize(std::max<std::size_t>(target.data.size(), to_offset + text.size()));
            target.data.replace(to_offset, text.size(), text);
            target.mode = without_set_id(target.mode);
            touch(target);
        }
    }
}

void ModelTest::change_attributes(Suspend& suspend) {
    const InodeNumber number = any_inode();
    ModelInode& inode = model_.at(number);
    SetAttributes changes;
    switch (below(3)) {
        case 0:
            changes.mode = static_cast<std::uint32_t>(below(010000));
            break;
        case 1:
            changes.uid = static_cast<std::uint32_t>(below(5));
            changes.gid = static_cast<std::uint32_t>(below(5));
            break;
        default:
            changes.mtime = Timestamp{static_cast<std::int64_t>(random_()),
                                      static_cast<std::uint32_t>(below(1'000'000'000))};
    }
    if (expect(fs->setattr(suspend, kRootUser, number, changes), {}, "setting attributes")) {
        inode.ctime = clock;
        inode.mtime = changes.mtime.value_or(inode.mtime);
        if (changes.mode) {
            inode.mode = (inode.mode & S_IFMT) | *changes.mode;
        }
        if (changes.uid) {
            inode.uid = *changes.uid;
            inode.gid = *changes.gid;
            inode.mode = inode.directory() ? inode.mode : without_set_id(inode.mode);
        }
    }
}

void ModelTest::change_xattrs(Suspend& suspend) {
    const InodeNumber number = any_inode();
    ModelInode& inode = model_.at(number);
    const std::string name = "user.x" + std::to_string(below(4));
    const bool present = inode.xattrs.contains(name);
    if (below(3) == 0) {
        const Outcome outcome = present ? std::nullopt : Outcome(Errc::kNoAttribute);
        if (expect(fs->removexattr(suspend, number, name), outcome, "removing an xattr")) {
            inode.xattrs.erase(name);
            inode.ctime = clock;
        }
        return;
    }
    const auto mode = static_cast<XattrMode>(below(3));
    const std::string text = any_text(below(5) == 0 ? below(20'000) : below(100));
    Outcome outcome;
    if (mode == XattrMode::kCreate && present) {
        outcome = Errc::kExists;
    } else if (mode == XattrMode::kReplace && !present) {
        outcome = Errc::kNoAttribute;
    }
    if (expect(fs->setxattr(suspend, number, name, text, mode), outcome, "setting an xattr")) {
        inode.xattrs[name] = text;
        inode.ctime = clock;
    }
}

void ModelTest::tmpfile(Suspend& suspend) {
    const InodeNumber parent = any_directory();
    const Outcome outcome = model_.at(parent).nlink == 0 ? Outcome(Errc::kNotFound) : std::nullopt;
    if (held_.size() >= 20) {
        return;
    }
    const auto made = fs->tmpfile(suspend, kUser, parent, 0666);
    if (expect(made, outcome, "making a temporary file")) {
        ModelInode inode;
        inode.mode = S_IFREG | 0644;
        inode.uid = kUser.uid;
        inode.gid = kUser.gid;
        inode.temporary = true;
        inherit_group(model_.at(parent), inode);
        touch(inode);
        model_[made->inode] = inode;
        held_.insert(made->inode);
    }
}

void ModelTest::forget_one() {
    if (held_.empty()) {
        return;
    }
    const auto victim = std::next(held_.begin(), static_cast<std::ptrdiff_t>(below(held_.size())));
    fs->forget(*victim, 1);
    if (model_.at(*victim).nlink == 0) {
        model_.erase(*victim);
    }
    held_.erase(victim);
}

void ModelTest::step(Suspend& suspend) {
    ++operation_;
    clock.seconds += 1;
    clock.nanoseconds = static_cast<std::uint32_t>(below(1'000'000'000));
    const std::uint64_t kind = below(100);
    if (kind < 20) {
        make(suspend);
    } else if (kind < 26) {
        link(suspend);
    } else if (kind < 38) {
        remove(suspend);
    } else if (kind < 50) {
        rename(suspend);
    } else if (kind < 68) {
        write_data(suspend);
    } else if (kind < 74) {
        truncate(suspend);
    } else if (kind < 78) {
        allocate(suspend);
    } else if (kind < 81) {
        copy(suspend);
    } else if (kind < 87) {
        change_attributes(suspend);
    } else if (kind < 93) {
        change_xattrs(suspend);
    } else if (kind < 95) {
        tmpfile(suspend);
    } else {
        forget_one();
    }
}

void ModelTest::verify_inode(Suspend& suspend, InodeNumber number, const ModelInode& inode) {
    const Attributes found = attributes(suspend, number);
    const std::string what =
        "inode " + std::to_string(value(number)) + " after operation " + std::to_string(operation_);
    EXPECT_EQ(found.mode, inode.mode) << what;
    EXPECT_EQ(found.uid, inode.uid) << what;
    EXPECT_EQ(found.gid, inode.gid) << what;
    EXPECT_EQ(found.nlink, inode.nlink) << what;
    EXPECT_TRUE(found.mtime == inode.mtime)
        << what << " mtime " << found.mtime.seconds << " " << inode.mtime.seconds;
    EXPECT_TRUE(found.ctime == inode.ctime)
        << what << " ctime " << found.ctime.seconds << " " << inode.ctime.seconds;
    std::map<std::string, std::string> xattrs;
    for (const std::string& name : must(fs->listxattr(suspend, number))) {
        xattrs[name] = must(fs->getxattr(suspend, number, name));
    }
    EXPECT_TRUE(xattrs == inode.xattrs) << what;
    if (inode.regular()) {
        EXPECT_EQ(found.size, inode.data.size()) << what;
        EXPECT_TRUE(read(suspend, number, 0, inode.data.size() + 100) == inode.data) << what;
    } else if (S_ISLNK(inode.mode)) {
        EXPECT_EQ(must(fs->readlink(suspend, number)), inode.target) << what;
    } else if (inode.directory() && inode.nlink != 0) {
        std::map<std::string, InodeNumber> entries;
        must(fs->readdir(suspend, number, 2, false, [&](const DirectoryEntry& entry) {
            EXPECT_TRUE(entries.emplace(entry.name, entry.inode).second);
            return true;
        }));
        EXPECT_TRUE(entries == inode.entries) << what;
        for (const auto& [name, child] : inode.entries) {
            EXPECT_EQ(must(lookup(suspend, number, name)), child) << what;
        }
        EXPECT_EQ(must(lookup(suspend, number, "..")), inode.parent) << what;
    }
}

void ModelTest::verify(Suspend& suspend) {
    for (const auto& [number, inode] : model_) {
        verify_inode(suspend, number, inode);
    }
    expect_sound(suspend);
}

// Clean, or by a power cut after a sync; what had no name is gone either way.
void ModelTest::check_remount(Suspend& suspend) {
    switch (below(3)) {
        case 0:
            remount(suspend);
            break;
        case 1:
            must(fs->sync(suspend));
            crash(suspend);
            break;
        default:
            must(fs->fsync(suspend, kRootInode, true));
            must(fs->sync(suspend));
            crash(suspend, false);
    }
    held_.clear();
    std::erase_if(model_, [](const auto& one) { return one.second.nlink == 0; });
    // The store deletes orphans in the background.
    for (int i = 0; i < 2000 && fs->store().space().blobs > model_.size(); ++i) {
        suspend.sleep_us(500);
    }
}

TEST_F(ModelTest, RandomOperationsDoWhatTheModelDoes) {
    const std::uint64_t seed = from_environment(
        "BLOBFS_SEED",
        static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) %
            1'000'000);
    const std::uint64_t operations = from_environment("BLOBFS_OPERATIONS", 10'000);
    std::cout << "BLOBFS_SEED=" << seed << '\n';
    RecordProperty("seed", std::to_string(seed));
    run([&](Suspend& suspend) {
        start(seed);
        // The root's times are those of mkfs; from here on they follow the test's clock.
        must(fs->setattr(suspend, kRootUser, kRootInode, {.mtime = clock}));
        touch_root();
        for (std::uint64_t i = 0; i < operations && !HasFailure(); ++i) {
            step(suspend);
            if (i % 500 == 499) {
                verify(suspend);
                if (HasFailure()) {
                    break;
                }
                check_remount(suspend);
                verify(suspend);
            }
        }
    });
}

}  // namespace
}  // namespace blobfs::fs
