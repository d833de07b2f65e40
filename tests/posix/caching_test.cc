// What a kernel or a filesystem keeps of names, attributes, access lists and content is never older
// than what was done last, by whomever and by whichever name: each case knows something first, has
// another process change it, and asks again.

#include <dirent.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Caching : public Case {
  protected:
    // As ls -l does it: names, and the attributes of each, which a listing may bring along.
    static std::map<std::string, struct stat> listing(const char* path) {
        std::map<std::string, struct stat> found;
        DIR* directory = opendir(path);
        if (directory == nullptr) return found;
        while (const dirent* entry = readdir(directory)) {
            struct stat status {};
            if (fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
                continue;
            }
            EXPECT_EQ(status.st_ino,
                      std::strcmp(entry->d_name, "..") == 0 ? status.st_ino : entry->d_ino)
                << entry->d_name;
            found[entry->d_name] = status;
        }
        closedir(directory);
        return found;
    }
    // Long enough for whatever is refreshed a moment after names have changed.
    static void let_refresh() {
        constexpr timespec kMoment{.tv_sec = 0, .tv_nsec = 600'000'000};
        nanosleep(&kMoment, nullptr);
    }
};

TEST_F(Caching, WhatWasMissingIsThereOnceItIsMade) {
    make_file("source", "content");
    const std::map<std::string, std::function<long()>> ways = {
        {"open", [] { return close(open("new", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644)); }},
        {"mkdir", [] { return mkdir("new", 0755); }},
        {"mknod", [] { return mknod("new", S_IFIFO | 0644, 0); }},
        {"symlink", [] { return symlink("source", "new"); }},
        {"link", [] { return link("source", "new"); }},
        {"rename", [] { return link("source", "second") != 0 ? -1 : rename("second", "new"); }},
        {"rename of a directory",
         [] { return mkdir("second", 0755) != 0 ? -1 : rename("second", "new"); }},
        {"linkat of a nameless file",
         [] {
             const Descriptor file(".", O_TMPFILE | O_RDWR);
             return linkat(*file, "", AT_FDCWD, "new", AT_EMPTY_PATH);
         }},
    };
    for (const auto& [way, make] : ways) {
        SCOPED_TRACE(way);
        struct stat status {};
        EXPECT_EQ(error(lstat("new", &status)), "ENOENT");
        EXPECT_EQ(error(lstat("new", &status)), "ENOENT");
        ASSERT_EQ(in_child(make), "ok");
        EXPECT_EQ(error(lstat("new", &status)), "ok");
        EXPECT_EQ(listing(".").count("new"), 1U);
        ASSERT_EQ(in_child([&] { return S_ISDIR(status.st_mode) ? rmdir("new") : unlink("new"); }),
                  "ok");
        EXPECT_EQ(error(lstat("new", &status)), "ENOENT");
        EXPECT_EQ(listing(".").count("new"), 0U);
    }
}

TEST_F(Caching, WhatWasThereIsMissingOnceItIsGone) {
    const auto is_missing = [](const char* path) {
        struct stat status {};
        return error(lstat(path, &status));
    };
    make_file("file");
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    make_file("folder/inner");
    ASSERT_EQ(error(link("file", "second")), "ok");
    listing(".");
    listing("folder");
    ASSERT_EQ(in_child([] { return rename("folder", "moved"); }), "ok");
    EXPECT_EQ(is_missing("folder"), "ENOENT");
    EXPECT_EQ(is_missing("folder/inner"), "ENOENT");
    EXPECT_EQ(is_missing("moved/inner"), "ok");
    // Another directory of that name has none of the old one's.
    ASSERT_EQ(in_child([] { return mkdir("folder", 0755); }), "ok");
    EXPECT_EQ(is_missing("folder/inner"), "ENOENT");
    EXPECT_EQ(listing("folder").size(), 2U);
    ASSERT_EQ(
        in_child([] { return renameat2(AT_FDCWD, "folder", AT_FDCWD, "moved", RENAME_EXCHANGE); }),
        "ok");
    EXPECT_EQ(is_missing("folder/inner"), "ok");
    EXPECT_EQ(is_missing("moved/inner"), "ENOENT");
    // Two names of one file, by rename: nothing happens.
    ASSERT_EQ(in_child([] { return rename("file", "second"); }), "ok");
    EXPECT_EQ(is_missing("file"), "ok");
    EXPECT_EQ(status_of("file").st_nlink, 2U);
    ASSERT_EQ(in_child([] { return unlink("second"); }), "ok");
    EXPECT_EQ(is_missing("second"), "ENOENT");
    EXPECT_EQ(status_of("file").st_nlink, 1U);
}

TEST_F(Caching, AReplacedNameIsTheOtherFileForAllWhoKnewIt) {
    make_file("name", "old");
    const Descriptor old("name", O_RDONLY);
    EXPECT_EQ(listing(".").at("name").st_size, 3);
    EXPECT_EQ(content_of("name"), "old");
    ASSERT_EQ(in_child([] {
                  make_file("next", "newer content");
                  return rename("next", "name");
              }),
              "ok");
    EXPECT_EQ(content_of("name"), "newer content");
    EXPECT_EQ(listing(".").at("name").st_size, 13);
    EXPECT_NE(status_of(old).st_ino, status_of("name").st_ino);
    EXPECT_EQ(status_of(old).st_nlink, 0U);
    EXPECT_EQ(read_at(old, 10, 0), "old");
}

TEST_F(Caching, AttributesOfOneNameAreThoseOfTheOthers) {
    make_file("file", "content");
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    ASSERT_EQ(error(link("file", "folder/second")), "ok");
    const Descriptor open_file("folder/second", O_RDONLY);
    const auto all_have = [&](const std::function<bool(const struct stat&)>& property) {
        return property(status_of("file")) && property(status_of("folder/second")) &&
               property(status_of(open_file)) && property(listing("folder").at("second")) &&
               property(listing(".").at("file"));
    };
    EXPECT_TRUE(all_have([](const auto& status) { return status.st_nlink == 2; }));
    ASSERT_EQ(in_child([] { return chmod("file", 0604); }), "ok");
    EXPECT_TRUE(all_have([](const auto& status) { return (status.st_mode & 07777U) == 0604; }));
    ASSERT_EQ(in_child([] { return chown("folder/second", 7, 8); }), "ok");
    EXPECT_TRUE(
        all_have([](const auto& status) { return status.st_uid == 7 && status.st_gid == 8; }));
    ASSERT_EQ(in_child([] { return truncate("folder/second", 100'000); }), "ok");
    EXPECT_TRUE(all_have([](const auto& status) { return status.st_size == 100'000; }));
    ASSERT_EQ(in_child([] { return link("folder/second", "third"); }), "ok");
    EXPECT_TRUE(all_have([](const auto& status) { return status.st_nlink == 3; }));
    ASSERT_EQ(in_child([] { return unlink("third"); }), "ok");
    EXPECT_TRUE(all_have([](const auto& status) { return status.st_nlink == 2; }));
}

TEST_F(Caching, ADirectoryShowsTheTimesAndLinksOfWhatHappensInIt) {
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    const auto moves = [](const std::function<long()>& change) {
        const auto before = status_of("folder");
        let_time_pass();
        EXPECT_EQ(in_child(change), "ok");
        const auto after = status_of("folder");
        return before.st_mtim.tv_nsec != after.st_mtim.tv_nsec &&
               before.st_ctim.tv_nsec != after.st_ctim.tv_nsec;
    };
    EXPECT_TRUE(moves([] { return mkdir("folder/sub", 0755); }));
    EXPECT_EQ(status_of("folder").st_nlink, 3U);
    EXPECT_TRUE(moves([] { return symlink("x", "folder/link"); }));
    EXPECT_TRUE(moves([] { return rename("folder/link", "folder/moved"); }));
    EXPECT_TRUE(moves([] { return rename("folder/sub", "sub"); }));
    EXPECT_EQ(status_of("folder").st_nlink, 2U);
    EXPECT_TRUE(moves([] { return unlink("folder/moved"); }));
}

TEST_F(Caching, ListingsDoNotSetBackWhatTheWriteCacheKnows) {
    // What a listing brings along of a file is older than what was just written to it.
    ASSERT_EQ(error(mkdir("folder", 0755)), "ok");
    for (int i = 0; i < 40; ++i) make_file("folder/other" + std::to_string(i));
    make_file("folder/file", "0123456789");
    const Descriptor file("folder/file", O_RDWR);
    off_t size = 10;
    for (int round = 0; round < 20; ++round) {
        const auto before = status_of(file);
        let_time_pass();
        ASSERT_EQ(pwrite(*file, "more", 4, size), 4);
        size += 4;
        // A new listing each time, one that nobody has read yet.
        ASSERT_EQ(error(mknod(("folder/new" + std::to_string(round)).c_str(), S_IFREG | 0600, 0)),
                  "ok");
        const auto listed = listing("folder").at("file");
        EXPECT_EQ(listed.st_size, size);
        EXPECT_NE(listed.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
        EXPECT_EQ(status_of(file).st_size, size);
    }
    ASSERT_EQ(error(fsync(*file)), "ok");
    EXPECT_EQ(listing("folder").at("file").st_size, size);
}

TEST_F(Caching, OpeningAsksForTheRightsAndTheContentOfNow) {
    make_file("file", "first", 0644);
    const auto read_it = [] { return open("file", O_RDONLY | O_CLOEXEC); };
    EXPECT_EQ(as(kAlice, read_it), "ok");
    EXPECT_EQ(content_of("file"), "first");
    ASSERT_EQ(in_child([] { return chmod("file", 0600); }), "ok");
    EXPECT_EQ(as(kAlice, read_it), "EACCES");
    ASSERT_EQ(in_child([] { return chown("file", kAlice.uid, kAlice.gid); }), "ok");
    EXPECT_EQ(as(kAlice, read_it), "ok");
    EXPECT_EQ(as(kBob, read_it), "EACCES");
    ASSERT_EQ(in_child([] {
                  const Descriptor file("file", O_WRONLY | O_TRUNC);
                  return write(*file, "second, longer", 14) == 14 ? 0 : -1;
              }),
              "ok");
    EXPECT_EQ(content_of("file"), "second, longer");
    ASSERT_EQ(in_child([] { return truncate("file", 6); }), "ok");
    EXPECT_EQ(content_of("file"), "second");
    ASSERT_EQ(in_child([] { return chmod(".", 0700); }), "ok");
    EXPECT_EQ(as(kAlice, read_it), "EACCES");
}

TEST_F(Caching, DirectWritesOfOthersAreReadByAllWhoKnewThePages) {
    make_file("file", std::string(16'384, 'o'));
    const Descriptor file("file", O_RDONLY);
    EXPECT_EQ(read_at(file, 4, 4'096), "oooo");
    void* const view = mmap(nullptr, 16'384, PROT_READ, MAP_SHARED, *file, 0);
    ASSERT_NE(view, MAP_FAILED);
    EXPECT_EQ(static_cast<const char*>(view)[4'096], 'o');
    ASSERT_EQ(in_child([] {
                  const Descriptor direct("file", O_WRONLY | O_DIRECT);
                  void* const page = mmap(nullptr, 4'096, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                  std::memset(page, 'n', 4'096);
                  return pwrite(*direct, page, 4'096, 4'096) == 4'096 ? 0 : -1;
              }),
              "ok");
    EXPECT_EQ(read_at(file, 4, 4'094), "oonn");
    EXPECT_EQ(static_cast<const char*>(view)[4'096], 'n');
    EXPECT_EQ(content_of("file").substr(8'190, 4), "nnoo");
    munmap(view, 16'384);
}

TEST_F(Caching, WhatWasClosedIsTheSameForEveryWayOfReadingIt) {
    // close(2) has written what the cache took: direct reads, SEEK_DATA and copies see it, and the
    // space that it takes is told.
    ASSERT_EQ(in_child([] {
                  make_file("file", std::string(50'000, 'c'));
                  return truncate("file", 200'000);
              }),
              "ok");
    const Descriptor file("file", O_RDONLY | O_DIRECT);
    void* const page =
        mmap(nullptr, 4'096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    ASSERT_EQ(pread(*file, page, 4'096, 45'056), 4'096);
    EXPECT_EQ(static_cast<const char*>(page)[0], 'c');
    EXPECT_EQ(static_cast<const char*>(page)[4'095], 'c');
    munmap(page, 4'096);
    EXPECT_EQ(lseek(*file, 0, SEEK_DATA), 0);
    EXPECT_GE(lseek(*file, 0, SEEK_HOLE), 50'000);
    EXPECT_LE(lseek(*file, 0, SEEK_HOLE), 53'248);
    EXPECT_GE(status_of("file").st_blocks * 512, 50'000);
    EXPECT_LT(status_of("file").st_blocks * 512, 200'000);
}

TEST_F(Caching, AccessListsAreThoseOfNow) {
    // acl(5), linux/posix_acl_xattr.h: the owner and the mask all, alice as told.
    const auto list_for_alice = [](char permissions) {
        std::string list("\2\0\0\0", 4);
        const auto add = [&](char tag, char bits, std::uint32_t id) {
            const std::array<char, 4> head{tag, 0, bits, 0};
            list.append(head.data(), head.size());
            list.append(reinterpret_cast<const char*>(&id), sizeof(id));
        };
        add(1, 7, 0xffff'ffff);
        add(2, permissions, kAlice.uid);
        add(4, 0, 0xffff'ffff);
        add(16, 7, 0xffff'ffff);
        add(32, 0, 0xffff'ffff);
        return list;
    };
    const auto give_alice = [&](const char* path, char permissions) {
        const std::string list = list_for_alice(permissions);
        return in_child(
            [&] { return setxattr(path, "system.posix_acl_access", list.data(), list.size(), 0); });
    };
    ASSERT_EQ(error(mkdir("folder", 0700)), "ok");
    make_file("folder/file", "content", 0600);
    const auto read_it = [] { return open("folder/file", O_RDONLY | O_CLOEXEC); };
    const auto make_name = [] { return mknod("folder/hers", S_IFREG | 0600, 0); };
    EXPECT_EQ(as(kAlice, read_it), "EACCES");
    // Before and after what is known of a directory is refreshed because names in it have changed.
    for (const bool refreshed : {false, true}) {
        const auto refresh = [&] {
            ASSERT_EQ(in_child([] { return mknod("folder/name", S_IFREG | 0600, 0); }), "ok");
            ASSERT_EQ(in_child([] { return unlink("folder/name"); }), "ok");
            if (refreshed) let_refresh();
        };
        ASSERT_EQ(give_alice("folder", 5), "ok");
        ASSERT_EQ(give_alice("folder/file", 4), "ok");
        refresh();
        EXPECT_EQ(permissions_of("folder/file"), 0770U);
        EXPECT_EQ(as(kAlice, read_it), "ok");
        EXPECT_EQ(as(kAlice, make_name), "EACCES");
        EXPECT_EQ(as(kBob, read_it), "EACCES");
        ASSERT_EQ(give_alice("folder", 7), "ok");
        refresh();
        EXPECT_EQ(as(kAlice, make_name), "ok");
        ASSERT_EQ(in_child([] { return unlink("folder/hers"); }), "ok");
        ASSERT_EQ(give_alice("folder/file", 0), "ok");
        refresh();
        EXPECT_EQ(as(kAlice, read_it), "EACCES");
        ASSERT_EQ(give_alice("folder/file", 4), "ok");
        ASSERT_EQ(in_child([] { return chmod("folder", 0700); }), "ok");  // the mask is empty then
        refresh();
        EXPECT_EQ(as(kAlice, read_it), "EACCES");
        ASSERT_EQ(in_child([] { return removexattr("folder", "system.posix_acl_access"); }), "ok");
        refresh();
        EXPECT_EQ(as(kAlice, read_it), "EACCES");
        EXPECT_EQ(permissions_of("folder"), 0700U);
    }
}

TEST_F(Caching, ExtendedAttributesAreThoseOfNow) {
    make_file("file");
    ASSERT_EQ(error(link("file", "second")), "ok");
    const auto value = [](const char* path) {
        std::array<char, 16> room{};
        const ssize_t bytes = getxattr(path, "user.a", room.data(), room.size());
        return bytes < 0 ? error(bytes) : std::string(room.data(), static_cast<std::size_t>(bytes));
    };
    EXPECT_EQ(value("file"), "ENODATA");
    ASSERT_EQ(in_child([] { return setxattr("second", "user.a", "one", 3, 0); }), "ok");
    EXPECT_EQ(value("file"), "one");
    ASSERT_EQ(in_child([] { return setxattr("file", "user.a", "three", 5, 0); }), "ok");
    EXPECT_EQ(value("second"), "three");
    ASSERT_EQ(in_child([] { return removexattr("second", "user.a"); }), "ok");
    EXPECT_EQ(value("file"), "ENODATA");
}

TEST_F(Caching, ALinksTargetIsThatOfTheLinkThatHasTheName) {
    const auto target = [] {
        std::array<char, 64> room{};
        const ssize_t bytes = readlink("link", room.data(), room.size());
        return bytes < 0 ? error(bytes) : std::string(room.data(), static_cast<std::size_t>(bytes));
    };
    make_file("one", "1");
    make_file("two", "2");
    ASSERT_EQ(error(symlink("one", "link")), "ok");
    EXPECT_EQ(target(), "one");
    EXPECT_EQ(content_of("link"), "1");
    ASSERT_EQ(in_child([] { return symlink("two", "next") != 0 ? -1 : rename("next", "link"); }),
              "ok");
    EXPECT_EQ(target(), "two");
    EXPECT_EQ(content_of("link"), "2");
}

}  // namespace
}  // namespace blobfs::posix
