// Many processes on the same names and files: each operation happens whole, in some order that all
// agree on.

#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

constexpr int kProcesses = 6;
constexpr int kRounds = 150;

// Counters that all processes share.
class Shared {
  public:
    Shared()
        : memory_(
              mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {}
    ~Shared() { munmap(memory_, kBytes); }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    std::atomic<int>& operator[](int index) const {
        return static_cast<std::atomic<int>*>(memory_)[index];
    }

  private:
    static constexpr std::size_t kBytes = 65'536;
    void* memory_;
};

class Concurrent : public Case {
  protected:
    // Runs the function in processes of its own; each answers whether all was well.
    static void in_processes(int count, const std::function<bool(int)>& body) {
        std::vector<pid_t> children;
        for (int process = 0; process < count; ++process) {
            const pid_t child = fork();
            if (child == 0) _exit(body(process) ? 0 : 1);
            children.push_back(child);
        }
        for (const pid_t child : children) {
            int status = 1;
            EXPECT_EQ(waitpid(child, &status, 0), child);
            EXPECT_EQ(status, 0);
        }
    }
    static std::string round_name(const char* prefix, int round) {
        return prefix + std::to_string(round);
    }
};

TEST_F(Concurrent, OneWinsEachName) {
    const Shared winners;
    in_processes(kProcesses, [&](int process) {
        for (int round = 0; round < kRounds; ++round) {
            const std::string name = round_name("name", round);
            int result = -1;
            switch ((process + round) % 3) {
                case 0:
                    result = open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
                    if (result >= 0) close(result);
                    break;
                case 1:
                    result = mkdir(name.c_str(), 0755);
                    break;
                default:
                    result = symlink("x", name.c_str());
                    break;
            }
            if (result >= 0) ++winners[round];
            if (result < 0 && errno != EEXIST) return false;
        }
        return true;
    });
    for (int round = 0; round < kRounds; ++round) EXPECT_EQ(winners[round], 1) << round;
    EXPECT_EQ(names_in(".").size(), static_cast<std::size_t>(kRounds));
}

TEST_F(Concurrent, EachNameIsRemovedOnce) {
    const Shared removed;
    for (int round = 0; round < kRounds; ++round) make_file(round_name("name", round));
    in_processes(kProcesses, [&](int process) {
        for (int round = 0; round < kRounds; ++round) {
            const std::string name = round_name("name", round);
            const std::string moved = round_name("moved", round) + "." + std::to_string(process);
            const int result =
                process % 2 == 0 ? unlink(name.c_str()) : rename(name.c_str(), moved.c_str());
            if (result == 0) ++removed[round];
            if (result != 0 && errno != ENOENT) return false;
        }
        return true;
    });
    for (int round = 0; round < kRounds; ++round) EXPECT_EQ(removed[round], 1) << round;
}

TEST_F(Concurrent, RenameWithoutReplacingHasOneWinner) {
    const Shared winners;
    for (int process = 0; process < kProcesses; ++process) {
        for (int round = 0; round < kRounds; ++round) {
            make_file(round_name("from", round) + "." + std::to_string(process));
        }
    }
    in_processes(kProcesses, [&](int process) {
        for (int round = 0; round < kRounds; ++round) {
            const std::string from = round_name("from", round) + "." + std::to_string(process);
            const int result = renameat2(AT_FDCWD, from.c_str(), AT_FDCWD,
                                         round_name("to", round).c_str(), RENAME_NOREPLACE);
            if (result == 0) ++winners[round];
            if (result != 0 && errno != EEXIST) return false;
        }
        return true;
    });
    for (int round = 0; round < kRounds; ++round) EXPECT_EQ(winners[round], 1) << round;
}

TEST_F(Concurrent, AReplacedNameIsAlwaysThereAndWhole) {
    constexpr std::size_t kBytes = 10'000;
    make_file("name", std::string(kBytes, 'a'));
    const Shared done;
    in_processes(4, [&](int process) {
        if (process == 0) {
            for (int round = 0; round < kRounds; ++round) {
                const Descriptor file("new", O_CREAT | O_TRUNC | O_WRONLY);
                const std::string content(kBytes, static_cast<char>('a' + round % 26));
                if (write(*file, content.data(), kBytes) != static_cast<ssize_t>(kBytes))
                    return false;
                if (rename("new", "name") != 0) return false;
            }
            done[0] = 1;
            return true;
        }
        do {
            const std::string content = content_of("name");
            if (content.size() != kBytes || content != std::string(kBytes, content[0]))
                return false;
        } while (done[0] == 0);
        return true;
    });
}

TEST_F(Concurrent, ExchangedNamesAreAlwaysBothThere) {
    make_file("one", "1");
    make_file("two", "2");
    const Shared done;
    in_processes(4, [&](int process) {
        if (process < 2) {
            for (int round = 0; round < kRounds; ++round) {
                if (renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE) != 0) return false;
            }
            ++done[0];
            return true;
        }
        do {
            const std::string one = content_of("one"), two = content_of("two");
            if ((one != "1" && one != "2") || (two != "1" && two != "2")) return false;
        } while (done[0] < 2);
        return true;
    });
    EXPECT_NE(content_of("one"), content_of("two"));
}

TEST_F(Concurrent, ADirectoryIsRemovedOrFilledNeverBoth) {
    const Shared made, removed;
    for (int round = 0; round < kRounds; ++round) {
        ASSERT_EQ(error(mkdir(round_name("folder", round).c_str(), 0755)), "ok");
    }
    in_processes(4, [&](int process) {
        for (int round = 0; round < kRounds; ++round) {
            const std::string folder = round_name("folder", round);
            if (process % 2 == 0) {
                const int result =
                    mknod((folder + "/" + std::to_string(process)).c_str(), S_IFREG | 0644, 0);
                if (result == 0) ++made[round];
                if (result != 0 && errno != ENOENT) return false;
            } else {
                const int result = rmdir(folder.c_str());
                if (result == 0) ++removed[round];
                if (result != 0 && errno != ENOENT && errno != ENOTEMPTY) return false;
            }
        }
        return true;
    });
    for (int round = 0; round < kRounds; ++round) {
        const std::string folder = round_name("folder", round);
        EXPECT_EQ(removed[round] == 1, made[round] == 0) << round;
        EXPECT_EQ(exists(folder), made[round] != 0) << round;
        if (made[round] != 0) {
            EXPECT_EQ(names_in(folder).size(), static_cast<std::size_t>(made[round])) << round;
        }
    }
}

TEST_F(Concurrent, LinkCountsAddUp) {
    make_file("file");
    const Shared links;
    in_processes(kProcesses, [&](int process) {
        for (int round = 0; round < kRounds; ++round) {
            const std::string own = round_name("own", round) + "." + std::to_string(process);
            if (link("file", own.c_str()) != 0) return false;
            ++links[0];
            if (round % 2 == 0) {
                if (unlink(own.c_str()) != 0) return false;
                --links[0];
            }
            const int result = link("file", round_name("common", round).c_str());
            if (result == 0) ++links[0];
            if (result != 0 && errno != EEXIST) return false;
        }
        return true;
    });
    EXPECT_EQ(status_of("file").st_nlink, static_cast<nlink_t>(links[0] + 1));
}

TEST_F(Concurrent, DirectoriesMoveAroundWithoutLoops) {
    for (const char* folder : {"a", "b", "c", "a/x", "b/y", "c/z"}) {
        ASSERT_EQ(error(mkdir(folder, 0755)), "ok");
    }
    in_processes(kProcesses, [&](int process) {
        const std::vector<std::string> places = {"a",     "b",     "c",     "a/x", "b/y",
                                                 "c/z",   "a/b",   "b/c",   "c/a", "a/x/b",
                                                 "b/y/c", "c/z/a", "a/b/c", "x",   "y"};
        unsigned random = static_cast<unsigned>(process) * 7'919U + 1;
        for (int round = 0; round < kRounds * 2; ++round) {
            random = random * 1'103'515'245U + 12'345U;
            const std::string& from = places[random / 65'536 % places.size()];
            random = random * 1'103'515'245U + 12'345U;
            const std::string& to = places[random / 65'536 % places.size()];
            const int result = renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(),
                                         process % 2 == 0 ? 0U : unsigned{RENAME_EXCHANGE});
            if (result != 0 && errno != ENOENT && errno != EINVAL && errno != ENOTEMPTY &&
                errno != EEXIST && errno != ENOTDIR) {
                return false;
            }
        }
        return true;
    });
    // All six are still somewhere, found from the top, unless one replaced another while empty.
    std::vector<std::string> to_visit = {"."};
    std::size_t found = 0;
    while (!to_visit.empty()) {
        const std::string folder = to_visit.back();
        to_visit.pop_back();
        const auto names = names_in(folder);
        EXPECT_EQ(status_of(folder).st_nlink, names.size() + 2) << folder;
        for (const std::string& name : names) {
            ++found;
            EXPECT_EQ(status_of(folder + "/" + name + "/..").st_ino, status_of(folder).st_ino);
            to_visit.push_back(folder + "/" + name);
        }
        ASSERT_LE(found, 6U);
    }
    EXPECT_GE(found, 1U);
}

TEST_F(Concurrent, WritesToDisjointPartsAllArrive) {
    constexpr std::size_t kPart = 1'000;  // parts share pages
    make_file("file");
    in_processes(kProcesses, [&](int process) {
        const Descriptor file("file", O_RDWR);
        const std::string content(kPart, static_cast<char>('a' + process));
        for (int round = 0; round < kRounds; ++round) {
            const auto at = static_cast<off_t>(kPart) * (round * kProcesses + process);
            if (pwrite(*file, content.data(), kPart, at) != static_cast<ssize_t>(kPart))
                return false;
        }
        return true;
    });
    const std::string content = content_of("file");
    ASSERT_EQ(content.size(), kPart * kProcesses * kRounds);
    for (std::size_t part = 0; part < kProcesses * kRounds; ++part) {
        ASSERT_EQ(content.substr(part * kPart, kPart),
                  std::string(kPart, static_cast<char>('a' + part % kProcesses)));
    }
}

TEST_F(Concurrent, FileOffsetsAreSharedAfterFork) {
    make_file("file");
    const Descriptor file("file", O_RDWR);
    in_processes(4, [&](int process) {
        for (int round = 0; round < kRounds; ++round) {
            const std::string record(10, static_cast<char>('a' + process));
            if (write(*file, record.data(), 10) != 10) return false;
        }
        return true;
    });
    const std::string content = content_of("file");
    ASSERT_EQ(content.size(), 10U * 4 * kRounds);
    for (std::size_t at = 0; at < content.size(); at += 10) {
        EXPECT_EQ(content.substr(at, 10), std::string(10, content[at]));
    }
}

}  // namespace
}  // namespace blobfs::posix
