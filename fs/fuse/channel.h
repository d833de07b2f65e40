#pragma once

// The FUSE channel: takes the kernel's requests from a connection, runs each on a fiber of its own
// and answers it once. Served by the reactor as one of its pollers: a request runs from read to
// reply without changing thread, unless it waits for the device. Reactor thread.
//
// Requests are read into a fixed pool of buffers (request.h). When all are in use nothing is read:
// the kernel's queue is the back-pressure. With FUSE over io_uring (request_ring.h) most buffers
// are the kernel's from the beginning, and requests come there.

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "driver/base/result.h"
#include "driver/memory/dma_buffer.h"
#include "driver/reactor/fiber.h"
#include "driver/reactor/reactor.h"
#include "fs/fuse/connection.h"
#include "fs/fuse/request.h"
#include "fs/fuse/request_ring.h"

namespace blobfs::fs::fuse {

// What requests are for. Implemented by Operations; tests have their own.
class Service {
  public:
    virtual ~Service() = default;
    // Carries a request out, on its fiber; the channel sends what is returned. ENOSYS (kSystem)
    // tells the kernel not to ask again where the protocol says so. Of a request that was answered
    // early (Request::answer_early()) the result is not sent.
    virtual Result<Reply> serve(driver::Suspend& suspend, Request& request) = 0;
    // FORGET and BATCH_FORGET, which are not answered; must not suspend.
    virtual void forget(const Request& request) = 0;
    // The kernel did not take the reply to this request: references in it are nobody's.
    virtual void undelivered(const Request& request, const Reply& reply) = 0;
};

struct ChannelOptions {
    std::size_t requests = 96;          // in flight at most; a buffer each
    std::uint16_t max_background = 64;  // of these, the kernel's read-ahead and asynchronous I/O
    std::uint32_t max_readahead = 1u << 20;
    std::optional<uid_t> owner_and_root = {};  // allow_root: everybody else gets EACCES
    bool io_uring = false;                     // if the kernel offers it
    bool trace = false;                        // each request and its answer to the log
};

class Channel final : public driver::Poller {
  public:
    // Allocates the buffers: ChannelOptions::requests * kRequestBufferBytes of DMA memory.
    static Result<std::unique_ptr<Channel>> create(driver::Reactor& reactor, Service& service,
                                                   int descriptor, const ChannelOptions& options);
    ~Channel() override;  // REQUIRES drained

    enum class End : std::uint8_t { kUnmounted, kAborted, kFailed };
    // Called once, when nothing will come any more.
    std::function<void(End)> on_end;
    // Called once, when the kernel's greeting was answered: from then on requests are served.
    std::function<void()> on_ready;

    bool poll() override;
    // What a request waits for wakes the reactor.
    [[nodiscard]] bool needs_polling() const override { return false; }
    [[nodiscard]] bool busy() const override { return in_flight_.count() != 0; }
    [[nodiscard]] int wake_descriptor() const override {
        if (!reading_) return -1;
        return ring_ != nullptr ? ring_->descriptor() : connection_.descriptor();
    }

    // Reads no more requests; those in flight go on.
    void stop_reading() { reading_ = false; }
    // Waits until every request that was read is answered.
    void drain(driver::Suspend& suspend) { in_flight_.wait(suspend); }

    struct Statistics {
        std::uint64_t requests = 0;
        std::uint64_t by_io_uring = 0;  // of these
        std::uint64_t errors = 0;       // answered with an error, "no such file" excepted
        std::uint64_t undelivered = 0;  // replies that the kernel did not take
        std::uint64_t bytes_read = 0, bytes_written = 0;
        std::size_t in_flight = 0, most_in_flight = 0;
        std::array<std::uint64_t, 64> by_opcode{};  // the last one: all that are beyond
    };
    [[nodiscard]] Statistics statistics() const;
    // One line for the log.
    [[nodiscard]] std::string describe() const;

  private:
    struct Slot {
        explicit Slot(driver::DmaBuffer memory)
            : buffer(std::move(memory)), request(buffer.span()) {}
        driver::DmaBuffer buffer;
        Request request;
        std::optional<std::size_t> ring_place;  // of the buffers that the ring has
    };

    Channel(driver::Reactor& reactor, Service& service, int descriptor,
            const ChannelOptions& options);
    bool read_requests();
    bool reply(Slot& slot, const Reply& reply);
    bool reply_error(Slot& slot, int error_number);
    [[nodiscard]] bool can_use_ring() const;
    bool start_ring();
    void dispatch(Slot& slot);
    void run(driver::Suspend& suspend, Slot& slot);
    void answer(Slot& slot, const Reply& reply);
    void forget_stale(const Request& request);
    void greet(Slot& slot);
    void end(End how);
    [[nodiscard]] bool refused(const Request& request) const;
    void release(Slot& slot);

    driver::Reactor& reactor_;
    Service& service_;
    const Connection connection_;
    const ChannelOptions options_;
    std::vector<std::unique_ptr<Slot>> slots_;
    std::vector<Slot*> free_;  // last in, first out: warm buffers first, cold ones stay untouched
    std::vector<Slot*> ring_slots_;
    std::unique_ptr<RequestRing> ring_;
    driver::WaitGroup in_flight_;
    bool reading_ = true;
    bool readable_ = true;  // with a ring: whether the descriptor is worth a look
    bool greeted_ = false;
    Statistics statistics_;
};

}  // namespace blobfs::fs::fuse
