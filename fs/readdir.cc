// Listing directories. Offsets: 0 is ".", 1 is "..", from 2 on an offset is the smallest key that
// is still to come, so it stays valid whatever comes and goes.

#include <string>
#include <vector>

#include "fs/filesystem_state.h"

namespace blobfs::fs {

namespace {

constexpr std::uint64_t kDotOffset = 0;
constexpr std::uint64_t kDotDotOffset = 1;
constexpr std::uint64_t kFirstEntryOffset = 2;

// Entries taken from the store at a time when each needs its inode, which may have to be loaded.
constexpr std::size_t kEntriesAtOnce = 64;

struct EntryCopy {
    std::uint64_t key;
    InodeNumber inode;
    std::uint32_t type;
    std::string name;
};

using Visit = absl::FunctionRef<bool(const DirectoryEntry&)>;

DirectoryEntry to_entry(std::uint64_t key, InodeNumber inode, std::uint32_t type,
                        std::string_view name) {
    return {.inode = inode, .name = name, .type = type, .next_offset = key + 1};
}

Result<void> list_with_attributes(Suspend& suspend, Filesystem::State& state,
                                  const Inode& directory, std::uint64_t from, Visit visit) {
    std::vector<EntryCopy> batch;
    std::vector<blobstore::BlobId> wanted;
    for (;;) {
        batch.clear();
        TRY(state.directory().scan(suspend, directory.number, from, [&](const EntryView& entry) {
            batch.push_back({.key = entry.key,
                             .inode = entry.inode,
                             .type = entry.type,
                             .name = std::string(entry.name)});
            return batch.size() < kEntriesAtOnce;
        }));
        wanted.clear();
        for (const EntryCopy& copy : batch) {
            if (!state.table.in_memory(copy.inode)) wanted.push_back(to_blob(copy.inode));
        }
        state.store->read_attributes_ahead(suspend, wanted);
        for (const EntryCopy& copy : batch) {
            DirectoryEntry entry = to_entry(copy.key, copy.inode, copy.type, copy.name);
            // The lock is held until the reference is counted. An inode that cannot be read has its
            // name listed all the same: whoever needs it gets the error.
            LockedInode locked;
            Result<Attributes> attributes = Attributes{};
            auto pin = state.child(suspend, directory, copy.inode, copy.type);
            bool known = static_cast<bool>(pin);
            if (known) {
                auto child = LockedInode::shared(suspend, std::move(*pin));
                known = static_cast<bool>(child);
                if (known) {
                    locked = std::move(*child);
                    attributes = state.attributes(suspend, *locked);
                    known = static_cast<bool>(attributes);
                }
            }
            if (known) {
                entry.attributes = &*attributes;
            }
            if (!visit(entry)) {
                return {};
            }
            if (known) {
                state.table.add_reference(copy.inode);
            }
            from = entry.next_offset;
        }
        if (batch.size() < kEntriesAtOnce) {
            return {};
        }
    }
}

}  // namespace

Result<void> Filesystem::readdir(Suspend& suspend, InodeNumber number, std::uint64_t offset,
                                 bool with_attributes, Visit visit) {
    TRY_ASSIGN(const LockedInode directory, state_->lock_directory_shared(suspend, number));
    state_->note_access(*directory);
    if (offset == kDotOffset) {
        if (!visit({.inode = number, .name = ".", .type = S_IFDIR, .next_offset = kDotDotOffset})) {
            return {};
        }
        offset = kDotDotOffset;
    }
    if (offset == kDotDotOffset) {
        if (!visit({.inode = static_cast<InodeNumber>(directory->block.parent),
                    .name = "..",
                    .type = S_IFDIR,
                    .next_offset = kFirstEntryOffset})) {
            return {};
        }
        offset = kFirstEntryOffset;
    }
    if (offset > static_cast<std::uint64_t>(INT64_MAX)) {
        return fail(Errc::kInvalidArgument, "reading a directory at a negative offset",
                    value(number));
    }
    if (with_attributes) {
        return list_with_attributes(suspend, *state_, *directory, offset, visit);
    }
    return state_->directory().scan(suspend, number, offset, [&](const EntryView& entry) {
        return visit(to_entry(entry.key, entry.inode, entry.type, entry.name));
    });
}

}  // namespace blobfs::fs
