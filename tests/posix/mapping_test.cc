// mmap(2), msync(2), and what happens to a mapping when its file changes; execve(2).

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

constexpr std::size_t kPage = 4'096;

class View {
  public:
    View(const Descriptor& file, std::size_t bytes, int protection = PROT_READ | PROT_WRITE,
         int flags = MAP_SHARED)
        : bytes_(bytes),
          data_(static_cast<char*>(mmap(nullptr, bytes, protection, flags, *file, 0))) {}
    ~View() { munmap(data_, bytes_); }
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    char& operator[](std::size_t at) const { return data_[at]; }
    [[nodiscard]] bool mapped() const { return data_ != MAP_FAILED; }
    [[nodiscard]] std::string text(std::size_t at, std::size_t bytes) const {
        return {data_ + at, bytes};
    }
    [[nodiscard]] int sync(int flags = MS_SYNC) const { return msync(data_, bytes_, flags); }
    [[nodiscard]] char* data() const { return data_; }

  private:
    std::size_t bytes_;
    char* data_;
};

class Mapping : public Case {};
class Execute : public Case {};

TEST_F(Mapping, SharedAndFileAreOne) {
    make_file("file", std::string(3 * kPage, 'a'));
    const Descriptor file("file", O_RDWR);
    const View view(file, 3 * kPage);
    ASSERT_TRUE(view.mapped());
    ASSERT_EQ(pwrite(*file, "written", 7, 5'000), 7);
    EXPECT_EQ(view.text(5'000, 7), "written");
    std::memcpy(view.data() + 100, "mapped", 6);
    EXPECT_EQ(read_at(file, 6, 100), "mapped");
    EXPECT_EQ(error(view.sync()), "ok");
    forget_cached(file);
    EXPECT_EQ(read_at(file, 6, 100), "mapped");
    EXPECT_EQ(read_at(file, 7, 5'000), "written");
}

TEST_F(Mapping, PrivateChangesStayPrivate) {
    make_file("file", std::string(kPage, 'a'));
    const Descriptor file("file", O_RDONLY);
    const View view(file, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    view[0] = 'b';
    EXPECT_EQ(read_at(file, 1, 0), "a");
}

TEST_F(Mapping, NeedsTheRightsOfTheDescriptor) {
    make_file("file", std::string(kPage, 'a'));
    const Descriptor reading("file", O_RDONLY), writing("file", O_WRONLY);
    EXPECT_FALSE(View(reading, kPage).mapped());
    EXPECT_FALSE(View(writing, kPage, PROT_READ).mapped());
    EXPECT_TRUE(View(reading, kPage, PROT_READ).mapped());
    const Descriptor folder(".", O_RDONLY);
    EXPECT_EQ(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, *folder, 0), MAP_FAILED);
    EXPECT_EQ(errno, ENODEV);
}

TEST_F(Mapping, BeyondTheEndOfTheLastPageIsZeroAndStaysOutside) {
    make_file("file", "content");
    const Descriptor file("file", O_RDWR);
    {
        const View view(file, kPage);
        EXPECT_EQ(view.text(7, 10), std::string(10, '\0'));
        std::memcpy(view.data() + 7, "beyond", 6);
        EXPECT_EQ(error(view.sync()), "ok");
    }
    EXPECT_EQ(content_of("file"), "content");
    ASSERT_EQ(error(ftruncate(*file, 20)), "ok");
    EXPECT_EQ(read_at(file, 100, 7), std::string(13, '\0'));
    forget_cached(file);
    EXPECT_EQ(read_at(file, 100, 7), std::string(13, '\0'));
}

TEST_F(Mapping, PagesThatWereCutOffRaiseSigbus) {
    make_file("file", std::string(4 * kPage, 'a'));
    EXPECT_EQ(in_child([] {
                  signal(SIGBUS, SIG_DFL);  // not a sanitizer's
                  const Descriptor file("file", O_RDWR);
                  const View view(file, 4 * kPage);
                  if (view[3 * kPage] != 'a') return -1;
                  if (ftruncate(*file, kPage) != 0 || view[0] != 'a') return -1;
                  return static_cast<int>(*const_cast<volatile char*>(&view[3 * kPage]));
              }),
              "signal " + std::to_string(SIGBUS));
}

TEST_F(Mapping, AfterTruncationDownAndUpItShowsZeroes) {
    make_file("file", std::string(4 * kPage, 'a'));
    const Descriptor file("file", O_RDWR);
    const View view(file, 4 * kPage);
    EXPECT_EQ(view[2 * kPage], 'a');
    ASSERT_EQ(error(ftruncate(*file, kPage + 10)), "ok");
    ASSERT_EQ(error(ftruncate(*file, 4 * kPage)), "ok");
    EXPECT_EQ(view[kPage + 9], 'a');
    EXPECT_EQ(view[kPage + 10], '\0');
    EXPECT_EQ(view[2 * kPage], '\0');
    view[2 * kPage] = 'z';
    EXPECT_EQ(read_at(file, 1, 2 * kPage), "z");
}

TEST_F(Mapping, SeesHolesThatArePunched) {
    make_file("file", std::string(4 * kPage, 'a'));
    const Descriptor file("file", O_RDWR);
    const View view(file, 4 * kPage);
    view[kPage] = 'b';
    ASSERT_EQ(error(fallocate(*file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPage, kPage)),
              "ok");
    EXPECT_EQ(view[kPage], '\0');
    EXPECT_EQ(view[kPage - 1], 'a');
    EXPECT_EQ(view[2 * kPage], 'a');
    view[kPage] = 'c';
    EXPECT_EQ(error(view.sync()), "ok");
    EXPECT_EQ(read_at(file, 2, kPage), std::string("c\0", 2));
}

TEST_F(Mapping, WritesIntoHolesAreKept) {
    const Descriptor file("file", O_CREAT | O_RDWR);
    ASSERT_EQ(error(ftruncate(*file, 1'000 * kPage)), "ok");
    {
        const View view(file, 1'000 * kPage);
        for (std::size_t page = 0; page < 1'000; page += 100) view[page * kPage + 7] = 'x';
    }
    forget_cached(file);
    for (std::size_t page = 0; page < 1'000; page += 50) {
        EXPECT_EQ(read_at(file, 1, static_cast<off_t>(page * kPage + 7)),
                  page % 100 == 0 ? "x" : std::string(1, '\0'));
    }
}

TEST_F(Mapping, OutlivesDescriptorAndName) {
    make_file("file", std::string(kPage, 'a'));
    Descriptor file("file", O_RDWR);
    const View view(file, kPage);
    file.close();
    ASSERT_EQ(error(unlink("file")), "ok");
    view[0] = 'b';
    EXPECT_EQ(error(view.sync()), "ok");
    EXPECT_EQ(view.text(0, 2), "ba");
}

TEST_F(Mapping, TwoProcessesShareIt) {
    make_file("file", std::string(kPage, 'a'));
    const Descriptor file("file", O_RDWR);
    const View view(file, kPage);
    EXPECT_EQ(in_child([] {
                  const Descriptor own("file", O_RDWR);
                  const View own_view(own, kPage);
                  own_view[17] = 'c';
                  return 0;
              }),
              "ok");
    EXPECT_EQ(view[17], 'c');
}

TEST_F(Mapping, DirectWritesAreSeen) {
    make_file("file", std::string(4 * kPage, 'a'));
    const Descriptor file("file", O_RDWR), direct("file", O_RDWR | O_DIRECT);
    const View view(file, 4 * kPage);
    view[0] = 'm';
    void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_EQ(pread(*direct, memory, kPage, 0), static_cast<ssize_t>(kPage));
    EXPECT_EQ(*static_cast<char*>(memory), 'm');
    std::memset(memory, 'd', kPage);
    ASSERT_EQ(pwrite(*direct, memory, kPage, kPage), static_cast<ssize_t>(kPage));
    EXPECT_EQ(view[kPage], 'd');
    EXPECT_EQ(view[2 * kPage], 'a');
    munmap(memory, kPage);
}

// Programs. ---------------------------------------------------------------------------------------

void copy_program(const char* from, const char* to) { make_file(to, content_of(from), 0755); }

long run(const char* path) {
    const pid_t child = fork();
    if (child == 0) {
        char* const arguments[] = {const_cast<char*>(path), nullptr};
        execv(path, arguments);
        _exit(errno);
    }
    int status = 0;
    waitpid(child, &status, 0);
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : EUCLEAN;
    return errno == 0 ? 0 : -1;
}

TEST_F(Execute, Programs) {
    copy_program("/bin/true", "program");
    EXPECT_EQ(error(run("./program")), "ok");
    ASSERT_EQ(error(chmod("program", 0644)), "ok");
    EXPECT_EQ(error(run("./program")), "EACCES");
    EXPECT_EQ(error(run("./missing")), "ENOENT");
    EXPECT_EQ(error(run(".")), "EACCES");
}

TEST_F(Execute, WhatRunsIsNotWritten) {
    copy_program("/bin/sleep", "program");
    int runs[2];  // closed by the exec
    ASSERT_EQ(pipe2(runs, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
        execl("./program", "program", "60", nullptr);
        _exit(1);
    }
    close(runs[1]);
    char byte = 0;
    EXPECT_EQ(read(runs[0], &byte, 1), 0);
    close(runs[0]);
    const std::string result = error(open("program", O_WRONLY | O_CLOEXEC));
    EXPECT_EQ(result, "ETXTBSY");
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_EQ(error(close(open("program", O_WRONLY))), "ok");
}

TEST_F(Execute, WhatIsOpenForWritingDoesNotRun) {
    copy_program("/bin/true", "program");
    const Descriptor writing("program", O_WRONLY);
    EXPECT_EQ(error(run("./program")), "ETXTBSY");
}

TEST_F(Execute, AReplacedProgramRunsOn) {
    copy_program("/bin/true", "program");
    copy_program("/bin/false", "new");
    EXPECT_EQ(error(run("./program")), "ok");
    ASSERT_EQ(error(rename("new", "program")), "ok");
    EXPECT_EQ(error(run("./program")), "EPERM");  // false ends with 1
}

}  // namespace
}  // namespace blobfs::posix
