#pragma once

// Rounds of work on a filesystem and cuts of it, from a seed. Every third is the work of several at
// the same time, and after each another one goes on with what a cut has left of it, and is cut in
// its turn. Not within a reactor's run: it has one of its own for each round.

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "tests/fs/crash_workload.h"

namespace blobfs::fs {

struct CrashExplorerOptions {
    std::uint64_t seed = 0, cuts = 0;
    // What the store leaves that breaks one, nobody goes on with.
    std::optional<blobstore::OrderRule> broken_rule{};
    bool failing = false;  // the device, as in CrashWorldOptions
};

class CrashExplorer {
  public:
    // Until there were so many cuts, or `enough` says so.
    CrashExplorer(const CrashExplorerOptions& options, std::function<bool()> enough)
        : options_(options), enough_(std::move(enough)), random_(options.seed) {}

    void run();
    // So far, of all rounds.
    [[nodiscard]] std::uint64_t answered_early() const { return answered_early_; }
    [[nodiscard]] std::uint64_t failed_writes() const { return failed_writes_; }

    // Directories for several, in the root. Suspends.
    static std::vector<InodeNumber> make_roots(Suspend& suspend, CrashWorld& world, int count);
    // What they do there at the same time, so many steps in all and some. Suspends.
    static CrashWorkloads work(Suspend& suspend, CrashWorld& world,
                               const std::vector<InodeNumber>& roots, std::uint64_t seed,
                               int steps);

  private:
    [[nodiscard]] bool over() const { return done_ >= options_.cuts || enough_(); }
    void explore(Suspend& suspend, std::uint64_t round);
    void count(const CrashWorld& world);
    std::size_t choose_cut(const CrashWorld& world);
    void cut(Suspend& suspend, const CrashWorld& world, const CrashWorkloads& workloads,
             std::uint64_t round, int times);

    const CrashExplorerOptions options_;
    const std::function<bool()> enough_;
    std::mt19937_64 random_;
    std::uint64_t done_ = 0, answered_early_ = 0, failed_writes_ = 0;
};

}  // namespace blobfs::fs
