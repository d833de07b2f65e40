#pragma once

// What is fuzzed: each takes any bytes whatever, parses them as one kind of thing from a device,
// uses what was accepted, and holds it against what the parser promises. Ends the process when a
// promise is broken. One thread.

#include <array>
#include <string>
#include <string_view>

namespace blobfs::fuzz {

using Target = void (*)(std::string_view bytes);

void fuzz_superblock(std::string_view bytes);
void fuzz_page(std::string_view bytes);
void fuzz_log(std::string_view bytes);
void fuzz_extent(std::string_view bytes);
void fuzz_inode(std::string_view bytes);
void fuzz_entry(std::string_view bytes);
void fuzz_acl(std::string_view bytes);
// One of the last four, by the first byte.
void fuzz_values(std::string_view bytes);
// The keys of a whole store, as a stream: two bytes of length and the key, two of length and the
// value.
void fuzz_keys(std::string_view bytes);
// A whole filesystem, damaged by choices that the bytes are (mutation.h, image_damage.h), which
// then say what is done with it: mounted, read, used; or checked and repaired (image_trial.h).
void fuzz_mount(std::string_view bytes);
void fuzz_fsck(std::string_view bytes);

struct NamedTarget {
    std::string_view name;  // also the folder of its corpus
    Target run;
};
inline constexpr std::array<NamedTarget, 7> kTargets = {{{"superblock", fuzz_superblock},
                                                         {"page", fuzz_page},
                                                         {"log", fuzz_log},
                                                         {"values", fuzz_values},
                                                         {"keys", fuzz_keys},
                                                         {"mount", fuzz_mount},
                                                         {"fsck", fuzz_fsck}}};

// The checksums that a mutation would break, made right: so the damage gets past them.
void seal_superblock(std::string& bytes);

}  // namespace blobfs::fuzz
