// store_check IMAGE: opens the filesystem on it as a mount would, holds everything against
// everything (names, links and orphans; then pages, extents and free space), prints what does not
// fit. Status 0: sound.

#include <cstdio>

#include "blobstore/blobstore.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "fs/filesystem.h"

namespace {

using blobfs::Result;
using blobfs::blobstore::Blobstore;
using blobfs::driver::Device;
using blobfs::driver::Suspend;
using blobfs::fs::Filesystem;

Result<std::size_t> check(Suspend& suspend, const char* name) {
    TRY_ASSIGN(const auto device, Device::open(suspend, name));
    TRY_ASSIGN(const auto filesystem, Filesystem::open(suspend, *device));
    TRY_ASSIGN(auto wrong, filesystem->check(suspend));
    TRY(filesystem->close(suspend));
    TRY_ASSIGN(const auto store, Blobstore::open(suspend, *device, {}));
    TRY_ASSIGN(const auto wrong_below, store->check(suspend));
    TRY(store->close(suspend));
    TRY(device->close(suspend));
    wrong.insert(wrong.end(), wrong_below.begin(), wrong_below.end());
    for (const auto& violation : wrong) std::fprintf(stderr, "%s\n", violation.c_str());
    return wrong.size();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: store_check IMAGE\n");
        return 2;
    }
    if (auto started = blobfs::driver::start_environment({}); !started) {
        std::fprintf(stderr, "store_check: %s\n", started.error().message().c_str());
        return 1;
    }
    blobfs::driver::Reactor reactor;
    const auto violations =
        reactor.block_on([&](Suspend& suspend) { return check(suspend, argv[1]); });
    if (!violations) {
        std::fprintf(stderr, "store_check: %s: %s\n", argv[1],
                     violations.error().message().c_str());
        return 1;
    }
    return *violations == 0 ? 0 : 1;
}
