#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/e2e/probe.h"

namespace blobfs::e2e {

namespace {

constexpr std::size_t kPage = 4096;

// A descriptor that ends the program when anything fails.
class File {
  public:
    File(const std::string& path, int flags) : path_(path) {
        descriptor_ = open(path.c_str(), flags | O_CLOEXEC, 0644);
        if (descriptor_ < 0) give_up_errno("opening " + path);
    }
    ~File() { close(descriptor_); }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    void write_at(const void* data, std::size_t bytes, std::size_t offset) {
        const ssize_t n = pwrite(descriptor_, data, bytes, static_cast<off_t>(offset));
        if (n != static_cast<ssize_t>(bytes)) give_up_errno("writing " + path_);
    }
    void append(const std::string& text) {
        const ssize_t n = write(descriptor_, text.data(), text.size());
        if (n != static_cast<ssize_t>(text.size())) give_up_errno("appending to " + path_);
    }
    std::size_t read_at(void* into, std::size_t bytes, std::size_t offset) {
        const ssize_t n = pread(descriptor_, into, bytes, static_cast<off_t>(offset));
        if (n < 0) give_up_errno("reading " + path_);
        return static_cast<std::size_t>(n);
    }
    std::string text(std::size_t bytes, std::size_t offset) {
        std::string result(bytes, '\0');
        result.resize(read_at(result.data(), bytes, offset));
        return result;
    }
    void resize(std::size_t bytes) {
        if (ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
            give_up_errno("truncating " + path_);
        }
    }
    [[nodiscard]] std::size_t size() const {
        struct stat status {};
        if (fstat(descriptor_, &status) != 0) give_up_errno("fstat of " + path_);
        return static_cast<std::size_t>(status.st_size);
    }
    void sync() {
        if (fsync(descriptor_) != 0) give_up_errno("fsync of " + path_);
    }
    char* map(std::size_t bytes, int kind) {
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind, descriptor_, 0);
        if (memory == MAP_FAILED) give_up_errno("mmap of " + path_);
        return static_cast<char*>(memory);
    }
    [[nodiscard]] int descriptor() const { return descriptor_; }

  private:
    std::string path_;
    int descriptor_ = -1;
};

struct Free {
    void operator()(char* memory) const { std::free(memory); }
};

std::unique_ptr<char, Free> aligned(std::size_t bytes, char fill) {
    std::unique_ptr<char, Free> memory(static_cast<char*>(std::aligned_alloc(kPage, bytes)));
    std::fill_n(memory.get(), bytes, fill);
    return memory;
}

}  // namespace

void probe_mmap(Arguments arguments) {
    File file(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
    constexpr std::size_t kBytes = 64 * kPage;
    file.resize(kBytes);
    char* shared = file.map(kBytes, MAP_SHARED);
    char* again = file.map(kBytes, MAP_SHARED);
    expect(shared[5000] == 0, "a hole maps as zeroes");
    for (std::size_t i = 0; i < kBytes; ++i) shared[i] = static_cast<char>('a' + i / 100 % 26);
    expect(again[kBytes - 1] == shared[kBytes - 1], "two shared mappings are one");
    expect(file.text(3, 100) == "bbb", "read sees what a shared mapping wrote");
    file.write_at("WRITTEN", 7, 10 * kPage - 3);
    expect(std::string(shared + 10 * kPage - 3, 7) == "WRITTEN", "a mapping sees what write wrote");

    char* own = file.map(kBytes, MAP_PRIVATE);
    own[0] = 'P';
    expect(shared[0] == 'a' && file.text(1, 0) == "a", "a private mapping keeps its changes");
    munmap(own, kBytes);

    expect(msync(shared, kBytes, MS_SYNC) == 0, "msync");
    file.resize(kBytes / 2);
    file.resize(kBytes);
    expect(file.text(4, kBytes / 2 + 10) == std::string(4, '\0'), "what was cut off reads as zero");
    expect(shared[kBytes / 2 - 1] == 'a' + static_cast<char>((kBytes / 2 - 1) / 100 % 26),
           "what truncation kept is still mapped");
    shared[kBytes / 2 + 1] = 'z';
    munmap(shared, kBytes);
    munmap(again, kBytes);
    file.sync();
    expect(file.text(2, kBytes / 2) == std::string("\0z", 2), "a mapping writes after truncation");

    // A page that the end of the file cuts: what lies behind is not part of the file.
    file.resize(kPage + 100);
    char* tail = file.map(2 * kPage, MAP_SHARED);
    tail[kPage + 50] = 'i';
    tail[kPage + 200] = 'o';
    munmap(tail, 2 * kPage);
    file.sync();
    file.resize(2 * kPage);
    expect(file.text(1, kPage + 50) == "i", "a write before the end of the file stays");
    expect(file.text(1, kPage + 200) == std::string(1, '\0'), "a write behind the end is dropped");
}

void probe_direct(Arguments arguments) {
    const std::string& path = arguments[0];
    constexpr std::size_t kBytes = 1u << 20;
    File direct(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
    File buffered(path, O_RDWR);
    const auto ones = aligned(kBytes, '1');
    direct.write_at(ones.get(), kBytes, 0);
    expect(buffered.text(4, kBytes - 4) == "1111", "buffered reads see direct writes");
    buffered.write_at("22", 2, 4095);
    const auto back = aligned(kBytes, 0);
    expect(direct.read_at(back.get(), kBytes, 0) == kBytes, "a direct read is whole");
    expect(back.get()[4094] == '1' && back.get()[4095] == '2' && back.get()[4096] == '2' &&
               back.get()[4097] == '1',
           "direct reads see buffered writes");
    direct.write_at(ones.get(), kPage, kBytes + kPage);
    expect(buffered.size() == kBytes + 2 * kPage, "a direct write beyond the end extends the file");
    expect(buffered.text(1, kBytes + 10) == std::string(1, '\0'), "the gap reads as zero");
    buffered.write_at("tail", 4, kBytes + 2 * kPage);
    expect(direct.read_at(back.get(), kBytes, kBytes + 2 * kPage) == 4,
           "a direct read at the end is short");
    expect(direct.read_at(back.get(), kPage, 4 * kBytes) == 0,
           "a direct read behind the end is empty");
    // Memory or offset that is not aligned works or is refused; it never goes wrong silently.
    const ssize_t odd = pwrite(direct.descriptor(), ones.get() + 1, 512, 512);
    expect(odd == 512 || (odd < 0 && errno == EINVAL), "an odd direct write works or is EINVAL");
    direct.sync();
}

void probe_open_flags(Arguments arguments) {
    const std::string& path = arguments[0];
    {
        File file(path, O_RDWR | O_CREAT | O_TRUNC | O_SYNC);
        for (std::size_t i = 0; i < 50; ++i) file.write_at("sync", 4, i * 1000);
        File data(path, O_RDWR | O_DSYNC);
        for (std::size_t i = 0; i < 50; ++i) data.write_at("data", 4, i * 1000 + 500);
        expect(file.text(4, 49'500) == "data", "O_SYNC and O_DSYNC descriptors see one file");
        expect(file.size() == 49'504, "size after O_DSYNC writes");
    }
    File one(path, O_WRONLY | O_APPEND | O_TRUNC);
    File two(path, O_WRONLY | O_APPEND);
    std::string expected;
    for (int i = 0; i < 200; ++i) {
        const std::string text = std::to_string(i) + ",";
        (i % 2 == 0 ? one : two).append(text);
        expected += text;
    }
    File reader(path, O_RDONLY);
    expect(reader.text(10'000, 0) == expected, "appends of two descriptors follow one another");
    const int exclusive = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    expect(exclusive < 0 && errno == EEXIST, "O_EXCL refuses what exists");
}

void probe_random_writes(Arguments arguments) {
    constexpr std::size_t kMostBytes = 6u << 20;
    std::mt19937_64 random(std::stoull(arguments[1]));
    const auto below = [&](std::size_t bound) {
        return static_cast<std::size_t>(random() % bound);
    };
    std::string model;
    {
        File file(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
        for (int step = 0; step < 1500; ++step) {
            const std::size_t kind = below(20);
            if (kind == 0) {
                model.resize(below(kMostBytes));
                file.resize(model.size());
            } else if (kind < 18) {
                const std::size_t offset =
                    kind < 4 ? model.size() : below(std::max<std::size_t>(model.size(), 1) + 9000);
                const std::size_t bytes = 1 + below(kind < 10 ? 300 : 70'000);
                if (offset + bytes > kMostBytes) continue;
                const std::string data(bytes, static_cast<char>('A' + below(50)));
                if (model.size() < offset + bytes) model.resize(offset + bytes);
                model.replace(offset, bytes, data);
                file.write_at(data.data(), bytes, offset);
            } else if (kind == 18) {
                file.sync();
            } else {
                const std::size_t offset = below(std::max<std::size_t>(model.size(), 1));
                const std::size_t bytes = std::min(model.size() - offset, below(200'000));
                expect(file.text(bytes, offset) == model.substr(offset, bytes),
                       "step " + std::to_string(step) + ": a read is what was written");
            }
        }
        expect(file.size() == model.size(), "the size is what was written");
        expect(file.text(model.size(), 0) == model, "the file is what was written");
    }
}

void probe_locked(Arguments arguments) {
    File file(arguments[0], O_RDONLY);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(file.descriptor(), F_OFD_GETLK, &lock) != 0) give_up_errno("F_OFD_GETLK");
    if (lock.l_type == F_UNLCK) give_up("nobody holds a lock");
}

}  // namespace blobfs::e2e
