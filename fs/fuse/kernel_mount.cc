#include "fs/fuse/kernel_mount.h"

#define FUSE_USE_VERSION 312
#include <fcntl.h>
#include <fuse3/fuse_log.h>
#include <fuse3/fuse_lowlevel.h>
#include <poll.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "fs/fuse/mount_table.h"

extern char** environ;  // NOLINT: declared by POSIX

namespace blobfs::fs::fuse {

namespace {

// What libfuse would print, one line per problem. One mount at a time is made in a process.
std::string* collected_messages = nullptr;

__attribute__((format(printf, 2, 0))) void collect(fuse_log_level /*level*/, const char* format,
                                                   va_list arguments) {
    std::array<char, 512> text;
    std::vsnprintf(text.data(), text.size(), format, arguments);
    if (collected_messages != nullptr) *collected_messages += text.data();
}

std::string without_prefix_and_newline(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    constexpr std::string_view kPrefix = "fuse: ";
    if (text.starts_with(kPrefix)) text.erase(0, kPrefix.size());
    return text;
}

void add_option(fuse_args& arguments, const std::string& option) {
    fuse_opt_add_arg(&arguments, "-o");
    fuse_opt_add_arg(&arguments, option.c_str());
}

// Commas and backslashes in names are escaped for libfuse's parser.
std::string escaped(const std::string& text) {
    std::string result;
    for (const char c : text) {
        if (c == ',' || c == '\\') result += '\\';
        result += c;
    }
    return result;
}

// Runs a program to its end, without its messages; whether it succeeded.
bool run(std::initializer_list<const char*> arguments) {
    std::vector<char*> argv;
    for (const char* argument : arguments) argv.push_back(const_cast<char*>(argument));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    pid_t child = 0;
    const int failure = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failure != 0) return false;
    int status = 0;
    while (::waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return false;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// umount(8) asks the mounted filesystem itself for its type, which says no more than "fuse", unless
// /run/mount/utab names a helper for it. mount(8) keeps that file; "fake" makes it do no more. It
// does not look at the mountpoint, which nobody serves yet.
void announce_unmount_helper(const std::string& source, const std::string& mountpoint) {
    if (::geteuid() != 0 || ::access("/sbin/umount.fuse.blobfs", X_OK) != 0) return;
    run({"mount", "--fake", "--internal-only", "--no-canonicalize", "--types", "fuse.blobfs",
         "--options", "uhelper=fuse.blobfs", source.c_str(), mountpoint.c_str()});
}

void write_setting(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text;
}

}  // namespace

KernelMount::KernelMount(::fuse_session* session, std::string mountpoint)
    : session_(session), mountpoint_(std::move(mountpoint)) {
    if (const auto mount = find_mount(mountpoint_)) {
        major_ = mount->major;
        minor_ = mount->minor;
    }
}

std::unique_ptr<KernelMount> KernelMount::attach(const std::string& mountpoint,
                                                 const KernelMountOptions& options,
                                                 std::string& message) {
    if (::access("/dev/fuse", F_OK) != 0) {
        message =
            "/dev/fuse is missing: the kernel has no FUSE, or its module is not loaded "
            "(try: modprobe fuse)";
        return nullptr;
    }
    fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
    fuse_opt_add_arg(&arguments, "blobfs-fuse");
    add_option(arguments, "fsname=" + escaped(options.source));
    add_option(arguments, "subtype=" + escaped(options.subtype));
    add_option(arguments, "default_permissions");
    add_option(arguments, options.read_only ? "ro" : "rw");
    if (options.everybody) add_option(arguments, "allow_other");
    if (options.auto_unmount) add_option(arguments, "auto_unmount");
    for (const std::string& flag : options.flags) add_option(arguments, flag);

    std::string said;
    collected_messages = &said;
    fuse_set_log_func(collect);
    const fuse_lowlevel_ops none{};
    ::fuse_session* session = fuse_session_new(&arguments, &none, sizeof(none), nullptr);
    fuse_opt_free_args(&arguments);
    const bool mounted = session != nullptr && fuse_session_mount(session, mountpoint.c_str()) == 0;
    collected_messages = nullptr;
    if (!mounted) {
        if (session != nullptr) fuse_session_destroy(session);
        message = without_prefix_and_newline(said);
        if (message.empty()) message = "fusermount3 could not mount it";
        if (options.everybody && ::geteuid() != 0) {
            message += " (allow_other and allow_root need user_allow_other in /etc/fuse.conf)";
        }
        return nullptr;
    }
    const int descriptor = fuse_session_fd(session);
    ::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) | O_NONBLOCK);
    announce_unmount_helper(options.source, mountpoint);
    return std::unique_ptr<KernelMount>(new KernelMount(session, mountpoint));
}

KernelMount::~KernelMount() {
    // Closing the descriptor ends the connection. What is left of the mount is detached after that:
    // before, the kernel would wait for us to write its dirty pages.
    if (is_mounted()) {
        fuse_session_unmount(session_);
        if (is_mounted()) detach();  // libfuse leaves an aborted connection's mount behind
    } else if (is_disconnected()) {
        fuse_session_unmount(session_);
    }
    fuse_session_destroy(session_);
}

int KernelMount::descriptor() const { return fuse_session_fd(session_); }

bool KernelMount::is_mounted() const {
    const auto mount = find_mount(mountpoint_);
    return mount && mount->major == major_ && mount->minor == minor_;
}

bool KernelMount::is_disconnected() const {
    pollfd descriptor{.fd = fuse_session_fd(session_), .events = 0, .revents = 0};
    return ::poll(&descriptor, 1, 0) == 1 && (descriptor.revents & POLLERR) != 0;
}

bool KernelMount::detach() const {
    if (::geteuid() == 0) {
        return ::umount2(mountpoint_.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) == 0;
    }
    return run({"fusermount3", "-u", "-q", "-z", "--", mountpoint_.c_str()});
}

void KernelMount::unmount_and_sync() const {
    if (!is_mounted()) return;
    const char* const path = mountpoint_.c_str();
    const int directory = ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
        ::syncfs(directory);
        ::close(directory);
    }
    const bool unmounted = ::geteuid() == 0 ? ::umount2(path, UMOUNT_NOFOLLOW) == 0
                                            : run({"fusermount3", "-u", "-q", "--", path});
    if (!unmounted) detach();
}

void KernelMount::raise_limits(unsigned read_ahead_kib) const {
    if (::geteuid() != 0) return;
    const std::string limits =
        "/sys/class/bdi/" + std::to_string(major_) + ":" + std::to_string(minor_) + "/";
    write_setting(limits + "read_ahead_kb", std::to_string(read_ahead_kib));
    write_setting(limits + "strict_limit", "0");
    write_setting(limits + "max_ratio", "100");
}

}  // namespace blobfs::fs::fuse
