// What the driver does about a controller whose condition changes: namespaces that go, shrink or
// grow, media that become read-only, temperature; and what it negotiates at the start.

#include <gtest/gtest.h>

#include <cstring>

#include "driver/memory/environment.h"
#include "driver/nvme_device.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/memory_medium.h"
#include "driver/soft/software_controller.h"

namespace blobfs::driver::nvme {
namespace {

constexpr std::uint64_t kBlocks = (1 << 20) / 512;

class ControllerCondition : public testing::Test {
  protected:
    static void SetUpTestSuite() { ASSERT_TRUE(start_environment({})); }

    void open(const SoftwareControllerOptions& options = {}) {
        reactor.block_on([&](Suspend& suspend) {
            auto owned = std::make_unique<FaultyMedium>(
                MemoryMedium::create({.bytes = kBlocks * 512}).value());
            medium = owned.get();
            auto transport =
                std::make_unique<SoftwareTransport>(reactor, std::move(owned), options);
            software = &transport->controller();
            ControllerOptions quick{.io_timeout_ms = 150, .abort_grace_ms = 100};
            quick.health_recheck_ms = 5;
            device = NvmeDevice::open(suspend, std::move(transport), {}, quick).value();
        });
        memory = DmaBuffer::allocate(64 << 10).value();
    }
    void SetUp() override { open(); }
    void TearDown() override { close(); }
    void close() {
        if (device == nullptr) return;
        EXPECT_TRUE(reactor.block_on([&](Suspend& suspend) { return device->close(suspend); }));
        device.reset();
    }
    Controller& controller() { return static_cast<NvmeDevice&>(*device).controller(); }

    Result<void> read() {
        return reactor.block_on(
            [&](Suspend& suspend) { return device->read(suspend, 0, memory.span().first(4096)); });
    }
    Result<void> write() {
        return reactor.block_on(
            [&](Suspend& suspend) { return device->write(suspend, 0, memory.span().first(4096)); });
    }
    // Until it is so, or for as long as it takes a machine that stands still to go on.
    bool becomes(const std::function<bool()>& condition) {
        for (int i = 0; i < 20'000; ++i) {
            if (condition()) return true;
            reactor.block_on([](Suspend& suspend) { suspend.sleep_us(1000); });
        }
        return false;
    }
    static bool is(const Result<void>& result, Errc code) {
        return !result && result.error().code == code;
    }
    void namespaces_change(const SoftwareController::Condition& condition) {
        software->set_condition(condition);
        software->raise_event(AsynchronousEventType::kNotice, kNoticeNamespaceChanged,
                              LogPage::kChangedNamespaces);
    }

    Reactor reactor;
    FaultyMedium* medium = nullptr;
    SoftwareController* software = nullptr;
    std::unique_ptr<Device> device;
    DmaBuffer memory;
};

TEST_F(ControllerCondition, NamespaceThatIsGoneIsNotUsedAnyMore) {
    EXPECT_TRUE(write());
    namespaces_change({.namespace_active = false});
    EXPECT_TRUE(becomes([&] { return is(read(), Errc::kDeviceGone); }));
    EXPECT_TRUE(is(write(), Errc::kDeviceGone));
    // It is back: but is it the same?
    namespaces_change({});
    EXPECT_TRUE(becomes([&] { return controller().statistics().events == 2; }));
    EXPECT_TRUE(is(write(), Errc::kDeviceGone));
}

TEST_F(ControllerCondition, NamespaceThatHasShrunkIsNotUsedAnyMore) {
    namespaces_change({.blocks = kBlocks - 1});
    EXPECT_TRUE(becomes([&] { return is(read(), Errc::kDeviceGone); }));
}

TEST_F(ControllerCondition, NamespaceThatHasGrownIsUsedAsItWas) {
    namespaces_change({.blocks = kBlocks + 8});
    EXPECT_TRUE(becomes([&] { return controller().statistics().events == 1; }));
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(write());
    EXPECT_EQ(device->properties().bytes, kBlocks * 512);
}

TEST_F(ControllerCondition, WriteProtectionComesAndGoes) {
    namespaces_change({.write_protected = true});
    EXPECT_TRUE(becomes([&] { return is(write(), Errc::kReadOnly); }));
    EXPECT_TRUE(read());
    namespaces_change({});
    EXPECT_TRUE(becomes([&] { return bool{write()}; }));
}

TEST_F(ControllerCondition, ReadOnlyMediaTakeNoWritesUntilTheWarningEnds) {
    software->set_condition({.critical_warning = kWarningReadOnly});
    software->raise_event(AsynchronousEventType::kHealth, 0, LogPage::kHealth);
    EXPECT_TRUE(becomes([&] { return is(write(), Errc::kReadOnly); }));
    EXPECT_TRUE(read());
    EXPECT_TRUE(is(
        reactor.block_on([&](Suspend& suspend) { return device->write_zeroes(suspend, 0, 512); }),
        Errc::kReadOnly));
    // Nobody reports the end of a warning: the driver looks again.
    software->set_condition({});
    EXPECT_TRUE(becomes([&] { return bool{write()}; }));
}

TEST_F(ControllerCondition, WarningThatPersistsIsNotAskedForAgainAndAgain) {
    software->set_condition({.critical_warning = kWarningTemperature | kWarningSpare});
    software->raise_event(AsynchronousEventType::kHealth, 1, LogPage::kHealth);
    EXPECT_TRUE(becomes([&] {
        return (software->event_configuration() & kEventHealthWarnings) ==
               (kEventHealthWarnings & ~(kWarningTemperature | kWarningSpare));
    }));
    EXPECT_TRUE(write()) << "a warm controller is no reason not to write";
    software->set_condition({.critical_warning = kWarningSpare});
    EXPECT_TRUE(becomes([&] {
        return (software->event_configuration() & kEventHealthWarnings) ==
               (kEventHealthWarnings & ~kWarningSpare);
    }));
}

TEST_F(ControllerCondition, RetryDelaysAreAskedForAndWaitedFor) {
    close();
    open({.retry_delay_100ms = 1});
    medium->add({.count = 1, .status = MediumStatus(Status::kInternalError, false)});
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_TRUE(read());
    EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(99))
        << "the controller names a delay only to a host that has enabled it (ACRE)";
}

TEST_F(ControllerCondition, CompareTellsEqualFromDifferentFromBroken) {
    std::memset(memory.data(), 0x5a, memory.size());
    const auto compare = [&](std::size_t bytes) {
        return reactor.block_on([&](Suspend& suspend) {
            return device->compare(suspend, 512, memory.span().first(bytes));
        });
    };
    ASSERT_TRUE(device->properties().compare);
    EXPECT_FALSE(compare(32 << 10).value());
    EXPECT_TRUE(reactor.block_on([&](Suspend& suspend) {
        return device->write(suspend, 512, memory.span().first(32 << 10));
    }));
    EXPECT_TRUE(compare(32 << 10).value());
    memory.data()[(32 << 10) - 1] = std::byte{0};
    EXPECT_FALSE(compare(32 << 10).value());
    EXPECT_TRUE(compare((32 << 10) - 512).value());
    EXPECT_EQ(controller().io_queue(0).statistics().retries, 0U)
        << "different is no reason to retry";
    medium->add({.count = 1, .status = MediumStatus(Status::kUnrecoveredReadError)});
    const Result<bool> broken = compare(512);
    ASSERT_FALSE(broken);
    EXPECT_EQ(broken.error().nvme_status, 0x281);
}

TEST_F(ControllerCondition, VerifyFindsWhatCannotBeRead) {
    const auto verify = [&] {
        return reactor.block_on(
            [&](Suspend& suspend) { return device->verify(suspend, 0, kBlocks * 512); });
    };
    EXPECT_TRUE(verify());
    medium->add({.first_byte = 700 * 512,
                 .bytes = 512,
                 .status = MediumStatus(Status::kUnrecoveredReadError)});
    const Result<void> result = verify();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().nvme_status, 0x281);
    medium->clear_faults();
}

// Everything that can be written and read, with and without what the controller may offer; with a
// reset in between, after which it has to be offered anew.
TEST_F(ControllerCondition, ShadowDoorbellsAndSglsSurviveAReset) {
    for (const bool offered : {false, true}) {
        close();
        open({.aborts = false, .sgl = offered, .shadow_doorbells = offered});
        EXPECT_EQ(controller().info().sgl, offered);
        EXPECT_EQ(controller().info().shadow_doorbells, offered);
        for (int round = 0; round < 3; ++round) {
            if (round == 1) {
                medium->add({.effect = Fault::Effect::kNeverAnswer, .count = 1});
            }
            std::memset(memory.data(), 0x11 * (round + 1), memory.size());
            EXPECT_TRUE(reactor.block_on([&](Suspend& suspend) -> Result<void> {
                // In pieces that do not lie together.
                const DmaSegment segments[] = {{memory.data() + 8192, 8192},
                                               {memory.data(), 4096},
                                               {memory.data() + 32768, 16384}};
                return device->write(suspend, 4096, segments);
            }));
            EXPECT_TRUE(reactor
                            .block_on([&](Suspend& suspend) {
                                return device->compare(suspend, 4096, memory.span().first(28672));
                            })
                            .value());
            EXPECT_TRUE(read());
        }
        EXPECT_GE(controller().statistics().resets, 1U);
        const QueuePair::Statistics& statistics = controller().io_queue(0).statistics();
        EXPECT_EQ(statistics.sgls != 0, offered);
        EXPECT_EQ(statistics.unwritten_doorbells != 0, offered);
    }
}

}  // namespace
}  // namespace blobfs::driver::nvme
