#pragma once

// A filesystem on an image file with something of everything in it, ways to damage it, and
// fsck.blobfs as a call.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "blobstore/store_state.h"
#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "fs/filesystem_state.h"
#include "tools/fsck/command_line.h"

namespace blobfs::fsck {

using blobstore::BlobId;
using blobstore::Blobstore;
using blobstore::Key;
using blobstore::KeyKind;
using blobstore::Superblock;
using blobstore::Transaction;
using driver::Suspend;
using fs::Filesystem;
using fs::InodeNumber;

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

struct Outcome {
    int status = 0;
    std::string output, errors;
    nlohmann::json json;

    // How often each kind of problem was found.
    [[nodiscard]] std::map<std::string, int> codes() const {
        std::map<std::string, int> result;
        for (const auto& problem : json.at("problems")) {
            ++result[problem.at("code").get<std::string>()];
        }
        return result;
    }
};

using Codes = std::map<std::string, int>;

class FsckTest : public testing::Test {
  protected:
    static constexpr std::uint64_t kBytes = std::uint64_t{64} << 20;

    FsckTest() {
        // As the program itself does: the first who starts it decides.
        must(driver::start_environment({.memory_bytes = std::size_t{512} << 20}));
        std::string pattern = (std::filesystem::temp_directory_path() / "fsck-XXXXXX").string();
        CHECK(mkdtemp(pattern.data()) != nullptr);
        folder_ = pattern;
        path_ = folder_ + "/disk";
        const int descriptor = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        CHECK(descriptor >= 0 && ftruncate(descriptor, kBytes) == 0);
        ::close(descriptor);
    }
    ~FsckTest() override { std::filesystem::remove_all(folder_); }

    // The device, opened. -------------------------------------------------------------------------
    template <class F>
    void with_device(F&& function) {
        driver::Reactor reactor;
        reactor.block_on([&](Suspend& suspend) {
            const auto device = must(driver::Device::open(suspend, path_));
            function(suspend, *device);
            must(device->close(suspend));
        });
    }
    void format() {
        with_device([&](Suspend& suspend, driver::Device& device) {
            must(Filesystem::format(suspend, device, {.store = format_options}));
        });
    }
    template <class F>
    void with_filesystem(F&& function) {
        with_device([&](Suspend& suspend, driver::Device& device) {
            const auto filesystem = must(Filesystem::open(suspend, device));
            function(suspend, *filesystem);
            must(filesystem->close(suspend));
        });
    }
    // With crash, the changes stay in the log.
    template <class F>
    void with_store(F&& function, bool crash = false) {
        with_device([&](Suspend& suspend, driver::Device& device) {
            const auto store = must(Blobstore::open(suspend, device, {.keep_orphans = true}));
            function(suspend, *store);
            if (crash) {
                must(store->sync(suspend));
                store->abandon(suspend);
            } else {
                must(store->close(suspend));
            }
        });
    }
    // Changes of keys as they are, past all rules.
    void change(const std::function<void(Suspend&, Blobstore&, Transaction&)>& fill,
                bool crash = false) {
        with_store(
            [&](Suspend& suspend, Blobstore& store) {
                Transaction transaction;
                fill(suspend, store, transaction);
                must(store.commit(suspend, transaction));
            },
            crash);
    }
    void put(std::string_view key, std::string_view value) {
        change([&](Suspend&, Blobstore&, Transaction& transaction) {
            transaction.state().put(key, value);
        });
    }
    void erase(std::string_view key) {
        change([&](Suspend&, Blobstore&, Transaction& transaction) {
            transaction.state().erase(key);
        });
    }
    std::string value_of(std::string_view key) {
        std::string value;
        with_store([&](Suspend& suspend, Blobstore& store) {
            EXPECT_TRUE(must(store.state().tree.get(suspend, key, value)));
        });
        return value;
    }
    void edit_inode(std::uint64_t inode, const std::function<void(fs::InodeBlock&)>& edit) {
        const Key key(BlobId{inode}, KeyKind::kAttributes);
        std::string value = value_of(key);
        fs::InodeBlock block;
        std::memcpy(&block, value.data() + sizeof(blobstore::AttributesValue), sizeof(block));
        edit(block);
        std::memcpy(value.data() + sizeof(blobstore::AttributesValue), &block, sizeof(block));
        put(key, value);
    }
    void edit_head(std::uint64_t inode,
                   const std::function<void(blobstore::AttributesValue&)>& edit) {
        const Key key(BlobId{inode}, KeyKind::kAttributes);
        std::string value = value_of(key);
        blobstore::AttributesValue head;
        std::memcpy(&head, value.data(), sizeof(head));
        edit(head);
        std::memcpy(value.data(), &head, sizeof(head));
        put(key, value);
    }
    std::string entry_key(std::uint64_t directory, const std::string& name) {
        const std::string key = fs::big_endian_key(fs::first_key_of(name));
        return std::string(Key(BlobId{directory}, KeyKind::kRecord, key).view());
    }
    static std::string entry(std::uint64_t inode, std::uint32_t type, const std::string& name) {
        const fs::EntryHead head{.inode = inode,
                                 .type = static_cast<std::uint8_t>(type >> 12),
                                 .name_bytes = static_cast<std::uint8_t>(name.size()),
                                 .reserved = 0,
                                 .reserved1 = 0};
        return std::string(blobstore::bytes_of(head)) + name;
    }
    static std::string extent_key(std::uint64_t inode, std::uint64_t block) {
        return std::string(Key(BlobId{inode}, KeyKind::kExtent, block).view());
    }

    // The bytes of the image.
    // ----------------------------------------------------------------------
    std::string bytes_at(std::uint64_t offset, std::size_t bytes) {
        std::string result(bytes, '\0');
        const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
        CHECK(::pread(descriptor, result.data(), bytes, static_cast<off_t>(offset)) ==
              static_cast<ssize_t>(bytes));
        ::close(descriptor);
        return result;
    }
    void set_bytes(std::uint64_t offset, std::string_view bytes) {
        const int descriptor = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
        CHECK(::pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
              static_cast<ssize_t>(bytes.size()));
        ::close(descriptor);
    }
    void flip(std::uint64_t offset) {
        std::string byte = bytes_at(offset, 1);
        byte[0] = static_cast<char>(byte[0] ^ 0x10);
        set_bytes(offset, byte);
    }
    std::uint64_t image_hash() {
        return std::hash<std::string>()(bytes_at(0, static_cast<std::size_t>(kBytes)));
    }
    Superblock superblock() {
        Superblock newest{};
        with_device([&](Suspend& suspend, driver::Device& device) {
            newest = must(must(blobstore::read_superblocks(suspend, device)).newest());
        });
        return newest;
    }
    // Both slots, sealed.
    void edit_superblocks(const std::function<void(Superblock&)>& edit) {
        for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
            auto superblock = blobstore::load<Superblock>(
                bytes_at(block * blobstore::kBlockBytes, sizeof(Superblock)));
            edit(superblock);
            blobstore::seal(superblock);
            set_bytes(block * blobstore::kBlockBytes, blobstore::bytes_of(superblock));
        }
    }
    struct PageAt {
        std::uint64_t block;
        std::uint32_t level;
        std::string lower, upper;
    };
    std::vector<PageAt> tree_pages() {
        std::vector<PageAt> pages;
        with_store([&](Suspend& suspend, Blobstore& store) {
            must(store.state().tree.walk(suspend, [&](const blobstore::Btree::WalkedPage& page) {
                pages.push_back({page.pointer.block, page.level, std::string(page.lower),
                                 std::string(page.upper)});
                return true;
            }));
        });
        // Opening and closing has moved the root: addresses of now.
        pages.clear();
        with_device([&](Suspend& suspend, driver::Device& device) {
            const auto store = must(Blobstore::open(suspend, device, {.read_only = true}));
            must(store->state().tree.walk(suspend, [&](const blobstore::Btree::WalkedPage& page) {
                pages.push_back({page.pointer.block, page.level, std::string(page.lower),
                                 std::string(page.upper)});
                return true;
            }));
            must(store->close(suspend));
        });
        return pages;
    }

    // The program.
    // ---------------------------------------------------------------------------------
    Outcome run(std::vector<std::string> arguments,
                std::function<bool(const std::string&)> ask = {}) {
        std::vector<const char*> argv = {"fsck.blobfs"};
        for (const std::string& argument : arguments) argv.push_back(argument.c_str());
        argv.push_back(path_.c_str());
        std::ostringstream output, errors;
        Outcome outcome;
        outcome.status = run_fsck(
            static_cast<int>(argv.size()), argv.data(),
            {.output = output, .errors = errors, .progress = false, .ask = std::move(ask)});
        outcome.output = output.str();
        outcome.errors = errors.str();
        if (std::find(arguments.begin(), arguments.end(), "--json") != arguments.end() &&
            outcome.status < kExitFailed) {
            outcome.json = nlohmann::json::parse(outcome.output);
        }
        return outcome;
    }
    // -n finds just these and changes nothing.
    void expect_finds(const Codes& codes) {
        const std::uint64_t before = image_hash();
        const Outcome outcome = run({"-n", "-f", "--json"});
        ASSERT_LT(outcome.status, kExitFailed) << outcome.errors;
        EXPECT_EQ(outcome.status, codes.empty() ? kExitClean : kExitLeft) << outcome.output;
        EXPECT_EQ(outcome.codes(), codes) << outcome.output;
        EXPECT_EQ(image_hash(), before) << "-n has changed the image";
    }
    void expect_clean() {
        const Outcome outcome = run({"-n", "-f", "--json"});
        EXPECT_EQ(outcome.status, kExitClean) << outcome.output << outcome.errors;
    }
    void expect_repairs(const std::string& mode = "-y") {
        const Outcome outcome = run({mode, "-f", "--json"});
        EXPECT_EQ(outcome.status, kExitRepaired) << outcome.output << outcome.errors;
        expect_clean();
    }

    // The content.
    // ---------------------------------------------------------------------------------
    InodeNumber lookup(Suspend& suspend, Filesystem& filesystem, const std::string& path) {
        InodeNumber inode = fs::kRootInode;
        std::istringstream names(path);
        for (std::string name; std::getline(names, name, '/');) {
            const auto found = filesystem.lookup(suspend, inode, name);
            if (!found) return InodeNumber{0};
            inode = found->inode;
            filesystem.forget(inode, 1);
        }
        return inode;
    }
    std::string read(Suspend& suspend, Filesystem& filesystem, InodeNumber inode) {
        const std::uint64_t bytes = must(filesystem.getattr(suspend, inode)).size;
        const auto buffer = must(driver::DmaBuffer::allocate(bytes + 4096));
        const std::size_t got =
            must(filesystem.read(suspend, inode, 0, buffer.span().first(bytes)));
        return {reinterpret_cast<const char*>(buffer.data()), got};
    }
    InodeNumber make_file(Suspend& suspend, Filesystem& filesystem, InodeNumber parent,
                          const std::string& name, const std::string& content) {
        const auto made = must(filesystem.create(suspend, kRoot, parent, name, 0644, true));
        filesystem.forget(made.inode, 1);
        if (!content.empty()) {
            const auto buffer = must(driver::DmaBuffer::allocate(content.size()));
            std::memcpy(buffer.data(), content.data(), content.size());
            must(filesystem.write(suspend, made.inode, 0, buffer.span().first(content.size()), {}));
        }
        return made.inode;
    }
    InodeNumber make_directory(Suspend& suspend, Filesystem& filesystem, InodeNumber parent,
                               const std::string& name) {
        const auto made = must(filesystem.mkdir(suspend, kRoot, parent, name, 0755));
        filesystem.forget(made.inode, 1);
        return made.inode;
    }
    static std::string content_of(std::uint64_t seed, std::size_t bytes) {
        std::string content(bytes, '\0');
        for (std::size_t i = 0; i < bytes; ++i) {
            content[i] = static_cast<char>((seed * 131 + i * 7 + i / 251) & 0xff);
        }
        return content;
    }

    static constexpr fs::Caller kRoot{.uid = 0, .gid = 0, .pid = 1, .umask = 0};
    blobstore::FormatOptions format_options;
    std::string folder_, path_;
};

}  // namespace blobfs::fsck
