#pragma once

// A filesystem that keeps nothing: names and attributes live in plain tables in memory, WRITE drops
// its data, READ gives zeroes. It answers each request at once, so that what a program measures on
// it is what the kernel and FUSE take: the floor under every daemon. What the kernel has in its
// page cache it still gives back; the zeroes show once that is dropped.
//
// It speaks as blobfs-fuse does (fs/fuse), so the kernel asks it the same: no OPEN, no FLUSH,
// infinite timeouts. One thread.

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "driver/base/result.h"
#include "fs/filesystem.h"
#include "fs/fuse/request.h"

namespace blobfs::bench {

class EmptyFilesystem {
  public:
    EmptyFilesystem();
    ~EmptyFilesystem();
    EmptyFilesystem(const EmptyFilesystem&) = delete;
    EmptyFilesystem& operator=(const EmptyFilesystem&) = delete;

    // The answer to any request but the greeting, FORGET and BATCH_FORGET. Never waits.
    Result<fs::fuse::Reply> serve(const fs::fuse::Request& request);
    // FORGET and BATCH_FORGET, which are not answered.
    void forget(const fs::fuse::Request& request);

  private:
    struct Node;

    // Finds by views, without making a string.
    struct NameHash {
        using is_transparent = void;
        std::size_t operator()(std::string_view name) const {
            return std::hash<std::string_view>()(name);
        }
    };
    // Names in the order in which they came. A listing's offset is a place in it, so that it stays
    // valid while names come and go; places of names that went are left empty.
    struct Directory {
        struct Entry {
            std::string name;
            Node* node = nullptr;
        };
        std::vector<Entry> entries;
        absl::flat_hash_map<std::string, std::size_t, NameHash, std::equal_to<>> places;
        Node* parent = nullptr;

        [[nodiscard]] Node* find(std::string_view name) const;
        void add(std::string_view name, Node* node);
        void remove(std::string_view name);
    };

    // A file of any kind. Its number is its address (the root's is 1), so that a request finds it
    // without a table. Lives while it has names or the kernel refers to it.
    struct Node {
        fs::Attributes attributes;
        std::uint64_t references = 0;
        std::string target;                    // of a symbolic link
        std::unique_ptr<Directory> directory;  // of a directory
    };

    struct NewNode {
        std::uint32_t mode, umask;
        std::uint64_t rdev = 0;
        std::string_view target{};
    };

    using Request = fs::fuse::Request;
    using Reply = fs::fuse::Reply;
    [[nodiscard]] Node& node(std::uint64_t number) const;
    [[nodiscard]] Node& node(const Request& request) const;
    Result<Node*> make(const Request& request, std::string_view name, const NewNode& what);
    void drop_name(Node& directory, std::string_view name, Node& gone);
    void forget_one(std::uint64_t number, std::uint64_t references);
    void delete_if_unused(Node& node);
    void delete_tree(Node& node);

    Result<Reply> lookup(const Request& request);
    Result<Reply> setattr(const Request& request);
    Result<Reply> create(const Request& request);
    Result<Reply> make_other(const Request& request);
    Result<Reply> link(const Request& request);
    Result<Reply> remove(const Request& request);
    Result<Reply> rename(const Request& request);
    Result<Reply> list(const Request& request, bool with_attributes);
    Result<Reply> read(const Request& request);
    Result<Reply> write(const Request& request);
    Result<Reply> fallocate(const Request& request);
    Result<Reply> seek(const Request& request);
    Result<Reply> copy_file_range(const Request& request);
    static Result<Reply> statfs(const Request& request);

    std::unique_ptr<Node> root_;
    std::vector<std::byte> zeroes_;
};

}  // namespace blobfs::bench
