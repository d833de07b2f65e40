#pragma once

// What every case of the conformance suite stands on. A case runs in an empty directory of its own
// on the filesystem under test, which is the working directory, so that paths are short. Cases run
// one after another in one process; what another user does is done by a child process.
//
// The suite knows nothing of blobfs but its name: it runs equally on the reference.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace blobfs::posix {

// The name of the error that a system call ended with ("ENOENT"), or "ok" for any other result than
// -1. Reads errno, so it must be given the call itself.
std::string error(long result);

// Somebody who is not root.
struct Person {
    uid_t uid;
    gid_t gid;
    std::vector<gid_t> groups{};  // supplementary
};
inline const Person kAlice{.uid = 60'001, .gid = 61'001};
inline const Person kBob{.uid = 60'002, .gid = 61'002};

// Runs the call in a child process as that person, with no capabilities and the same working
// directory, and answers like error().
std::string as(const Person& person, const std::function<long()>& call);
// The same as root.
std::string in_child(const std::function<long()>& call);

// A descriptor that closes itself; -1 when opening failed.
class Descriptor {
  public:
    Descriptor() = default;
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(const std::string& path, int flags, mode_t mode = 0644);
    Descriptor(Descriptor&& other) noexcept : number_(other.number_) { other.number_ = -1; }
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor() { close(); }
    void close();

    // The number, for system calls.
    int operator*() const { return number_; }
    [[nodiscard]] bool open() const { return number_ >= 0; }

  private:
    int number_ = -1;
};

// Makes a file with this content. A failure is the case's failure.
void make_file(const std::string& path, std::string_view content = "", mode_t mode = 0644);
// The whole content, or "(error NAME)".
std::string content_of(const std::string& path);
std::string read_at(const Descriptor& file, std::size_t bytes, off_t offset);
// Out of the kernel's cache: what is read next comes from the filesystem.
void forget_cached(const Descriptor& file);
bool exists(const std::string& path);

struct stat status_of(const std::string& path);              // lstat
struct stat status_of(const Descriptor& descriptor);         // fstat
mode_t permissions_of(const std::string& path);              // 07777
std::vector<std::string> names_in(const std::string& path);  // sorted, without "." and ".."

// Long enough for every clock that stamps files to have moved on.
void let_time_pass();

class Case : public testing::Test {
  protected:
    void SetUp() override;
    void TearDown() override;
    // What is under test is the reference, by name ("ext4").
    [[nodiscard]] static bool on(std::string_view filesystem);
};

}  // namespace blobfs::posix

// The filesystem of that name cannot show it.
#define UNLESS_ON(filesystem, reason) \
    if (on(filesystem)) GTEST_SKIP() << (filesystem) << ": " << (reason)
