#include "tests/fuzz/sound_images.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver/memory/environment.h"
#include "driver/soft/memory_medium.h"

namespace blobfs::fuzz {

using driver::Suspend;
using fs::Filesystem;
using fs::InodeNumber;

namespace {

[[noreturn]] void give_up(const Error& error) {
    std::fprintf(stderr, "making a sound image: %s\n", error.message().c_str());
    std::abort();
}
template <class T>
T must(Result<T> result) {
    if (!result) give_up(result.error());
    return std::move(*result);
}
void must(const Result<void>& result) {
    if (!result) give_up(result.error());
}

InodeNumber keep(Filesystem& filesystem, const fs::Attributes& made) {
    filesystem.forget(made.inode, 1);
    return made.inode;
}

}  // namespace

// A medium in memory that knows whether it was written.
class SoundImages::WatchedMedium final : public driver::Medium {
  public:
    explicit WatchedMedium(std::unique_ptr<driver::MemoryMedium> memory)
        : memory_(std::move(memory)) {}

    [[nodiscard]] const driver::MediumProperties& properties() const override {
        return memory_->properties();
    }
    void start(driver::MediumOperation& operation) override {
        using Kind = driver::MediumOperation::Kind;
        written_ = written_ || (operation.kind != Kind::kRead && operation.kind != Kind::kFlush);
        memory_->start(operation);
    }
    [[nodiscard]] std::size_t in_flight() const override { return 0; }

    [[nodiscard]] bool written() const { return written_; }
    [[nodiscard]] std::string_view content() const {
        return {reinterpret_cast<const char*>(memory_->data()), kImageBytes};
    }
    // The rest reads as zeroes, and takes no memory.
    void set_content(const std::string& image) {
        std::memcpy(memory_->data(), image.data(), image.size());
        madvise(memory_->data() + image.size(), kImageBytes - image.size(), MADV_DONTNEED);
        written_ = false;
    }

  private:
    std::unique_ptr<driver::MemoryMedium> memory_;
    bool written_ = false;
};

SoundImages::SoundImages() {
    must(driver::start_environment({.memory_bytes = std::size_t{512} << 20}));
    reactor_.block_on([&](Suspend& suspend) {
        auto medium = std::make_unique<WatchedMedium>(
            must(driver::MemoryMedium::create({.bytes = kImageBytes})));
        medium_ = medium.get();
        device_ = must(driver::Device::open(suspend, std::move(medium)));
        buffer_ = must(driver::DmaBuffer::allocate(std::size_t{64} << 10));
        blobstore::FormatOptions options{.page_bytes = kImagePageBytes};
        options.uuid.fill(0x42);
        must(Filesystem::format(suspend, *device_, {.store = options}));
        make_clean(suspend);
        make_unclean(suspend);
    });
}

SoundImages::~SoundImages() {
    reactor_.block_on([&](Suspend& suspend) { must(device_->close(suspend)); });
}

void SoundImages::make_clean(Suspend& suspend) {
    const auto filesystem = must(Filesystem::open(suspend, *device_));
    const InodeNumber directory = keep(
        *filesystem, must(filesystem->mkdir(suspend, kImageUser, fs::kRootInode, "dir", 0755)));
    const InodeNumber inner =
        keep(*filesystem, must(filesystem->mkdir(suspend, kImageUser, directory, "inner", 0755)));
    for (int i = 0; i < kImageFiles; ++i) {
        const InodeNumber file =
            keep(*filesystem,
                 must(filesystem->create(suspend, kImageUser, i % 2 == 0 ? directory : inner,
                                         "file" + std::to_string(i), 0644, true)));
        const std::size_t bytes = i % 5 == 0 ? 20'000 : 50;
        std::memset(buffer_.data(), 'a' + i % 20, bytes);
        must(filesystem->write(suspend, file, 0, buffer_.span().first(bytes), {}));
        if (i % 6 == 0) {
            must(filesystem->setxattr(suspend, file, "user.x", std::string(700, 'x'),
                                      fs::XattrMode::kAny));
        }
    }
    const std::string target(900, 't');
    keep(*filesystem, must(filesystem->symlink(suspend, kImageUser, directory, "long", target)));
    keep(*filesystem, must(filesystem->symlink(suspend, kImageUser, directory, "short", "t")));
    must(filesystem->close(suspend));
    clean_ = content();
}

void SoundImages::make_unclean(Suspend& suspend) {
    const auto filesystem = must(Filesystem::open(suspend, *device_));
    for (int i = 0; i < 12; ++i) {
        const InodeNumber file =
            keep(*filesystem, must(filesystem->create(suspend, kImageUser, fs::kRootInode,
                                                      "late" + std::to_string(i), 0644, true)));
        must(filesystem->write(suspend, file, 0, buffer_.span().first(9000), {}));
        must(filesystem->sync(suspend));
    }
    must(filesystem->unlink(suspend, InodeNumber{2}, "file0"));
    must(filesystem->sync(suspend));
    filesystem->abandon(suspend);
    unclean_ = content();
}

std::string SoundImages::content() const {
    const std::string_view all = medium_->content();
    const std::size_t last = all.find_last_not_of('\0');
    return std::string(all.substr(0, blobstore::round_up(last + 1, blobstore::kBlockBytes)));
}

void SoundImages::put(const std::string& image) { medium_->set_content(image); }

bool SoundImages::unchanged() const { return !medium_->written(); }

}  // namespace blobfs::fuzz
