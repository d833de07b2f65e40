#pragma once

// The namespaces of a controller: which are active, and those that have been opened, whose state
// follows what the controller says of them later. The controller's thread.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "driver/base/result.h"
#include "driver/nvme/admin_queue.h"
#include "driver/nvme/io_command.h"

namespace blobfs::driver::nvme {

class NamespaceList {
  public:
    // name: of the controller, for messages.
    explicit NamespaceList(std::string name) : name_(std::move(name)) {}

    // Reads which namespaces are active. Suspends.
    Result<void> read(Suspend& suspend, AdminQueue& admin, const IdentifyController& identify);
    // Ascending.
    [[nodiscard]] const std::vector<std::uint32_t>& active() const { return active_; }

    // The namespace, with an LBA format that we can use; kNotFound, or kNotSupported for metadata
    // and LBA sizes other than 512 and 4096. The reason goes to the log, too. Valid as long as the
    // list. Suspends.
    Result<const Namespace*> open(Suspend& suspend, AdminQueue& admin, std::uint32_t id);

    // The controller says that namespaces have changed: those that are open and no longer what they
    // were are withdrawn, or become read-only or writable. Suspends.
    void refresh(Suspend& suspend, AdminQueue& admin, const IdentifyController& identify);

    // The controller takes no writes any more, or does so again.
    void set_media_read_only(bool read_only);

  private:
    void look_at(Suspend& suspend, AdminQueue& admin, Namespace& space);
    void set_state(Namespace& space, NamespaceState state, const char* why);

    std::string name_;
    std::vector<std::uint32_t> active_;
    std::vector<std::unique_ptr<Namespace>> open_;
    bool media_read_only_ = false;
};

}  // namespace blobfs::driver::nvme
