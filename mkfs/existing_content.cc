#include "mkfs/existing_content.h"

#include <blkid/blkid.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include "blobstore/format.h"
#include "mkfs/uuid.h"

namespace blobfs::mkfs {

namespace {

struct ProbeDeleter {
    void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<std::remove_pointer_t<blkid_probe>, ProbeDeleter>;

// Text from a device may hold anything: control characters would garble the terminal.
std::string printable(std::string_view text) {
    std::string result;
    for (const char c : text) {
        if (c == '\0') break;
        const auto byte = static_cast<unsigned char>(c);
        result += byte < 0x20 || byte == 0x7f ? '?' : c;
    }
    return result;
}

std::string lookup(blkid_probe probe, const char* name) {
    const char* data = nullptr;
    std::size_t length = 0;
    if (blkid_probe_lookup_value(probe, name, &data, &length) != 0) return {};
    return printable({data, length});
}

std::size_t value_length(blkid_probe probe, const char* name) {
    std::size_t length = 0;
    if (blkid_probe_lookup_value(probe, name, nullptr, &length) != 0) return 0;
    return length;
}

std::string kind_of(const std::string& type, const std::string& usage) {
    if (usage == "filesystem") return type + " filesystem";
    if (type == "swap") return "swap area";
    if (usage == "crypto") return type + " encrypted volume";
    if (usage == "raid") return type + " volume member";
    return type + " signature";
}

// What the probe found last.
std::optional<Signature> current_signature(blkid_probe probe) {
    Signature signature;
    std::string offset;
    if (const std::string type = lookup(probe, "TYPE"); !type.empty()) {
        signature.kind = kind_of(type, lookup(probe, "USAGE"));
        signature.label = lookup(probe, "LABEL");
        signature.uuid = lookup(probe, "UUID");
        offset = lookup(probe, "SBMAGIC_OFFSET");
        signature.bytes = value_length(probe, "SBMAGIC");
    } else if (const std::string table = lookup(probe, "PTTYPE"); !table.empty()) {
        signature.kind = (table == "dos" ? "DOS (MBR)" : table) + " partition table";
        signature.uuid = lookup(probe, "PTUUID");
        offset = lookup(probe, "PTMAGIC_OFFSET");
        signature.bytes = value_length(probe, "PTMAGIC");
    } else {
        return std::nullopt;
    }
    signature.offset = std::strtoull(offset.c_str(), nullptr, 10);
    return signature;
}

tl::expected<std::size_t, std::string> read_at(int descriptor, void* into, std::size_t bytes,
                                               std::uint64_t offset) {
    std::size_t done = 0;
    while (done < bytes) {
        const ssize_t n = pread(descriptor, static_cast<char*>(into) + done, bytes - done,
                                static_cast<off_t>(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            return tl::unexpected("reading at byte " + std::to_string(offset + done) +
                                  " failed: " + std::strerror(errno));
        }
        if (n == 0) break;
        done += static_cast<std::size_t>(n);
    }
    return done;
}

// blobfs knows itself by the magic alone, so that a damaged filesystem, or one of a version that
// this program does not know, is not taken for free space.
tl::expected<void, std::string> find_blobfs(int descriptor, std::vector<Signature>& found) {
    for (const std::uint64_t block : blobstore::kSuperblockBlocks) {
        auto superblock = std::make_unique<blobstore::Superblock>();
        const std::uint64_t offset = block * blobstore::kBlockBytes;
        auto bytes = read_at(descriptor, superblock.get(), sizeof(*superblock), offset);
        if (!bytes) return tl::unexpected(std::move(bytes.error()));
        if (*bytes < sizeof(*superblock)) continue;
        if (superblock->magic != blobstore::kSuperblockMagic) continue;
        const auto& label = superblock->label;
        found.push_back({.kind = "blobfs filesystem",
                         .label = printable({label.data(), label.size()}),
                         .uuid = to_string(superblock->uuid),
                         .offset = offset,
                         .bytes = sizeof(superblock->magic)});
    }
    return {};
}

}  // namespace

tl::expected<std::vector<Signature>, std::string> find_signatures(int descriptor) {
    std::vector<Signature> found;
    if (auto result = find_blobfs(descriptor, found); !result) {
        return tl::unexpected(std::move(result.error()));
    }
    const Probe owner(blkid_new_probe());
    blkid_probe probe = owner.get();
    if (probe == nullptr || blkid_probe_set_device(probe, descriptor, 0, 0) != 0) {
        return tl::unexpected(std::string("looking for known filesystems failed: ") +
                              std::strerror(errno));
    }
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
                                                 BLKID_SUBLKS_LABEL | BLKID_SUBLKS_UUID |
                                                 BLKID_SUBLKS_MAGIC);
    blkid_probe_enable_partitions(probe, 1);
    blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
    // Each signature found is hidden and the same kind looked for again: that finds backups too. An
    // image made to be probed without end is left after so many.
    constexpr int kMostProbes = 256;
    for (int probes = 0; probes < kMostProbes; ++probes) {
        const int outcome = blkid_do_probe(probe);
        if (outcome == 1) break;
        if (outcome < 0) {
            return tl::unexpected(std::string("looking for known filesystems failed: ") +
                                  std::strerror(errno != 0 ? errno : EIO));
        }
        auto signature = current_signature(probe);
        if (!signature) continue;
        const bool hidden = signature->bytes != 0 &&
                            blkid_probe_hide_range(probe, signature->offset, signature->bytes) == 0;
        found.push_back(std::move(*signature));
        if (hidden) blkid_probe_step_back(probe);
    }
    return found;
}

tl::expected<bool, std::string> starts_with_zeroes(int descriptor, std::uint64_t bytes) {
    std::vector<char> buffer(64 * 1024);
    for (std::uint64_t offset = 0; offset < bytes; offset += buffer.size()) {
        auto done = read_at(descriptor, buffer.data(), buffer.size(), offset);
        if (!done) return tl::unexpected(std::move(done.error()));
        const auto end = buffer.begin() + static_cast<std::ptrdiff_t>(*done);
        if (std::any_of(buffer.begin(), end, [](char c) { return c != 0; })) return false;
        if (*done < buffer.size()) break;
    }
    return true;
}

std::string describe(const std::vector<Signature>& signatures) {
    std::vector<std::string> kinds;
    for (const Signature& signature : signatures) {
        constexpr std::string_view kVowels = "aeiou";
        std::string text =
            kVowels.find(signature.kind.front()) == std::string_view::npos ? "a " : "an ";
        text += signature.kind;
        if (!signature.label.empty()) text += " labelled \"" + signature.label + "\"";
        if (std::find(kinds.begin(), kinds.end(), text) == kinds.end()) kinds.push_back(text);
    }
    std::string all;
    for (std::size_t i = 0; i < kinds.size(); ++i) {
        if (i != 0) all += i + 1 == kinds.size() ? " and " : ", ";
        all += kinds[i];
    }
    return all;
}

}  // namespace blobfs::mkfs
