#pragma once

// A filesystem on a memory device whose volatile cache can be lost, with a clock that the test
// moves.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "driver/memory/dma_buffer.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "fs/filesystem.h"
#include "tests/blobstore/memory_device.h"

namespace blobfs::fs {

inline constexpr Caller kRootUser{.uid = 0, .gid = 0, .pid = 1, .umask = 0};
inline constexpr Caller kUser{.uid = 1000, .gid = 100, .pid = 2, .umask = 022};

template <class T>
T must(Result<T> result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
    return std::move(*result);
}
inline void must(const Result<void>& result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
}

template <class T>
testing::AssertionResult fails_with(const Result<T>& result, Errc code) {
    if (result) {
        return testing::AssertionFailure() << "succeeded, expected: " << to_string(code);
    }
    if (result.error().code != code) {
        return testing::AssertionFailure()
               << "'" << result.error().message() << "', expected: " << to_string(code);
    }
    return testing::AssertionSuccess();
}

class FilesystemTest : public testing::Test {
  protected:
    static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

    static void SetUpTestSuite() {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    }

    explicit FilesystemTest(std::uint64_t device_bytes = std::uint64_t{128} << 20,
                            std::uint64_t shuffle_seed = 7)
        : reactor(driver::ReactorOptions{.shuffle_seed = shuffle_seed}), device(device_bytes) {}

    void SetUp() override {
        buffer = must(driver::DmaBuffer::allocate(kBufferBytes));
        reactor.block_on([&](Suspend& suspend) {
            must(Filesystem::format(suspend, device, make_options));
            open(suspend);
        });
    }
    void TearDown() override {
        reactor.block_on([&](Suspend& suspend) {
            if (fs != nullptr) {
                expect_sound(suspend);
                must(fs->close(suspend));
                fs.reset();
            }
        });
    }

    // Runs the test's body on a fiber.
    template <class F>
    void run(F&& body) {
        reactor.block_on([&](Suspend& suspend) { body(suspend); });
    }

    void open(Suspend& suspend) {
        OpenOptions options = open_options();
        options.clock = [this] { return clock; };
        fs = must(Filesystem::open(suspend, device, std::move(options)));
    }
    virtual OpenOptions open_options() { return {}; }
    void remount(Suspend& suspend) {
        must(fs->close(suspend));
        fs.reset();
        open(suspend);
    }
    // The daemon dies; with lose_cache the machine does.
    void crash(Suspend& suspend, bool lose_cache = true) {
        fs->abandon(suspend);
        fs.reset();
        if (lose_cache) {
            device.lose_cache();
        }
        open(suspend);
    }
    void expect_sound(Suspend& suspend) {
        for (const std::string& finding : must(fs->check(suspend))) {
            ADD_FAILURE() << finding;
        }
        for (const std::string& finding : must(fs->store().check(suspend))) {
            ADD_FAILURE() << "store: " << finding;
        }
    }

    // Shorthands that keep no reference. -------------------------------------------------------
    InodeNumber unreferenced(const Attributes& attributes) {
        fs->forget(attributes.inode, 1);
        return attributes.inode;
    }
    InodeNumber make_file(Suspend& suspend, InodeNumber parent, const std::string& name,
                          std::uint32_t mode = 0644) {
        return unreferenced(must(fs->create(suspend, kRootUser, parent, name, mode, true)));
    }
    InodeNumber make_directory(Suspend& suspend, InodeNumber parent, const std::string& name,
                               std::uint32_t mode = 0755) {
        return unreferenced(must(fs->mkdir(suspend, kRootUser, parent, name, mode)));
    }
    Attributes attributes(Suspend& suspend, InodeNumber inode) {
        return must(fs->getattr(suspend, inode));
    }
    Result<InodeNumber> lookup(Suspend& suspend, InodeNumber parent, const std::string& name) {
        TRY_ASSIGN(const Attributes found, fs->lookup(suspend, parent, name));
        return unreferenced(found);
    }
    Result<std::size_t> write(Suspend& suspend, InodeNumber inode, std::uint64_t offset,
                              const std::string& text, const WriteOptions& options = {}) {
        std::memcpy(buffer.data(), text.data(), text.size());
        TRY_ASSIGN(const Written written,
                   fs->write(suspend, inode, offset, buffer.span().first(text.size()), options));
        return written.bytes;
    }
    std::string read(Suspend& suspend, InodeNumber inode, std::uint64_t offset, std::size_t bytes) {
        std::memset(buffer.data(), 0xee, bytes);
        const std::size_t got = must(fs->read(suspend, inode, offset, buffer.span().first(bytes)));
        return {reinterpret_cast<const char*>(buffer.data()), got};
    }
    std::vector<std::string> names(Suspend& suspend, InodeNumber directory) {
        std::vector<std::string> result;
        must(fs->readdir(suspend, directory, 2, false, [&](const DirectoryEntry& entry) {
            result.emplace_back(entry.name);
            return true;
        }));
        return result;
    }
    void tick() { ++clock.seconds; }

    driver::Reactor reactor;
    blobstore::MemoryDevice device;
    MakeOptions make_options;
    Timestamp clock{.seconds = 1'700'000'000, .nanoseconds = 5};
    std::unique_ptr<Filesystem> fs;
    driver::DmaBuffer buffer;
};

}  // namespace blobfs::fs
