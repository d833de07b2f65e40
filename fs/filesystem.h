#pragma once

// The filesystem: POSIX meaning on top of blobs. A library; FUSE (fs/fuse/) is one front end of it.
// An inode number is a blob id and is never used again, crash or not. See README.md for how it
// works.
//
// One reactor thread; every call with Suspend& runs on a fiber of it and may suspend; any number of
// fibers at once. Operations on one inode are linearizable.
//
// What is the caller's (the kernel's, with default_permissions): permission checks, path walking,
// caches of pages and names. What is ours: everything else, including umask and default ACLs,
// set-id bits, sticky and setgid inheritance (each call below tells), limits, atomicity.
//
// Lookup references: lookup, create, mknod, mkdir, symlink, link, tmpfile, and each entry that a
// readdir with attributes hands out, count one reference on the inode that they answer; forget()
// gives them back. An inode without names lives while it has references, and is deleted afterwards
// (or at close(), or when the filesystem is next opened).
//
// Errors: those of the manual pages, by to_errno(). kReadOnly for changes when the store is,
// kNoSpace, kIo, kCorrupt for the inode or directory that needs the damaged page only. An inode
// number that names nothing is kNotFound. Errors that Errc has no word for (ENXIO, E2BIG) are
// kSystem with sys_errno.

#include <absl/functional/any_invocable.h>
#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blobstore/blobstore.h"
#include "fs/inode_format.h"

namespace blobfs::fs {

using driver::ConstDmaSpan;
using driver::Device;
using driver::DmaSpan;
using driver::Suspend;

// Who asks. The mode given to create, mknod, mkdir and tmpfile is the unmasked one; umask (or the
// parent's default ACL instead) is applied here (FUSE_CAP_DONT_MASK).
struct Caller {
    std::uint32_t uid = 0, gid = 0;
    std::uint32_t pid = 0;
    std::uint32_t umask = 0;
    // A supplementary group of the caller's that decides something here: that of the directory in
    // which something is made. Empty: the caller is in no group but gid, as far as we know.
    std::optional<std::uint32_t> supplementary_gid{};
};

struct Attributes {
    InodeNumber inode{};
    std::uint64_t generation = 0;  // of the inode number, for file handles: numbers are not reused
    std::uint32_t mode = 0;        // type and permission bits, as in stat(2)
    std::uint32_t nlink = 0;
    std::uint32_t uid = 0, gid = 0;
    std::uint64_t rdev = 0;  // as by makedev(3); 0 unless a device
    std::uint64_t size = 0;  // bytes; directories: bytes of their names; symlinks: of the target
    std::uint64_t allocated_bytes = 0;  // for st_blocks: divide by 512
    Timestamp atime, mtime, ctime, btime;
};

// What setattr() changes; absent: as it is.
struct SetAttributes {
    std::optional<std::uint32_t> mode{};  // permission bits; the type is not changed
    std::optional<std::uint32_t> uid{}, gid{};
    std::optional<std::uint64_t> size{};
    std::optional<Timestamp> atime{}, mtime{}, ctime{};
    bool atime_now = false, mtime_now = false;
    // A truncation by somebody without CAP_FSETID: set-id bits and security.capability go.
    // (A change of uid or gid always removes them, from all but directories.)
    bool kill_privileges = false;
    // With nothing but times: they may stay in memory for a moment, as those of reads do. fsync()
    // makes them durable unless it is for data only.
    bool lazily = false;
};

struct WriteOptions {
    // The kernel owns the times (its writeback cache is on) and will tell them by setattr(): they
    // are left alone.
    bool keep_times = false;
    bool kill_privileges = false;  // as in SetAttributes (FUSE_WRITE_KILL_SUIDGID)
    bool durable = false;          // O_SYNC, O_DSYNC: as if followed by fsync()
    // From the kernel's writeback cache (FUSE_WRITE_CACHE), which takes a short count for all: what
    // does not fit whole is kNoSpace, though a part of it may have been written.
    bool whole = false;
    // Called, at most once, when nothing but the device can fail any more: what it changes is
    // committed, and comes in the log before whatever is done from then on; all of the range is
    // locked, the device has the data. Told what Written::allocated will be. Must not suspend.
    // Not called where the write ends at once.
    std::optional<blobstore::UnderWay> under_way{};
};

struct CopyOptions {
    bool keep_times = false;  // as in WriteOptions
    // As WriteOptions::under_way, for the last write of the copy: told how many bytes that is in
    // all, and whether the last write allocates.
    std::optional<absl::FunctionRef<void(std::size_t bytes, bool allocates)>> under_way{};
};

struct Written {
    std::size_t bytes = 0;
    // The file takes other space than before, and it has a name: attributes that were handed out
    // before are out of date.
    bool allocated = false;
};

struct DirectoryEntry {
    InodeNumber inode{};
    std::string_view name;        // valid during the visit only
    std::uint32_t type = 0;       // S_IFMT bits
    std::uint64_t next_offset{};  // where to go on after this entry; positive as an off_t
    const Attributes* attributes = nullptr;  // with_attributes only; null for "." and ".."
};

enum class RenameMode : std::uint8_t { kReplace, kNoReplace, kExchange };
enum class XattrMode : std::uint8_t { kAny, kCreate, kReplace };
enum class SeekFor : std::uint8_t { kData, kHole };
enum class AtimePolicy : std::uint8_t { kRelative, kNever, kStrict };

struct FilesystemStatus {
    std::uint64_t block_bytes = 4096;  // also the fragment size
    std::uint64_t blocks = 0, blocks_free = 0, blocks_available = 0;
    std::uint64_t files = 0, files_free = 0;  // blobs in use and possible by free space
    std::uint32_t name_max = kMaxNameBytes;
};

// The time of changes; tests put their own clock here.
using Clock = absl::AnyInvocable<Timestamp()>;

struct MakeOptions {
    blobstore::FormatOptions store;
    std::uint32_t root_uid = 0, root_gid = 0;
    std::uint32_t root_mode = 0755;
};

struct OpenOptions {
    // The times that are kept lazily are in the store after write_back_ms, and in the log another
    // commit_interval_ms later: together less than the second that the contract names.
    blobstore::OpenOptions store{.commit_interval_ms = 500};
    AtimePolicy atime = AtimePolicy::kRelative;
    std::size_t max_cached_inodes = 64 * 1024;  // clean attributes beyond that are dropped
    std::uint32_t write_back_ms = 400;          // lazily kept times go to the store after so long
    Clock clock{};  // empty: CLOCK_REALTIME_COARSE, as the kernel's own times
};

class Filesystem {
  public:
    // Makes an empty filesystem: a store and the root directory, inode 1. Everything on the device
    // is lost. Checks nothing of what was there (mkfs does).
    static Result<void> format(Suspend& suspend, Device& device, const MakeOptions& options);
    // Opens the store and starts the background fibers. kWrongFormat when the store holds no
    // filesystem. The device outlives the filesystem.
    static Result<std::unique_ptr<Filesystem>> open(Suspend& suspend, Device& device,
                                                    OpenOptions options = {});
    // REQUIRES close() or abandon() before.
    ~Filesystem();
    // Stops the background fibers, forgets all references (orphans are deleted), writes what is
    // kept lazily, closes the store clean. REQUIRES that no other call is under way. Once.
    Result<void> close(Suspend& suspend);
    // Stops the background fibers and does nothing else: what a crash leaves, for tests and for a
    // program whose device is gone. REQUIRES that no other call is under way.
    void abandon(Suspend& suspend);

    // FS_IOC_SHUTDOWN: what was answered before is made durable first (the log is flushed), then
    // everything stops: nothing more is written to the device, all that needs it or changes
    // anything fails with kIo. The next open recovers. The error is that of the flushing; the
    // filesystem is shut down all the same. abandon() ends it. Once.
    Result<void> shut_down(Suspend& suspend);
    [[nodiscard]] bool is_shut_down() const;

    // Inodes. ----------------------------------------------------------------------------------
    // "." and ".." are answered too (file handles need them), but not of an inode without names.
    // kNotFound, kNotDirectory, kTooLong.
    Result<Attributes> lookup(Suspend& suspend, InodeNumber parent, std::string_view name);
    // Gives references back; never suspends. An inode without names that loses its last one is
    // deleted by a background fiber. A count that is too large counts as all.
    void forget(InodeNumber inode, std::uint64_t references);
    Result<Attributes> getattr(Suspend& suspend, InodeNumber inode);
    // chmod also changes the mask of the access ACL; the times follow the manual pages.
    Result<Attributes> setattr(Suspend& suspend, const Caller& caller, InodeNumber inode,
                               const SetAttributes& changes);
    Result<std::string> readlink(Suspend& suspend, InodeNumber inode);  // kInvalidArgument

    // Names. Each is one transaction. A parent without names (removed) is kNotFound. --------------
    Result<Attributes> mknod(Suspend& suspend, const Caller& caller, InodeNumber parent,
                             std::string_view name, std::uint32_t mode, std::uint64_t rdev);
    Result<Attributes> mkdir(Suspend& suspend, const Caller& caller, InodeNumber parent,
                             std::string_view name, std::uint32_t mode);
    Result<Attributes> symlink(Suspend& suspend, const Caller& caller, InodeNumber parent,
                               std::string_view name, std::string_view target);
    // A regular file. When the name exists: kExists if exclusive, else what it names.
    Result<Attributes> create(Suspend& suspend, const Caller& caller, InodeNumber parent,
                              std::string_view name, std::uint32_t mode, bool exclusive);
    // A regular file without a name (O_TMPFILE), which link() may give one.
    Result<Attributes> tmpfile(Suspend& suspend, const Caller& caller, InodeNumber parent,
                               std::uint32_t mode);
    // kTooManyLinks, kPermission for directories, kExists, kNotFound for an unlinked inode that was
    // not made by tmpfile().
    Result<Attributes> link(Suspend& suspend, InodeNumber inode, InodeNumber parent,
                            std::string_view name);
    Result<void> unlink(Suspend& suspend, InodeNumber parent, std::string_view name);
    Result<void> rmdir(Suspend& suspend, InodeNumber parent, std::string_view name);
    // whiteout_by: RENAME_WHITEOUT, a character device 0:0 of that caller's takes the old name.
    // kInvalidArgument together with kExchange.
    Result<void> rename(Suspend& suspend, InodeNumber old_parent, std::string_view old_name,
                        InodeNumber new_parent, std::string_view new_name, RenameMode mode,
                        std::optional<Caller> whiteout_by = std::nullopt);

    // Called from then on when an inode has lost a name and keeps another; must not suspend.
    void on_fewer_names(absl::AnyInvocable<void(InodeNumber)> call);

    // Entries from an offset on (0: the start; otherwise a next_offset) until visit returns false:
    // that entry was not taken (no reference is counted). visit must not suspend. Entries that are
    // there all the time show exactly once, whatever comes and goes meanwhile. An entry whose inode
    // is damaged comes without attributes.
    Result<void> readdir(Suspend& suspend, InodeNumber directory, std::uint64_t offset,
                         bool with_attributes,
                         absl::FunctionRef<bool(const DirectoryEntry&)> visit);

    // Data. Memory is DMA memory of the caller's, any alignment; kBlockBytes is fastest. ---------
    // Fewer bytes than asked only at the end of the file. quietly: the access time stays.
    Result<std::size_t> read(Suspend& suspend, InodeNumber inode, std::uint64_t offset,
                             DmaSpan into, bool quietly = false);
    // Fewer bytes than given only when the device became full on the way (WriteOptions::whole).
    Result<Written> write(Suspend& suspend, InodeNumber inode, std::uint64_t offset,
                          ConstDmaSpan from, const WriteOptions& options);
    // Data and everything needed to read it, and the names that lead to a new file, are durable
    // when it returns. datasync: times may be left out. For directories too.
    Result<void> fsync(Suspend& suspend, InodeNumber inode, bool datasync);
    // mode: 0, FALLOC_FL_KEEP_SIZE, KEEP_SIZE|PUNCH_HOLE, ZERO_RANGE (| KEEP_SIZE) of
    // linux/falloc.h. keep_times: as in WriteOptions.
    Result<void> fallocate(Suspend& suspend, InodeNumber inode, std::uint32_t mode,
                           std::uint64_t offset, std::uint64_t bytes, bool keep_times = false);
    // lseek(2) SEEK_DATA, SEEK_HOLE; kSystem with ENXIO beyond the last.
    Result<std::uint64_t> seek(Suspend& suspend, InodeNumber inode, std::uint64_t offset,
                               SeekFor what);
    // Through `through`, in pieces of its length. Fewer bytes than asked at the end of the source,
    // and beyond kMaxCopyBytes at a time.
    Result<std::size_t> copy_file_range(Suspend& suspend, InodeNumber from,
                                        std::uint64_t from_offset, InodeNumber to,
                                        std::uint64_t to_offset, std::uint64_t bytes,
                                        DmaSpan through, const CopyOptions& options = {});

    // Extended attributes. Namespaces user., trusted., security., and system.posix_acl_access and
    // _default (interpreted: the access ACL changes the mode); others kNotSupported. -------------
    // Cheap for an inode that has none at all: answered from memory.
    Result<std::string> getxattr(Suspend& suspend, InodeNumber inode, std::string_view name);
    // kExists, kNoAttribute by mode; kSystem with E2BIG beyond 64 KiB, kRange for the name.
    // clear_setgid: an access ACL set by somebody outside the group (FUSE_SETXATTR_ACL_KILL_SGID).
    Result<void> setxattr(Suspend& suspend, InodeNumber inode, std::string_view name,
                          std::string_view value, XattrMode mode, bool clear_setgid = false);
    Result<std::vector<std::string>> listxattr(Suspend& suspend, InodeNumber inode);
    Result<void> removexattr(Suspend& suspend, InodeNumber inode, std::string_view name);

    // The whole. -------------------------------------------------------------------------------
    [[nodiscard]] FilesystemStatus statfs() const;
    // Everything answered before the call is durable when it returns.
    Result<void> sync(Suspend& suspend);
    [[nodiscard]] bool read_only() const;
    // The inodes that the front end holds references of.
    [[nodiscard]] std::vector<InodeNumber> referenced() const;

    // Holds names, link counts, parents and orphans against each other. Describes each violation;
    // empty: sound. Reads all metadata; REQUIRES that nobody changes the filesystem meanwhile. The
    // store below has a check of its own.
    Result<std::vector<std::string>> check(Suspend& suspend);

    [[nodiscard]] blobstore::Blobstore& store();

    struct Statistics {
        std::size_t cached_inodes = 0;      // with attributes in memory
        std::size_t referenced_inodes = 0;  // with lookup references
        std::size_t dirty_inodes = 0;       // whose times are still to be written
    };
    [[nodiscard]] Statistics statistics() const;

    struct State;
    [[nodiscard]] State& state() { return *state_; }

  private:
    explicit Filesystem(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::fs
