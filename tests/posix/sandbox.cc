#include "tests/posix/sandbox.h"

#include <dirent.h>
#include <grp.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>

namespace blobfs::posix {

namespace {

constexpr int kChildBroken = 255;

std::string name_of(int number) {
    if (number == 0) return "ok";
    const char* name = strerrorname_np(number);
    return name != nullptr ? name : "errno " + std::to_string(number);
}

// Errors are below 134, so they fit into an exit status.
std::string result_of_child(pid_t child) {
    int status = 0;
    if (waitpid(child, &status, 0) != child) return "the child is lost";
    if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
    if (WEXITSTATUS(status) == kChildBroken) return "the child could not become that person";
    return name_of(WEXITSTATUS(status));
}

[[noreturn]] void finish(const std::function<long()>& call) {
    const long result = call();
    _exit(result == -1 ? errno : 0);
}

const char* environment(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
}

}  // namespace

std::string error(long result) { return result == -1 ? name_of(errno) : "ok"; }

std::string as(const Person& person, const std::function<long()>& call) {
    const pid_t child = fork();
    if (child == 0) {
        std::vector<gid_t> groups = person.groups;
        if (setgroups(groups.size(), groups.data()) != 0 ||
            setresgid(person.gid, person.gid, person.gid) != 0 ||
            setresuid(person.uid, person.uid, person.uid) != 0) {
            _exit(kChildBroken);
        }
        finish(call);
    }
    return result_of_child(child);
}

std::string in_child(const std::function<long()>& call) {
    const pid_t child = fork();
    if (child == 0) finish(call);
    return result_of_child(child);
}

Descriptor::Descriptor(const std::string& path, int flags, mode_t mode)
    : number_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
}

void Descriptor::close() {
    if (number_ >= 0) ::close(number_);
    number_ = -1;
}

void make_file(const std::string& path, std::string_view content, mode_t mode) {
    const Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL, mode);
    ASSERT_TRUE(file.open()) << path << ": " << std::strerror(errno);
    ASSERT_EQ(::write(*file, content.data(), content.size()), static_cast<ssize_t>(content.size()));
    ASSERT_EQ(fchmod(*file, mode), 0);
}

std::string content_of(const std::string& path) {
    const Descriptor file(path, O_RDONLY);
    if (!file.open()) return "(error " + name_of(errno) + ")";
    std::string content;
    std::array<char, 65'536> buffer;
    for (;;) {
        const ssize_t bytes = ::read(*file, buffer.data(), buffer.size());
        if (bytes < 0) return "(error " + name_of(errno) + ")";
        if (bytes == 0) return content;
        content.append(buffer.data(), static_cast<std::size_t>(bytes));
    }
}

std::string read_at(const Descriptor& file, std::size_t bytes, off_t offset) {
    std::string content(bytes, '\0');
    const ssize_t got = ::pread(*file, content.data(), bytes, offset);
    if (got < 0) return "(error " + name_of(errno) + ")";
    content.resize(static_cast<std::size_t>(got));
    return content;
}

void forget_cached(const Descriptor& file) {
    EXPECT_EQ(error(fsync(*file)), "ok");
    EXPECT_EQ(posix_fadvise(*file, 0, 0, POSIX_FADV_DONTNEED), 0);
}

bool exists(const std::string& path) {
    return faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

struct stat status_of(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(error(lstat(path.c_str(), &status)), "ok") << path;
    return status;
}

struct stat status_of(const Descriptor& descriptor) {
    struct stat status {};
    EXPECT_EQ(error(fstat(*descriptor, &status)), "ok");
    return status;
}

mode_t permissions_of(const std::string& path) { return status_of(path).st_mode & 07777; }

std::vector<std::string> names_in(const std::string& path) {
    std::vector<std::string> names;
    DIR* directory = opendir(path.c_str());
    if (directory == nullptr) return {"(error " + name_of(errno) + ")"};
    while (const dirent* entry = readdir(directory)) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") names.push_back(name);
    }
    closedir(directory);
    std::sort(names.begin(), names.end());
    return names;
}

void let_time_pass() {
    constexpr timespec kTick{.tv_sec = 0, .tv_nsec = 25'000'000};
    nanosleep(&kTick, nullptr);
}

void Case::SetUp() {
    const std::string root = environment("BLOBFS_POSIX_FOLDER");
    if (root.empty()) GTEST_SKIP() << "BLOBFS_POSIX_FOLDER names no directory";
    if (geteuid() != 0) GTEST_SKIP() << "needs root, to be several users";
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    const std::string folder = root + "/" + test->test_suite_name() + "." + test->name();
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
    umask(022);
    ASSERT_EQ(error(mkdir(folder.c_str(), 0755)), "ok") << folder;
    ASSERT_EQ(error(chmod(folder.c_str(), 0777)), "ok");
    ASSERT_EQ(error(chdir(folder.c_str())), "ok");
}

void Case::TearDown() {
    if (chdir("/") != 0) ADD_FAILURE() << "cannot leave the directory of the case";
    umask(022);
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    const std::string root = environment("BLOBFS_POSIX_FOLDER");
    if (root.empty() || HasFailure()) return;
    std::error_code failure;
    std::filesystem::remove_all(root + "/" + test->test_suite_name() + "." + test->name(), failure);
    EXPECT_FALSE(failure) << "removing what the case made: " << failure.message();
}

bool Case::on(std::string_view filesystem) {
    return environment("BLOBFS_POSIX_FILESYSTEM") == filesystem;
}

}  // namespace blobfs::posix
