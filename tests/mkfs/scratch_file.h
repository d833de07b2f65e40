#pragma once

// A file of a given size in a directory of its own, gone at the end of the test.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "driver/base/check.h"

namespace blobfs::mkfs {

class ScratchFile {
  public:
    explicit ScratchFile(std::uint64_t bytes) {
        std::string pattern = (std::filesystem::temp_directory_path() / "mkfs-XXXXXX").string();
        CHECK(mkdtemp(pattern.data()) != nullptr);
        folder_ = pattern;
        path_ = folder_ + "/disk";
        descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        CHECK(descriptor_ >= 0);
        CHECK(ftruncate(descriptor_, static_cast<off_t>(bytes)) == 0);
    }
    ~ScratchFile() {
        close(descriptor_);
        std::filesystem::remove_all(folder_);
    }
    ScratchFile(const ScratchFile&) = delete;
    ScratchFile& operator=(const ScratchFile&) = delete;

    void put(std::uint64_t offset, std::string_view bytes) {
        CHECK(pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
              static_cast<ssize_t>(bytes.size()));
    }
    [[nodiscard]] std::string get(std::uint64_t offset, std::size_t bytes) const {
        std::string result(bytes, '\0');
        const ssize_t n = pread(descriptor_, result.data(), bytes, static_cast<off_t>(offset));
        CHECK(n >= 0);
        result.resize(static_cast<std::size_t>(n));
        return result;
    }
    [[nodiscard]] struct stat status() const {
        struct stat status {};
        CHECK(fstat(descriptor_, &status) == 0);
        return status;
    }
    [[nodiscard]] const std::string& folder() const { return folder_; }
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] int descriptor() const { return descriptor_; }

  private:
    std::string folder_, path_;
    int descriptor_ = -1;
};

}  // namespace blobfs::mkfs
