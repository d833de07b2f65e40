#include "fs/fuse/channel.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "fs/fuse/greeting.h"

namespace blobfs::fs::fuse {

namespace {

// Requests taken in one turn of the reactor: enough to make batches for the device, few enough
// that it works on these while the next are taken (README.md has what was measured).
constexpr unsigned kRequestsPerTurn = 8;
// No more is read from the descriptor in a turn that has brought this much: a large WRITE is copied
// by the kernel while it is read, and the device might write it meanwhile.
constexpr std::size_t kBytesPerTurn = 128 * 1024;
// Buffers that are not the ring's: for what comes through the descriptor only.
constexpr std::size_t kKeptFromRing = 8;

}  // namespace

Channel::Channel(driver::Reactor& reactor, Service& service, int descriptor,
                 const ChannelOptions& options)
    : reactor_(reactor), service_(service), connection_(descriptor), options_(options) {}

Result<std::unique_ptr<Channel>> Channel::create(driver::Reactor& reactor, Service& service,
                                                 int descriptor, const ChannelOptions& options) {
    std::unique_ptr<Channel> channel(new Channel(reactor, service, descriptor, options));
    for (std::size_t i = 0; i < options.requests; ++i) {
        TRY_ASSIGN(driver::DmaBuffer buffer, driver::DmaBuffer::allocate(kRequestBufferBytes));
        channel->slots_.push_back(std::make_unique<Slot>(std::move(buffer)));
        Slot& slot = *channel->slots_.back();
        slot.request.set_answer(
            [&channel = *channel, &slot](const Reply& reply) { channel.answer(slot, reply); });
        channel->free_.push_back(&slot);
    }
    return channel;
}

Channel::~Channel() { CHECK(in_flight_.count() == 0); }

bool Channel::poll() {
    if (ring_ == nullptr) return read_requests();
    if (!reading_) {
        ring_->submit();
        return false;
    }
    const Result<bool> worked =
        ring_->poll(kRequestsPerTurn, [this](std::size_t place) { dispatch(*ring_slots_[place]); });
    if (!worked) {
        spdlog::error("{}; the mount is given up", worked.error().message());
        end(End::kFailed);
        return true;
    }
    readable_ = ring_->take_readable() || readable_;
    return (readable_ && read_requests()) || *worked;
}

bool Channel::read_requests() {
    bool worked = false;
    std::size_t bytes = 0;
    for (unsigned i = 0;
         i < kRequestsPerTurn && bytes < kBytesPerTurn && reading_ && !free_.empty(); ++i) {
        Slot& slot = *free_.back();
        const Result<Received> received = connection_.receive(slot.request);
        if (!received) {
            spdlog::error("{}; the mount is given up", received.error().message());
            end(End::kFailed);
            return true;
        }
        switch (*received) {
            case Received::kNothing:
                readable_ = false;
                return worked;
            case Received::kUnmounted:
                end(End::kUnmounted);
                return true;
            case Received::kAborted:
                end(End::kAborted);
                return true;
            case Received::kRequest:
                break;
        }
        worked = true;
        free_.pop_back();
        bytes += slot.request.header().len;
        dispatch(slot);
    }
    return worked;
}

void Channel::dispatch(Slot& slot) {
    const Request& request = slot.request;
    const std::uint32_t opcode = request.header().opcode;
    ++statistics_.requests;
    if (slot.ring_place) ++statistics_.by_io_uring;
    ++statistics_.by_opcode[std::min<std::size_t>(opcode, statistics_.by_opcode.size() - 1)];
    switch (opcode) {
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
            service_.forget(request);
            release(slot);
            return;
        case FUSE_INTERRUPT:  // every request ends by itself
        case FUSE_NOTIFY_REPLY:
            release(slot);
            return;
        case FUSE_INIT:
            greet(slot);
            release(slot);
            return;
        case FUSE_DESTROY:
            reply(slot, Reply{});
            release(slot);
            return;
        default:
            break;
    }
    if (refused(request)) {
        reply_error(slot, EACCES);
        release(slot);
        return;
    }
    in_flight_.add();
    statistics_.most_in_flight = std::max(statistics_.most_in_flight, in_flight_.count());
    reactor_.spawn_now([this, &slot](driver::Suspend& suspend) { run(suspend, slot); });
}

void Channel::run(driver::Suspend& suspend, Slot& slot) {
    Request& request = slot.request;
    const Result<Reply> reply = service_.serve(suspend, request);
    if (request.answered()) {
        if (!reply) ++statistics_.errors;  // the service tells the next one who asks
    } else if (reply) {
        answer(slot, *reply);
    } else {
        const int number = to_errno(reply.error());
        if (number != ENOENT && number != ENOSYS && number != ENODATA) ++statistics_.errors;
        forget_stale(request);
        if (!reply_error(slot, number)) ++statistics_.undelivered;
    }
    if (options_.trace) {
        const fuse_in_header& header = request.header();
        spdlog::debug("{} {} inode {} ({} bytes, pid {}): {}", header.unique,
                      opcode_name(header.opcode), header.nodeid, header.len, header.pid,
                      reply ? std::to_string(reply->head_bytes + reply->data.size()) + " bytes"
                            : reply.error().message());
    }
    release(slot);
    in_flight_.done();
}

void Channel::answer(Slot& slot, const Reply& reply) {
    const Request& request = slot.request;
    forget_stale(request);
    if (!this->reply(slot, reply)) {
        service_.undelivered(request, reply);
        ++statistics_.undelivered;
    }
    if (request.header().opcode == FUSE_READ) {
        statistics_.bytes_read += reply.data.size();
    } else if (request.header().opcode == FUSE_WRITE) {
        statistics_.bytes_written += request.header().len - kWriteHeadBytes;
    }
}

// Before the answer, so that whoever waits for it cannot go by the old ones.
void Channel::forget_stale(const Request& request) {
    if (request.stale_inode() != InodeNumber{}) {
        connection_.forget_attributes(request.stale_inode());
    }
}

bool Channel::reply(Slot& slot, const Reply& reply) {
    if (!slot.ring_place) return connection_.reply(slot.request, reply);
    ring_->reply(*slot.ring_place, reply);
    return true;
}

bool Channel::reply_error(Slot& slot, int error_number) {
    if (!slot.ring_place) return connection_.reply_error(slot.request, error_number);
    ring_->reply_error(*slot.ring_place, error_number);
    return true;
}

void Channel::greet(Slot& slot) {
    const Request& request = slot.request;
    ArgumentReader arguments = request.arguments();
    // Kernels before 5.17 send a shorter greeting; what they do not send is zero.
    fuse_init_in greeting{};
    const auto bytes = arguments.rest();
    std::memcpy(&greeting, bytes.data(), std::min(bytes.size(), sizeof(greeting)));
    const Result<fuse_init_out> answer =
        answer_greeting(greeting, {.max_write_bytes = kMaxTransferBytes,
                                   .max_readahead_bytes = options_.max_readahead,
                                   .max_background = options_.max_background,
                                   .io_uring = options_.io_uring && can_use_ring()});
    if (!answer) {
        spdlog::error("{}", answer.error().message());
        connection_.reply_error(request, EPROTO);
        end(End::kFailed);
        return;
    }
    request.head<fuse_init_out>() = *answer;
    connection_.reply(request, {.head_bytes = sizeof(fuse_init_out)});
    if (greeting.major > FUSE_KERNEL_VERSION) return;
    spdlog::debug("FUSE {}.{}, capabilities {:#x} of {:#x}", greeting.major, greeting.minor,
                  std::uint64_t{answer->flags2} << 32 | answer->flags,
                  std::uint64_t{greeting.flags2} << 32 | greeting.flags);
    const bool ring = (std::uint64_t{answer->flags2} << 32 & kOverIoUring) != 0;
    if (ring && !start_ring()) {
        end(End::kFailed);
        return;
    }
    if (options_.io_uring && !ring) {
        spdlog::warn(
            "the kernel does not offer FUSE over io_uring (Linux 6.14, with "
            "/sys/module/fuse/parameters/enable_uring set to Y); going on without");
    }
    if (!std::exchange(greeted_, true) && on_ready) on_ready();
}

// A request at least for each queue of the kernel.
bool Channel::can_use_ring() const {
    const Result<std::size_t> queues = RequestRing::queue_count();
    return queues && slots_.size() >= kKeptFromRing + *queues;
}

// From the answered greeting on the kernel sends nothing before all queues have an entry.
bool Channel::start_ring() {
    while (free_.size() > kKeptFromRing) {
        ring_slots_.push_back(free_.back());
        free_.pop_back();
    }
    std::vector<Request*> requests;
    for (std::size_t place = 0; place < ring_slots_.size(); ++place) {
        ring_slots_[place]->ring_place = place;
        ring_slots_[place]->request.set_answer(nullptr);
        requests.push_back(&ring_slots_[place]->request);
    }
    auto ring = RequestRing::create(connection_.descriptor(), requests);
    if (!ring) {
        spdlog::error("{}; mount without io_uring", ring.error().message());
        return false;
    }
    ring_ = std::move(*ring);
    return true;
}

bool Channel::refused(const Request& request) const {
    if (!options_.owner_and_root) return false;
    const fuse_in_header& header = request.header();
    if (header.uid == 0 || header.uid == *options_.owner_and_root) return false;
    // What the kernel does on its own behalf, for files that were opened before, goes on.
    switch (header.opcode) {
        case FUSE_READ:
        case FUSE_WRITE:
        case FUSE_FSYNC:
        case FUSE_RELEASE:
        case FUSE_READDIR:
        case FUSE_READDIRPLUS:
        case FUSE_FSYNCDIR:
        case FUSE_RELEASEDIR:
            return false;
        default:
            return true;
    }
}

void Channel::end(End how) {
    reading_ = false;
    if (on_end) std::exchange(on_end, nullptr)(how);
}

void Channel::release(Slot& slot) {
    if (!slot.ring_place) free_.push_back(&slot);
}

Channel::Statistics Channel::statistics() const {
    Statistics copy = statistics_;
    copy.in_flight = in_flight_.count();
    return copy;
}

std::string Channel::describe() const {
    std::string text = "requests " + std::to_string(statistics_.requests) + " (" +
                       std::to_string(statistics_.by_io_uring) + " by io_uring), in flight " +
                       std::to_string(in_flight_.count()) + " (most " +
                       std::to_string(statistics_.most_in_flight) + "), errors " +
                       std::to_string(statistics_.errors) + ", undelivered " +
                       std::to_string(statistics_.undelivered) + ", bytes read " +
                       std::to_string(statistics_.bytes_read) + ", written " +
                       std::to_string(statistics_.bytes_written) + ";";
    for (std::size_t i = 0; i < statistics_.by_opcode.size(); ++i) {
        if (statistics_.by_opcode[i] == 0) continue;
        text += ' ';
        text += opcode_name(static_cast<std::uint32_t>(i));
        text += ' ' + std::to_string(statistics_.by_opcode[i]);
    }
    return text;
}

}  // namespace blobfs::fs::fuse
