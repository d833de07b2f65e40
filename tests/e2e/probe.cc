#include "tests/e2e/probe.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace blobfs::e2e {

void give_up(const std::string& message) {
    std::fprintf(stderr, "probe: %s\n", message.c_str());
    std::exit(1);
}

void give_up_errno(const std::string& what) { give_up(what + ": " + std::strerror(errno)); }

void expect(bool condition, const std::string& claim) {
    if (!condition) give_up("does not hold: " + claim);
}

namespace {

struct Probe {
    std::string_view name;
    std::size_t arguments;
    void (*run)(Arguments);
};

constexpr Probe kProbes[] = {
    {"mmap", 1, probe_mmap},
    {"direct", 1, probe_direct},
    {"open-flags", 1, probe_open_flags},
    {"random-writes", 2, probe_random_writes},
    {"locked", 1, probe_locked},
    {"crash-writer", 2, probe_crash_writer},
    {"crash-verify", 3, probe_crash_verify},
    {"partial-copy", 2, probe_partial_copy},
    {"keep-handle", 2, probe_keep_handle},
    {"handle-is", 3, probe_handle_is},
    {"handle-is-stale", 2, probe_handle_is_stale},
};

}  // namespace

}  // namespace blobfs::e2e

int main(int argc, char** argv) {
    using namespace blobfs::e2e;
    const std::vector<std::string> words(argv, argv + argc);
    for (const Probe& probe : kProbes) {
        if (words.size() == probe.arguments + 2 && words[1] == probe.name) {
            probe.run(Arguments(words).subspan(2));
            return 0;
        }
    }
    std::fprintf(stderr, "probe: unknown probe or wrong number of arguments\n");
    return 2;
}
