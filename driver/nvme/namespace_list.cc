#include "driver/nvme/namespace_list.h"

#include <spdlog/spdlog.h>

#include <algorithm>

namespace blobfs::driver::nvme {

namespace {

constexpr std::uint32_t kMaxNamespaces = 4096;  // that are looked for; real ones have far fewer

Result<void> identify_namespace(Suspend& suspend, AdminQueue& admin, std::uint32_t id,
                                IdentifyNamespace& into) {
    return admin.identify(suspend, IdentifyKind::kNamespace, id,
                          std::as_writable_bytes(std::span(&into, 1)),
                          "identifying an NVMe namespace");
}

// FLBAS: index in bits 3:0, and two more bits where there are more than 16 formats (2.0).
std::size_t format_index(const IdentifyNamespace& raw) {
    std::size_t index = raw.formatted_lba & 0xf;
    if (raw.lba_formats > 16) index |= static_cast<std::size_t>(raw.formatted_lba >> 5 & 3) << 4;
    return index;
}

}  // namespace

Result<void> NamespaceList::read(Suspend& suspend, AdminQueue& admin,
                                 const IdentifyController& identify) {
    std::vector<std::uint32_t> ids(kPageBytes / sizeof(std::uint32_t));
    std::uint32_t after = 0;
    active_.clear();
    while (true) {
        const Result<void> answer = admin.identify(suspend, IdentifyKind::kActiveNamespaces, after,
                                                   std::as_writable_bytes(std::span(ids)),
                                                   "listing the namespaces of the NVMe controller");
        if (!answer) {
            // Controllers older than 1.1 have no such list: there, 1 to NN may be active.
            if (after != 0 || answer.error().nvme_status == 0) return fail(answer.error());
            const std::uint32_t count = std::min(identify.namespaces, kMaxNamespaces);
            for (std::uint32_t id = 1; id <= count; ++id) active_.push_back(id);
            return {};
        }
        for (const std::uint32_t id : ids) {
            // 0 ends the list; one out of order, or beyond NN or all reason, is not followed.
            if (id <= after || id > identify.namespaces || active_.size() == kMaxNamespaces) {
                return {};
            }
            active_.push_back(id);
            after = id;
        }
    }
}

Result<const Namespace*> NamespaceList::open(Suspend& suspend, AdminQueue& admin,
                                             std::uint32_t id) {
    constexpr const char* kWhat = "opening an NVMe namespace";
    if (std::find(active_.begin(), active_.end(), id) == active_.end()) {
        spdlog::error("{}: there is no active namespace {}", name_, id);
        return fail(Errc::kNotFound, kWhat, id);
    }
    const auto raw = std::make_unique<IdentifyNamespace>();
    TRY(identify_namespace(suspend, admin, id, *raw));
    const std::size_t index = format_index(*raw);
    if (raw->size_blocks == 0 || index >= std::size(raw->formats)) {
        spdlog::error("{}: namespace {} has size {} and LBA format {}", name_, id, raw->size_blocks,
                      index);
        return fail(raw->size_blocks == 0 ? Errc::kNotFound : Errc::kNotSupported, kWhat, id);
    }
    const LbaFormat& format = raw->formats[index];
    if (format.metadata_bytes != 0) {
        spdlog::error(
            "{}: namespace {} is formatted with {} bytes of metadata per block, which is not "
            "supported: format it without metadata",
            name_, id, format.metadata_bytes);
        return fail(Errc::kNotSupported, "opening an NVMe namespace formatted with metadata", id);
    }
    if (format.data_size != 9 && format.data_size != 12) {
        spdlog::error("{}: namespace {} has blocks of 2^{} bytes; 512 and 4096 are supported",
                      name_, id, format.data_size);
        return fail(Errc::kNotSupported,
                    "opening an NVMe namespace with blocks other than 512 or 4096 bytes", id);
    }
    if (raw->size_blocks > (std::uint64_t{1} << 63) >> format.data_size) {
        return fail(Errc::kTooLarge, kWhat, id);
    }
    open_.push_back(std::unique_ptr<Namespace>(
        new Namespace{.id = id,
                      .lba_shift = format.data_size,
                      .blocks = raw->size_blocks,
                      .boundary_bytes = std::uint64_t{raw->optimal_io_boundary} << format.data_size,
                      .write_protected = (raw->attributes & 1) != 0,
                      .write_zeroes_deallocates =
                          (raw->deallocate_features & kDlfeatWriteZeroesDeallocate) != 0}));
    if (media_read_only_) open_.back()->state = NamespaceState::kReadOnly;
    return open_.back().get();
}

void NamespaceList::set_state(Namespace& space, NamespaceState state, const char* why) {
    const NamespaceState before = space.state.load(std::memory_order_relaxed);
    // One that is withdrawn stays so: what was read of it may be of something else by now.
    if (before == state || before == NamespaceState::kWithdrawn) return;
    space.state.store(state, std::memory_order_relaxed);
    if (state == NamespaceState::kUsable) {
        spdlog::warn("{}: namespace {}: {}", name_, space.id, why);
    } else {
        spdlog::error("{}: namespace {}: {}", name_, space.id, why);
    }
}

void NamespaceList::look_at(Suspend& suspend, AdminQueue& admin, Namespace& space) {
    if (std::find(active_.begin(), active_.end(), space.id) == active_.end()) {
        set_state(space, NamespaceState::kWithdrawn,
                  "it is gone: everything on it fails from now on");
        return;
    }
    const auto raw = std::make_unique<IdentifyNamespace>();
    if (Result<void> asked = identify_namespace(suspend, admin, space.id, *raw); !asked) {
        spdlog::error("{}: namespace {}: {}", name_, space.id, asked.error().message());
        return;
    }
    const std::size_t index = format_index(*raw);
    const bool same_format = index < std::size(raw->formats) &&
                             raw->formats[index].data_size == space.lba_shift &&
                             raw->formats[index].metadata_bytes == 0;
    if (!same_format) {
        set_state(space, NamespaceState::kWithdrawn,
                  "it has been formatted anew: everything on it fails from now on");
        return;
    }
    if (raw->size_blocks < space.blocks) {
        set_state(space, NamespaceState::kWithdrawn,
                  "it has become smaller: everything on it fails from now on");
        return;
    }
    if (raw->size_blocks > space.blocks) {
        spdlog::warn("{}: namespace {} has grown; open it again to use all of it", name_, space.id);
    }
    const bool protect = (raw->attributes & 1) != 0;
    if (protect || media_read_only_) {
        set_state(space, NamespaceState::kReadOnly, "it no longer takes writes");
    } else {
        set_state(space, NamespaceState::kUsable, "it takes writes again");
    }
}

void NamespaceList::refresh(Suspend& suspend, AdminQueue& admin,
                            const IdentifyController& identify) {
    if (Result<void> done = read(suspend, admin, identify); !done) {
        spdlog::error("{}: {}", name_, done.error().message());
        return;
    }
    // By index: a namespace may be opened while this waits.
    for (std::size_t i = 0; i < open_.size(); ++i) look_at(suspend, admin, *open_[i]);
}

void NamespaceList::set_media_read_only(bool read_only) {
    if (media_read_only_ == read_only) return;
    media_read_only_ = read_only;
    for (const auto& space : open_) {
        if (read_only) {
            set_state(*space, NamespaceState::kReadOnly, "the media have become read-only");
        } else if (!space->write_protected) {
            set_state(*space, NamespaceState::kUsable, "the media take writes again");
        }
    }
}

}  // namespace blobfs::driver::nvme
