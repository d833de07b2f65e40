#include "driver/soft/file_medium.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "driver/base/check.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/loop_device.h"

namespace blobfs::driver {

namespace {

constexpr unsigned kRingEntries = 512;
constexpr std::size_t kZeroBytes = 256 * 1024;
constexpr std::uint64_t kLockPollUs = 10'000;

// How a write zeroes or deallocate is being done (MediumOperation::stage).
enum Stage : std::uint32_t {
    kStagePunch = 0,
    kStageZeroRange = 1,
    kStageWrite = 2,
    kStageSync = 3
};

}  // namespace

Result<std::unique_ptr<FileMedium>> FileMedium::open(Suspend& suspend, const std::string& path,
                                                     const FileMediumOptions& options) {
    if (options.lba_bytes != 0 && options.lba_bytes != 512 && options.lba_bytes != 4096) {
        return fail(Errc::kInvalidArgument, "choosing the LBA size of a file device");
    }
    std::unique_ptr<FileMedium> medium(new FileMedium(suspend.reactor(), options));
    TRY(medium->open_file(suspend, path));
    return medium;
}

Result<void> FileMedium::open_file(Suspend& suspend, const std::string& path) {
    properties_.name = path;
    properties_.read_only = options_.read_only;
    properties_.volatile_write_cache = true;

    // Looked at before it is opened: opening a FIFO would block, a device node may do things.
    struct stat status {};
    const bool exists = stat(path.c_str(), &status) == 0;
    if (!exists && (errno != ENOENT || options_.create_size == 0 || options_.read_only)) {
        return fail(errno_error(errno, "opening the device file"));
    }
    if (exists && S_ISDIR(status.st_mode)) {
        return fail(Errc::kIsDirectory, "opening the device file");
    }
    if (exists && !S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        return fail(Errc::kInvalidArgument,
                    "opening the device file, which is neither a file nor a block device");
    }
    block_device_ = exists && S_ISBLK(status.st_mode);
    int flags = O_CLOEXEC | O_NOCTTY | (options_.read_only ? O_RDONLY : O_RDWR);
    if (!exists) flags |= O_CREAT;
    if (block_device_ && !options_.read_only) flags |= O_EXCL;
    const std::uint64_t start_us = suspend.reactor().now_us();
    while (true) {
        descriptor_ = ::open(path.c_str(), flags, 0644);
        if (descriptor_ >= 0) break;
        int error = errno;
        if (error == EINTR) continue;
        // What kernels say that do not let anybody write to a block device that is mounted.
        if (error == EPERM && block_device_ && geteuid() == 0) error = EBUSY;
        if (error != EBUSY ||
            suspend.reactor().now_us() - start_us >= std::uint64_t{options_.lock_wait_ms} * 1000) {
            return fail(errno_error(error, "opening the device file"));
        }
        suspend.sleep_us(kLockPollUs);
    }
    if (fstat(descriptor_, &status) != 0) {
        return fail(errno_error(errno, "looking at the device file"));
    }
    if (S_ISBLK(status.st_mode) != block_device_ ||
        (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))) {
        return fail(Errc::kInvalidArgument,
                    "opening the device file, which was replaced meanwhile");
    }
    TRY(lock(suspend));
    open_direct();
    TRY(measure());
    start_ring();
    return {};
}

Result<void> FileMedium::lock(Suspend& suspend) {
    TRY(lock(suspend, descriptor_));
    // Who uses the file behind a loop device, by whatever name, uses this device.
    for (int outer = descriptor_;;) {
        const std::string path = loop_backing_file(outer);
        if (path.empty()) return {};
        outer =
            ::open(path.c_str(), O_CLOEXEC | O_NOCTTY | (options_.read_only ? O_RDONLY : O_RDWR));
        if (outer < 0) return {};  // it was deleted: nobody else can open it
        backing_descriptors_.push_back(outer);
        TRY(lock(suspend, outer));
    }
}

Result<void> FileMedium::lock(Suspend& suspend, int descriptor) {
    struct flock range {};
    range.l_type = options_.read_only ? F_RDLCK : F_WRLCK;
    range.l_whence = SEEK_SET;
    const std::uint64_t start_us = suspend.reactor().now_us();
    while (fcntl(descriptor, F_OFD_SETLK, &range) != 0) {
        const int error = errno;
        if (error == EINTR) continue;
        if (error != EAGAIN && error != EACCES) {
            return fail(errno_error(error, "locking the device file"));
        }
        if (suspend.reactor().now_us() - start_us >= std::uint64_t{options_.lock_wait_ms} * 1000) {
            return fail(Errc::kBusy, "locking the device file: another process uses it");
        }
        suspend.sleep_us(kLockPollUs);
    }
    return {};
}

void FileMedium::open_direct() {
    if (!options_.direct) return;
    // Through /proc, so that it is the same file whatever happened to its name.
    const std::string self = "/proc/self/fd/" + std::to_string(descriptor_);
    direct_descriptor_ =
        ::open(self.c_str(), O_CLOEXEC | O_DIRECT | (options_.read_only ? O_RDONLY : O_RDWR));
    direct_ = direct_descriptor_ >= 0;
    if (!direct_) return;
    if (block_device_) {
        int sector = 512;
        if (ioctl(descriptor_, BLKSSZGET, &sector) == 0 && sector > 0) {
            memory_align_ = offset_align_ = static_cast<std::uint32_t>(sector);
        }
        return;
    }
#ifdef STATX_DIOALIGN
    struct statx extended {};
    if (statx(descriptor_, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
        (extended.stx_mask & STATX_DIOALIGN) != 0) {
        memory_align_ = extended.stx_dio_mem_align;
        offset_align_ = extended.stx_dio_offset_align;
        direct_ = offset_align_ != 0;  // else this file has no direct I/O
        return;
    }
#endif
    // Not told: a page is enough for everybody.
    memory_align_ = offset_align_ = 4096;
}

Result<void> FileMedium::measure() {
    std::uint64_t bytes = 0;
    if (block_device_) {
        if (ioctl(descriptor_, BLKGETSIZE64, &bytes) != 0) {
            return fail(errno_error(errno, "asking for the block device's size"));
        }
        if (options_.create_size > bytes) {
            return fail(Errc::kInvalidArgument, "growing a block device", bytes);
        }
    } else {
        struct stat status {};
        if (fstat(descriptor_, &status) != 0) {
            return fail(errno_error(errno, "looking at the device file"));
        }
        bytes = static_cast<std::uint64_t>(status.st_size);
        if (options_.create_size > bytes && !options_.read_only) {
            if (options_.create_size > static_cast<std::uint64_t>(INT64_MAX) ||
                ftruncate(descriptor_, static_cast<off_t>(options_.create_size)) != 0) {
                return fail(errno_error(options_.create_size > INT64_MAX ? EFBIG : errno,
                                        "growing the device file"));
            }
            bytes = options_.create_size;
        }
    }
    std::uint32_t lba = options_.lba_bytes;
    if (lba == 0) lba = direct() && offset_align_ > 512 && offset_align_ <= 4096 ? 4096 : 512;
    if (direct() && lba % offset_align_ != 0) direct_ = false;
    if (bytes < lba) return fail(Errc::kInvalidArgument, "opening an empty device file");
    properties_.lba_bytes = lba;
    properties_.bytes = bytes - bytes % lba;
    return {};
}

void FileMedium::start_ring() {
    if (!options_.io_uring) return;
    // Completions wait for this thread's next system call instead of interrupting it; from Linux
    // 5.19 on. (DEFER_TASKRUN would go further, but then the ring's descriptor, by which the
    // reactor sleeps, does not become readable.)
    int error = io_uring_queue_init(kRingEntries, &ring_,
                                    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
    if (error == -EINVAL) error = io_uring_queue_init(kRingEntries, &ring_, 0);
    if (error == 0) {
        ring_ready_ = true;
        return;
    }
    spdlog::warn("{}: io_uring cannot be used ({}); going on with system calls that block",
                 properties_.name, std::strerror(-error));
}

FileMedium::~FileMedium() {
    while (in_flight_ != 0) {
        submit();
        io_uring_cqe* entry = nullptr;
        if (flusher_ != nullptr && flusher_->running()) {
            flusher_->wait();
        } else if (backlog_head_ == nullptr) {
            (void)io_uring_wait_cqe(&ring_, &entry);
        }
        poll();
    }
    flusher_.reset();
    if (ring_ready_) io_uring_queue_exit(&ring_);
    if (direct_descriptor_ >= 0) ::close(direct_descriptor_);
    if (descriptor_ >= 0) ::close(descriptor_);
    for (const int descriptor : backing_descriptors_) ::close(descriptor);
}

// Whether direct I/O takes the operation's memory as it is.
bool FileMedium::aligned(const MediumOperation& operation) const {
    for (unsigned i = 0; i < operation.memory_count; ++i) {
        const iovec& piece = operation.memory[i];
        if (reinterpret_cast<std::uintptr_t>(piece.iov_base) % memory_align_ != 0 ||
            piece.iov_len % offset_align_ != 0) {
            return false;
        }
    }
    return true;
}

void FileMedium::prepare_zeroes() {
    if (zeroes_ != nullptr) return;
    constexpr std::size_t kAlignment = BounceMemory::kAlignment;
    zeroes_ = std::make_unique<std::byte[]>(kZeroBytes + kAlignment);
    const auto address = reinterpret_cast<std::uintptr_t>(zeroes_.get());
    aligned_zeroes_ = zeroes_.get() + (kAlignment - address % kAlignment) % kAlignment;
}

void FileMedium::start(MediumOperation& operation) {
    operation.progress = 0;
    operation.stage = kStageWrite;
    if (operation.kind == MediumOperation::Kind::kDeallocate) operation.stage = kStagePunch;
    if (operation.kind == MediumOperation::Kind::kWriteZeroes) {
        operation.stage = operation.may_deallocate && punch_hole_ ? kStagePunch
                          : zero_range_                           ? kStageZeroRange
                                                                  : kStageWrite;
    }
    ++in_flight_;
    const bool transfer = operation.kind == MediumOperation::Kind::kRead ||
                          operation.kind == MediumOperation::Kind::kWrite;
    if (transfer && direct() && !aligned(operation)) {
        std::unique_ptr<BounceMemory> bounce = BounceMemory::replace(operation);
        if (bounce == nullptr) return finish(operation, status_for(operation, ENOMEM));
        bounced_.emplace(&operation, std::move(bounce));
    }
    if (!ring_ready_) {
        run_blocking(operation);
        return;
    }
    if (backlog_head_ == nullptr && queue(operation)) return;
    operation.next = nullptr;
    (backlog_head_ == nullptr ? backlog_head_ : backlog_tail_->next) = &operation;
    backlog_tail_ = &operation;
}

// One flush at a time; what asks for one meanwhile shares the next, which begins after it asked.
bool FileMedium::queue_flush(MediumOperation& operation) {
    if (flusher_ == nullptr) {
        // The reactor outlives what it polls.
        auto flusher =
            FlushThread::create(descriptor_, [&reactor = reactor_] { reactor.notify(); });
        if (!flusher) return false;
        flusher_ = std::move(*flusher);
    }
    if (flusher_->running()) {
        to_flush_.push_back(&operation);
    } else {
        flushing_.push_back(&operation);
        flusher_->start(reactor_.yields_processor());
    }
    return true;
}

bool FileMedium::take_flushed() {
    int result = 0;
    if (flusher_ == nullptr || !flusher_->running()) return false;
    reactor_.yield_processor();  // the thread may wait for it
    if (!flusher_->take(result)) return false;
    std::vector<MediumOperation*> flushed = std::exchange(flushing_, std::exchange(to_flush_, {}));
    if (!flushing_.empty()) flusher_->start(reactor_.yields_processor());
    for (MediumOperation* operation : flushed) ended(*operation, result);
    return true;
}

bool FileMedium::queue(MediumOperation& operation) {
    if (operation.kind == MediumOperation::Kind::kFlush || operation.stage == kStageSync) {
        if (queue_flush(operation)) return true;
    }
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr) {
        submit();
        entry = io_uring_get_sqe(&ring_);
        if (entry == nullptr) return false;
    }
    const std::uint64_t at = operation.offset + operation.progress;
    const std::uint64_t left = operation.bytes - operation.progress;
    switch (operation.kind) {
        case MediumOperation::Kind::kRead:
            io_uring_prep_readv(entry, data_descriptor(), operation.memory, operation.memory_count,
                                at);
            break;
        case MediumOperation::Kind::kWrite:
            io_uring_prep_writev(entry, data_descriptor(), operation.memory, operation.memory_count,
                                 at);
            if (operation.force_unit_access) entry->rw_flags = RWF_DSYNC;
            break;
        case MediumOperation::Kind::kFlush:
            io_uring_prep_fsync(entry, descriptor_, IORING_FSYNC_DATASYNC);
            break;
        case MediumOperation::Kind::kDeallocate:
        case MediumOperation::Kind::kWriteZeroes:
            if (operation.stage == kStageSync) {
                io_uring_prep_fsync(entry, descriptor_, IORING_FSYNC_DATASYNC);
            } else if (operation.stage == kStageWrite) {
                prepare_zeroes();
                io_uring_prep_write(
                    entry, data_descriptor(), aligned_zeroes_,
                    static_cast<unsigned>(std::min<std::uint64_t>(left, kZeroBytes)), at);
            } else {
                const int mode =
                    FALLOC_FL_KEEP_SIZE |
                    (operation.stage == kStagePunch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
                io_uring_prep_fallocate(entry, descriptor_, mode, static_cast<off_t>(at),
                                        static_cast<off_t>(left));
            }
            break;
    }
    io_uring_sqe_set_data(entry, &operation);
    ++prepared_;
    return true;
}

void FileMedium::submit() {
    while (prepared_ != 0) {
        const int sent = io_uring_submit(&ring_);
        // EAGAIN, EBUSY: the kernel is short of something; the next poll() tries again.
        if (sent < 0) {
            if (sent == -EINTR) continue;
            return;
        }
        prepared_ -= std::min(prepared_, static_cast<unsigned>(sent));
        if (sent == 0) return;
    }
}

bool FileMedium::poll() {
    if (!ring_ready_ || in_flight_ == 0) return false;
    if (prepared_ != 0) submit();
    bool any = take_flushed();
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring_, &entry) == 0) {
        auto* operation = static_cast<MediumOperation*>(io_uring_cqe_get_data(entry));
        const int result = entry->res;
        io_uring_cqe_seen(&ring_, entry);
        any = true;
        ended(*operation, result);
    }
    while (backlog_head_ != nullptr) {
        MediumOperation* operation = backlog_head_;
        if (!queue(*operation)) break;
        backlog_head_ = operation->next;
    }
    if (prepared_ != 0) submit();
    return any;
}

void FileMedium::finish(MediumOperation& operation, MediumStatus status) {
    --in_flight_;
    if (!bounced_.empty()) {
        if (const auto bounced = bounced_.extract(&operation)) {
            if (operation.kind == MediumOperation::Kind::kRead && status.code == 0) {
                bounced.mapped()->copy_back();
            }
        }
    }
    operation.done(operation, status);
}

MediumStatus FileMedium::status_for(const MediumOperation& operation, int error) {
    const bool read = operation.kind == MediumOperation::Kind::kRead;
    if (!warned_) {
        warned_ = true;
        spdlog::error("{}: {} of {} bytes at {}: {}", properties_.name,
                      read                                              ? "read"
                      : operation.kind == MediumOperation::Kind::kFlush ? "flush"
                                                                        : "write",
                      operation.bytes, operation.offset, std::strerror(error));
    }
    if (error == ENOSPC && !block_device_ && !full_told_) {
        full_told_ = true;
        spdlog::error("{}: the filesystem that holds this file is full: make room there",
                      properties_.name);
    }
    switch (error) {
        case ENOSPC:
        case EDQUOT:
        case EFBIG:
            return MediumStatus(nvme::Status::kCapacityExceeded);
        case EROFS:
        case EPERM:
            return MediumStatus(nvme::Status::kNamespaceWriteProtected);
        case ENOMEM:
            return MediumStatus(nvme::Status::kInternalError, false);
        default:
            break;
    }
    return MediumStatus(read ? nvme::Status::kUnrecoveredReadError : nvme::Status::kWriteFault);
}

// One system call's worth of the operation has ended: goes on with the next, or finishes it.
void FileMedium::ended(MediumOperation& operation, int result) {
    const auto again = [&] {
        if (!ring_ready_) return;  // run_blocking() loops
        if (queue(operation)) return;
        operation.next = nullptr;
        (backlog_head_ == nullptr ? backlog_head_ : backlog_tail_->next) = &operation;
        backlog_tail_ = &operation;
    };
    if (result == -EINTR || result == -EAGAIN) {
        again();
        return;
    }
    using Kind = MediumOperation::Kind;
    const bool transfer = operation.kind == Kind::kRead || operation.kind == Kind::kWrite;
    const bool zeroing =
        operation.kind == Kind::kDeallocate || operation.kind == Kind::kWriteZeroes;
    if (result < 0) {
        // A file system that refuses direct I/O after all, and so has done none.
        if (transfer && result == -EINVAL && direct() && !transferred_) {
            spdlog::warn("{}: no direct I/O after all, using the page cache", properties_.name);
            direct_ = false;
            again();
            return;
        }
        const bool unsupported =
            result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
        if (zeroing && operation.stage < kStageWrite && unsupported) {
            (operation.stage == kStagePunch ? punch_hole_ : zero_range_) = false;
            if (operation.kind == Kind::kDeallocate) {
                // Deallocating is advice; the space stays in use.
                finish(operation, MediumStatus{});
                return;
            }
            operation.stage =
                operation.stage == kStagePunch && zero_range_ ? kStageZeroRange : kStageWrite;
            again();
            return;
        }
        finish(operation, status_for(operation, -result));
        return;
    }
    if (operation.kind == Kind::kFlush || operation.stage == kStageSync) {
        finish(operation, MediumStatus{});
        return;
    }
    if (zeroing && operation.stage != kStageWrite) {
        operation.progress = operation.bytes;
    } else {
        if (direct()) result -= result % static_cast<int>(offset_align_);
        // The file ends before the device does: somebody has cut it.
        if (result <= 0) {
            finish(operation, status_for(operation, EIO));
            return;
        }
        operation.progress += static_cast<std::uint64_t>(result);
        transferred_ = true;
        if (transfer) {
            auto done = static_cast<std::size_t>(result);
            while (done != 0 && operation.memory_count != 0) {
                iovec& piece = *operation.memory;
                const std::size_t step = std::min(done, piece.iov_len);
                piece.iov_base = static_cast<std::byte*>(piece.iov_base) + step;
                piece.iov_len -= step;
                done -= step;
                if (piece.iov_len == 0) {
                    ++operation.memory;
                    --operation.memory_count;
                }
            }
        }
    }
    if (operation.progress < operation.bytes) {
        again();
        return;
    }
    if (operation.kind == Kind::kWriteZeroes && operation.force_unit_access) {
        operation.stage = kStageSync;
        again();
        return;
    }
    finish(operation, MediumStatus{});
}

void FileMedium::run_blocking(MediumOperation& operation) {
    const std::size_t before = in_flight_;
    while (in_flight_ == before) {
        const auto at = static_cast<off_t>(operation.offset + operation.progress);
        const std::uint64_t left = operation.bytes - operation.progress;
        const auto pieces = static_cast<int>(operation.memory_count);
        long result = 0;
        switch (operation.kind) {
            case MediumOperation::Kind::kRead:
                result = preadv(data_descriptor(), operation.memory, pieces, at);
                break;
            case MediumOperation::Kind::kWrite:
                result = pwritev2(data_descriptor(), operation.memory, pieces, at,
                                  operation.force_unit_access ? RWF_DSYNC : 0);
                break;
            case MediumOperation::Kind::kFlush:
                result = fdatasync(descriptor_);
                break;
            case MediumOperation::Kind::kDeallocate:
            case MediumOperation::Kind::kWriteZeroes:
                if (operation.stage == kStageSync) {
                    result = fdatasync(descriptor_);
                } else if (operation.stage == kStageWrite) {
                    prepare_zeroes();
                    result = pwrite(data_descriptor(), aligned_zeroes_,
                                    std::min<std::uint64_t>(left, kZeroBytes), at);
                } else {
                    const int mode = FALLOC_FL_KEEP_SIZE |
                                     (operation.stage == kStagePunch ? FALLOC_FL_PUNCH_HOLE
                                                                     : FALLOC_FL_ZERO_RANGE);
                    result = fallocate(descriptor_, mode, at, static_cast<off_t>(left));
                }
                break;
        }
        ended(operation, result < 0 ? -errno : static_cast<int>(result));
    }
}

}  // namespace blobfs::driver
