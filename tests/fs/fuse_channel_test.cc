// The channel against a played kernel.

#include "fs/fuse/channel.h"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "driver/memory/environment.h"
#include "fs/fuse/greeting.h"
#include "tests/fs/played_kernel.h"

namespace blobfs::fs::fuse {
namespace {

using driver::Suspend;

// Answers READ with as many bytes as asked, WRITE with its size, LOOKUP of "missing" with ENOENT;
// keeps requests waiting while it is told to.
class PlayedService final : public Service {
  public:
    Result<Reply> serve(Suspend& suspend, Request& request) override {
        ++started;
        while (hold) gate.wait(suspend);
        switch (request.header().opcode) {
            case FUSE_READ: {
                ArgumentReader arguments = request.arguments();
                const auto in = arguments.take<fuse_read_in>();
                const auto data = request.data().first(in->size);
                std::memset(data.data(), 'r', data.size());
                return Reply{.data = data};
            }
            case FUSE_WRITE: {
                ArgumentReader arguments = request.arguments();
                const auto in = arguments.take<fuse_write_in>();
                payload = arguments.rest().data();
                written.assign(reinterpret_cast<const char*>(payload), in->size);
                request.make_stale(stale_inode);
                request.head<fuse_write_out>().size = in->size;
                return Reply{.head_bytes = sizeof(fuse_write_out)};
            }
            default:
                return fail(Errc::kNotFound, "looking");
        }
    }
    void forget(const Request&) override { ++forgotten; }
    void undelivered(const Request&, const Reply&) override { ++lost; }

    driver::WaitQueue gate;
    bool hold = false;
    InodeNumber stale_inode{};
    int started = 0, forgotten = 0, lost = 0;
    const std::byte* payload = nullptr;
    std::string written;
};

class FuseChannel : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(driver::start_environment({.memory_bytes = std::size_t{64} << 20}));
    }
    void TearDown() override {
        if (channel_) {
            reactor_.block_on([this](Suspend& suspend) { channel_->drain(suspend); });
        }
        channel_.reset();
    }

    void open_channel(const ChannelOptions& options) {
        auto channel = Channel::create(reactor_, service_, kernel_.daemons_end(), options);
        ASSERT_TRUE(channel) << channel.error().message();
        channel_ = std::move(*channel);
        channel_->on_end = [this](Channel::End how) { end_ = how; };
        channel_->on_ready = [this] { ready_ = true; };
    }

    void send(std::uint32_t opcode, std::uint64_t unique, const std::string& body,
              std::uint32_t uid = 0) {
        kernel_.send(opcode, unique, {.uid = uid}, body);
    }
    // What the kernel has got, if anything.
    std::optional<PlayedKernel::Answer> receive() { return kernel_.receive(); }

    template <class T>
    static std::string bytes_of(const T& value) {
        return PlayedKernel::bytes_of(value);
    }
    static std::string write_of(const std::string& text) {
        fuse_write_in in{};
        in.size = static_cast<std::uint32_t>(text.size());
        return bytes_of(in) + text;
    }
    static std::string read_of(std::uint32_t bytes) {
        fuse_read_in in{};
        in.size = bytes;
        return bytes_of(in);
    }

    PlayedKernel kernel_;
    driver::Reactor reactor_;
    PlayedService service_;
    std::unique_ptr<Channel> channel_;
    std::optional<Channel::End> end_;
    bool ready_ = false;
};

TEST_F(FuseChannel, PayloadOfAWriteBeginsOnAPage) {
    open_channel({.requests = 2});
    send(FUSE_WRITE, 7, write_of("what was written"));
    EXPECT_TRUE(channel_->poll());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(service_.payload) % 4096, 0u);
    EXPECT_EQ(service_.written, "what was written");
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->header.unique, 7u);
    EXPECT_EQ(answer->header.error, 0);
}

TEST_F(FuseChannel, ReplyOfAReadIsWhole) {
    open_channel({.requests = 2});
    send(FUSE_READ, 8, read_of(100'000));
    EXPECT_TRUE(channel_->poll());
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->body, std::string(100'000, 'r'));
    EXPECT_FALSE(receive());
}

TEST_F(FuseChannel, KernelForgetsStaleAttributesBeforeItHasTheReply) {
    open_channel({.requests = 2});
    service_.stale_inode = InodeNumber{42};
    send(FUSE_WRITE, 7, write_of("x"));
    EXPECT_TRUE(channel_->poll());
    const auto notice = receive();
    ASSERT_TRUE(notice);
    EXPECT_EQ(notice->header.unique, 0u);
    EXPECT_EQ(notice->header.error, FUSE_NOTIFY_INVAL_INODE);
    fuse_notify_inval_inode_out out;
    ASSERT_EQ(notice->body.size(), sizeof(out));
    std::memcpy(&out, notice->body.data(), sizeof(out));
    EXPECT_EQ(out.ino, 42u);
    EXPECT_LT(out.off, 0);
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->header.unique, 7u);
}

TEST_F(FuseChannel, AnErrorIsAnsweredOnceAsANegativeErrno) {
    open_channel({.requests = 2});
    send(FUSE_LOOKUP, 9, std::string("missing\0", 8));
    EXPECT_TRUE(channel_->poll());
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->header.error, -ENOENT);
    EXPECT_TRUE(answer->body.empty());
    EXPECT_FALSE(receive());
}

TEST_F(FuseChannel, ForgetAndInterruptAreNotAnswered) {
    open_channel({.requests = 1});
    send(FUSE_FORGET, 1, bytes_of(fuse_forget_in{.nlookup = 1}));
    send(FUSE_INTERRUPT, 2, bytes_of(fuse_interrupt_in{.unique = 1}));
    send(FUSE_BATCH_FORGET, 3, bytes_of(fuse_batch_forget_in{}));
    while (channel_->poll()) {
    }
    EXPECT_EQ(service_.forgotten, 2);
    EXPECT_FALSE(receive());
    EXPECT_FALSE(channel_->needs_polling());
}

TEST_F(FuseChannel, RequestsBeyondTheBuffersWaitInTheKernel) {
    open_channel({.requests = 2});
    service_.hold = true;
    for (std::uint64_t i = 1; i <= 3; ++i) send(FUSE_READ, i, read_of(10));
    while (channel_->poll()) {
    }
    EXPECT_EQ(service_.started, 2);
    EXPECT_TRUE(channel_->busy());
    service_.hold = false;
    reactor_.block_on([this](Suspend& suspend) {
        service_.gate.wake_all();
        channel_->drain(suspend);
    });
    while (channel_->poll()) {
    }
    EXPECT_EQ(service_.started, 3);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(receive());
    EXPECT_FALSE(channel_->needs_polling());
}

TEST_F(FuseChannel, LargeWriteIsOnItsWayBeforeTheNextOneIsRead) {
    open_channel({.requests = 3});
    send(FUSE_WRITE, 1, write_of(std::string(200'000, 'a')));
    send(FUSE_WRITE, 2, write_of("small"));
    send(FUSE_WRITE, 3, write_of("too"));
    EXPECT_TRUE(channel_->poll());
    EXPECT_EQ(service_.started, 1);
    EXPECT_TRUE(channel_->poll());
    EXPECT_EQ(service_.started, 3);
}

TEST_F(FuseChannel, DrainWaitsForWhatIsInFlight) {
    open_channel({.requests = 2});
    service_.hold = true;
    send(FUSE_READ, 1, read_of(10));
    channel_->poll();
    channel_->stop_reading();
    bool drained = false;
    reactor_.spawn([&](Suspend& suspend) {
        channel_->drain(suspend);
        drained = true;
    });
    reactor_.block_on([&](Suspend& suspend) { suspend.yield(); });
    EXPECT_FALSE(drained);
    service_.hold = false;
    service_.gate.wake_all();
    reactor_.block_on([&](Suspend& suspend) {
        channel_->drain(suspend);
        suspend.yield();
    });
    EXPECT_TRUE(drained);
    EXPECT_TRUE(receive());
}

TEST_F(FuseChannel, StoppedChannelLeavesRequestsWhereTheyAre) {
    open_channel({.requests = 2});
    channel_->stop_reading();
    send(FUSE_READ, 1, read_of(10));
    EXPECT_FALSE(channel_->poll());
    EXPECT_EQ(service_.started, 0);
    EXPECT_EQ(channel_->wake_descriptor(), -1);
}

TEST_F(FuseChannel, EndOfTheConnectionIsToldOnce) {
    open_channel({.requests = 2});
    kernel_.hang_up();
    EXPECT_TRUE(channel_->poll());
    EXPECT_EQ(end_, Channel::End::kUnmounted);
    end_.reset();
    EXPECT_FALSE(channel_->poll());
    EXPECT_FALSE(end_);
}

TEST_F(FuseChannel, ReplyThatNobodyTookIsGivenBack) {
    open_channel({.requests = 2});
    service_.hold = true;
    send(FUSE_READ, 1, read_of(10));
    channel_->poll();
    kernel_.hang_up();
    service_.hold = false;
    service_.gate.wake_all();
    reactor_.block_on([this](Suspend& suspend) { channel_->drain(suspend); });
    EXPECT_EQ(service_.lost, 1);
    EXPECT_EQ(channel_->statistics().undelivered, 1u);
}

TEST_F(FuseChannel, OthersThanOwnerAndRootAreRefusedWhenAsked) {
    open_channel({.requests = 2, .owner_and_root = 1000});
    send(FUSE_LOOKUP, 1, std::string("missing\0", 8), 1001);
    send(FUSE_LOOKUP, 2, std::string("missing\0", 8), 1000);
    send(FUSE_LOOKUP, 3, std::string("missing\0", 8), 0);
    // The kernel reads on behalf of whoever opened the file.
    send(FUSE_READ, 4, read_of(10), 1001);
    while (channel_->poll()) {
    }
    EXPECT_EQ(receive()->header.error, -EACCES);
    EXPECT_EQ(receive()->header.error, -ENOENT);
    EXPECT_EQ(receive()->header.error, -ENOENT);
    EXPECT_EQ(receive()->header.error, 0);
}

TEST_F(FuseChannel, GreetingIsAnsweredBeforeItIsReady) {
    open_channel({.requests = 2, .max_background = 48});
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = 45;
    in.max_readahead = 128 << 10;
    in.flags = ~0u;
    send(FUSE_INIT, 1, bytes_of(in));
    EXPECT_TRUE(channel_->poll());
    EXPECT_TRUE(ready_);
    const auto answer = receive();
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->body.size(), sizeof(fuse_init_out));
    fuse_init_out out;
    std::memcpy(&out, answer->body.data(), sizeof(out));
    EXPECT_EQ(out.max_background, 48);
    EXPECT_EQ(out.max_write, kMaxTransferBytes);
    EXPECT_EQ(out.max_readahead, 128u << 10);
}

TEST_F(FuseChannel, KernelThatIsTooOldEndsTheConnection) {
    open_channel({.requests = 2});
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = 33;
    send(FUSE_INIT, 1, bytes_of(in));
    EXPECT_TRUE(channel_->poll());
    EXPECT_FALSE(ready_);
    EXPECT_EQ(end_, Channel::End::kFailed);
    EXPECT_EQ(receive()->header.error, -EPROTO);
}

TEST_F(FuseChannel, RequestWhoseLengthIsWrongEndsTheConnection) {
    open_channel({.requests = 2});
    fuse_in_header header{};
    header.len = 1000;
    header.opcode = FUSE_GETATTR;
    kernel_.send(bytes_of(header));
    EXPECT_TRUE(channel_->poll());
    EXPECT_EQ(end_, Channel::End::kFailed);
    EXPECT_EQ(service_.started, 0);
}

// Greeting. -------------------------------------------------------------------------------------

constexpr Offer kOffer{
    .max_write_bytes = 1 << 20, .max_readahead_bytes = 1 << 20, .max_background = 64};

fuse_init_in kernel_offering(std::uint32_t flags) {
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = 40;
    in.max_readahead = 4 << 20;
    in.flags = flags;
    return in;
}

TEST(FuseGreeting, NothingIsTakenThatWasNotOffered) {
    const auto answer = answer_greeting(kernel_offering(FUSE_ASYNC_READ), kOffer);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->flags, static_cast<std::uint32_t>(FUSE_ASYNC_READ));
    EXPECT_EQ(answer->flags2, 0u);
}

TEST(FuseGreeting, TruncationAtOpenStaysWithSetattr) {
    const auto answer = answer_greeting(kernel_offering(~0u), kOffer);
    ASSERT_TRUE(answer);
    // OPEN is never answered: a kernel that leaves O_TRUNC to it would lose the truncation.
    EXPECT_EQ(answer->flags & FUSE_ATOMIC_O_TRUNC, 0u);
    EXPECT_NE(answer->flags & FUSE_HANDLE_KILLPRIV_V2, 0u);
    EXPECT_EQ(answer->flags & FUSE_HANDLE_KILLPRIV, 0u);
    EXPECT_NE(answer->flags & FUSE_WRITEBACK_CACHE, 0u);
    EXPECT_NE(answer->flags & FUSE_PARALLEL_DIROPS, 0u);
    EXPECT_EQ(answer->flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS), 0u);
    EXPECT_EQ(answer->max_pages, 256);
}

TEST(FuseGreeting, NewerMajorVersionIsAnsweredWithOurs) {
    fuse_init_in in = kernel_offering(~0u);
    in.major = FUSE_KERNEL_VERSION + 1;
    const auto answer = answer_greeting(in, kOffer);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->major, static_cast<std::uint32_t>(FUSE_KERNEL_VERSION));
    EXPECT_EQ(answer->flags, 0u);
}

// Arguments. ------------------------------------------------------------------------------------

std::span<const std::byte> bytes(const std::string& text) {
    return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

TEST(FuseArguments, TwoNamesAreTakenInOrder) {
    const std::string text("one\0two\0", 8);
    ArgumentReader reader(bytes(text));
    EXPECT_EQ(reader.take_string(), "one");
    EXPECT_EQ(reader.take_string(), "two");
    EXPECT_FALSE(reader.take_string());
}

TEST(FuseArguments, NameWithoutEndIsRefused) {
    const std::string text = "endless";
    ArgumentReader reader(bytes(text));
    EXPECT_FALSE(reader.take_string());
}

TEST(FuseArguments, StructThatIsCutOffIsRefused) {
    const std::string text(sizeof(fuse_write_in) - 1, '\0');
    ArgumentReader reader(bytes(text));
    EXPECT_FALSE(reader.take<fuse_write_in>());
    EXPECT_EQ(reader.rest().size(), text.size());
}

TEST(FuseArguments, SupplementaryGroupIsFoundBehindOtherExtensions) {
    const auto extensions = [](std::initializer_list<std::uint32_t> words) {
        static std::vector<std::uint32_t> kept;
        kept = words;
        return std::as_bytes(std::span(kept));
    };
    EXPECT_EQ(supplementary_group(extensions({16, kExtensionGroups, 1, 77})), 77u);
    EXPECT_EQ(supplementary_group(extensions({16, 1, 0, 0, 16, kExtensionGroups, 1, 77})), 77u);
    EXPECT_EQ(supplementary_group(extensions({16, kExtensionGroups, 0, 77})), std::nullopt);
    EXPECT_EQ(supplementary_group(extensions({12, kExtensionGroups, 1})), std::nullopt);
    EXPECT_EQ(supplementary_group(extensions({0, 1, 1, 77})), std::nullopt);
    EXPECT_EQ(supplementary_group(extensions({0xffff'ffff, 1, 1, 77})), std::nullopt);
    EXPECT_EQ(supplementary_group({}), std::nullopt);
}

TEST(FuseDeviceNumbers, LargeOnesSurviveTheWire) {
    for (const std::uint32_t wire : {0u, 0x103u, 0xfffu << 8, 0xfffff0ffu}) {
        EXPECT_EQ(encode_device(decode_device(wire)), wire);
    }
}

}  // namespace
}  // namespace blobfs::fs::fuse
