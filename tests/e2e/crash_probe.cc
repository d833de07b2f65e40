#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tests/e2e/probe.h"

// The writer makes file number 0, 1, 2, ... one after another, each with contents that follow from
// its number, and logs what was promised: "S n" its fsync returned; "C n time" its close returned
// then. Every tenth goes to a temporary name, is closed and renamed over `latest` without fsync.

namespace blobfs::e2e {

namespace {

namespace stdfs = std::filesystem;

constexpr std::size_t kFilesPerFolder = 50;
constexpr std::size_t kBlock = 4096;
// What a process dying alone may lose: what was answered in the last second (and the time between
// the answer and the log), where a flush of the device below takes no time. Where the machine
// stands still for a while, or a flush takes long, the writer's own log has a gap: two of the
// longest are allowed for, since what is answered during one flush goes out with the next.
constexpr double kMostLostSeconds = 1.5;
constexpr double kGapsAllowed = 2;

std::string folder_name(const std::string& root, std::size_t number) {
    return root + "/d" + std::to_string(number / kFilesPerFolder);
}

std::string file_name(const std::string& root, std::size_t number) {
    return folder_name(root, number) + "/f" + std::to_string(number);
}

// From 1 byte to 200 KB, each line with the file's number.
std::string contents(std::size_t number) {
    const std::size_t bytes = 1 + (number * 7919) % 1000 * ((number % 5) == 0 ? 200 : 10);
    const std::string line = "file " + std::to_string(number) + " has this line, ";
    std::string text;
    while (text.size() < bytes) text += line;
    text.resize(bytes);
    return text;
}

double now() {
    struct timespec time {};
    clock_gettime(CLOCK_REALTIME, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

bool write_file(const std::string& path, const std::string& text, bool sync) {
    const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (descriptor < 0) return false;
    bool good = write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    if (good && sync) good = fsync(descriptor) == 0;
    return close(descriptor) == 0 && good;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) give_up_errno("reading " + path);
    std::ostringstream text;
    text << file.rdbuf();
    if (file.bad()) give_up_errno("reading " + path);
    return text.str();
}

// What may be left of a file that nobody synced: the beginning of its contents, where blocks that
// did not get there read as zeroes.
bool is_partial(const std::string& found, const std::string& expected) {
    if (found.size() > expected.size()) return false;
    for (std::size_t offset = 0; offset < found.size(); offset += kBlock) {
        const std::size_t bytes = std::min(kBlock, found.size() - offset);
        const std::string_view block(found.data() + offset, bytes);
        if (block != std::string_view(expected.data() + offset, bytes) &&
            block.find_first_not_of('\0') != std::string_view::npos) {
            return false;
        }
    }
    return true;
}

}  // namespace

void probe_crash_writer(Arguments arguments) {
    const std::string& root = arguments[0];
    const int log = open(arguments[1].c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0) give_up_errno("opening " + arguments[1]);
    for (std::size_t number = 0;; ++number) {
        if (number % kFilesPerFolder == 0 && mkdir(folder_name(root, number).c_str(), 0750) != 0) {
            give_up_errno("mkdir of folder for file " + std::to_string(number));
        }
        const bool sync = number % 7 == 3;
        if (!write_file(file_name(root, number), contents(number), sync)) {
            give_up_errno("file " + std::to_string(number));
        }
        std::array<char, 80> line{};
        const int length = std::snprintf(line.data(), line.size(), "%s %zu %.6f\n",
                                         sync ? "S" : "C", number, now());
        if (write(log, line.data(), static_cast<std::size_t>(length)) != length) {
            give_up_errno("writing the log");
        }
        if (number % 10 == 9) {
            const std::string temporary = root + "/latest.new";
            if (!write_file(temporary, contents(number), false) ||
                rename(temporary.c_str(), (root + "/latest").c_str()) != 0) {
                give_up_errno("replacing latest");
            }
        }
    }
}

void probe_crash_verify(Arguments arguments) {
    const std::string& root = arguments[0];
    const double crash = std::stod(arguments[2]);
    struct Entry {
        char kind = 0;
        std::size_t number = 0;
        double time = 0;
    };
    std::vector<Entry> entries;
    std::ifstream log(arguments[1]);
    Entry read;
    double longest_gap = 0;
    while (log >> read.kind >> read.number >> read.time) {
        if (!entries.empty()) {
            longest_gap = std::max(longest_gap, read.time - entries.back().time);
        }
        entries.push_back(read);
    }
    expect(!entries.empty(), "the writer has logged something");
    longest_gap = std::max(longest_gap, crash - entries.back().time);
    const double closed_before = crash - kMostLostSeconds - kGapsAllowed * longest_gap;
    std::map<std::size_t, char> promised;  // number -> why it must be whole
    std::size_t last_synced = 0;
    const std::size_t last_closed = entries.back().number;
    for (const Entry& entry : entries) {
        if (entry.kind == 'S') last_synced = entry.number;
        if (entry.kind == 'S' || entry.time < closed_before) promised[entry.number] = entry.kind;
    }
    expect(last_closed > 20, "the writer had made some files before the crash");

    std::size_t count = 0;  // files are there from 0 to count - 1
    while (access(file_name(root, count).c_str(), F_OK) == 0) ++count;
    expect(count > last_synced, "all files up to the last fsync are there (" +
                                    std::to_string(count) + " of " +
                                    std::to_string(last_synced + 1) + ")");
    std::size_t found = 0;
    for (const auto& entry : stdfs::recursive_directory_iterator(root)) {
        if (entry.path().filename().string().starts_with('f')) ++found;
    }
    expect(found == count, "the files that are there are the first ones (" + std::to_string(found) +
                               " found, " + std::to_string(count) + " without a gap)");

    std::size_t whole = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::string path = file_name(root, i);
        struct stat status {};
        if (stat(path.c_str(), &status) != 0) give_up_errno("stat of " + path);
        expect(S_ISREG(status.st_mode) && (status.st_mode & 07777) == 0640, path + " has its mode");
        const std::string text = read_file(path);
        const std::string expected = contents(i);
        if (text == expected) {
            ++whole;
            continue;
        }
        const auto promise = promised.find(i);
        if (promise != promised.end()) {
            expect(false, path + " is whole (" +
                              (promise->second == 'S' ? "fsync returned" : "closed long before") +
                              "; " + std::to_string(text.size()) + " of " +
                              std::to_string(expected.size()) + " bytes)");
        }
        expect(is_partial(text, expected), path + " holds nothing that it never held");
    }
    if (access((root + "/latest").c_str(), F_OK) == 0) {
        const std::string text = read_file(root + "/latest");
        bool complete = false;
        for (std::size_t i = 9; i <= last_closed + 20 && !complete; i += 10) {
            complete = text == contents(i);
        }
        expect(complete, "latest, replaced by rename, is one whole file (it has " +
                             std::to_string(text.size()) + " bytes)");
    } else {
        expect(last_synced < 20, "latest is there");
    }
    std::printf(
        "%zu files made, %zu there after the crash, %zu whole, last fsync at %zu, "
        "%zu had to be whole, longest gap %.2f s\n",
        last_closed + 1, count, whole, last_synced, promised.size(), longest_gap);
}

void probe_partial_copy(Arguments arguments) {
    const stdfs::path source = arguments[0];
    const stdfs::path copy = arguments[1];
    std::size_t entries = 0;
    std::size_t whole = 0;
    for (const auto& entry : stdfs::recursive_directory_iterator(copy)) {
        const stdfs::path original = source / entry.path().lexically_relative(copy);
        struct stat made {};
        struct stat given {};
        if (lstat(entry.path().c_str(), &made) != 0)
            give_up_errno("lstat of " + entry.path().string());
        if (lstat(original.c_str(), &given) != 0) give_up_errno("lstat of " + original.string());
        const std::string name = entry.path().string();
        expect((made.st_mode & S_IFMT) == (given.st_mode & S_IFMT), name + " has its type");
        ++entries;
        if (S_ISLNK(made.st_mode)) {
            expect(stdfs::read_symlink(entry.path()) == stdfs::read_symlink(original),
                   name + " points where it should");
        } else if (S_ISREG(made.st_mode)) {
            const std::string text = read_file(name);
            const std::string expected = read_file(original.string());
            expect(is_partial(text, expected), name + " holds nothing that it never held");
            if (text == expected) ++whole;
        }
    }
    std::printf("%zu entries there after the crash, %zu files whole\n", entries, whole);
}

}  // namespace blobfs::e2e
