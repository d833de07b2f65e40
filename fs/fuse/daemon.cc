#include "fs/fuse/daemon.h"

#include <signal.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "fs/filesystem.h"
#include "fs/fuse/background.h"
#include "fs/fuse/channel.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/mount_source.h"
#include "fs/fuse/operations.h"
#include "fs/fuse/signal_watch.h"

namespace blobfs::fs::fuse {

using driver::Suspend;

namespace {

// DMA memory beyond the metadata cache and the request buffers: queues, the log, frozen pages,
// transfers that are not aligned. Reserved, not touched.
constexpr std::size_t kWorkingMemoryBytes = std::size_t{160} << 20;
// Of --cache-size: what tree pages may take; another sixteenth is for the attributes of inodes, and
// an eighth for the references that the kernel holds, of which there are as many as it has inodes.
constexpr std::uint64_t kCacheSixteenthsOfPages = 13;
constexpr std::uint64_t kCachedInodeBytes = 512;
constexpr unsigned kReadAheadKib = 1024;
constexpr std::uint16_t kQueues = 2;  // the reactor's, and one for the check while it runs

void start_log(const DaemonOptions& options) {
    std::shared_ptr<spdlog::logger> log;
    if (options.foreground) {
        log = std::make_shared<spdlog::logger>(
            "blobfs-fuse", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
        log->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
    } else {
        log = std::make_shared<spdlog::logger>(
            "blobfs-fuse", std::make_shared<spdlog::sinks::syslog_sink_mt>("blobfs-fuse", LOG_PID,
                                                                           LOG_DAEMON, false));
    }
    log->set_level(options.trace || options.verbose ? spdlog::level::debug : spdlog::level::info);
    log->flush_on(spdlog::level::info);
    spdlog::set_default_logger(std::move(log));
}

// The directory to mount on, absolute, or why it cannot be.
std::optional<std::string> find_mountpoint(const std::string& argument, std::string& message) {
    struct stat status {};
    if (::stat(argument.c_str(), &status) != 0) {
        switch (errno) {
            case ENOENT:
                message = "mountpoint " + argument + " does not exist; make the directory first";
                break;
            case ENOTCONN:
                message = "mountpoint " + argument +
                          " is what a daemon left behind that was killed; clear it with: umount " +
                          argument;
                break;
            default:
                message = "mountpoint " + argument + ": " + std::strerror(errno);
                break;
        }
        return std::nullopt;
    }
    if (!S_ISDIR(status.st_mode)) {
        message = "mountpoint " + argument + " is not a directory";
        return std::nullopt;
    }
    const std::unique_ptr<char, decltype(&std::free)> path(::realpath(argument.c_str(), nullptr),
                                                           &std::free);
    if (!path) {
        message = "mountpoint " + argument + ": " + std::strerror(errno);
        return std::nullopt;
    }
    return std::string(path.get());
}

std::string explain_open_failure(const MountSource& source, const Error& error, bool read_only) {
    using Kind = driver::DeviceName::Kind;
    const std::string reason = " (" + error.message() + ")";
    switch (error.code) {
        case Errc::kWrongFormat:
            return source.name + " is not a blobfs filesystem; make one with: mkfs.blobfs " +
                   source.name + " (if there was one, fsck.blobfs may bring it back)" + reason;
        case Errc::kBusy:
            return source.name +
                   " is in use: it is mounted already, or being made or checked by another "
                   "program" +
                   reason;
        case Errc::kNotFound:
            if (source.device.kind == Kind::kFile &&
                ::access(source.device.path.c_str(), F_OK) != 0) {
                return source.name +
                       " does not exist; make a filesystem with: mkfs.blobfs --size " + "SIZE " +
                       source.name;
            }
            break;
        case Errc::kAccess:
        case Errc::kPermission:
            return "no permission to open " + source.name +
                   (read_only ? " for reading"
                              : " for writing; mount it as its owner or as root, "
                                "or read-only with -o ro") +
                   reason;
        case Errc::kReadOnly:
            if (!read_only)
                return source.name + " cannot be written to; mount it with -o ro" + reason;
            break;
        case Errc::kCorrupt:
            return source.name + " is damaged and cannot be mounted; nothing was changed" + reason;
        case Errc::kNoMemory:
            return "not enough memory to open " + source.name +
                   "; try a smaller -o cache_size=" + reason;
        default:
            break;
    }
    return "opening " + source.name + ": " + error.message();
}

// Everything between start and end of a mount, in the order in which it is taken apart.
class Daemon {
  public:
    Daemon(const DaemonOptions& options, MountSource source, std::string mountpoint,
           Background& background)
        : options_(options),
          source_(std::move(source)),
          mountpoint_(std::move(mountpoint)),
          background_(background),
          read_only_(options.mount.read_only) {}

    int run();

  private:
    bool start_memory();
    bool open();
    bool mount();
    void serve();
    bool close();
    void begin_unmount(int signal_number);
    void log_statistics() const;
    bool failed(const std::string& message);

    const DaemonOptions& options_;
    const MountSource source_;
    const std::string mountpoint_;
    Background& background_;
    const bool read_only_;
    ChannelOptions channel_options_;
    std::uint64_t cache_bytes_ = 0;

    std::unique_ptr<driver::Reactor> reactor_;
    std::unique_ptr<driver::Device> device_;
    std::unique_ptr<Filesystem> filesystem_;
    std::unique_ptr<CacheWriteBack> write_back_;
    std::unique_ptr<AttributeRefresh> refresh_;
    driver::WaitGroup stopping_;  // fibers that end the reactor
    std::unique_ptr<fsck::OnlineCheck> check_;
    std::unique_ptr<Operations> operations_;
    std::unique_ptr<KernelMount> mount_;
    std::unique_ptr<Channel> channel_;
    std::thread unmounting_;
    bool ready_ = false;
    bool served_well_ = true;
};

bool Daemon::failed(const std::string& message) {
    background_.report_failure(message);
    return false;
}

int Daemon::run() {
    if (!start_memory()) return EXIT_FAILURE;
    reactor_ = std::make_unique<driver::Reactor>(
        driver::ReactorOptions{.poll_always = options_.mount.poll_always.value_or(false)});
    if (!open()) return EXIT_FAILURE;
    if (mount()) serve();
    const bool closed = close();
    return closed && ready_ && served_well_ ? EXIT_SUCCESS : EXIT_FAILURE;
}

bool Daemon::start_memory() {
    cache_bytes_ = options_.mount.cache_bytes.value_or(default_cache_bytes());
    const Result<void> started = driver::start_environment({
        .memory_bytes =
            cache_bytes_ + channel_options_.requests * kRequestBufferBytes + kWorkingMemoryBytes,
        .hugepages = true,
        .physical = source_.device.kind == driver::DeviceName::Kind::kPcie,
    });
    return started ? true : failed(started.error().message());
}

bool Daemon::open() {
    blobstore::OpenOptions store{.read_only = read_only_,
                                 .cache_bytes = cache_bytes_ / 16 * kCacheSixteenthsOfPages};
    if (options_.mount.commit_seconds) {
        store.commit_interval_ms = *options_.mount.commit_seconds * 1000;
    }
    const Result<void> opened = reactor_->block_on([&](Suspend& suspend) -> Result<void> {
        TRY_ASSIGN(device_, driver::Device::open(suspend, source_.name,
                                                 {.read_only = read_only_, .io_queues = kQueues}));
        if (source_.device.kind == driver::DeviceName::Kind::kMemory) {
            // Fresh memory holds nothing yet: it is made a filesystem on the way.
            MakeOptions make;
            make.root_uid = ::getuid();
            make.root_gid = ::getgid();
            [[maybe_unused]] const ssize_t bytes =
                ::getrandom(make.store.uuid.data(), make.store.uuid.size(), 0);
            TRY(Filesystem::format(suspend, *device_, make));
        }
        OpenOptions open_options;
        open_options.store = store;
        open_options.max_cached_inodes = cache_bytes_ / 16 / kCachedInodeBytes;
        open_options.atime = options_.mount.atime.value_or(AtimePolicy::kRelative);
        TRY_ASSIGN(filesystem_, Filesystem::open(suspend, *device_, std::move(open_options)));
        return {};
    });
    if (opened) return true;
    failed(explain_open_failure(source_, opened.error(), read_only_));
    close();
    return false;
}

bool Daemon::mount() {
    const bool root = ::geteuid() == 0;
    const Access access =
        options_.mount.access.value_or(root ? Access::kEverybody : Access::kOwner);
    KernelMountOptions kernel{
        .source = options_.mount.source_name.value_or(source_.name),
        .subtype = options_.mount.subtype,
        .read_only = read_only_,
        .everybody = access != Access::kOwner,
        .auto_unmount = options_.mount.auto_unmount,
        .flags = options_.mount.kernel,
    };
    // What mount(8) does by default; a user's mount is always nosuid and nodev.
    if (root && !options_.mount.last_of({"suid", "nosuid"})) kernel.flags.emplace_back("suid");
    if (root && !options_.mount.last_of({"dev", "nodev"})) kernel.flags.emplace_back("dev");
    std::string message;
    mount_ = KernelMount::attach(mountpoint_, kernel, message);
    if (!mount_) {
        return failed("mounting " + source_.name + " on " + mountpoint_ + ": " + message);
    }
    write_back_ = std::make_unique<CacheWriteBack>(*reactor_, mount_->descriptor());
    refresh_ = std::make_unique<AttributeRefresh>(*reactor_, *write_back_);
    check_ = std::make_unique<fsck::OnlineCheck>(*reactor_, *device_, filesystem_->store());
    operations_ =
        std::make_unique<Operations>(*filesystem_, write_back_.get(), refresh_.get(), check_.get());
    if (access == Access::kOwnerAndRoot) channel_options_.owner_and_root = ::getuid();
    channel_options_.trace = options_.trace;
    channel_options_.io_uring = options_.mount.io_uring.value_or(false);
    Result<std::unique_ptr<Channel>> channel =
        Channel::create(*reactor_, *operations_, mount_->descriptor(), channel_options_);
    if (!channel) return failed("mounting " + source_.name + ": " + channel.error().message());
    channel_ = std::move(*channel);
    return true;
}

void Daemon::serve() {
    SignalWatch signals({SIGTERM, SIGINT, SIGHUP, SIGUSR1}, [this](int number) {
        if (number == SIGUSR1) {
            log_statistics();
        } else {
            begin_unmount(number);
        }
    });
    channel_->on_ready = [this] {
        ready_ = true;
        mount_->raise_limits(kReadAheadKib);
        spdlog::info("{} is mounted on {}{}", source_.name, mountpoint_,
                     read_only_ ? ", read-only" : "");
        background_.report_success();
    };
    channel_->on_end = [this](Channel::End how) {
        if (how == Channel::End::kAborted) {
            spdlog::warn("the connection of {} was aborted; unmounting", mountpoint_);
        }
        served_well_ = how != Channel::End::kFailed;
        if (!ready_) failed("mounting " + source_.name + ": the kernel ended the connection");
        reactor_->stop();
    };
    reactor_->add_poller(signals);
    reactor_->add_poller(*channel_);
    reactor_->run();
    channel_->stop_reading();
    reactor_->block_on([this](Suspend& suspend) {
        channel_->drain(suspend);
        refresh_->stop(suspend);
        stopping_.wait(suspend);
    });
    reactor_->remove_poller(*channel_);
    reactor_->remove_poller(signals);
    if (unmounting_.joinable()) unmounting_.join();
}

void Daemon::begin_unmount(int signal_number) {
    if (unmounting_.joinable()) return;
    spdlog::info("{}: unmounting {}", ::strsignal(signal_number), mountpoint_);
    // While it waits for us to write what the kernel has in its cache, we go on serving.
    unmounting_ = std::thread([this] {
        mount_->unmount_and_sync();
        // Files may still be open: those who have them see the daemon end, but lose nothing that
        // they wrote before.
        // What the kernel is being told may wait for a request to be answered. The kernel may be
        // faster and end the channel, or all of this, before it is looked at.
        const auto stop = [this] {
            stopping_.add();
            reactor_->spawn([this](Suspend& suspend) {
                if (refresh_ != nullptr) refresh_->stop(suspend);
                reactor_->stop();
                stopping_.done();
            });
        };
        while (!reactor_->post(stop)) std::this_thread::yield();
    });
}

bool Daemon::close() {
    if (channel_) spdlog::debug("{}", channel_->describe());
    channel_.reset();
    operations_.reset();
    refresh_.reset();
    write_back_.reset();
    mount_.reset();  // nobody sees the filesystem any more while it is written to the end
    const bool shut_down = filesystem_ && filesystem_->is_shut_down();
    Result<void> result;
    reactor_->block_on([&](Suspend& suspend) {
        if (check_) check_->stop(suspend);
        check_.reset();
        if (shut_down) {
            filesystem_->abandon(suspend);
        } else if (filesystem_) {
            result = filesystem_->close(suspend);
        }
        filesystem_.reset();
        if (device_) {
            const Result<void> closed = device_->close(suspend);
            if (result && !closed) result = closed;
        }
    });
    device_.reset();
    if (!result) {
        spdlog::error("unmounting {}: {}; what was written last may be lost", source_.name,
                      result.error().message());
        return false;
    }
    if (shut_down) {
        spdlog::info("{} is unmounted; it was shut down before: the next mount recovers it",
                     source_.name);
    } else if (ready_) {
        spdlog::info("{} is unmounted, everything is on the device", source_.name);
    }
    return true;
}

void Daemon::log_statistics() const {
    const auto fs = filesystem_->statistics();
    const auto store = filesystem_->store().statistics();
    const auto device = device_->statistics();
    spdlog::info("statistics: {}", channel_->describe());
    spdlog::info("statistics: inodes cached {}, referenced {}, dirty {}", fs.cached_inodes,
                 fs.referenced_inodes, fs.dirty_inodes);
    spdlog::info(
        "statistics: transactions {}, log batches {}, checkpoints {}, page cache hits {}, misses "
        "{}, read ahead {}, frames {}, dirty {}",
        store.transactions, store.log_batches, store.checkpoints, store.cache_hits,
        store.cache_misses, store.pages_read_ahead, store.cache_frames, store.dirty_pages);
    spdlog::info("statistics: device reads {} ({} bytes), writes {} ({} bytes), flushes {}",
                 device.reads, device.bytes_read, device.writes, device.bytes_written,
                 device.flushes);
}

}  // namespace

std::uint64_t default_cache_bytes() {
    constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    const long page_bytes = ::sysconf(_SC_PAGESIZE);
    const std::uint64_t memory =
        pages > 0 && page_bytes > 0
            ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes)
            : 0;
    return std::clamp(memory / 16, 32 * kMiB, 512 * kMiB) & ~(kMiB - 1);
}

int run_daemon(const DaemonOptions& options) {
    std::string message;
    const Result<MountSource> source = parse_mount_source(options.device);
    if (!source) message = options.device + ": " + source.error().message();
    const std::optional<std::string> mountpoint =
        source ? find_mountpoint(options.mountpoint, message) : std::nullopt;
    Background background(mountpoint && !options.foreground);
    if (!mountpoint) {
        background.report_failure(message);
        return EXIT_FAILURE;
    }
    start_log(options);
    // The kernel may ask us to write pages so that it gets memory: then we must not wait for it.
    if (::geteuid() == 0) ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    return Daemon(options, *source, *mountpoint, background).run();
}

}  // namespace blobfs::fs::fuse
