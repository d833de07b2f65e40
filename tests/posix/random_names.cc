// posix_random_names FOLDER SEED PROCESSES OPERATIONS: processes that make, link, rename, exchange,
// write and remove the same names at once; then the tree is walked: what a listing shows is there,
// link counts are the numbers of names, directories count their directories. Errors that races
// explain are expected, others end it with status 1.

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

[[noreturn]] void give_up(const std::string& what) {
    std::fprintf(stderr, "posix_random_names: %s\n", what.c_str());
    _exit(1);
}

// What others may have done meanwhile.
void allow(long result, const char* what, const std::string& path) {
    if (result >= 0) return;
    constexpr std::array<int, 12> kExplained = {ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL,
                                                ELOOP,  EPERM,  ENXIO,   EBUSY,  ENODATA,   EMLINK};
    if (std::find(kExplained.begin(), kExplained.end(), errno) != kExplained.end()) return;
    give_up(std::string(what) + " " + path + ": " + std::strerror(errno));
}

class Worker {
  public:
    Worker(std::string folder, std::uint64_t seed) : folder_(std::move(folder)), random_(seed) {}

    void step() {
        const std::string path = any_path(), other = any_path();
        const char* const name = path.c_str();
        switch (random_() % 20) {
            case 0:
            case 1:
            case 2:
                return use_file(path, O_CREAT | O_RDWR);
            case 3:
                return use_file(path, O_CREAT | O_EXCL | O_RDWR);
            case 4:
                return use_file(path, O_RDWR | O_TRUNC);
            case 5:
            case 6:
                return allow(mkdir(name, 0755), "mkdir", path);
            case 7:
                return allow(symlink(other.c_str(), name), "symlink", path);
            case 8:
            case 9:
                return allow(link(name, other.c_str()), "link", path);
            case 10:
            case 11:
                return allow(rename(name, other.c_str()), "rename", path);
            case 12:
                return allow(renameat2(AT_FDCWD, name, AT_FDCWD, other.c_str(), RENAME_EXCHANGE),
                             "exchange", path);
            case 13:
                return allow(renameat2(AT_FDCWD, name, AT_FDCWD, other.c_str(), RENAME_NOREPLACE),
                             "rename without replacing", path);
            case 14:
            case 15:
                return allow(unlink(name), "unlink", path);
            case 16:
                return allow(rmdir(name), "rmdir", path);
            case 17:
                return nameless(path);
            case 18:
                return list(path);
            default:
                return change_attributes(path);
        }
    }

  private:
    // Few names, so that the processes meet.
    std::string any_path() {
        std::string path = folder_;
        for (std::uint64_t depth = random_() % 3; depth > 0; --depth) {
            path += "/d" + std::to_string(random_() % 4);
        }
        return path + (random_() % 3 == 0 ? "/d" : "/f") + std::to_string(random_() % 4);
    }
    void use_file(const std::string& path, int flags) {
        const int file = open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0644);
        if (file < 0) return allow(-1, "open", path);
        std::string content(random_() % 20'000, 'x');
        const auto offset = static_cast<off_t>(random_() % 100'000);
        allow(pwrite(file, content.data(), content.size(), offset), "write", path);
        if (random_() % 4 == 0) allow(ftruncate(file, offset), "truncate", path);
        if (random_() % 4 == 0) {
            allow(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset / 2, 10'000),
                  "punch", path);
        }
        if (random_() % 16 == 0) allow(fsync(file), "fsync", path);
        close(file);
    }
    void nameless(const std::string& path) {
        const int file = open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
        if (file < 0) return allow(-1, "O_TMPFILE", folder_);
        allow(write(file, "nameless", 8), "write", path);
        const std::string source = "/proc/self/fd/" + std::to_string(file);
        allow(linkat(AT_FDCWD, source.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW), "linkat",
              path);
        close(file);
    }
    void list(const std::string& path) {
        DIR* directory = opendir(path.c_str());
        if (directory == nullptr) return allow(-1, "opendir", path);
        while (const dirent* entry = readdir(directory)) {
            struct stat status {};
            allow(fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW), "stat",
                  path + "/" + entry->d_name);
        }
        closedir(directory);
    }
    void change_attributes(const std::string& path) {
        const char* const name = path.c_str();
        allow(lsetxattr(name, "trusted.number", "1234", 1 + random_() % 4, 0), "setxattr", path);
        if (random_() % 2 == 0) allow(lremovexattr(name, "trusted.number"), "removexattr", path);
        allow(lchown(name, static_cast<uid_t>(random_() % 5), 0), "chown", path);
        allow(utimensat(AT_FDCWD, name, nullptr, AT_SYMLINK_NOFOLLOW), "utimensat", path);
    }

    std::string folder_;
    std::mt19937_64 random_;
};

struct Seen {
    std::uint64_t names = 0;
    nlink_t nlink = 0;
    std::string path;
};

// The number of directories in it.
std::uint64_t walk(const std::string& path, std::map<ino_t, Seen>& files) {
    DIR* directory = opendir(path.c_str());
    if (directory == nullptr) give_up("listing " + path + ": " + std::strerror(errno));
    std::uint64_t directories = 0;
    while (const dirent* entry = readdir(directory)) {
        const std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        const std::string inner = path + "/" + name;
        struct stat status {};
        if (lstat(inner.c_str(), &status) != 0) {
            give_up(inner + " is listed and not there: " + std::strerror(errno));
        }
        if (status.st_ino != entry->d_ino) give_up(inner + " is listed as another inode");
        if (!S_ISDIR(status.st_mode)) {
            Seen& seen = files[status.st_ino];
            ++seen.names;
            seen.nlink = status.st_nlink;
            seen.path = inner;
            continue;
        }
        ++directories;
        const std::uint64_t below = walk(inner, files);
        if (status.st_nlink != below + 2) {
            give_up(inner + " has " + std::to_string(below) + " directories and " +
                    std::to_string(status.st_nlink) + " links");
        }
    }
    closedir(directory);
    return directories;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) {
        std::fprintf(stderr, "usage: posix_random_names FOLDER SEED PROCESSES OPERATIONS\n");
        return 1;
    }
    const std::string folder = argv[1];
    const std::uint64_t seed = std::strtoull(argv[2], nullptr, 10);
    const std::uint64_t processes = std::strtoull(argv[3], nullptr, 10);
    const std::uint64_t operations = std::strtoull(argv[4], nullptr, 10);
    std::vector<pid_t> children;
    for (std::uint64_t process = 0; process < processes; ++process) {
        const pid_t child = fork();
        if (child < 0) give_up(std::string("fork: ") + std::strerror(errno));
        if (child == 0) {
            Worker worker(folder, seed * 1000 + process);
            for (std::uint64_t i = 0; i < operations; ++i) worker.step();
            _exit(0);
        }
        children.push_back(child);
    }
    bool well = true;
    for (const pid_t child : children) {
        int status = 1;
        waitpid(child, &status, 0);
        well = well && status == 0;
    }
    if (!well) return 1;
    std::map<ino_t, Seen> files;
    walk(folder, files);
    for (const auto& [inode, seen] : files) {
        if (seen.names != seen.nlink) {
            give_up(seen.path + " has " + std::to_string(seen.names) + " names and " +
                    std::to_string(seen.nlink) + " links");
        }
    }
    return 0;
}
