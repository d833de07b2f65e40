#pragma once

// The mount itself: a FUSE filesystem attached to a directory, by the mount system call for root
// and by fusermount3 for others. libfuse does both; the messages on the descriptor are ours.

#include <memory>
#include <string>
#include <vector>

#include "driver/base/result.h"

struct fuse_session;

namespace blobfs::fs::fuse {

struct KernelMountOptions {
    std::string source;   // first column of /proc/mounts
    std::string subtype;  // type is fuse.SUBTYPE
    bool read_only = false;
    bool everybody = false;  // allow_other
    bool auto_unmount = false;
    std::vector<std::string> flags;  // nosuid, sync, ...: as mount(8) spells them
};

class KernelMount {
  public:
    // mountpoint: an absolute path of a directory. The message of a failure is for a person.
    static std::unique_ptr<KernelMount> attach(const std::string& mountpoint,
                                               const KernelMountOptions& options,
                                               std::string& message);
    // Closes the descriptor; what is still mounted is detached, and those who have files open get
    // ENOTCONN.
    ~KernelMount();
    KernelMount(const KernelMount&) = delete;
    KernelMount& operator=(const KernelMount&) = delete;

    // /dev/fuse, non-blocking; good until destruction.
    [[nodiscard]] int descriptor() const;
    [[nodiscard]] const std::string& mountpoint() const { return mountpoint_; }

    // Unmounts in order: dirty pages reach us first, so requests must be served meanwhile: call it
    // from a thread of its own. When files are in use the mount disappears from the directory tree
    // and lives on until they are closed. Any thread; the descriptor stays open.
    void unmount_and_sync() const;

    // Lets the kernel read ahead and write back as far as for a disk: by default it allows a FUSE
    // filesystem 128 KiB and 1 % of its memory. When the kernel was greeted, which sets them. For
    // root only; else nothing happens.
    void raise_limits(unsigned read_ahead_kib) const;

  private:
    KernelMount(::fuse_session* session, std::string mountpoint);
    // Ours, not something that others mounted there later.
    [[nodiscard]] bool is_mounted() const;
    [[nodiscard]] bool is_disconnected() const;
    bool detach() const;

    ::fuse_session* session_;
    std::string mountpoint_;
    unsigned major_ = 0, minor_ = 0;  // the st_dev of its files
};

}  // namespace blobfs::fs::fuse
