#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <string>

#include "tests/e2e/probe.h"

namespace blobfs::e2e {

namespace {

struct alignas(file_handle) Handle {
    std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> bytes{};
    file_handle* get() { return reinterpret_cast<file_handle*>(bytes.data()); }
};

// The file of that handle on the filesystem that is mounted there, or -1 and errno.
int open_handle(const std::string& mountpoint, const std::string& kept, int flags) {
    Handle handle;
    std::ifstream file(kept, std::ios::binary);
    if (!file.read(handle.bytes.data(), std::streamsize{sizeof(handle.bytes)})) {
        give_up("reading the handle kept in " + kept);
    }
    const int mount = open(mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (mount < 0) give_up_errno("opening " + mountpoint);
    const int opened = open_by_handle_at(mount, handle.get(), flags | O_CLOEXEC);
    const int error = errno;
    close(mount);
    errno = error;
    return opened;
}

}  // namespace

void probe_keep_handle(Arguments arguments) {
    Handle handle;
    handle.get()->handle_bytes = MAX_HANDLE_SZ;
    int mount = 0;
    if (name_to_handle_at(AT_FDCWD, arguments[0].c_str(), handle.get(), &mount, 0) != 0) {
        give_up_errno("asking for a handle of " + arguments[0]);
    }
    std::ofstream file(arguments[1], std::ios::binary);
    file.write(handle.bytes.data(), std::streamsize{sizeof(handle.bytes)});
}

void probe_handle_is(Arguments arguments) {
    const std::string& path = arguments[2];
    struct stat by_handle {
    }, by_name{}, above_handle{}, above_name{};
    if (stat(path.c_str(), &by_name) != 0) give_up_errno("stat of " + path);
    const bool directory = S_ISDIR(by_name.st_mode);
    const int opened =
        open_handle(arguments[0], arguments[1], directory ? O_RDONLY | O_DIRECTORY : O_RDONLY);
    if (opened < 0) give_up_errno("opening " + path + " by its handle");
    if (fstat(opened, &by_handle) != 0) give_up_errno("fstat of " + path);
    expect(by_handle.st_ino == by_name.st_ino, "the handle leads to " + path);
    if (directory) {
        // Who comes by a handle has not come from above.
        if (fstatat(opened, "..", &above_handle, 0) != 0 ||
            stat((path + "/..").c_str(), &above_name) != 0) {
            give_up_errno("stat of what is above " + path);
        }
        expect(above_handle.st_ino == above_name.st_ino, "the directory above " + path);
    }
    close(opened);
}

void probe_handle_is_stale(Arguments arguments) {
    const int opened = open_handle(arguments[0], arguments[1], O_RDONLY);
    expect(opened < 0, "a handle of what was deleted leads nowhere");
    if (errno != ESTALE) give_up_errno("opening by a handle that is stale");
}

}  // namespace blobfs::e2e
