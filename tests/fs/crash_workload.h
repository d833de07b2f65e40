#pragma once

// Somebody who works in one directory of a CrashWorld, and keeps the history of it. Reactor thread.

#include <absl/functional/any_invocable.h>
#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "driver/memory/dma_buffer.h"
#include "tests/fs/crash_history.h"
#include "tests/fs/crash_world.h"

namespace blobfs::fs {

class CrashWorkload {
  public:
    CrashWorkload(std::uint64_t seed, CrashWorld& world, InodeNumber directory = kRootInode)
        : world_(world), root_(directory), random_(seed) {}

    // What is there now is durable: after CrashWorld::start().
    void start(Suspend& suspend);
    // One operation, or a file made and written. Whether it succeeds or is refused is checked
    // elsewhere (the model test).
    void random_step(Suspend& suspend);

    // An operation was answered: remembers the state after it.
    void answered(Suspend& suspend);
    // Makes everything durable that was answered.
    void sync(Suspend& suspend);

    // 0 when it cannot be.
    InodeNumber create(Suspend& suspend, InodeNumber parent, const std::string& name);
    InodeNumber lookup(Suspend& suspend, const std::string& name);
    // Sectors. Early: answered as soon as that may be, as writes of the kernel's cache are.
    void write(Suspend& suspend, InodeNumber file, std::uint64_t first, std::uint64_t count,
               bool early);
    // Sectors, fewer at the end of the source. REQUIRES that the ranges are apart.
    struct Copy {
        InodeNumber from{};
        std::uint64_t from_first = 0;
        InodeNumber to{};
        std::uint64_t to_first = 0, count = 0;
    };
    void copy(Suspend& suspend, const Copy& wanted, bool early);
    void truncate(Suspend& suspend, InodeNumber file, std::uint64_t to);
    // Space without data, zeroes, or a hole.
    void allocate(Suspend& suspend, InodeNumber file);
    // Holds what is read against the history.
    void read(Suspend& suspend, InodeNumber file);

    [[nodiscard]] Filesystem& fs() { return *world_.fs; }
    [[nodiscard]] InodeNumber root() const { return root_; }
    [[nodiscard]] const History& history() const { return history_; }

  private:
    struct Found {
        InodeNumber parent{};
        std::string name;
        InodeNumber inode{};
        bool directory = false;
    };
    struct Write {
        InodeNumber file{};
        std::uint64_t first = 0, count = 0, number = 0;
        std::uint64_t old_end = 0;  // of the file
    };

    std::uint64_t below(std::uint64_t n) { return random_() % n; }
    std::vector<Found> everything(Suspend& suspend, InodeNumber directory);
    void change_file(Suspend& suspend, InodeNumber file);
    void copy_somewhere(Suspend& suspend, const std::vector<Found>& files);
    void change_names(Suspend& suspend, const std::vector<Found>& all,
                      const std::vector<Found>& files, InodeNumber parent);
    void sync_somehow(Suspend& suspend, InodeNumber file);
    void synced();
    // Carries a write out and returns how many bytes it wrote; told when it may be answered.
    using Act = absl::AnyInvocable<Result<std::size_t>(
        Suspend& suspend, std::optional<absl::FunctionRef<void()>> told)>;
    Write begin_write(Suspend& suspend, InodeNumber file, std::uint64_t first, std::uint64_t count);
    void send(const Write& write, std::uint64_t sector, const Stamp& shows);
    void carry_out(Suspend& suspend, const Write& write, bool early, Act act);
    void carry_out_early(Suspend& suspend, const Write& write, Act act);
    void send_zeroes(InodeNumber file, std::uint64_t first, std::uint64_t count);
    // What was sent last to these sectors.
    void zeroes_failed(InodeNumber file, std::uint64_t first, std::uint64_t count);
    void expect_usual(const Error& error);

    CrashWorld& world_;
    const InodeNumber root_;
    History history_;
    std::mt19937_64 random_;
    std::uint64_t writes_ = 0;
    driver::DmaBuffer buffer_;
};

using CrashWorkloads = std::vector<std::unique_ptr<CrashWorkload>>;

}  // namespace blobfs::fs
