#pragma once

// Going to the background: the process splits at the start, the child does the work, and the parent
// stays until it knows how the start went, so that whoever typed the command gets the reason of a
// failure and its exit status. One object per process, before any thread is started.

#include <string>

namespace blobfs::fs::fuse {

class Background {
  public:
    // Splits the process when wanted. The parent does not return: it prints what the child reports
    // and exits. The child is a session leader with / as its working directory.
    explicit Background(bool wanted);
    ~Background();  // tells the parent of a failure if nothing was told
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;

    // The work has started: the parent exits with 0, and standard input, output and error lead
    // nowhere from now on. Nothing in the foreground.
    void report_success();
    // It has not: the message goes to standard error, after "blobfs-fuse: ".
    void report_failure(const std::string& message);

  private:
    int parent_ = -1;  // the pipe to the parent; -1 in the foreground, and when all was said
};

}  // namespace blobfs::fs::fuse
