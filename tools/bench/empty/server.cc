#include "tools/bench/empty/server.h"

#include <fcntl.h>
#include <immintrin.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "fs/fuse/channel.h"
#include "fs/fuse/greeting.h"

namespace blobfs::bench {

using fs::fuse::kDataOffset;
using fs::fuse::kMaxTransferBytes;
using fs::fuse::kRequestBufferBytes;
using fs::fuse::kWriteHeadBytes;
using fs::fuse::Received;
using fs::fuse::Reply;
using fs::fuse::Request;

namespace {

constexpr unsigned kReadAheadKib = 1024;

// One writer, so no locked instruction is needed.
void count(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

}  // namespace

Server::Server(const fs::fuse::KernelMount& mount, Waiting waiting)
    : mount_(mount), connection_(mount.descriptor()), memory_(kRequestBufferBytes + kDataOffset) {
    wait_by(waiting);
}

void Server::wait_by(Waiting waiting) const {
    const int flags = ::fcntl(connection_.descriptor(), F_GETFL);
    ::fcntl(connection_.descriptor(), F_SETFL,
            waiting == Waiting::kSpinning ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

Result<void> Server::run() {
    void* begin = memory_.data();
    std::size_t room = memory_.size();
    std::align(kDataOffset, kRequestBufferBytes, begin, room);
    Request request(std::span(static_cast<std::byte*>(begin), kRequestBufferBytes));
    while (true) {
        TRY_ASSIGN(const Received received, connection_.receive(request));
        switch (received) {
            case Received::kRequest:
                TRY(answer(request));
                break;
            case Received::kNothing:
                _mm_pause();
                break;
            case Received::kUnmounted:
            case Received::kAborted:
                return {};
        }
    }
}

Result<void> Server::answer(const Request& request) {
    const std::uint32_t opcode = request.header().opcode;
    count(by_opcode_[std::min<std::size_t>(opcode, by_opcode_.size() - 1)]);
    switch (opcode) {
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
            filesystem_.forget(request);
            return {};
        case FUSE_INTERRUPT:
            return {};
        case FUSE_INIT:
            return greet(request);
        case FUSE_DESTROY:
            connection_.reply(request, Reply{});
            return {};
        default:
            break;
    }
    const Result<Reply> reply = filesystem_.serve(request);
    if (!reply) {
        connection_.reply_error(request, to_errno(reply.error()));
        return {};
    }
    connection_.reply(request, *reply);
    if (opcode == FUSE_READ) {
        count(bytes_read_, reply->data.size());
    } else if (opcode == FUSE_WRITE) {
        count(bytes_written_, request.header().len - kWriteHeadBytes);
    }
    return {};
}

Result<void> Server::greet(const Request& request) const {
    fuse_init_in greeting{};
    const auto bytes = request.arguments().rest();
    std::memcpy(&greeting, bytes.data(), std::min(bytes.size(), sizeof(greeting)));
    // As blobfs-fuse answers: the floor is that of what it negotiates.
    const fs::fuse::ChannelOptions same;
    TRY_ASSIGN(request.head<fuse_init_out>(),
               fs::fuse::answer_greeting(greeting, {.max_write_bytes = kMaxTransferBytes,
                                                    .max_readahead_bytes = same.max_readahead,
                                                    .max_background = same.max_background}));
    connection_.reply(request, {.head_bytes = sizeof(fuse_init_out)});
    if (greeting.major == FUSE_KERNEL_VERSION) mount_.raise_limits(kReadAheadKib);
    return {};
}

std::string Server::statistics() const {
    nlohmann::json requests = nlohmann::json::object();
    for (std::size_t opcode = 0; opcode < by_opcode_.size(); ++opcode) {
        const std::uint64_t number = by_opcode_[opcode].load(std::memory_order_relaxed);
        if (number == 0) continue;
        requests[std::string(fs::fuse::opcode_name(static_cast<std::uint32_t>(opcode)))] = number;
    }
    return nlohmann::json{{"requests", requests},
                          {"bytes_read", bytes_read_.load(std::memory_order_relaxed)},
                          {"bytes_written", bytes_written_.load(std::memory_order_relaxed)}}
        .dump();
}

}  // namespace blobfs::bench
