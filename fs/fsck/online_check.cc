#include "fs/fsck/online_check.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "driver/base/check.h"
#include "fs/fsck/printable_text.h"

namespace blobfs::fsck {

using blobstore::PinnedRoot;
using driver::Suspend;

namespace {

constexpr std::size_t kFiberStackBytes = std::size_t{256} << 10;
// Beside a mount's own memory; some four million files. fsck.blobfs has no bound.
constexpr std::size_t kMostNameBytes = std::size_t{256} << 20;
constexpr std::size_t kMostTold = 1000;
constexpr std::size_t kMostLogged = 20;
// The thread gives way to all others, as it spins while the device reads.
constexpr int kNice = 10;
constexpr std::uint64_t kLongestSleepUs = 50'000;

}  // namespace

// Reads at a rate, until told to end.
class OnlineCheck::Throttle final : public Pace {
  public:
    Throttle(OnlineCheck& owner, const PinnedRoot& root, std::uint64_t bytes_per_second)
        : owner_(owner), root_(root), bytes_per_second_(bytes_per_second) {}

    Result<void> before_reading(Suspend& suspend, std::size_t bytes) override {
        owner_.pages_.fetch_add(bytes / root_.superblock.page_bytes);
        const driver::Reactor& reactor = suspend.reactor();
        if (bytes_per_second_ != 0) {
            next_us_ = std::max(next_us_, reactor.now_us());
            while (next_us_ > reactor.now_us() && !owner_.cancelled_.load()) {
                suspend.sleep_us(std::min(next_us_ - reactor.now_us(), kLongestSleepUs));
            }
            next_us_ += bytes * 1'000'000 / bytes_per_second_;
        }
        return after_reading();
    }
    Result<void> after_reading() override {
        if (owner_.cancelled_.load()) {
            return fail(Error{.code = Errc::kSystem, .sys_errno = ECANCELED, .what = "checking"});
        }
        if (!root_.valid->load()) {
            return fail(Errc::kNoSpace, "keeping what is checked as it is");
        }
        return {};
    }

  private:
    OnlineCheck& owner_;
    const PinnedRoot& root_;
    const std::uint64_t bytes_per_second_;
    std::uint64_t next_us_ = 0;
};

OnlineCheck::~OnlineCheck() { CHECK(!thread_.joinable()); }

Result<void> OnlineCheck::start(Suspend& suspend, std::uint64_t bytes_per_second) {
    if (stopped_) return fail(Errc::kBusy, "checking: the filesystem is being unmounted");
    if (result_.outcome == Outcome::kRunning) return fail(Errc::kBusy, "checking: a check runs");
    result_ = {.outcome = Outcome::kRunning};
    ++run_;
    began_us_ = reactor_.now_us();
    cancelled_ = false;
    phase_ = Phase::kTree;
    done_ = total_ = pages_ = found_ = 0;
    running_.add();
    Result<std::unique_ptr<PinnedRoot>> root = store_.pin_root(suspend);
    if (!root) {
        finish({.outcome = Outcome::kFailed, .error = root.error().message()});
        return fail(root.error());
    }
    try {
        thread_ = std::thread([this, pinned = std::move(*root), bytes_per_second] {
            work(*pinned, bytes_per_second);
        });
    } catch (const std::system_error& error) {
        finish({.outcome = Outcome::kFailed, .error = error.what()});
        return fail(errno_error(error.code().value(), "starting a thread to check on"));
    }
    spdlog::info("a check of {} begins", device_.properties().name);
    return {};
}

void OnlineCheck::work(const PinnedRoot& root, std::uint64_t bytes_per_second) {
    static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice));
    ResultOfRun result;
    {
        driver::Reactor reactor({.fiber_stack_bytes = kFiberStackBytes});
        result = reactor.block_on(
            [&](Suspend& suspend) { return check(suspend, root, bytes_per_second); });
    }
    auto shared = std::make_shared<ResultOfRun>(std::move(result));
    while (!reactor_.post([this, shared] {
        thread_.join();
        finish(std::move(*shared));
    })) {
        std::this_thread::yield();
    }
}

OnlineCheck::ResultOfRun OnlineCheck::check(Suspend& suspend, const PinnedRoot& root,
                                            std::uint64_t bytes_per_second) {
    auto device = device_.join(suspend);
    if (!device) return {.outcome = Outcome::kFailed, .error = device.error().message()};
    ResultOfRun result = check(suspend, **device, root, bytes_per_second);
    static_cast<void>((*device)->close(suspend));
    return result;
}

OnlineCheck::ResultOfRun OnlineCheck::check(Suspend& suspend, driver::Device& device,
                                            const PinnedRoot& root,
                                            std::uint64_t bytes_per_second) {
    Throttle throttle(*this, root, bytes_per_second);
    ImageCheck image(
        device, root.slots, root.superblock,
        {.pace = &throttle, .without_log = root.without_log, .most_name_bytes = kMostNameBytes});
    const Result<void> ran =
        image.run(suspend, [&](Phase phase, std::uint64_t done, std::uint64_t total) {
            phase_ = phase;
            done_ = done;
            total_ = total;
            found_ = image.findings().total();
        });
    ResultOfRun result{.outcome = Outcome::kComplete, .found = image.findings().total()};
    found_ = result.found;
    if (!ran) {
        const Error& error = ran.error();
        result.outcome = error.sys_errno == ECANCELED   ? Outcome::kCancelled
                         : error.code == Errc::kNoSpace ? Outcome::kGivenUp
                                                        : Outcome::kFailed;
        if (result.outcome == Outcome::kFailed) result.error = error.message();
    } else {
        const NameTotals& names = image.names();
        result.inodes = names.files + names.directories + names.links + names.others;
        result.names_checked = image.names_checked();
    }
    for (const Finding& finding : image.findings().list()) {
        if (result.problems.size() == kMostTold) break;
        const ProblemInfo& info = info_of(finding.problem);
        result.problems.push_back(
            {.code = std::string(info.code),
             .text = printable(finding.text),
             .remedy = std::string(info.remedy),
             .path = finding.inode == 0 ? "" : printable(image.path_of(suspend, finding.inode)),
             .inode = finding.inode,
             .block = finding.block});
    }
    return result;
}

void OnlineCheck::finish(ResultOfRun result) {
    store_.unpin_root();
    result_ = std::move(result);
    ended_us_ = reactor_.now_us();
    const std::string& name = device_.properties().name;
    for (std::size_t i = 0; i < std::min(result_.problems.size(), kMostLogged); ++i) {
        spdlog::error("{}: found by the check: {}", name, result_.problems[i].text);
    }
    switch (result_.outcome) {
        case Outcome::kNone:
        case Outcome::kRunning:
            break;
        case Outcome::kComplete:
            if (result_.found == 0) {
                spdlog::info("the check of {} found no errors", name);
            } else {
                spdlog::error("the check of {} found {} problems; unmount it and run fsck.blobfs",
                              name, result_.found);
            }
            break;
        case Outcome::kCancelled:
            spdlog::info("the check of {} was cancelled; {} problems were found so far", name,
                         result_.found);
            break;
        case Outcome::kGivenUp:
            spdlog::warn(
                "the check of {} was given up, as the device is too full; {} problems were found "
                "so far",
                name, result_.found);
            break;
        case Outcome::kFailed:
            spdlog::error("checking {}: {}", name, result_.error);
            break;
    }
    running_.done();
}

void OnlineCheck::stop(Suspend& suspend) {
    stopped_ = true;
    cancel();
    running_.wait(suspend);
}

OnlineCheck::Status OnlineCheck::status() const {
    const bool running = result_.outcome == Outcome::kRunning;
    return {.run = run_,
            .outcome = result_.outcome,
            .phase = phase_.load(),
            .done = done_.load(),
            .total = total_.load(),
            .pages = pages_.load(),
            .page_bytes = store_.info().page_bytes,
            .elapsed_ms =
                run_ == 0 ? 0 : ((running ? reactor_.now_us() : ended_us_) - began_us_) / 1000,
            .found = running ? found_.load() : result_.found,
            .inodes = result_.inodes,
            .names_checked = result_.names_checked,
            .error = result_.error};
}

}  // namespace blobfs::fsck
