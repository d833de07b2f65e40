// Processes that do conflicting operations on a few names, and on one file, at once: what they were
// answered is held against every order in which it may have happened.

#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <new>
#include <random>

#include "tests/posix/content_model.h"
#include "tests/posix/history.h"
#include "tests/posix/name_model.h"
#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

constexpr std::size_t kProcesses = 5;
constexpr std::size_t kOperations = 10;  // of each in a round
constexpr std::size_t kRounds = 120;

std::int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

// What processes write down, in memory that they share: rounds that all begin together.
template <typename Operation>
class Notebook {
  public:
    Notebook() {
        void* memory =
            mmap(nullptr, sizeof(Pages), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        pages_ = new (memory) Pages;
        pthread_barrierattr_t shared;
        pthread_barrierattr_init(&shared);
        pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_barrier_init(&pages_->start, &shared, kProcesses);
    }
    ~Notebook() { munmap(pages_, sizeof(Pages)); }
    Notebook(const Notebook&) = delete;
    Notebook& operator=(const Notebook&) = delete;

    // Runs the function in processes of their own, which does operations of the round until it is
    // told that it has done enough.
    using Act = std::function<std::vector<Operation>(std::size_t round, std::mt19937_64& random)>;
    void fill(const std::function<Act(std::uint8_t process)>& actor) {
        std::vector<pid_t> children;
        for (std::uint8_t process = 0; process < kProcesses; ++process) {
            const pid_t child = fork();
            if (child == 0) {
                run(process, actor(process));
                _exit(0);
            }
            children.push_back(child);
        }
        for (const pid_t child : children) {
            int status = 1;
            EXPECT_EQ(waitpid(child, &status, 0), child);
            EXPECT_EQ(status, 0);
        }
    }
    [[nodiscard]] std::vector<std::vector<Operation>> round(std::size_t number) const {
        std::vector<std::vector<Operation>> all;
        for (std::size_t process = 0; process < kProcesses; ++process) {
            const Page& page = pages_->pages[number][process];
            all.emplace_back(page.operations.begin(),
                             page.operations.begin() + static_cast<std::ptrdiff_t>(page.count));
        }
        return all;
    }

  private:
    struct Page {
        std::array<Operation, 2 * kOperations> operations{};
        std::size_t count = 0;
    };
    struct Pages {
        pthread_barrier_t start{};
        std::array<std::array<Page, kProcesses>, kRounds> pages{};
    };

    void run(std::uint8_t process, const Act& act) {
        std::mt19937_64 random(testing::UnitTest::GetInstance()->random_seed() * 1'000 + process);
        for (std::size_t round = 0; round < kRounds; ++round) {
            Page& page = pages_->pages[round][process];
            pthread_barrier_wait(&pages_->start);
            for (std::size_t i = 0; i < kOperations; ++i) {
                for (const Operation& operation : act(round, random)) {
                    page.operations[page.count++] = operation;
                }
            }
        }
    }

    Pages* pages_;
};

template <typename Model>
void expect_linearizable(std::vector<std::vector<typename Model::Operation>> processes,
                         std::size_t round, const Model& start) {
    History<Model> history(processes);
    if (history.is_linearizable(start)) return;
    std::string text;
    for (const auto& process : processes) {
        for (const auto& operation : process) text += operation.text() + "\n";
    }
    ADD_FAILURE() << "no order explains more than " << history.explained()
                  << " operations of round " << round << ":\n"
                  << text;
}

// Names. ------------------------------------------------------------------------------------------

class Linearizable : public Case {};

std::string name_of(std::size_t round, std::size_t name) {
    return "round" + std::to_string(round) + (name % 2 == 0 ? "/a/" : "/b/") +
           static_cast<char>('k' + name);
}

void close_and_tell(int file, NameOperation& operation) {
    operation.error = file < 0 ? errno : 0;
    if (file < 0) return;
    struct stat status {};
    fstat(file, &status);
    operation.inode = status.st_ino;
    close(file);
}

NameOperation do_one(NameOperation operation, std::size_t round) {
    using Kind = NameOperation::Kind;
    const std::string name = name_of(round, operation.name);
    const std::string other = name_of(round, operation.other_name);
    struct stat status {};
    const auto tell = [&](int result) { operation.error = result == 0 ? 0 : errno; };
    const auto rename_with = [&](unsigned flags) {
        tell(renameat2(AT_FDCWD, name.c_str(), AT_FDCWD, other.c_str(), flags));
    };
    operation.begin_ns = now_ns();
    switch (operation.kind) {
        case Kind::kCreateExclusively:
            close_and_tell(open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0644), operation);
            break;
        case Kind::kCreate:
            close_and_tell(open(name.c_str(), O_CREAT | O_RDWR, 0644), operation);
            break;
        case Kind::kOpen:
            close_and_tell(open(name.c_str(), O_RDONLY), operation);
            break;
        case Kind::kStat:
        case Kind::kCount:
            tell(lstat(name.c_str(), &status));
            operation.inode = status.st_ino;
            operation.links = status.st_nlink;
            break;
        case Kind::kUnlink:
            tell(unlink(name.c_str()));
            break;
        case Kind::kRename:
            rename_with(0);
            break;
        case Kind::kRenameWithoutReplacing:
            rename_with(RENAME_NOREPLACE);
            break;
        case Kind::kExchange:
            rename_with(RENAME_EXCHANGE);
            break;
        case Kind::kLinkFrom:
        case Kind::kLinkTo:
            tell(link(name.c_str(), other.c_str()));
            break;
    }
    operation.end_ns = now_ns();
    return operation;
}

TEST_F(Linearizable, WhatProcessesDoToTheSameNames) {
    using Kind = NameOperation::Kind;
    for (std::size_t round = 0; round < kRounds; ++round) {
        const std::string folder = "round" + std::to_string(round);
        for (const char* sub : {"", "/a", "/b"}) {
            ASSERT_EQ(error(mkdir((folder + sub).c_str(), 0755)), "ok");
        }
    }
    Notebook<NameOperation> notebook;
    notebook.fill([](std::uint8_t process) {
        return [process](std::size_t round, std::mt19937_64& random) -> std::vector<NameOperation> {
            static constexpr std::array<Kind, 12> kKinds = {Kind::kCreateExclusively,
                                                            Kind::kCreateExclusively,
                                                            Kind::kCreate,
                                                            Kind::kOpen,
                                                            Kind::kStat,
                                                            Kind::kStat,
                                                            Kind::kUnlink,
                                                            Kind::kRename,
                                                            Kind::kRename,
                                                            Kind::kRenameWithoutReplacing,
                                                            Kind::kExchange,
                                                            Kind::kLinkFrom};
            const auto any_name = [&] {
                return static_cast<std::uint8_t>(random() % NameModel::kNames);
            };
            NameOperation operation = do_one({.kind = kKinds[random() % kKinds.size()],
                                              .process = process,
                                              .name = any_name(),
                                              .other_name = any_name()},
                                             round);
            if (operation.kind != Kind::kLinkFrom) return {operation};
            NameOperation second = operation;
            second.kind = Kind::kLinkTo;
            second.name = operation.other_name;
            return {operation, second};
        };
    });
    if (on("blobfs")) {
        // The kernel counts the names of a FUSE file by itself, sometimes wrongly, and is corrected
        // a moment later (fs/fuse/attribute_refresh.h).
        const timespec moment{.tv_sec = 1, .tv_nsec = 0};
        nanosleep(&moment, nullptr);
    }
    for (std::size_t round = 0; round < kRounds; ++round) {
        auto processes = notebook.round(round);
        auto& end = processes.emplace_back();
        for (std::uint8_t name = 0; name < NameModel::kNames; ++name) {
            end.push_back(do_one({.kind = Kind::kCount, .name = name}, round));
        }
        expect_linearizable(std::move(processes), round, NameModel(on("blobfs")));
    }
}

// Content. ----------------------------------------------------------------------------------------

// The cells lie this far from each other, and are written as a whole.
constexpr std::size_t kCellBytes = 512;

class CellFile {
  public:
    CellFile(const std::string& path, int flags)
        : file_(path, O_RDWR | flags),
          memory_(static_cast<char*>(mmap(nullptr, kCellBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
    ~CellFile() { munmap(memory_, kCellBytes); }
    CellFile(const CellFile&) = delete;
    CellFile& operator=(const CellFile&) = delete;

    bool write(std::size_t cell, char byte) {
        std::memset(memory_, byte, kCellBytes);
        return pwrite(*file_, memory_, kCellBytes, place(cell)) == kCellBytes;
    }
    // Of what is written as a whole by one and read by another POSIX promises nothing but bytes.
    char read(std::size_t cell) {
        return pread(*file_, memory_, kCellBytes, place(cell)) == kCellBytes ? *memory_ : '?';
    }

  private:
    static off_t place(std::size_t cell) { return static_cast<off_t>(cell * kCellBytes); }
    Descriptor file_;
    char* memory_;
};

ContentOperation::Kind any_kind(std::mt19937_64& random) {
    using Kind = ContentOperation::Kind;
    static constexpr std::array<Kind, 9> kKinds = {Kind::kWrite, Kind::kWrite, Kind::kRead,
                                                   Kind::kRead,  Kind::kRead,  Kind::kAppend,
                                                   Kind::kSize,  Kind::kSize,  Kind::kReadLog};
    return kKinds[random() % kKinds.size()];
}

std::string cells_of(std::size_t round) { return "cells" + std::to_string(round); }
std::string log_of(std::size_t round) { return "log" + std::to_string(round); }

ContentOperation do_one(ContentOperation operation, CellFile& cells, const Descriptor& log) {
    using Kind = ContentOperation::Kind;
    struct stat status {};
    operation.begin_ns = now_ns();
    switch (operation.kind) {
        case Kind::kWrite:
            // A byte that nobody writes makes a failure seen.
            if (!cells.write(operation.cell, operation.byte)) operation.kind = Kind::kRead;
            break;
        case Kind::kRead:
            operation.byte = cells.read(operation.cell);
            break;
        case Kind::kAppend:
            if (write(*log, &operation.byte, 1) == 1) {
                operation.size = static_cast<std::uint64_t>(lseek(*log, 0, SEEK_CUR));
            }
            break;
        case Kind::kSize:
            fstat(*log, &status);
            operation.size = static_cast<std::uint64_t>(status.st_size);
            break;
        case Kind::kReadLog:
            operation.size = static_cast<std::uint64_t>(
                pread(*log, operation.log.data(), operation.log.size(), 0));
            break;
    }
    operation.end_ns = now_ns();
    return operation;
}

void expect_linearizable_content(int flags) {
    for (std::size_t round = 0; round < kRounds; ++round) {
        make_file(cells_of(round), std::string(ContentModel::kCells * kCellBytes, '\0'));
        make_file(log_of(round));
    }
    Notebook<ContentOperation> notebook;
    notebook.fill([flags](std::uint8_t process) {
        return
            [flags, process, round = kRounds, number = 0, cells = std::shared_ptr<CellFile>(),
             log = std::make_shared<Descriptor>()](
                std::size_t now, std::mt19937_64& random) mutable -> std::vector<ContentOperation> {
                if (round != now) {
                    round = now;
                    number = 0;
                    cells = std::make_shared<CellFile>(cells_of(now), flags);
                    *log = Descriptor(log_of(now), O_RDWR | O_APPEND);
                }
                // Each byte is written once in a round.
                const auto byte = static_cast<char>('!' + process * kOperations + number++);
                const ContentOperation::Kind kind = any_kind(random);
                return {do_one({.kind = kind,
                                .cell = static_cast<std::uint8_t>(random() % ContentModel::kCells),
                                .byte = byte},
                               *cells, *log)};
            };
    });
    for (std::size_t round = 0; round < kRounds; ++round) {
        expect_linearizable(notebook.round(round), round, ContentModel());
    }
}

TEST_F(Linearizable, WhatProcessesDoToTheSameBytes) { expect_linearizable_content(0); }

TEST_F(Linearizable, WhatProcessesDoToTheSameBytesDirectly) {
    expect_linearizable_content(O_DIRECT);
}

}  // namespace
}  // namespace blobfs::posix
