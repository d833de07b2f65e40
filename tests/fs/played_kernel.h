#pragma once

// The kernel's side of a FUSE connection, played by the other end of a socket pair, which keeps the
// bounds of messages as /dev/fuse does.

#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "fs/inode_format.h"

namespace blobfs::fs::fuse {

class PlayedKernel {
  public:
    PlayedKernel() {
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends.data()), 0);
        const int bytes = 4 << 20;
        for (const int end : ends) ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
        std::tie(daemons_, own_) = std::pair(ends[0], ends[1]);
    }
    ~PlayedKernel() {
        hang_up();
        ::close(daemons_);
    }
    PlayedKernel(const PlayedKernel&) = delete;
    PlayedKernel& operator=(const PlayedKernel&) = delete;

    // What a channel is made for; ends with this.
    [[nodiscard]] int daemons_end() const { return daemons_; }
    void hang_up() {
        if (own_ >= 0) ::close(std::exchange(own_, -1));
    }

    struct Asker {
        InodeNumber inode{1};
        std::uint32_t uid = 0;
    };
    // A request: a header and what follows.
    void send(std::uint32_t opcode, std::uint64_t unique, const Asker& asker,
              const std::string& body) {
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(sizeof(header) + body.size());
        header.opcode = opcode;
        header.unique = unique;
        header.nodeid = value(asker.inode);
        header.uid = asker.uid;
        send(bytes_of(header) + body);
    }
    void send(const std::string& message) {
        ASSERT_EQ(::send(own_, message.data(), message.size(), 0),
                  static_cast<ssize_t>(message.size()));
    }

    struct Answer {
        fuse_out_header header{};
        std::string body;
    };
    // An answer or a notice, if there is one.
    std::optional<Answer> receive() {
        std::string message(std::size_t{2} << 20, '\0');
        const ssize_t bytes = ::recv(own_, message.data(), message.size(), 0);
        if (bytes < static_cast<ssize_t>(sizeof(fuse_out_header))) return std::nullopt;
        Answer answer;
        std::memcpy(&answer.header, message.data(), sizeof(answer.header));
        EXPECT_EQ(answer.header.len, bytes);
        answer.body = message.substr(sizeof(answer.header),
                                     static_cast<std::size_t>(bytes) - sizeof(answer.header));
        return answer;
    }

    template <class T>
    static std::string bytes_of(const T& value) {
        return {reinterpret_cast<const char*>(&value), sizeof(value)};
    }

  private:
    int daemons_ = -1, own_ = -1;
};

}  // namespace blobfs::fs::fuse
