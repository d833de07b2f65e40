// readdir(3), telldir(3), seekdir(3), rewinddir(3): each entry once, whatever comes and goes.
// statfs(2), statvfs(3). name_to_handle_at(2), open_by_handle_at(2). inotify(7).

#include <dirent.h>
#include <sys/inotify.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Readdir : public Case {
  protected:
    class Stream {
      public:
        explicit Stream(const char* path) : directory_(opendir(path)) {}
        ~Stream() { closedir(directory_); }
        Stream(const Stream&) = delete;
        Stream& operator=(const Stream&) = delete;
        // The next name, or "".
        std::string next() {
            const dirent* entry = readdir(directory_);
            return entry != nullptr ? entry->d_name : "";
        }
        std::multiset<std::string> rest() {
            std::multiset<std::string> names;
            for (std::string name = next(); !name.empty(); name = next()) names.insert(name);
            return names;
        }
        [[nodiscard]] DIR* get() const { return directory_; }

      private:
        DIR* directory_;
    };
    static void make_files(int from, int to) {
        for (int i = from; i < to; ++i) {
            ASSERT_EQ(error(mknod(("folder/name" + std::to_string(i)).c_str(), S_IFREG | 0644, 0)),
                      "ok");
        }
    }
    void SetUp() override {
        Case::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    }
};

TEST_F(Readdir, HasDotDotDotAndTypes) {
    make_file("folder/file");
    ASSERT_EQ(error(mkdir("folder/sub", 0755)), "ok");
    ASSERT_EQ(error(symlink("x", "folder/link")), "ok");
    ASSERT_EQ(error(mkfifo("folder/pipe", 0644)), "ok");
    std::map<std::string, unsigned char> types;
    std::map<std::string, ino_t> inodes;
    const Stream stream("folder");
    while (const dirent* entry = readdir(stream.get())) {
        types[entry->d_name] = entry->d_type;
        inodes[entry->d_name] = entry->d_ino;
    }
    EXPECT_EQ(types, (std::map<std::string, unsigned char>{{".", DT_DIR},
                                                           {"..", DT_DIR},
                                                           {"file", DT_REG},
                                                           {"sub", DT_DIR},
                                                           {"link", DT_LNK},
                                                           {"pipe", DT_FIFO}}));
    EXPECT_EQ(inodes["."], status_of("folder").st_ino);
    EXPECT_EQ(inodes[".."], status_of(".").st_ino);
    EXPECT_EQ(inodes["file"], status_of("folder/file").st_ino);
}

TEST_F(Readdir, EachEntryOnceInALargeDirectory) {
    constexpr int kMany = 3'000;
    make_files(0, kMany);
    Stream stream("folder");
    const auto names = stream.rest();
    EXPECT_EQ(names.size(), kMany + 2U);
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), kMany + 2U);
}

TEST_F(Readdir, WhatStaysIsSeenOnceWhileOthersComeAndGo) {
    constexpr int kMany = 2'000;
    make_files(0, kMany);
    Stream stream("folder");
    std::multiset<std::string> seen;
    int next = kMany;
    for (int i = 0;; ++i) {
        const std::string name = stream.next();
        if (name.empty()) break;
        seen.insert(name);
        if (i % 3 == 0) {
            // Even numbers stay.
            unlink(("folder/name" + std::to_string((i * 7 % kMany) | 1)).c_str());
            make_files(next, next + 1);
            ++next;
        }
        ASSERT_LT(i, 20'000);
    }
    for (int i = 0; i < kMany; i += 2) {
        EXPECT_EQ(seen.count("name" + std::to_string(i)), 1U) << i;
    }
    for (const std::string& name : seen) EXPECT_EQ(seen.count(name), 1U) << name;
}

TEST_F(Readdir, PlacesStayValid) {
    constexpr int kMany = 500;
    make_files(0, kMany);
    Stream stream("folder");
    std::vector<std::pair<long, std::string>> places;  // where, and what comes there
    for (;;) {
        const long place = telldir(stream.get());
        const std::string name = stream.next();
        places.emplace_back(place, name);
        if (name.empty()) break;
    }
    // Others come: every place still leads to what followed it, and to nothing that preceded it.
    make_files(kMany, 2 * kMany);
    for (const std::size_t at : {0UL, 1UL, 2UL, 77UL, 250UL, 400UL, 501UL}) {
        seekdir(stream.get(), places[at].first);
        const auto names = stream.rest();
        for (std::size_t other = 0; other + 1 < places.size(); ++other) {
            EXPECT_EQ(names.count(places[other].second), other >= at ? 1U : 0U) << at;
        }
    }
    ASSERT_EQ(error(unlink(("folder/" + places[250].second).c_str())), "ok");
    seekdir(stream.get(), places[250].first);
    auto rest = stream.rest();
    // The name that is gone may be shown or not, until rewinddir().
    for (std::size_t at = 251; at < kMany; ++at) EXPECT_EQ(rest.count(places[at].second), 1U);
    for (std::size_t at = 0; at < 250; ++at) EXPECT_EQ(rest.count(places[at].second), 0U);
}

TEST_F(Readdir, RewindShowsWhatCameMeanwhile) {
    make_files(0, 10);
    Stream stream("folder");
    EXPECT_EQ(stream.rest().size(), 12U);
    make_files(10, 20);
    rewinddir(stream.get());
    EXPECT_EQ(stream.rest().size(), 22U);
}

TEST_F(Readdir, RemovingWhileReadingEmptiesTheDirectory) {
    make_files(0, 2'000);
    Stream stream("folder");
    for (std::string name = stream.next(); !name.empty(); name = stream.next()) {
        if (name == "." || name == "..") continue;
        ASSERT_EQ(error(unlink(("folder/" + name).c_str())), "ok");
    }
    EXPECT_EQ(error(rmdir("folder")), "ok");
}

TEST_F(Readdir, RenamedWhileReadingIsNotLost) {
    make_files(0, 1'000);
    Stream stream("folder");
    std::multiset<std::string> seen;
    for (std::string name = stream.next(); !name.empty(); name = stream.next()) {
        seen.insert(name);
        if (seen.size() == 500) {
            ASSERT_EQ(error(rename("folder/name3", "folder/other3")), "ok");
        }
    }
    EXPECT_GE(seen.count("name3") + seen.count("other3"), 0U);
    for (int i = 4; i < 1'000; ++i) EXPECT_EQ(seen.count("name" + std::to_string(i)), 1U);
}

TEST_F(Readdir, NeedsTheRightToRead) {
    make_file("folder/file");
    ASSERT_EQ(error(chmod("folder", 0711)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("folder", O_RDONLY | O_DIRECTORY); }), "EACCES");
    EXPECT_EQ(as(kAlice, [] { return access("folder/file", F_OK); }), "ok");
    ASSERT_EQ(error(chmod("folder", 0744)), "ok");
    EXPECT_EQ(as(kAlice, [] { return open("folder", O_RDONLY | O_DIRECTORY); }), "ok");
    EXPECT_EQ(as(kAlice, [] { return access("folder/file", F_OK); }), "EACCES");
}

// statfs. -----------------------------------------------------------------------------------------

class Statfs : public Case {};

TEST_F(Statfs, NumbersThatInstallersTrust) {
    struct statvfs numbers {};
    ASSERT_EQ(error(statvfs(".", &numbers)), "ok");
    EXPECT_EQ(numbers.f_namemax, 255U);
    EXPECT_GE(numbers.f_bsize, 512U);
    EXPECT_GE(numbers.f_frsize, 512U);
    EXPECT_GT(numbers.f_blocks, 0U);
    EXPECT_LE(numbers.f_bavail, numbers.f_bfree);
    EXPECT_LE(numbers.f_bfree, numbers.f_blocks);
    EXPECT_GT(numbers.f_files, 0U);
    EXPECT_LE(numbers.f_ffree, numbers.f_files);
    EXPECT_LE(numbers.f_favail, numbers.f_files);
    EXPECT_EQ(numbers.f_flag & ST_RDONLY, 0U);
    EXPECT_EQ(pathconf(".", _PC_NAME_MAX), 255);
}

TEST_F(Statfs, FollowsWhatIsUsed) {
    struct statvfs before {
    }, after{};
    ASSERT_EQ(error(statvfs(".", &before)), "ok");
    {
        const Descriptor file("file", O_CREAT | O_RDWR);
        const std::string content(10'000'000, 'x');
        ASSERT_EQ(write(*file, content.data(), content.size()), 10'000'000);
        ASSERT_EQ(error(fsync(*file)), "ok");
    }
    ASSERT_EQ(error(statvfs(".", &after)), "ok");
    const auto used = (before.f_bfree - after.f_bfree) * before.f_frsize;
    EXPECT_GE(used, 9'900'000U);
    EXPECT_LE(used, 14'000'000U);
    EXPECT_EQ(before.f_blocks, after.f_blocks);
}

// Handles. ----------------------------------------------------------------------------------------

class Handle : public Case {
  protected:
    struct Kept {
        alignas(file_handle) std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> bytes{};
        int mount = 0;
        file_handle* get() { return reinterpret_cast<file_handle*>(bytes.data()); }
    };
    static Kept of(const char* path) {
        Kept kept;
        kept.get()->handle_bytes = MAX_HANDLE_SZ;
        EXPECT_EQ(error(name_to_handle_at(AT_FDCWD, path, kept.get(), &kept.mount, 0)), "ok");
        return kept;
    }
    static int open_again(Kept& kept, int flags = O_RDONLY) {
        const Descriptor here(".", O_RDONLY | O_DIRECTORY);
        return open_by_handle_at(*here, kept.get(), flags | O_CLOEXEC);
    }
};

TEST_F(Handle, LeadsToTheFileWhateverItsName) {
    make_file("file", "content");
    Kept kept = of("file");
    ASSERT_EQ(error(rename("file", "renamed")), "ok");
    const Descriptor file(open_again(kept));
    ASSERT_TRUE(file.open()) << std::strerror(errno);
    EXPECT_EQ(status_of(file).st_ino, status_of("renamed").st_ino);
    EXPECT_EQ(read_at(file, 100, 0), "content");
}

TEST_F(Handle, OfADirectoryAndWhatIsAboveIt) {
    ASSERT_EQ(error(mkdir("a", 0755)), "ok");
    ASSERT_EQ(error(mkdir("a/b", 0755)), "ok");
    make_file("a/b/file");
    Kept kept = of("a/b");
    const Descriptor folder(open_again(kept, O_RDONLY | O_DIRECTORY));
    ASSERT_TRUE(folder.open()) << std::strerror(errno);
    EXPECT_EQ(error(faccessat(*folder, "file", F_OK, 0)), "ok");
    struct stat above {};
    EXPECT_EQ(error(fstatat(*folder, "..", &above, 0)), "ok");
    EXPECT_EQ(above.st_ino, status_of("a").st_ino);
}

TEST_F(Handle, OfADeletedFileIsStaleEvenWhenOthersCome) {
    make_file("file", "old");
    Kept kept = of("file");
    ASSERT_EQ(error(unlink("file")), "ok");
    for (int i = 0; i < 100; ++i) make_file("new" + std::to_string(i), "new");
    EXPECT_EQ(error(open_again(kept)), "ESTALE");
}

TEST_F(Handle, IsForRoot) {
    make_file("file", "content");
    Kept kept = of("file");
    EXPECT_EQ(as(kAlice, [&] { return open_again(kept); }), "EPERM");
}

TEST_F(Handle, InodeNumbersAreNotGivenTwiceWhileOneIsOpen) {
    std::set<ino_t> numbers;
    std::vector<Descriptor> open_files;
    for (int i = 0; i < 100; ++i) {
        open_files.emplace_back("file", O_CREAT | O_RDWR);
        EXPECT_TRUE(numbers.insert(status_of("file").st_ino).second);
        ASSERT_EQ(error(unlink("file")), "ok");
    }
}

// inotify. ----------------------------------------------------------------------------------------

class Notify : public Case {
  protected:
    static std::string events(int notify) {
        alignas(inotify_event) std::array<char, 16'384> buffer{};
        std::string text;
        const ssize_t bytes = read(notify, buffer.data(), buffer.size());
        for (ssize_t at = 0; at < bytes;) {
            const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
            const std::map<std::uint32_t, const char*> names = {
                {IN_CREATE, "create"},     {IN_DELETE, "delete"},   {IN_MODIFY, "modify"},
                {IN_ATTRIB, "attrib"},     {IN_MOVED_FROM, "from"}, {IN_MOVED_TO, "to"},
                {IN_CLOSE_WRITE, "close"}, {IN_OPEN, "open"}};
            for (const auto& [mask, name] : names) {
                if ((event->mask & mask) != 0) text += std::string(name) + " " + event->name + ", ";
            }
            at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
        }
        return text;
    }
};

TEST_F(Notify, TellsWhatHappensInADirectory) {
    const Descriptor notify(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    ASSERT_GE(
        inotify_add_watch(*notify, ".",
                          IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_MOVE | IN_CLOSE_WRITE),
        0);
    {
        const Descriptor file("file", O_CREAT | O_WRONLY);
        ASSERT_EQ(write(*file, "x", 1), 1);
    }
    EXPECT_EQ(events(*notify), "create file, modify file, close file, ");
    ASSERT_EQ(error(chmod("file", 0600)), "ok");
    ASSERT_EQ(error(rename("file", "renamed")), "ok");
    ASSERT_EQ(error(unlink("renamed")), "ok");
    EXPECT_EQ(events(*notify), "attrib file, from file, to renamed, delete renamed, ");
}

}  // namespace
}  // namespace blobfs::posix
