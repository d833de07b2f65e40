#pragma once

// What the load generator can do with one file, as system calls without anything around them. Used
// in a process of its own; nothing is shared.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace blobfs::bench {

struct Load {
    std::string directory;  // of the files; for operations on one file: that file's
    std::string operation;
    std::uint64_t count = 1000;     // operations of each process
    std::uint64_t first = 0;        // number of the first file
    std::uint64_t of = 0;           // choose the files at random from so many; 0: take all
    std::uint32_t processes = 1;    // at the same time, each with files of its own
    std::uint32_t directories = 0;  // files are spread over as many subdirectories; 0: over none
    std::uint64_t bytes = 0;        // of one write or read
    std::uint64_t file_bytes = 0;   // of the one file that is overwritten
    bool shuffled = false;          // files in random order, not in that of their creation
    bool direct = false;            // O_DIRECT
    std::uint64_t seed = 1;
};

class Operation {
  public:
    virtual ~Operation() = default;
    // Before the clock starts; an empty string, or what is wrong.
    virtual std::string prepare() { return {}; }
    // The index-th of the process's operations; false with errno set when it fails.
    virtual bool run(std::uint64_t index) = 0;

    // Nothing when there is no operation of that name.
    static std::unique_ptr<Operation> make(const Load& load, std::uint32_t process);
    static std::vector<std::string> names();
};

// The path of a file: process and number make its name, the number its subdirectory.
std::string file_path(const Load& load, std::uint32_t process, std::uint64_t number);

}  // namespace blobfs::bench
