#pragma once

// The check of a filesystem that is in use: reads a root of the store that is pinned for it, with a
// queue pair of its own, on a thread of its own, so that neither its reading nor its sorting makes
// anybody wait. Everything here is called on the store's reactor thread; the check's thread runs
// from start() until it has ended, was cancelled, or the store needed the pinned space.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "blobstore/blobstore.h"
#include "blobstore/pinned_root.h"
#include "driver/device.h"
#include "driver/reactor/reactor.h"
#include "fs/fsck/image_check.h"

namespace blobfs::fsck {

class OnlineCheck {
  public:
    // All outlive it. The device has a queue pair to spare (DeviceOptions::io_queues).
    OnlineCheck(driver::Reactor& reactor, driver::Device& device, blobstore::Blobstore& store)
        : reactor_(reactor), device_(device), store_(store) {}
    ~OnlineCheck();  // REQUIRES stop()
    OnlineCheck(const OnlineCheck&) = delete;
    OnlineCheck& operator=(const OnlineCheck&) = delete;

    // Begins to check what is there now; how it goes is status(). kBusy while one runs; errors of
    // the checkpoint that it begins with. Suspends for that. bytes_per_second 0: no limit.
    Result<void> start(driver::Suspend& suspend, std::uint64_t bytes_per_second);
    // What runs ends soon.
    void cancel() { cancelled_.store(true); }
    // Ends it and waits for that; nothing can be started any more. Before the store is closed.
    void stop(driver::Suspend& suspend);

    enum class Outcome : std::uint8_t {
        kNone,  // never started
        kRunning,
        kComplete,   // all was read; what was found is in problems
        kCancelled,  // problems: so far
        kGivenUp,    // the device became too full to keep the root; problems: so far
        kFailed,     // it could not be done: error
    };
    // One finding, as words.
    struct Told {
        std::string code, text, remedy, path;
        std::uint64_t inode = 0, block = 0;
    };
    struct Status {
        std::uint64_t run = 0;  // which start() it is about: 1, 2, ...
        Outcome outcome = Outcome::kNone;
        Phase phase{};
        std::uint64_t done = 0, total = 0;  // of the phase
        std::uint64_t pages = 0;            // read
        std::uint64_t page_bytes = 0;
        std::uint64_t elapsed_ms = 0;
        std::uint64_t found = 0;
        std::uint64_t inodes = 0;    // at the end
        bool names_checked = false;  // at the end: they were not too many
        std::string error;
    };
    [[nodiscard]] Status status() const;
    // The first ones, when it does not run.
    [[nodiscard]] const std::vector<Told>& problems() const { return result_.problems; }

  private:
    class Throttle;
    struct ResultOfRun {
        Outcome outcome = Outcome::kNone;
        std::string error{};
        std::vector<Told> problems{};
        std::uint64_t found = 0, inodes = 0;
        bool names_checked = false;
    };
    void work(const blobstore::PinnedRoot& root, std::uint64_t bytes_per_second);
    ResultOfRun check(driver::Suspend& suspend, const blobstore::PinnedRoot& root,
                      std::uint64_t bytes_per_second);
    ResultOfRun check(driver::Suspend& suspend, driver::Device& device,
                      const blobstore::PinnedRoot& root, std::uint64_t bytes_per_second);
    void finish(ResultOfRun result);

    driver::Reactor& reactor_;
    driver::Device& device_;
    blobstore::Blobstore& store_;
    bool stopped_ = false;
    driver::WaitGroup running_;
    std::thread thread_;
    std::uint64_t run_ = 0, began_us_ = 0, ended_us_ = 0;
    ResultOfRun result_;  // of the last run that ended; Outcome::kRunning while one runs

    // Both threads.
    std::atomic<bool> cancelled_ = false;
    std::atomic<Phase> phase_{};
    std::atomic<std::uint64_t> done_ = 0, total_ = 0, pages_ = 0, found_ = 0;
};

}  // namespace blobfs::fsck
