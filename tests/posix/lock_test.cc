// flock(2), fcntl(2) locks by process and by open file description, leases.

#include <sys/file.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>

#include "tests/posix/sandbox.h"

namespace blobfs::posix {
namespace {

class Lock : public Case {
  protected:
    void SetUp() override {
        Case::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        make_file("file", std::string(100, 'x'));
    }
    static struct flock range(short type, off_t start, off_t length) {
        struct flock lock {};
        lock.l_type = type;
        lock.l_whence = SEEK_SET;
        lock.l_start = start;
        lock.l_len = length;
        return lock;
    }
    static long set(const Descriptor& file, short type, off_t start, off_t length,
                    int command = F_SETLK) {
        struct flock lock = range(type, start, length);
        return fcntl(*file, command, &lock);
    }
};

TEST_F(Lock, FlockExcludesOtherDescriptions) {
    const Descriptor one("file", O_RDWR), two("file", O_RDONLY);
    EXPECT_EQ(error(flock(*one, LOCK_EX | LOCK_NB)), "ok");
    EXPECT_EQ(error(flock(*two, LOCK_SH | LOCK_NB)), "EAGAIN");
    EXPECT_EQ(error(flock(*one, LOCK_SH | LOCK_NB)), "ok");
    EXPECT_EQ(error(flock(*two, LOCK_SH | LOCK_NB)), "ok");
    EXPECT_EQ(error(flock(*one, LOCK_EX | LOCK_NB)), "EAGAIN");
    EXPECT_EQ(error(flock(*two, LOCK_UN)), "ok");
    EXPECT_EQ(error(flock(*one, LOCK_EX | LOCK_NB)), "ok");
}

TEST_F(Lock, FlockEndsWithTheLastDescriptor) {
    Descriptor one("file", O_RDWR);
    const Descriptor two("file", O_RDWR);
    Descriptor copy(dup(*one));
    ASSERT_EQ(error(flock(*one, LOCK_EX | LOCK_NB)), "ok");
    one.close();
    EXPECT_EQ(error(flock(*two, LOCK_EX | LOCK_NB)), "EAGAIN");
    copy.close();
    EXPECT_EQ(error(flock(*two, LOCK_EX | LOCK_NB)), "ok");
}

TEST_F(Lock, FlockWaitsAndGetsIt) {
    Descriptor one("file", O_RDWR);
    ASSERT_EQ(error(flock(*one, LOCK_EX)), "ok");
    const pid_t child = fork();
    if (child == 0) {
        one.close();
        const Descriptor own("file", O_RDWR);
        _exit(flock(*own, LOCK_EX) == 0 ? 0 : 1);
    }
    let_time_pass();
    ASSERT_EQ(error(flock(*one, LOCK_UN)), "ok");
    int status = 1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST_F(Lock, WhatAKilledProcessHeldGoesToWhoWaits) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t holder = fork();
    if (holder == 0) {
        const Descriptor own("file", O_RDWR);
        if (flock(*own, LOCK_EX) != 0 || set(own, F_WRLCK, 0, 0) != 0) _exit(1);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        pause();
        _exit(0);
    }
    char byte = 0;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    std::vector<pid_t> waiters;
    for (const bool whole : {true, false}) {
        waiters.push_back(fork());
        if (waiters.back() == 0) {
            alarm(60);
            const Descriptor own("file", O_RDWR);
            const long result = whole ? flock(*own, LOCK_EX) : set(own, F_WRLCK, 0, 0, F_SETLKW);
            _exit(result == 0 ? 0 : 1);
        }
    }
    let_time_pass();
    kill(holder, SIGKILL);
    waitpid(holder, nullptr, 0);
    for (const pid_t waiter : waiters) {
        int status = 1;
        EXPECT_EQ(waitpid(waiter, &status, 0), waiter);
        EXPECT_EQ(status, 0);
    }
    // One that is killed while it waits leaves nothing behind.
    Descriptor one("file", O_RDWR);
    ASSERT_EQ(error(flock(*one, LOCK_EX | LOCK_NB)), "ok");
    const pid_t waiter = fork();
    if (waiter == 0) {
        one.close();
        flock(*Descriptor("file", O_RDWR), LOCK_EX);
        _exit(0);
    }
    let_time_pass();
    kill(waiter, SIGKILL);
    EXPECT_EQ(waitpid(waiter, nullptr, 0), waiter);
    EXPECT_EQ(error(flock(*one, LOCK_UN)), "ok");
    EXPECT_EQ(error(flock(*Descriptor("file", O_RDWR), LOCK_EX | LOCK_NB)), "ok");
    close(ready[0]);
    close(ready[1]);
}

TEST_F(Lock, FlockOfADirectory) {
    const Descriptor one(".", O_RDONLY), two(".", O_RDONLY);
    EXPECT_EQ(error(flock(*one, LOCK_EX | LOCK_NB)), "ok");
    EXPECT_EQ(error(flock(*two, LOCK_EX | LOCK_NB)), "EAGAIN");
}

TEST_F(Lock, RecordsExcludeOtherProcesses) {
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(set(file, F_WRLCK, 10, 10)), "ok");
    EXPECT_EQ(in_child([] { return set(Descriptor("file", O_RDWR), F_WRLCK, 15, 1); }), "EAGAIN");
    EXPECT_EQ(in_child([] { return set(Descriptor("file", O_RDWR), F_RDLCK, 19, 5); }), "EAGAIN");
    EXPECT_EQ(in_child([] { return set(Descriptor("file", O_RDWR), F_WRLCK, 20, 0); }), "ok");
    EXPECT_EQ(in_child([] {
                  const Descriptor own("file", O_RDWR);
                  struct flock lock = range(F_WRLCK, 0, 0);
                  if (fcntl(*own, F_GETLK, &lock) != 0) return -1;
                  errno = EUCLEAN;
                  return lock.l_type == F_WRLCK && lock.l_start == 10 && lock.l_len == 10 &&
                                 lock.l_pid == getppid()
                             ? 0
                             : -1;
              }),
              "ok");
}

TEST_F(Lock, RecordsGoWithAnyCloseOfTheProcess) {
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(set(file, F_WRLCK, 0, 0)), "ok");
    Descriptor("file", O_RDONLY).close();
    EXPECT_EQ(in_child([] { return set(Descriptor("file", O_RDWR), F_WRLCK, 0, 0); }), "ok");
}

TEST_F(Lock, RecordsNeedADescriptorOfTheirKind) {
    EXPECT_EQ(error(set(Descriptor("file", O_RDONLY), F_WRLCK, 0, 1)), "EBADF");
    EXPECT_EQ(error(set(Descriptor("file", O_WRONLY), F_RDLCK, 0, 1)), "EBADF");
    EXPECT_EQ(error(set(Descriptor("file", O_RDWR), F_WRLCK, -5, 1)), "EINVAL");
}

TEST_F(Lock, DeadlocksAreNoticed) {
    const Descriptor file("file", O_RDWR);
    ASSERT_EQ(error(set(file, F_WRLCK, 0, 1)), "ok");
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
        const Descriptor own("file", O_RDWR);
        if (set(own, F_WRLCK, 1, 1) != 0 || write(ready[1], "x", 1) != 1) _exit(1);
        _exit(set(own, F_WRLCK, 0, 1, F_SETLKW) == 0 ? 0 : 2);  // waits for the parent
    }
    char byte = 0;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    // Whoever comes second closes the circle; which of the two is not known.
    const std::string parent = error(set(file, F_WRLCK, 1, 1, F_SETLKW));
    if (parent == "EDEADLK") {
        ASSERT_EQ(error(set(file, F_UNLCK, 0, 0)), "ok");
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_NE(parent == "EDEADLK", WEXITSTATUS(status) == 2);
    close(ready[0]);
    close(ready[1]);
}

TEST_F(Lock, OpenFileDescriptionsExcludeEachOtherInOneProcess) {
    const Descriptor one("file", O_RDWR), two("file", O_RDWR);
    EXPECT_EQ(error(set(one, F_WRLCK, 0, 10, F_OFD_SETLK)), "ok");
    EXPECT_EQ(error(set(two, F_WRLCK, 5, 10, F_OFD_SETLK)), "EAGAIN");
    Descriptor("file", O_RDONLY).close();
    EXPECT_EQ(error(set(two, F_WRLCK, 5, 10, F_OFD_SETLK)), "EAGAIN");
    EXPECT_EQ(error(set(two, F_WRLCK, 10, 10, F_OFD_SETLK)), "ok");
    EXPECT_EQ(error(set(one, F_UNLCK, 0, 10, F_OFD_SETLK)), "ok");
    EXPECT_EQ(error(set(two, F_WRLCK, 5, 10, F_OFD_SETLK)), "ok");
}

TEST_F(Lock, LeasesAreBrokenByOthers) {
    signal(SIGIO, SIG_IGN);  // which tells the holder that somebody wants it broken
    const Descriptor file("file", O_RDONLY);
    const std::string taken = error(fcntl(*file, F_SETLEASE, F_RDLCK));
    if (taken == "EINVAL" || taken == "EAGAIN") {
        GTEST_SKIP() << "no leases here: " << taken;
    }
    ASSERT_EQ(taken, "ok");
    EXPECT_EQ(fcntl(*file, F_GETLEASE), F_RDLCK);
    EXPECT_EQ(in_child([] { return open("file", O_WRONLY | O_NONBLOCK); }), "EAGAIN");
    EXPECT_EQ(error(fcntl(*file, F_SETLEASE, F_UNLCK)), "ok");
}

}  // namespace
}  // namespace blobfs::posix
