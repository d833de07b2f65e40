#include "fs/fuse/request_ring.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

namespace blobfs::fs::fuse {

namespace {

// enum fuse_uring_cmd.
constexpr std::uint32_t kRegister = 1;
constexpr std::uint32_t kCommitAndFetch = 2;

// struct fuse_uring_cmd_req, in the second half of a submission entry of 128 bytes.
struct Command {
    std::uint64_t flags;
    std::uint64_t commit_id;
    std::uint16_t queue;
    std::array<std::uint8_t, 6> padding;
};
static_assert(sizeof(Command) == 24);

// What tells completions of the descriptor's poll from those of entries.
constexpr std::uint64_t kConnection = ~std::uint64_t{0};

bool is_end(int error) {
    return error == ENOTCONN || error == ECONNABORTED || error == ECANCELED || error == ENODEV;
}

}  // namespace

Result<std::size_t> RequestRing::queue_count() {
    // "0-3", or "0,2-5": the last number is the highest processor there could be.
    constexpr const char* kPath = "/sys/devices/system/cpu/possible";
    std::string text;
    std::getline(std::ifstream(kPath), text);
    const std::size_t last = text.find_last_of("-,");
    const std::string number = last == std::string::npos ? text : text.substr(last + 1);
    if (number.empty() || number.size() > 5 ||
        number.find_first_not_of("0123456789") != std::string::npos) {
        return fail(Errc::kNotSupported, "counting the processors");
    }
    return std::stoul(number) + 1;
}

Result<std::unique_ptr<RequestRing>> RequestRing::create(int descriptor,
                                                         std::span<Request* const> requests) {
    std::unique_ptr<RequestRing> ring(new RequestRing(descriptor));
    TRY(ring->start(requests));
    return ring;
}

Result<void> RequestRing::start(std::span<Request* const> requests) {
    TRY_ASSIGN(const std::size_t queues, queue_count());
    CHECK(requests.size() >= queues);
    io_uring_params parameters{};
    parameters.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
                       IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    const int error = io_uring_queue_init_params(static_cast<unsigned>(requests.size()) + 1, &ring_,
                                                 &parameters);
    if (error != 0) return fail(errno_error(-error, "making an io_uring for requests"));
    ring_ready_ = true;
    TRY(watch_release());
    entries_.resize(requests.size());
    watch_connection();
    for (std::size_t place = 0; place < requests.size(); ++place) {
        Entry& entry = entries_[place];
        entry.request = requests[place];
        entry.queue = static_cast<std::uint16_t>(place % queues);
        const auto payload = entry.request->data().first(kMaxTransferBytes);
        entry.memory = {iovec{.iov_base = &entry.header, .iov_len = sizeof(entry.header)},
                        iovec{.iov_base = payload.data(), .iov_len = payload.size()}};
        command(place, kRegister);
    }
    submit();
    return {};
}

// Entries that wait are cancelled some time after the ring is closed, and until then the kernel may put
// requests into their buffers: a connection may outlive the ring when files are still open.
RequestRing::~RequestRing() {
    if (!ring_ready_) return;
    submit();
    io_uring_queue_exit(&ring_);
    if (released_ < 0) return;
    pollfd end{.fd = released_, .events = POLLIN, .revents = 0};
    while (::poll(&end, 1, -1) < 0 && errno == EINTR) {
    }
    ::close(released_);
}

// The ring holds the only write end of a pipe, and lets it go as the last thing that it does.
Result<void> RequestRing::watch_release() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return fail(errno_error(errno, "making a pipe for the end of an io_uring"));
    }
    const int error = io_uring_register_files(&ring_, &ends[1], 1);
    ::close(ends[1]);
    if (error != 0) {
        ::close(ends[0]);
        return fail(errno_error(-error, "registering a file with an io_uring"));
    }
    released_ = ends[0];
    return {};
}

io_uring_sqe* RequestRing::next_submission() {
    io_uring_sqe* submission = io_uring_get_sqe(&ring_);
    CHECK(submission != nullptr);  // there is one for each entry, and one for the descriptor
    queued_ = true;
    return submission;
}

void RequestRing::watch_connection() {
    io_uring_sqe* submission = next_submission();
    io_uring_prep_poll_multishot(submission, connection_, POLLIN);
    submission->user_data = kConnection;
}

void RequestRing::command(std::size_t place, std::uint32_t operation) {
    Entry& entry = entries_[place];
    io_uring_sqe* submission = next_submission();
    std::memset(submission, 0, 2 * sizeof(*submission));
    submission->opcode = IORING_OP_URING_CMD;
    submission->fd = connection_;
    submission->cmd_op = operation;
    submission->user_data = place;
    Command command{.flags = 0, .commit_id = 0, .queue = entry.queue, .padding = {}};
    if (operation == kRegister) {
        submission->addr = reinterpret_cast<std::uint64_t>(entry.memory.data());
        submission->len = static_cast<std::uint32_t>(entry.memory.size());
    } else {
        command.commit_id = entry.header.commit_id;
    }
    std::memcpy(submission->cmd, &command, sizeof(command));
}

void RequestRing::submit() {
    if (!queued_) return;
    queued_ = false;
    const int sent = io_uring_submit_and_get_events(&ring_);
    // What was not taken stays in the ring for the next time.
    if (sent < 0 || io_uring_sq_ready(&ring_) != 0) queued_ = true;
}

Result<bool> RequestRing::poll(std::size_t most, absl::FunctionRef<void(std::size_t)> take) {
    if (queued_) {
        submit();
    } else if ((IO_URING_READ_ONCE(*ring_.sq.kflags) & IORING_SQ_TASKRUN) != 0) {
        (void)io_uring_get_events(&ring_);
    }
    std::size_t seen = 0;
    io_uring_cqe* completion = nullptr;
    for (; seen < most && io_uring_peek_cqe(&ring_, &completion) == 0; ++seen) {
        const io_uring_cqe done = *completion;
        io_uring_cqe_seen(&ring_, completion);
        if (done.user_data == kConnection) {
            readable_ = true;
            if ((done.flags & IORING_CQE_F_MORE) == 0 && done.res >= 0) watch_connection();
            continue;
        }
        Entry& entry = entries_[done.user_data];
        if (done.res < 0) {
            readable_ = true;  // which tells how the connection ended, if it has
            if (is_end(-done.res)) continue;
            return fail(errno_error(-done.res, entry.registered
                                                   ? "answering a request through io_uring"
                                                   : "registering io_uring entries for requests"));
        }
        entry.registered = true;
        fuse_in_header header;
        std::memcpy(&header, entry.header.in_out.data(), sizeof(header));
        if (!entry.request->received(header, entry.header.first_argument,
                                     entry.header.payload_bytes)) {
            return fail(Errc::kIo, "taking a request of the kernel: it is not whole");
        }
        take(done.user_data);
    }
    return seen != 0;
}

bool RequestRing::take_readable() { return std::exchange(readable_, false); }

void RequestRing::answer(std::size_t place, const fuse_out_header& header,
                         std::size_t payload_bytes) {
    Entry& entry = entries_[place];
    std::memcpy(entry.header.in_out.data(), &header, sizeof(header));
    entry.header.payload_bytes = static_cast<std::uint32_t>(payload_bytes);
    command(place, kCommitAndFetch);
}

void RequestRing::reply(std::size_t place, const Reply& reply) {
    const Request& request = *entries_[place].request;
    const std::size_t payload_bytes = reply.head_bytes + reply.data.size();
    const driver::DmaSpan payload = request.data();
    CHECK(payload_bytes <= kMaxTransferBytes);
    // The data may lie in the area already, where the head goes.
    if (!reply.data.empty() && reply.data.data() != payload.data() + reply.head_bytes) {
        std::memmove(payload.data() + reply.head_bytes, reply.data.data(), reply.data.size());
    }
    std::memcpy(payload.data(), request.reply_area() + sizeof(fuse_out_header), reply.head_bytes);
    answer(place,
           {.len = static_cast<std::uint32_t>(sizeof(fuse_out_header) + payload_bytes),
            .error = 0,
            .unique = request.header().unique},
           payload_bytes);
}

void RequestRing::reply_error(std::size_t place, int error_number) {
    answer(place,
           {.len = sizeof(fuse_out_header),
            .error = -error_number,
            .unique = entries_[place].request->header().unique},
           0);
}

}  // namespace blobfs::fs::fuse
