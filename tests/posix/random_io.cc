// posix_random_io FOLDER SEED OPERATIONS: random I/O on two files of a folder against a copy in
// memory: read, write, append, mmap, O_DIRECT, truncate, punch, zero, allocate, copy, holes,
// reopen, dropped caches, all mixed. Status 0: every byte was right. The same seed does the same
// again.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr std::size_t kMaxFileBytes = 768 * 1024;
constexpr std::size_t kMaxOperationBytes = 128 * 1024;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kRemembered = 30;

std::deque<std::string> history;

[[noreturn]] void give_up(const std::string& what) {
    for (const std::string& operation : history) std::fprintf(stderr, "  %s\n", operation.c_str());
    std::fprintf(stderr, "posix_random_io: %s\n", what.c_str());
    std::exit(1);
}

[[noreturn]] void give_up_errno(const std::string& what) {
    give_up(what + ": " + std::strerror(errno));
}

std::size_t check(long result, const char* what) {
    if (result < 0) give_up_errno(what);
    return static_cast<std::size_t>(result);
}

struct Range {
    std::size_t offset, bytes;
    [[nodiscard]] std::size_t end() const { return offset + bytes; }
};

off_t as_offset(std::size_t bytes) { return static_cast<off_t>(bytes); }

// A file and what should be in it.
class Subject {
  public:
    Subject(std::string path, std::mt19937_64& random) : path_(std::move(path)), random_(random) {
        descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (descriptor_ < 0) give_up_errno("making " + path_);
        buffer_ = static_cast<char*>(mmap(nullptr, kMaxFileBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (buffer_ == MAP_FAILED) give_up_errno("taking memory");
    }

    void note(const char* operation, const Range& range) {
        history.push_back(path_.substr(path_.rfind('/') + 1) + ": " + operation + " " +
                          std::to_string(range.offset) + " + " + std::to_string(range.bytes) +
                          (direct_ ? " (direct)" : "") + " of " + std::to_string(model_.size()));
        if (history.size() > kRemembered) history.pop_front();
    }

    std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

    // Anywhere, with a liking for the edges of pages and of the file.
    Range any_range(std::size_t limit) {
        std::size_t offset = below(limit);
        switch (below(4)) {
            case 0:
                offset = offset / kPage * kPage;
                break;
            case 1:
                offset = std::min(limit - 1, model_.size());
                break;
            default:
                break;
        }
        std::size_t bytes = 1 + (below(3) == 0 ? below(kMaxOperationBytes) : below(3 * kPage));
        if (below(4) == 0) bytes = (bytes + kPage - 1) / kPage * kPage;
        if (direct_) {
            offset = offset / kPage * kPage;
            bytes = (bytes + kPage - 1) / kPage * kPage;
        }
        return {offset, std::min(bytes, kMaxFileBytes - offset)};
    }

    void compare(const char* got, const Range& range, const char* how) {
        for (std::size_t i = 0; i < range.bytes; ++i) {
            if (got[i] == model_[range.offset + i]) continue;
            std::size_t wrong = i;
            while (wrong < range.bytes && got[wrong] != model_[range.offset + wrong]) ++wrong;
            char text[160];
            std::snprintf(text, sizeof(text),
                          "byte %zu is 0x%02x and should be 0x%02x, as %zu more", range.offset + i,
                          static_cast<unsigned char>(got[i]),
                          static_cast<unsigned char>(model_[range.offset + i]), wrong - i - 1);
            give_up(path_ + ": " + how + ": " + text);
        }
    }

    void read() {
        const Range range = any_range(kMaxFileBytes);
        note("read", range);
        const std::size_t got =
            check(pread(descriptor_, buffer_, range.bytes, as_offset(range.offset)), "reading");
        const std::size_t expected =
            range.offset >= model_.size() ? 0 : std::min(range.bytes, model_.size() - range.offset);
        if (got != expected) {
            give_up(path_ + ": read " + std::to_string(got) + " bytes instead of " +
                    std::to_string(expected));
        }
        compare(buffer_, {range.offset, got}, "read");
    }

    void fill(const Range& range) {
        const std::uint64_t value = random_();
        for (std::size_t i = 0; i < range.bytes; ++i) {
            buffer_[i] = static_cast<char>((value >> (i % 8 * 8)) + i / 8);
        }
    }
    void put(const Range& range) {
        if (model_.size() < range.end()) model_.resize(range.end());
        std::memcpy(model_.data() + range.offset, buffer_, range.bytes);
    }

    void write() {
        const Range range = any_range(kMaxFileBytes);
        note("write", range);
        fill(range);
        const std::size_t done =
            check(pwrite(descriptor_, buffer_, range.bytes, as_offset(range.offset)), "writing");
        if (done != range.bytes) give_up("a write was short");
        put(range);
    }

    void append() {
        if (direct_) return;
        const Range range{model_.size(),
                          std::min(1 + below(3 * kPage), kMaxFileBytes - model_.size())};
        if (range.bytes == 0) return;
        note("append", range);
        fill(range);
        const int appending = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
        if (appending < 0) give_up_errno("opening to append");
        if (check(::write(appending, buffer_, range.bytes), "appending") != range.bytes) {
            give_up("an append was short");
        }
        ::close(appending);
        put(range);
    }

    void mapped(bool writing) {
        if (model_.empty()) return;
        Range range = any_range(model_.size());
        range.bytes = std::min(range.bytes, model_.size() - range.offset);
        if (range.bytes == 0) return;
        note(writing ? "mapped write" : "mapped read", range);
        const int plain = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
        if (plain < 0) give_up_errno("opening to map");
        const std::size_t length = range.end();
        void* view = mmap(nullptr, length, writing ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                          plain, 0);
        if (view == MAP_FAILED) give_up_errno("mapping");
        char* at = static_cast<char*>(view) + range.offset;
        if (writing) {
            fill(range);
            std::memcpy(at, buffer_, range.bytes);
            put(range);
            if (below(2) == 0) check(msync(view, length, MS_SYNC), "msync");
        } else {
            compare(at, range, "mapped read");
        }
        munmap(view, length);
        ::close(plain);
    }

    void truncate() {
        const Range range{below(3) == 0 ? below(kMaxFileBytes)
                                        : std::min(kMaxFileBytes, below(2 * model_.size() + kPage)),
                          0};
        note("truncate to", range);
        check(ftruncate(descriptor_, as_offset(range.offset)), "truncating");
        model_.resize(range.offset);
    }

    void allocate(int mode, const char* name) {
        const Range range = any_range(kMaxFileBytes);
        note(name, range);
        if (::fallocate(descriptor_, mode, as_offset(range.offset), as_offset(range.bytes)) != 0) {
            give_up_errno(name);
        }
        if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && model_.size() < range.end()) {
            model_.resize(range.end());
        }
        if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 &&
            range.offset < model_.size()) {
            const std::size_t end = std::min(range.end(), model_.size());
            std::fill(model_.begin() + as_offset(range.offset), model_.begin() + as_offset(end),
                      '\0');
        }
    }

    // REQUIRES that the file itself is no target of an overlapping range.
    void copy_from(Subject& source) {
        if (source.model_.empty()) return;
        Range from = source.any_range(source.model_.size());
        from.bytes = std::min(from.bytes, source.model_.size() - from.offset);
        const Range to{below(kMaxFileBytes - from.bytes), from.bytes};
        if (&source == this && from.offset < to.end() && to.offset < from.end()) return;
        note("copy to", to);
        // Not the descriptors in use: ext4 takes no odd ranges through those for direct access.
        const int in = ::open(source.path_.c_str(), O_RDONLY | O_CLOEXEC);
        const int out = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
        if (in < 0 || out < 0) give_up_errno("opening to copy");
        std::size_t done = 0;
        while (done < from.bytes) {
            off_t at = as_offset(from.offset + done), to_at = as_offset(to.offset + done);
            const std::size_t bytes =
                check(copy_file_range(in, &at, out, &to_at, from.bytes - done, 0), "copying");
            if (bytes == 0) give_up("copying ended early");
            done += bytes;
        }
        ::close(in);
        ::close(out);
        std::memcpy(buffer_, source.model_.data() + from.offset, from.bytes);
        put(to);
    }

    // What is not zero lies in no hole.
    void holes() {
        note("holes", {0, model_.size()});
        if (below(2) == 0) write_out();
        std::size_t at = 0;
        while (at < model_.size()) {
            const off_t data = lseek(descriptor_, as_offset(at), SEEK_DATA);
            if (data < 0 && errno != ENXIO) give_up_errno("looking for data");
            const std::size_t end = data < 0 ? model_.size() : static_cast<std::size_t>(data);
            if (end < at) give_up("data was found before where it was looked for");
            for (std::size_t i = at; i < end; ++i) {
                if (model_[i] != '\0')
                    give_up(path_ + ": byte " + std::to_string(i) + " is no hole");
            }
            if (data < 0) return;
            at = check(lseek(descriptor_, data, SEEK_HOLE), "looking for a hole");
            if (at <= end) give_up("a hole begins where data does");
        }
    }

    void reopen(bool direct) {
        ::close(descriptor_);
        direct_ = direct;
        descriptor_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | (direct_ ? O_DIRECT : 0));
        if (descriptor_ < 0) give_up_errno("reopening");
        note("reopened", {0, 0});
    }

    void write_out() {
        if (below(16) == 0) {
            check(fsync(descriptor_), "fsync");
        } else {
            check(sync_file_range(descriptor_, 0, 0,
                                  SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                      SYNC_FILE_RANGE_WAIT_AFTER),
                  "sync_file_range");
        }
    }

    void forget_cached() {
        note("forget", {0, 0});
        write_out();
        posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
    }

    void compare_all() {
        struct stat status {};
        check(fstat(descriptor_, &status), "fstat");
        if (static_cast<std::size_t>(status.st_size) != model_.size()) {
            give_up(path_ + ": has " + std::to_string(status.st_size) + " bytes instead of " +
                    std::to_string(model_.size()));
        }
        const int plain = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
        if (plain < 0) give_up_errno("opening");
        const std::size_t got = check(pread(plain, buffer_, kMaxFileBytes, 0), "reading all");
        ::close(plain);
        if (got != model_.size()) give_up(path_ + ": reading all gave " + std::to_string(got));
        compare(buffer_, {0, got}, "reading all");
    }

  private:
    std::string path_;
    std::mt19937_64& random_;
    int descriptor_ = -1;
    bool direct_ = false;
    char* buffer_ = nullptr;
    std::vector<char> model_;
};

void step(Subject& subject, Subject& other, std::size_t choice) {
    constexpr int kKeep = FALLOC_FL_KEEP_SIZE;
    switch (choice) {
        case 0:
        case 1:
        case 2:
        case 3:
            return subject.read();
        case 4:
        case 5:
        case 6:
        case 7:
            return subject.write();
        case 8:
            return subject.append();
        case 9:
        case 10:
            return subject.mapped(false);
        case 11:
        case 12:
            return subject.mapped(true);
        case 13:
        case 14:
            return subject.truncate();
        case 15:
            return subject.allocate(FALLOC_FL_PUNCH_HOLE | kKeep, "punch");
        case 16:
            return subject.allocate(FALLOC_FL_ZERO_RANGE, "zero");
        case 17:
            return subject.allocate(FALLOC_FL_ZERO_RANGE | kKeep, "zero, keep size");
        case 18:
            return subject.allocate(0, "allocate");
        case 19:
            return subject.allocate(kKeep, "allocate, keep size");
        case 20:
            return subject.copy_from(other);
        case 21:
            return subject.copy_from(subject);
        case 22:
            return subject.holes();
        case 23:
            return subject.reopen(subject.below(3) == 0);
        case 24:
            return subject.forget_cached();
        default:
            return subject.compare_all();
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: posix_random_io FOLDER SEED OPERATIONS\n");
        return 1;
    }
    const std::string folder = argv[1];
    const std::uint64_t seed = std::strtoull(argv[2], nullptr, 10);
    const std::uint64_t operations = std::strtoull(argv[3], nullptr, 10);
    constexpr std::size_t kChoices = 26;
    std::mt19937_64 random(seed);
    std::array<Subject, 2> subjects{Subject(folder + "/one", random),
                                    Subject(folder + "/two", random)};
    for (std::uint64_t i = 0; i < operations; ++i) {
        const std::size_t which = random() % 2;
        step(subjects[which], subjects[1 - which], random() % kChoices);
    }
    for (Subject& subject : subjects) {
        subject.forget_cached();
        subject.compare_all();
    }
    return 0;
}
