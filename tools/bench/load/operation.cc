#include "tools/bench/load/operation.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <numeric>
#include <random>
#include <utility>

namespace blobfs::bench {

namespace {

constexpr std::size_t kAlignment = 4096;

// Closes at the end; errno stays what it was.
class File {
  public:
    File(const std::string& path, int flags) : descriptor_(::open(path.c_str(), flags, 0644)) {}
    ~File() {
        const int before = errno;
        if (descriptor_ >= 0) ::close(descriptor_);
        errno = before;
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    explicit operator bool() const { return descriptor_ >= 0; }
    [[nodiscard]] int descriptor() const { return descriptor_; }

  private:
    int descriptor_;
};

// Aligned as O_DIRECT wants it, filled with bytes that do not compress.
class Buffer {
  public:
    Buffer(std::size_t bytes, std::uint64_t seed)
        : bytes_(bytes),
          data_(static_cast<std::byte*>(
                    std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment)),
                &std::free) {
        std::mt19937_64 random(seed);
        for (std::size_t i = 0; i < bytes; ++i) data_[i] = static_cast<std::byte>(random());
    }
    [[nodiscard]] void* data() const { return data_.get(); }
    [[nodiscard]] std::size_t size() const { return bytes_; }

  private:
    std::size_t bytes_;
    std::unique_ptr<std::byte[], decltype(&std::free)> data_;
};

bool write_all(int descriptor, const Buffer& buffer) {
    return ::write(descriptor, buffer.data(), buffer.size()) == static_cast<ssize_t>(buffer.size());
}

// Operations on many files. Their paths are made before the clock starts.
class OnFiles : public Operation {
  public:
    using Body = std::function<bool(const std::string& path, const Buffer& buffer)>;
    OnFiles(const Load& load, std::uint32_t process, Body body)
        : load_(load), process_(process), body_(std::move(body)) {}

    std::string prepare() override {
        std::vector<std::uint64_t> numbers(std::max(load_.count, load_.of));
        std::iota(numbers.begin(), numbers.end(), load_.first);
        std::mt19937_64 random(load_.seed + process_);
        if (load_.of != 0) {
            std::vector<std::uint64_t> chosen;
            std::sample(numbers.begin(), numbers.end(), std::back_inserter(chosen), load_.count,
                        random);
            numbers = std::move(chosen);
        }
        if (load_.shuffled) std::shuffle(numbers.begin(), numbers.end(), random);
        paths_.reserve(load_.count);
        for (const std::uint64_t number : numbers) {
            paths_.push_back(file_path(load_, process_, number));
        }
        return {};
    }
    bool run(std::uint64_t index) override { return body_(paths_[index], buffer_); }

  private:
    const Load load_;
    const std::uint32_t process_;
    const Body body_;
    const Buffer buffer_{load_.bytes, load_.seed};
    std::vector<std::string> paths_;
};

// Writes to one file per process, each made durable before the next.
class SyncedWrites : public Operation {
  public:
    SyncedWrites(const Load& load, std::uint32_t process, bool append)
        : load_(load), append_(append), random_(load.seed + process) {
        path_ = append ? load.directory + "/append-" + std::to_string(process) : load.directory;
    }

    std::string prepare() override {
        const int flags =
            O_WRONLY | (append_ ? O_CREAT | O_APPEND | O_TRUNC : 0) | (load_.direct ? O_DIRECT : 0);
        file_ = std::make_unique<File>(path_, flags);
        if (!*file_) return path_ + ": " + std::strerror(errno);
        return {};
    }
    bool run(std::uint64_t /*index*/) override {
        if (append_) {
            return write_all(file_->descriptor(), buffer_) && ::fsync(file_->descriptor()) == 0;
        }
        const std::uint64_t places = load_.file_bytes / load_.bytes;
        const auto offset = static_cast<off_t>(random_() % places * load_.bytes);
        return ::pwrite(file_->descriptor(), buffer_.data(), buffer_.size(), offset) ==
                   static_cast<ssize_t>(buffer_.size()) &&
               ::fdatasync(file_->descriptor()) == 0;
    }

  private:
    const Load load_;
    const bool append_;
    std::mt19937_64 random_;
    const Buffer buffer_{load_.bytes, load_.seed};
    std::string path_;
    std::unique_ptr<File> file_;
};

std::string renamed(const std::string& path) {
    std::string other = path;
    other[other.rfind('/') + 1] = 'r';
    return other;
}

constexpr int kNew = O_WRONLY | O_CREAT | O_EXCL;

using Body = OnFiles::Body;
const std::vector<std::pair<std::string, Body>>& bodies() {
    static const std::vector<std::pair<std::string, Body>> all = {
        {"create", [](const std::string& path, const Buffer&) { return bool(File(path, kNew)); }},
        {"create-write",
         [](const std::string& path, const Buffer& buffer) {
             const File file(path, kNew);
             return file && write_all(file.descriptor(), buffer);
         }},
        {"create-fsync",
         [](const std::string& path, const Buffer& buffer) {
             const File file(path, kNew);
             return file && write_all(file.descriptor(), buffer) && ::fsync(file.descriptor()) == 0;
         }},
        {"write",
         [](const std::string& path, const Buffer& buffer) {
             const File file(path, O_WRONLY);
             return file && write_all(file.descriptor(), buffer);
         }},
        {"stat",
         [](const std::string& path, const Buffer&) {
             struct stat status {};
             return ::stat(path.c_str(), &status) == 0;
         }},
        {"open-read-close",
         [](const std::string& path, const Buffer& buffer) {
             const File file(path, O_RDONLY);
             return file && ::read(file.descriptor(), buffer.data(), buffer.size()) >= 0;
         }},
        {"chmod",
         [](const std::string& path, const Buffer&) { return ::chmod(path.c_str(), 0600) == 0; }},
        {"rename",
         [](const std::string& path, const Buffer&) {
             return ::rename(path.c_str(), renamed(path).c_str()) == 0;
         }},
        {"unlink",
         [](const std::string& path, const Buffer&) { return ::unlink(path.c_str()) == 0; }},
        {"unlink-renamed", [](const std::string& path,
                              const Buffer&) { return ::unlink(renamed(path).c_str()) == 0; }},
        {"mkdir",
         [](const std::string& path, const Buffer&) { return ::mkdir(path.c_str(), 0755) == 0; }},
        {"rmdir",
         [](const std::string& path, const Buffer&) { return ::rmdir(path.c_str()) == 0; }},
        {"symlink", [](const std::string& path,
                       const Buffer&) { return ::symlink("target", path.c_str()) == 0; }},
    };
    return all;
}

}  // namespace

std::string file_path(const Load& load, std::uint32_t process, std::uint64_t number) {
    std::string path = load.directory + "/";
    if (load.directories != 0) path += "d" + std::to_string(number % load.directories) + "/";
    std::array<char, 40> name;
    std::snprintf(name.data(), name.size(), "f%u-%08llu", process,
                  static_cast<unsigned long long>(number));
    return path + name.data();
}

std::unique_ptr<Operation> Operation::make(const Load& load, std::uint32_t process) {
    if (load.operation == "append-fsync" || load.operation == "overwrite-fdatasync") {
        return std::make_unique<SyncedWrites>(load, process, load.operation == "append-fsync");
    }
    for (const auto& [name, body] : bodies()) {
        if (name == load.operation) return std::make_unique<OnFiles>(load, process, body);
    }
    return nullptr;
}

std::vector<std::string> Operation::names() {
    std::vector<std::string> all{"append-fsync", "overwrite-fdatasync"};
    for (const auto& [name, body] : bodies()) all.push_back(name);
    return all;
}

}  // namespace blobfs::bench
