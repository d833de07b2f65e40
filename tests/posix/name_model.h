#pragma once

// A few names and the inodes that they lead to, as a model for History.

#include <sys/types.h>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

namespace blobfs::posix {

struct NameOperation {
    enum class Kind : std::uint8_t {
        kCreateExclusively,  // open with O_CREAT and O_EXCL, fstat
        kCreate,             // open with O_CREAT, fstat
        kOpen,               // open, fstat
        kStat,               // lstat
        kUnlink,
        kRename,  // from, to
        kRenameWithoutReplacing,
        kExchange,
        // link(2) looks the old name up and lets go of it before it makes the new one, so that both
        // are moments of their own, one after the other.
        kLinkFrom,
        kLinkTo,
        kCount,  // lstat while nobody does anything: the number of links
    };
    Kind kind;
    std::uint8_t process = 0;
    std::uint8_t name = 0;
    std::uint8_t other_name = 0;
    int error = 0;    // errno or 0
    ino_t inode = 0;  // that was met or made, where the kind tells
    nlink_t links = 0;
    std::int64_t begin_ns = 0;
    std::int64_t end_ns = 0;

    [[nodiscard]] std::string text() const;
};

class NameModel {
  public:
    using Operation = NameOperation;
    static constexpr std::size_t kNames = 4;
    static constexpr std::size_t kProcesses = 8;

    // link(2) may find a file of which a name was taken away without any name, though it has
    // others. That is what FUSE may do: README.md of fs/fuse, "What FUSE does not let us do".
    explicit NameModel(bool may_miscount = false) : may_miscount_(may_miscount) {}

    bool apply(const NameOperation& operation);

    auto operator<=>(const NameModel&) const = default;

  private:
    bool link_to(const NameOperation& operation);
    [[nodiscard]] nlink_t links(ino_t inode) const;
    // A name of this inode goes.
    void take(ino_t& name);

    std::array<ino_t, kNames> names_{};        // 0: not there
    std::array<ino_t, kProcesses> linking_{};  // what kLinkFrom found, 0: nothing
    bool may_miscount_;
    std::set<ino_t> fewer_names_;  // inodes that have lost a name
};

}  // namespace blobfs::posix
