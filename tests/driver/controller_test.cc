// Bring-up, events, timeouts, resets and the end of a controller: against a scripted one, and
// against the software controller with a faulty medium.

#include "driver/nvme/controller.h"

#include <gtest/gtest.h>

#include <cstring>

#include "driver/memory/environment.h"
#include "driver/nvme_device.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/memory_medium.h"
#include "driver/soft/software_controller.h"
#include "tests/driver/scripted_controller.h"

namespace blobfs::driver::nvme {
namespace {

constexpr ControllerOptions kQuick{
    .queue_depth = 16, .io_timeout_ms = 150, .admin_timeout_ms = 400, .abort_grace_ms = 100};

// Serves a scripted controller's admin queue on the reactor, and its I/O queue when told how.
class Script final : public Poller {
  public:
    Script(Reactor& reactor, ScriptedTransport& transport)
        : reactor_(reactor), transport_(transport) {
        reactor.add_poller(*this);
    }
    ~Script() override { reactor_.remove_poller(*this); }
    bool poll() override {
        transport_.serve_admin();
        const auto found = transport_.queues.find(1);
        if (on_io && found != transport_.queues.end() && found->second.submission != nullptr) {
            for (const SubmissionEntry& command : transport_.fetch(1)) on_io(command);
        }
        return false;
    }
    [[nodiscard]] bool needs_polling() const override { return true; }

    std::function<void(const SubmissionEntry&)> on_io;

  private:
    Reactor& reactor_;
    ScriptedTransport& transport_;
};

// The transport belongs to the controller; the test keeps the script.
class Borrowed final : public Transport {
  public:
    explicit Borrowed(ScriptedTransport& inner) : Transport(true), inner_(inner) {}
    std::uint32_t read32(std::uint32_t offset) override { return inner_.read32(offset); }
    std::uint64_t read64(std::uint32_t offset) override { return inner_.read64(offset); }
    void write32(std::uint32_t offset, std::uint32_t value) override {
        inner_.write32(offset, value);
    }
    void write64(std::uint32_t offset, std::uint64_t value) override {
        inner_.write64(offset, value);
    }
    volatile std::uint32_t* doorbell(std::uint32_t offset) override {
        return inner_.doorbell(offset);
    }
    const std::string& name() const override { return inner_.name(); }

  private:
    ScriptedTransport& inner_;
};

class ScriptedControllerTest : public testing::Test {
  protected:
    static void SetUpTestSuite() { ASSERT_TRUE(start_environment({})); }

    Result<std::unique_ptr<Controller>> open(const ControllerOptions& options = kQuick) {
        return reactor.block_on([&](Suspend& suspend) {
            return Controller::open(suspend, std::make_unique<Borrowed>(transport), options);
        });
    }
    Errc open_error(const ControllerOptions& options = kQuick) {
        Result<std::unique_ptr<Controller>> result = open(options);
        if (result) {
            EXPECT_TRUE(close(**result));
            return Errc::kExists;
        }
        return result.error().code;
    }
    Result<void> close(Controller& controller) {
        return reactor.block_on([&](Suspend& suspend) { return controller.close(suspend); });
    }
    Result<std::unique_ptr<Device>> open_device(const ControllerOptions& wanted = kQuick) {
        return reactor.block_on([&](Suspend& suspend) {
            DeviceOptions options;
            options.queue_depth = 16;
            return NvmeDevice::open(suspend, std::make_unique<Borrowed>(transport), options,
                                    wanted);
        });
    }
    Result<void> close(Device& device) {
        return reactor.block_on([&](Suspend& suspend) { return device.close(suspend); });
    }
    static Controller& controller_of(Device& device) {
        return static_cast<NvmeDevice&>(device).controller();
    }
    static std::uint8_t number(AdminOpcode opcode) { return static_cast<std::uint8_t>(opcode); }
    void answer_io() {
        script.on_io = [&](const SubmissionEntry& command) {
            transport.post(1, command.command_id);
        };
    }

    Reactor reactor;
    ScriptedTransport transport;
    Script script{reactor, transport};
};

TEST_F(ScriptedControllerTest, IsBroughtUpAndShutDown) {
    Result<std::unique_ptr<Controller>> opened = open();
    ASSERT_TRUE(opened) << opened.error().message();
    Controller& controller = **opened;
    EXPECT_EQ(controller.info().model, "scripted");
    EXPECT_TRUE(controller.info().volatile_write_cache);
    EXPECT_TRUE(controller.info().deallocate);
    EXPECT_EQ(controller.namespace_ids(), (std::vector<std::uint32_t>{1}));
    EXPECT_EQ(transport.configuration, kCcEntrySizes | kCcEnable);
    EXPECT_EQ(transport.queues[1].entries, 17U);
    EXPECT_TRUE(close(controller));
    EXPECT_EQ(transport.configuration & kCcEnable, 0U);
    EXPECT_EQ(
        transport.admin_commands[static_cast<std::uint8_t>(AdminOpcode::kAsynchronousEventRequest)],
        1);
}

TEST_F(ScriptedControllerTest, OneThatItsLastOwnerLeftRunningIsResetFirst) {
    transport.configuration = kCcEntrySizes | kCcEnable;
    transport.status = kCstsReady;
    Result<std::unique_ptr<Controller>> opened = open();
    ASSERT_TRUE(opened);
    EXPECT_EQ(transport.enables, 1);
    EXPECT_TRUE(close(**opened));
}

TEST_F(ScriptedControllerTest, OneThatIsNotThereIsGone) {
    transport.gone = true;
    EXPECT_EQ(open_error(), Errc::kDeviceGone);
}

TEST_F(ScriptedControllerTest, OneThatNeverBecomesReadyIsGivenUpAfterItsTimeout) {
    transport.stuck_not_ready = true;
    EXPECT_EQ(open_error(), Errc::kDeviceGone);
}

TEST_F(ScriptedControllerTest, OneThatNeverStopsIsGivenUpAfterItsTimeout) {
    transport.configuration = kCcEntrySizes | kCcEnable;
    transport.status = kCstsReady;
    transport.stuck_ready = true;
    EXPECT_EQ(open_error(), Errc::kDeviceGone);
}

TEST_F(ScriptedControllerTest, UnansweredIdentifyEndsTheBringUp) {
    transport.on_admin = [](const SubmissionEntry&) { return true; };
    EXPECT_EQ(open_error(), Errc::kIo);
}

TEST_F(ScriptedControllerTest, WithoutTheNvmCommandSetOrSmallPagesIsRefused) {
    const std::uint64_t good = transport.capabilities;
    transport.capabilities = good & ~(1ULL << 37);
    EXPECT_EQ(open_error(), Errc::kNotSupported);
    transport.capabilities = good | 1ULL << 48;
    EXPECT_EQ(open_error(), Errc::kNotSupported);
}

TEST_F(ScriptedControllerTest, OnlyPlainLbaFormatsAreAccepted) {
    const auto result = [&](LbaFormat format) {
        transport.format = format;
        Result<std::unique_ptr<Device>> device = open_device();
        if (!device) return device.error().code;
        EXPECT_EQ((*device)->properties().lba_bytes, 1U << format.data_size);
        EXPECT_TRUE(reactor.block_on([&](Suspend& suspend) { return (*device)->close(suspend); }));
        return Errc::kExists;
    };
    EXPECT_EQ(result({0, 9, 0}), Errc::kExists);
    EXPECT_EQ(result({0, 12, 0}), Errc::kExists);
    EXPECT_EQ(result({8, 12, 0}), Errc::kNotSupported);
    EXPECT_EQ(result({0, 10, 0}), Errc::kNotSupported);
    EXPECT_EQ(result({0, 77, 0}), Errc::kNotSupported);
}

// Starts `count` reads, lets `during` happen, and gives what became of them.
std::vector<Result<void>> read_during(Reactor& reactor, Device& device, int count,
                                      const std::function<void(Suspend&)>& during) {
    std::vector<Result<void>> results;
    reactor.block_on([&](Suspend& suspend) {
        WaitGroup group;
        for (int i = 0; i < count; ++i) {
            group.add();
            suspend.reactor().spawn([&, i](Suspend& own) {
                DmaBuffer memory = DmaBuffer::allocate(4096).value();
                results.push_back(
                    device.read(own, static_cast<std::uint64_t>(i) * 4096, memory.span()));
                group.done();
            });
        }
        for (int i = 0; i < 5; ++i) suspend.yield();
        during(suspend);
        group.wait(suspend);
    });
    return results;
}

TEST_F(ScriptedControllerTest, FatalStatusAndAllOnesEndEveryRequestOnce) {
    for (const bool gone : {false, true}) {
        transport.gone = false;
        Result<std::unique_ptr<Device>> device = open_device();
        ASSERT_TRUE(device);
        // 40 requests, of which 16 are in the hardware queue.
        const std::vector<Result<void>> results = read_during(reactor, **device, 40, [&](Suspend&) {
            if (gone) {
                transport.gone = true;
            } else {
                transport.status |= kCstsFatal;
            }
        });
        ASSERT_EQ(results.size(), 40U);
        for (const Result<void>& result : results) {
            ASSERT_FALSE(result);
            EXPECT_EQ(result.error().code, Errc::kDeviceGone);
        }
        const std::vector<Result<void>> later = read_during(reactor, **device, 1, [](Suspend&) {});
        EXPECT_EQ(later[0].error().code, Errc::kDeviceGone);
        (void)reactor.block_on([&](Suspend& suspend) { return (*device)->close(suspend); });
    }
}

TEST_F(ScriptedControllerTest, UnansweredCommandIsAbortedThenResetThenSentAgain) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    int seen = 0;
    // Deaf before the first reset, well-behaved after it.
    script.on_io = [&](const SubmissionEntry& command) {
        ++seen;
        if (transport.enables > 1) transport.post(1, command.command_id);
    };
    const std::vector<Result<void>> results = read_during(reactor, **device, 20, [](Suspend&) {});
    ASSERT_EQ(results.size(), 20U);
    for (const Result<void>& result : results) {
        EXPECT_TRUE(result) << result.error().message();
    }
    EXPECT_EQ(seen, 16 + 20) << "those that were sent are sent again, each once";
    Controller& controller = static_cast<NvmeDevice&>(**device).controller();
    EXPECT_EQ(controller.statistics().resets, 1U);
    EXPECT_GE(controller.statistics().aborts, 1U);
    EXPECT_GE(transport.admin_commands[static_cast<std::uint8_t>(AdminOpcode::kAbort)], 1);
    EXPECT_TRUE(reactor.block_on([&](Suspend& suspend) { return (*device)->close(suspend); }));
}

TEST_F(ScriptedControllerTest, DeafControllerIsGivenUpInTheEnd) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    const std::vector<Result<void>> results = read_during(reactor, **device, 3, [](Suspend&) {});
    ASSERT_EQ(results.size(), 3U);
    for (const Result<void>& result : results) EXPECT_FALSE(result);
    EXPECT_GE(transport.enables, 2);
    (void)reactor.block_on([&](Suspend& suspend) { return (*device)->close(suspend); });
}

TEST_F(ScriptedControllerTest, ControllerThatCannotBeResetIsGivenUp) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    transport.stuck_ready = true;
    const std::vector<Result<void>> results = read_during(reactor, **device, 30, [](Suspend&) {});
    ASSERT_EQ(results.size(), 30U);
    for (const Result<void>& result : results) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kDeviceGone);
    }
    transport.stuck_ready = false;
    (void)reactor.block_on([&](Suspend& suspend) { return (*device)->close(suspend); });
}

TEST_F(ScriptedControllerTest, NonsenseCompletionsDoNotDisturbTheOthers) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    script.on_io = [&](const SubmissionEntry& command) {
        transport.post(1, static_cast<std::uint16_t>(command.command_id ^ 0x5a50));
        transport.post(1, command.command_id);
        transport.post(1, command.command_id);
    };
    for (int i = 0; i < 20; ++i) {
        const std::vector<Result<void>> results =
            read_during(reactor, **device, 1, [](Suspend&) {});
        EXPECT_TRUE(results.at(0));
    }
    EXPECT_TRUE(reactor.block_on([&](Suspend& suspend) { return (*device)->close(suspend); }));
}

// Nobody would be there to notice that a controller goes away while an admin command is waited for.
constexpr ControllerOptions kPatient{
    .queue_depth = 16, .io_timeout_ms = 150, .admin_timeout_ms = 60'000, .abort_grace_ms = 100};

TEST_F(ScriptedControllerTest, OneThatGoesAwayDuringItsBringUpIsNoticedAtOnce) {
    constexpr int kSteps = 7;  // Identify 3 times, Set Features twice, two queues
    for (int step = 1; step <= kSteps; ++step) {
        for (const bool fatal : {false, true}) {
            int seen = 0;
            transport.on_admin = [&](const SubmissionEntry&) {
                if (++seen != step) return false;
                (fatal ? transport.status : transport.configuration) |= fatal ? kCstsFatal : 0;
                transport.gone = !fatal;
                return true;
            };
            const std::uint64_t begin_us = reactor.now_us();
            Result<std::unique_ptr<Device>> device = open_device(kPatient);
            EXPECT_LT(reactor.now_us() - begin_us, 20'000'000U);
            ASSERT_FALSE(device) << step;
            EXPECT_EQ(device.error().code, Errc::kDeviceGone) << step;
            EXPECT_EQ(seen, step);
            transport.gone = false;
        }
    }
    transport.on_admin = {};
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    EXPECT_TRUE(close(**device));
}

TEST_F(ScriptedControllerTest, OneThatGoesAwayDuringAResetEndsEveryRequest) {
    for (int step = 1; step <= 7; ++step) {
        script.on_io = {};
        transport.on_admin = {};
        Result<std::unique_ptr<Device>> device = open_device(kPatient);
        ASSERT_TRUE(device);
        const int before = transport.enables;
        int seen = 0;
        transport.on_admin = [&](const SubmissionEntry&) {
            if (transport.enables > before && ++seen == step) transport.gone = true;
            return transport.gone;
        };
        const std::vector<Result<void>> results =
            read_during(reactor, **device, 20, [](Suspend&) {});
        for (const Result<void>& result : results) {
            ASSERT_FALSE(result);
            EXPECT_EQ(result.error().code, Errc::kDeviceGone);
        }
        EXPECT_FALSE(close(**device));
        transport.gone = false;
    }
}

TEST_F(ScriptedControllerTest, AbortThatIsNeverAnsweredEndsInAReset) {
    Result<std::unique_ptr<Device>> device = open_device(kPatient);
    ASSERT_TRUE(device);
    transport.on_admin = [&](const SubmissionEntry& command) {
        return command.opcode == number(AdminOpcode::kAbort);
    };
    script.on_io = [&](const SubmissionEntry& command) {
        if (transport.enables > 1) transport.post(1, command.command_id);
    };
    for (const Result<void>& result : read_during(reactor, **device, 16, [](Suspend&) {})) {
        EXPECT_TRUE(result) << result.error().message();
    }
    // ACL is 0: one at a time is all that it takes.
    EXPECT_EQ(transport.admin_commands[number(AdminOpcode::kAbort)], 1);
    EXPECT_EQ(controller_of(**device).statistics().resets, 1U);
    EXPECT_TRUE(close(**device));
}

TEST_F(ScriptedControllerTest, ResetThatNeverBecomesReadyIsTheEnd) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    transport.stuck_not_ready = true;
    const std::vector<Result<void>> results = read_during(reactor, **device, 30, [](Suspend&) {});
    ASSERT_EQ(results.size(), 30U);
    for (const Result<void>& result : results) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kDeviceGone);
    }
    EXPECT_FALSE(close(**device));
}

// Deaf until it has been reset.
TEST_F(ScriptedControllerTest, NothingIsRungBeforeAResetControllerIsReady) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    transport.ready_delay = 10;
    transport.on_admin = [&](const SubmissionEntry& command) {
        return transport.enables == 1 && command.opcode == number(AdminOpcode::kGetLogPage);
    };
    script.on_io = [&](const SubmissionEntry& command) {
        if (transport.enables > 1) transport.post(1, command.command_id);
    };
    int asked = 0;
    const std::vector<Result<void>> results =
        read_during(reactor, **device, 4, [&](Suspend& suspend) {
            WaitGroup group;
            for (int i = 0; i < 3; ++i) {  // one is on its way, the others wait for their turn
                group.add();
                suspend.reactor().spawn([&](Suspend& own) {
                    HealthLog health{};
                    (void)controller_of(**device).get_log_page(
                        own, LogPage::kHealth, std::as_writable_bytes(std::span(&health, 1)));
                    ++asked;
                    group.done();
                });
            }
            group.wait(suspend);
        });
    for (const Result<void>& result : results) EXPECT_TRUE(result);
    EXPECT_EQ(asked, 3);
    EXPECT_EQ(transport.enables, 2);
    EXPECT_FALSE(transport.rung_too_early);
    EXPECT_TRUE(close(**device));
}

TEST_F(ScriptedControllerTest, AnotherControllerAfterAResetGetsNoCommand) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    int after_reset = 0;
    transport.on_identify_controller = [&](IdentifyController& data) {
        std::memcpy(data.serial_number, "another", 7);
    };
    script.on_io = [&](const SubmissionEntry&) { after_reset += transport.enables > 1 ? 1 : 0; };
    for (const Result<void>& result : read_during(reactor, **device, 20, [](Suspend&) {})) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kDeviceGone);
    }
    EXPECT_EQ(after_reset, 0);
    EXPECT_FALSE(close(**device));
}

TEST_F(ScriptedControllerTest, NamespaceThatIsAnotherAfterAResetGetsNoCommand) {
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    int after_reset = 0;
    transport.on_identify_namespace = [&](IdentifyNamespace& data) { data.size_blocks = 4096; };
    script.on_io = [&](const SubmissionEntry&) { after_reset += transport.enables > 1 ? 1 : 0; };
    for (const Result<void>& result : read_during(reactor, **device, 20, [](Suspend&) {})) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kDeviceGone);
    }
    EXPECT_EQ(after_reset, 0);
    EXPECT_EQ(controller_of(**device).statistics().resets, 1U);
    EXPECT_TRUE(close(**device)) << "the controller itself is well";
}

TEST_F(ScriptedControllerTest, ShutdownIsWaitedForAsLongAsTheControllerSays) {
    ControllerOptions hasty = kQuick;
    hasty.shutdown_timeout_ms = 50;
    transport.stuck_shutdown = true;
    Result<std::unique_ptr<Controller>> opened = open(hasty);
    ASSERT_TRUE(opened);
    const Result<void> unanswered = close(**opened);
    ASSERT_FALSE(unanswered);
    EXPECT_EQ(unanswered.error().code, Errc::kIo);
    EXPECT_EQ(transport.configuration & kCcEnable, 0U) << "disabled all the same";

    transport.on_identify_controller = [](IdentifyController& data) {
        data.shutdown_latency = 30'000'000;
    };
    opened = open(hasty);
    ASSERT_TRUE(opened);
    const Result<void> late = reactor.block_on([&](Suspend& suspend) {
        suspend.reactor().run_after(200'000, [&] { transport.status |= kCstsShutdownComplete; });
        return (*opened)->close(suspend);
    });
    EXPECT_TRUE(late);
    EXPECT_EQ(transport.shutdowns, 2);
}

TEST_F(ScriptedControllerTest, QueuesOfTwoEntriesWorkAndShorterOnesAreRefused) {
    transport.capabilities = Capabilities::make(2, 1, 0);
    answer_io();
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    for (const Result<void>& result : read_during(reactor, **device, 40, [](Suspend&) {})) {
        EXPECT_TRUE(result);
    }
    EXPECT_TRUE(close(**device));
    transport.capabilities = Capabilities::make(1, 1, 0);
    EXPECT_EQ(open_error(), Errc::kNotSupported);
}

TEST_F(ScriptedControllerTest, DoorbellsBeyondTheRegistersAreRefused) {
    transport.capabilities = Capabilities::make(64, 1, 15);
    EXPECT_EQ(open_error(), Errc::kNotSupported);
}

TEST_F(ScriptedControllerTest, QueueEntriesOfOtherSizesAreRefused) {
    transport.on_identify_controller = [](IdentifyController& data) {
        data.submission_entry_size = 0x77;
    };
    EXPECT_EQ(open_error(), Errc::kNotSupported);
    transport.on_identify_controller = [](IdentifyController& data) {
        data.submission_entry_size = 0x66;
        data.completion_entry_size = 0x55;
    };
    EXPECT_EQ(open_error(), Errc::kNotSupported);
    transport.on_identify_controller = [](IdentifyController& data) {
        data.submission_entry_size = 0x76;
        data.completion_entry_size = 0x44;
    };
    EXPECT_EQ(open_error(), Errc::kExists);
}

TEST_F(ScriptedControllerTest, NonsenseInIdentifyIsLivedWith) {
    transport.on_identify_controller = [](IdentifyController& data) {
        std::memset(data.model_number, 0xff, sizeof data.model_number);
        data.max_data_transfer = 255;
        data.namespaces = 0xffffffff;
        data.event_limit = 255;
        data.abort_limit = 255;
        data.sgl_support = 3;  // reserved
        data.retry_delay[0] = 0xffff;
    };
    transport.on_identify_namespace = [](IdentifyNamespace& data) {
        data.optimal_io_boundary = 3;
        data.lba_formats = 63;
        data.formatted_lba = 0x20;  // format 16
        data.formats[0] = {8, 63, 0};
        data.formats[16] = {0, 12, 0};
    };
    // Namespaces without end.
    transport.on_admin = [&](const SubmissionEntry& command) {
        if (command.opcode != number(AdminOpcode::kIdentify) ||
            command.dword10 != static_cast<std::uint32_t>(IdentifyKind::kActiveNamespaces)) {
            return false;
        }
        auto* ids = reinterpret_cast<std::uint32_t*>(command.prp1);
        for (std::uint32_t i = 0; i < 1024; ++i) ids[i] = command.namespace_id + 1 + i;
        transport.post(0, command.command_id);
        return true;
    };
    answer_io();
    Result<std::unique_ptr<Device>> device = open_device();
    ASSERT_TRUE(device);
    EXPECT_EQ((*device)->properties().lba_bytes, 4096U);
    EXPECT_EQ(controller_of(**device).namespace_ids().size(), 4096U);
    EXPECT_FALSE(controller_of(**device).info().sgl);
    for (const Result<void>& result : read_during(reactor, **device, 20, [](Suspend&) {})) {
        EXPECT_TRUE(result);
    }
    EXPECT_TRUE(close(**device));

    const auto refused = [&](const std::function<void(IdentifyNamespace&)>& change) {
        transport.on_identify_namespace = change;
        Result<std::unique_ptr<Device>> opened = open_device();
        if (!opened) return opened.error().code;
        (void)close(**opened);
        return Errc::kExists;
    };
    EXPECT_EQ(refused([](auto& data) { data.size_blocks = 0; }), Errc::kNotFound);
    EXPECT_EQ(refused([](auto& data) { data.size_blocks = ~0ULL; }), Errc::kTooLarge);
    EXPECT_EQ(refused([](auto& data) { data.formats[0].data_size = 0; }), Errc::kNotSupported);
    EXPECT_EQ(refused([](auto& data) { data.formats[0].data_size = 63; }), Errc::kNotSupported);
    EXPECT_EQ(refused([](auto& data) { data.formatted_lba = 0xf; }), Errc::kNotSupported);
}

class SoftwareControllerTest : public testing::Test {
  protected:
    static void SetUpTestSuite() { ASSERT_TRUE(start_environment({})); }

    void SetUp() override {
        reactor.block_on([&](Suspend& suspend) {
            auto owned = std::make_unique<FaultyMedium>(
                MemoryMedium::create({.bytes = 1 << 20, .volatile_write_cache = true}).value());
            medium = owned.get();
            auto transport = std::make_unique<SoftwareTransport>(
                reactor, std::move(owned), SoftwareControllerOptions{.retry_delay_100ms = 1});
            software = &transport->controller();
            device = NvmeDevice::open(suspend, std::move(transport), {}, kQuick).value();
        });
        memory = DmaBuffer::allocate(8192).value();
    }
    void TearDown() override {
        reactor.block_on([&](Suspend& suspend) {
            const Result<void> closed = device->close(suspend);
            EXPECT_EQ(static_cast<bool>(closed), !medium->gone());
        });
    }
    Controller& controller() { return static_cast<NvmeDevice&>(*device).controller(); }
    Result<void> read() {
        return reactor.block_on(
            [&](Suspend& suspend) { return device->read(suspend, 0, memory.span()); });
    }
    Result<void> write() {
        return reactor.block_on(
            [&](Suspend& suspend) { return device->write(suspend, 0, memory.span()); });
    }

    Reactor reactor;
    FaultyMedium* medium = nullptr;
    SoftwareController* software = nullptr;
    std::unique_ptr<Device> device;
    DmaBuffer memory;
};

TEST_F(SoftwareControllerTest, TransientErrorIsRetriedFinalOneIsReported) {
    medium->add({.count = 2, .status = MediumStatus(Status::kInternalError, false)});
    EXPECT_TRUE(read());
    EXPECT_EQ(controller().io_queue(0).statistics().retries, 2U);
    medium->add({.count = 1, .status = MediumStatus(Status::kUnrecoveredReadError)});
    const Result<void> result = read();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::kIo);
    EXPECT_EQ(result.error().nvme_status, 0x281);
    EXPECT_TRUE(read());
}

TEST_F(SoftwareControllerTest, FullMediumIsNoSpace) {
    medium->add({.kind = MediumOperation::Kind::kWrite,
                 .count = 1,
                 .status = MediumStatus(Status::kCapacityExceeded)});
    EXPECT_EQ(write().error().code, Errc::kNoSpace);
    EXPECT_TRUE(write());
}

TEST_F(SoftwareControllerTest, UnansweredCommandIsAbortedAndTriedAgain) {
    medium->add({.effect = Fault::Effect::kNeverAnswer, .count = 1});
    EXPECT_TRUE(read());
    EXPECT_EQ(controller().statistics().aborts, 1U);
    EXPECT_EQ(controller().statistics().resets, 0U);
}

TEST_F(SoftwareControllerTest, LateAnswerIsStillAnAnswer) {
    medium->add({.effect = Fault::Effect::kDelay, .count = 1, .delay_us = 20'000});
    EXPECT_TRUE(write());
    EXPECT_EQ(controller().statistics().aborts, 0U);
}

TEST_F(SoftwareControllerTest, VanishedDeviceEndsRequestsWithErrors) {
    medium->add({.effect = Fault::Effect::kNeverAnswer});
    reactor.block_on([&](Suspend& suspend) {
        Device::Batch batch(*device);
        for (std::uint64_t i = 0; i < 100; ++i) batch.read(i * 512, memory.span().first(512));
        suspend.reactor().run_after(2000, [&] { medium->vanish(); });
        const Result<void> result = batch.wait(suspend);
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kDeviceGone);
    });
    EXPECT_EQ(write().error().code, Errc::kDeviceGone);
}

TEST_F(SoftwareControllerTest, EventsAreTakenAndAskedForAgain) {
    for (std::uint64_t i = 1; i <= 6; ++i) {
        software->raise_event(AsynchronousEventType::kHealth, 1, LogPage::kHealth);
        reactor.block_on([&](Suspend& suspend) {
            for (int turns = 0; turns < 400 && controller().statistics().events < i; ++turns) {
                suspend.sleep_us(1000);
            }
        });
        EXPECT_EQ(controller().statistics().events, i);
    }
}

TEST_F(SoftwareControllerTest, LogPagesTellWhatHappened) {
    medium->add({.count = 1, .status = MediumStatus(Status::kUnrecoveredReadError)});
    EXPECT_FALSE(read());
    EXPECT_TRUE(write());
    reactor.block_on([&](Suspend& suspend) {
        ErrorLogEntry errors[2];
        ASSERT_TRUE(controller().get_log_page(suspend, LogPage::kError,
                                              std::as_writable_bytes(std::span(errors))));
        EXPECT_EQ(errors[0].error_count, 1U);
        EXPECT_EQ(status_code(errors[0].status), 0x281);
        EXPECT_EQ(errors[0].submission_queue_id, 1);
        EXPECT_EQ(errors[1].error_count, 0U);
        HealthLog health{};
        ASSERT_TRUE(controller().get_log_page(suspend, LogPage::kHealth,
                                              std::as_writable_bytes(std::span(&health, 1))));
        EXPECT_EQ(health.host_writes[0], 1U);
        EXPECT_EQ(health.error_log_entries[0], 1U);
        EXPECT_GT(health.temperature_kelvin(), 273U);
        FirmwareSlotLog firmware{};
        ASSERT_TRUE(controller().get_log_page(suspend, LogPage::kFirmwareSlot,
                                              std::as_writable_bytes(std::span(&firmware, 1))));
        EXPECT_EQ(0, std::memcmp(firmware.revisions[0], controller().info().firmware.data(),
                                 controller().info().firmware.size()));
        EXPECT_FALSE(controller().get_log_page(suspend, static_cast<LogPage>(0x77),
                                               std::as_writable_bytes(std::span(errors))));
    });
}

TEST_F(SoftwareControllerTest, InvalidCommandsAreAnsweredNotExecuted) {
    reactor.block_on([&](Suspend& suspend) {
        const auto code = [&](AdminOpcode opcode, std::uint32_t dword10, std::uint32_t dword11 = 0,
                              std::uint32_t namespace_id = 0) {
            SubmissionEntry command{};
            command.opcode = static_cast<std::uint8_t>(opcode);
            command.namespace_id = namespace_id;
            command.dword10 = dword10;
            command.dword11 = dword11;
            const Result<std::uint32_t> result =
                controller().admin(suspend, command, {}, AdminQueue::Direction::kToHost, "testing");
            return result ? std::uint16_t{0} : result.error().nvme_status;
        };
        const auto is = [](Status status) { return static_cast<std::uint16_t>(status); };
        EXPECT_EQ(code(static_cast<AdminOpcode>(0x7f), 0), is(Status::kInvalidOpcode));
        EXPECT_EQ(code(AdminOpcode::kIdentify, 0x55), is(Status::kInvalidField));
        EXPECT_EQ(code(AdminOpcode::kIdentify, 0, 0, 9), is(Status::kInvalidNamespace));
        EXPECT_EQ(code(AdminOpcode::kCreateCompletionQueue, 15U << 16 | 1, 1),
                  is(Status::kInvalidQueueId))
            << "it exists";
        EXPECT_EQ(code(AdminOpcode::kCreateCompletionQueue, 15U << 16 | 99, 1),
                  is(Status::kInvalidQueueId));
        EXPECT_EQ(code(AdminOpcode::kCreateCompletionQueue, 0xffffU << 16 | 2, 1),
                  is(Status::kInvalidQueueSize));
        EXPECT_EQ(code(AdminOpcode::kCreateSubmissionQueue, 15U << 16 | 2, 3U << 16 | 1),
                  is(Status::kCompletionQueueInvalid));
        EXPECT_EQ(code(AdminOpcode::kDeleteCompletionQueue, 1), is(Status::kInvalidQueueDeletion));
        EXPECT_EQ(code(AdminOpcode::kSetFeatures, 0xee), is(Status::kInvalidField));
    });
    EXPECT_TRUE(read());
}

}  // namespace
}  // namespace blobfs::driver::nvme
