// The Device as the layers above see it, over memory and over files: data integrity against a
// model, splitting, batches, errors, locking.

#include "driver/device.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "driver/device_name.h"
#include "driver/memory/environment.h"
#include "driver/nvme_device.h"
#include "driver/reactor/reactor.h"
#include "driver/soft/file_medium.h"
#include "driver/soft/memory_medium.h"
#include "driver/soft/software_controller.h"

namespace blobfs::driver {
namespace {

std::string scratch_file(const char* name) {
    const char* directory = std::getenv("TMPDIR");
    return std::string(directory != nullptr ? directory : "/tmp") + "/blobfs-device-test-" +
           std::to_string(getpid()) + "-" + name;
}

const std::vector<std::byte>& pattern() {
    static const std::vector<std::byte> bytes = [] {
        std::vector<std::byte> result((4 << 20) + 65536);
        std::mt19937_64 random(99);
        for (std::size_t at = 0; at < result.size(); at += sizeof(std::uint64_t)) {
            const std::uint64_t word = random();
            std::memcpy(result.data() + at, &word, sizeof word);
        }
        return result;
    }();
    return bytes;
}

struct ScratchFile {
    explicit ScratchFile(const char* name) : path(scratch_file(name)) { unlink(path.c_str()); }
    ~ScratchFile() { unlink(path.c_str()); }
    std::string path;
};

class DeviceTest : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        ASSERT_TRUE(start_environment({.memory_bytes = std::size_t{256} << 20}));
    }

    template <class F>
    void on_device(Result<std::unique_ptr<Device>> opened, F&& function) {
        ASSERT_TRUE(opened) << opened.error().message();
        Device& device = **opened;
        reactor.block_on([&](Suspend& suspend) { function(suspend, device); });
        const Result<void> closed =
            reactor.block_on([&](Suspend& suspend) { return device.close(suspend); });
        EXPECT_TRUE(closed) << closed.error().message();
    }

    Result<std::unique_ptr<Device>> open(const std::string& name, DeviceOptions options = {}) {
        return reactor.block_on(
            [&](Suspend& suspend) { return Device::open(suspend, name, options); });
    }

    Result<std::unique_ptr<Device>> open_memory(const MemoryMediumOptions& medium,
                                                const SoftwareControllerOptions& controller,
                                                const DeviceOptions& options = {}) {
        return reactor.block_on([&](Suspend& suspend) -> Result<std::unique_ptr<Device>> {
            TRY_ASSIGN(std::unique_ptr<MemoryMedium> memory, MemoryMedium::create(medium));
            auto transport = std::make_unique<SoftwareTransport>(suspend.reactor(),
                                                                 std::move(memory), controller);
            return NvmeDevice::open(suspend, std::move(transport), options);
        });
    }

    // Random reads, writes, zeroes and deallocations by several fibers, each on its own part of
    // the device, against a model of that part.
    void run_model(Device& device, std::uint32_t seed, int fibers, int operations,
                   std::size_t largest);

    Reactor reactor;
};

void DeviceTest::run_model(Device& device, std::uint32_t seed, int fibers, int operations,
                           std::size_t largest) {
    const std::size_t lba = device.properties().lba_bytes;
    const std::size_t part =
        device.properties().bytes / static_cast<std::size_t>(fibers) / 4096 * 4096;
    reactor.block_on([&](Suspend& outer) {
        WaitGroup group;
        for (int fiber = 0; fiber < fibers; ++fiber) {
            group.add();
            outer.reactor().spawn([&, fiber](Suspend& suspend) {
                std::mt19937 random(seed + static_cast<std::uint32_t>(fiber));
                std::vector<std::byte> model(part);
                std::vector<bool> known(part / lba, true);
                const std::size_t base = part * static_cast<std::size_t>(fiber);
                DmaBuffer buffer = DmaBuffer::allocate(largest + 8192).value();
                for (int i = 0; i < operations; ++i) {
                    const std::size_t most = std::min(largest, part) / lba;
                    std::size_t blocks = 1 + random() % most;
                    if (random() % 2 == 0) blocks = 1 + random() % std::min<std::size_t>(most, 16);
                    const std::size_t at = random() % (part / lba - blocks + 1) * lba;
                    const std::size_t bytes = blocks * lba;
                    const std::size_t skew = random() % 3 == 0 ? random() % 1024 * 4 : 0;
                    const DmaSpan span = buffer.span().subspan(skew, bytes);
                    const unsigned what = random() % 16;
                    if (what < 7) {
                        // Bytes that differ from block to block and from write to write.
                        std::memcpy(span.data(), pattern().data() + random() % 65536, bytes);
                        std::memcpy(model.data() + at, span.data(), bytes);
                        const auto flags =
                            random() % 16 == 0 ? WriteFlags::kForceUnitAccess : WriteFlags::kNone;
                        const Result<void> done = device.write(suspend, base + at, span, flags);
                        ASSERT_TRUE(done) << done.error().message();
                        std::fill_n(known.begin() + static_cast<std::ptrdiff_t>(at / lba), blocks,
                                    true);
                    } else if (what < 13) {
                        std::memset(span.data(), 0xee, bytes);
                        const Result<void> done = device.read(suspend, base + at, span);
                        ASSERT_TRUE(done) << done.error().message();
                        for (std::size_t b = 0; b < blocks; ++b) {
                            if (!known[at / lba + b]) continue;
                            ASSERT_EQ(0, std::memcmp(span.data() + b * lba,
                                                     model.data() + at + b * lba, lba))
                                << "operation " << i << " at " << base + at + b * lba;
                        }
                    } else if (what == 13) {
                        ASSERT_TRUE(device.write_zeroes(suspend, base + at, bytes));
                        std::memset(model.data() + at, 0, bytes);
                        std::fill_n(known.begin() + static_cast<std::ptrdiff_t>(at / lba), blocks,
                                    true);
                    } else if (what == 14) {
                        ASSERT_TRUE(device.deallocate(suspend, base + at, bytes));
                        std::fill_n(known.begin() + static_cast<std::ptrdiff_t>(at / lba), blocks,
                                    false);
                    } else {
                        ASSERT_TRUE(device.flush(suspend));
                    }
                }
                group.done();
            });
        }
        group.wait(outer);
    });
}

TEST_F(DeviceTest, MemoryHoldsWhatWasWritten) {
    on_device(open("mem:32MiB"), [&](Suspend&, Device&) {});
    Result<std::unique_ptr<Device>> opened = open("mem:32MiB");
    ASSERT_TRUE(opened);
    EXPECT_EQ((*opened)->properties().bytes, std::uint64_t{32} << 20);
    EXPECT_EQ((*opened)->properties().lba_bytes, 512U);
    run_model(**opened, 1, 8, 60, std::size_t{3} << 20);
    ASSERT_TRUE(reactor.block_on([&](Suspend& suspend) { return (*opened)->close(suspend); }));
}

TEST_F(DeviceTest, MemoryAnswersAtOnceButNotForEver) {
    for (const bool at_once : {true, false}) {
        Result<std::unique_ptr<Device>> opened = open("mem:32MiB", {.at_once = at_once});
        ASSERT_TRUE(opened);
        reactor.block_on([&](Suspend& suspend) {
            DmaBuffer buffer = DmaBuffer::allocate(8192).value();
            bool other_ran = false;
            suspend.yield();  // a turn of its own
            suspend.reactor().spawn([&](Suspend&) { other_ran = true; });
            ASSERT_TRUE((*opened)->write(suspend, 4096, buffer.span()));
            Device::Batch batch(**opened);
            batch.read(0, buffer.span().first(4096));
            batch.read(8192, buffer.span().subspan(4096));
            ASSERT_TRUE(batch.wait(suspend));
            EXPECT_EQ(other_ran, !at_once);
            for (int i = 0; i < 100; ++i) ASSERT_TRUE((*opened)->read(suspend, 0, buffer.span()));
            EXPECT_TRUE(other_ran) << "who reads on and on lets others run";
        });
        ASSERT_TRUE(reactor.block_on([&](Suspend& suspend) { return (*opened)->close(suspend); }));
    }
}

TEST_F(DeviceTest, FileHoldsWhatWasWritten) {
    ScratchFile file("model");
    DeviceOptions options;
    options.create_size = std::uint64_t{32} << 20;
    Result<std::unique_ptr<Device>> opened = open(file.path, options);
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_EQ((*opened)->properties().bytes, options.create_size);
    EXPECT_TRUE((*opened)->properties().volatile_write_cache);
    run_model(**opened, 2, 8, 50, std::size_t{3} << 20);
    ASSERT_TRUE(reactor.block_on([&](Suspend& suspend) { return (*opened)->close(suspend); }));
}

TEST_F(DeviceTest, EveryGeometryHoldsWhatWasWritten) {
    std::uint32_t seed = 10;
    for (const std::uint32_t lba : {512U, 4096U}) {
        for (const std::uint32_t mdts : {8192U, 65536U, 0U}) {
            for (const std::uint16_t boundary : {std::uint16_t{0}, std::uint16_t{24}}) {
                for (const std::uint32_t depth : {1U, 5U, 256U}) {
                    SCOPED_TRACE(testing::Message() << "LBA " << lba << " MDTS " << mdts
                                                    << " NOIOB " << boundary << " depth " << depth);
                    DeviceOptions options;
                    options.queue_depth = depth;
                    Result<std::unique_ptr<Device>> opened =
                        open_memory({.bytes = 8 << 20, .lba_bytes = lba},
                                    {.max_transfer_bytes = mdts,
                                     .optimal_boundary_blocks = boundary,
                                     .doorbell_stride_exponent = depth % 3},
                                    options);
                    ASSERT_TRUE(opened) << opened.error().message();
                    run_model(**opened, ++seed, 6, 25, 256 << 10);
                    ASSERT_TRUE(reactor.block_on(
                        [&](Suspend& suspend) { return (*opened)->close(suspend); }));
                }
            }
        }
    }
}

TEST_F(DeviceTest, EveryWayToAFileHoldsWhatWasWritten) {
    std::uint32_t seed = 100;
    for (const std::uint32_t lba : {512U, 4096U}) {
        for (const bool direct : {false, true}) {
            for (const bool io_uring : {false, true}) {
                SCOPED_TRACE(testing::Message()
                             << "LBA " << lba << " direct " << direct << " io_uring " << io_uring);
                ScratchFile file("ways");
                Result<std::unique_ptr<Device>> opened =
                    reactor.block_on([&](Suspend& suspend) -> Result<std::unique_ptr<Device>> {
                        TRY_ASSIGN(std::unique_ptr<FileMedium> medium,
                                   FileMedium::open(suspend, file.path,
                                                    {.create_size = 8 << 20,
                                                     .lba_bytes = lba,
                                                     .direct = direct,
                                                     .io_uring = io_uring}));
                        return Device::open(suspend, std::move(medium));
                    });
                ASSERT_TRUE(opened) << opened.error().message();
                EXPECT_EQ((*opened)->properties().lba_bytes, lba);
                run_model(**opened, ++seed, 4, 40, 128 << 10);
                ASSERT_TRUE(
                    reactor.block_on([&](Suspend& suspend) { return (*opened)->close(suspend); }));
            }
        }
    }
}

TEST_F(DeviceTest, FileCutShortBehindOurBackIsAnErrorNotZeroes) {
    ScratchFile file("cut");
    DeviceOptions options;
    options.create_size = 1 << 20;
    on_device(open(file.path, options), [&](Suspend& suspend, Device& device) {
        DmaBuffer memory = DmaBuffer::allocate(64 << 10).value();
        ASSERT_EQ(0, truncate(file.path.c_str(), 96 << 10));
        EXPECT_TRUE(device.read(suspend, 0, memory.span()));
        const Result<void> result = device.read(suspend, 64 << 10, memory.span());
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kIo);
        EXPECT_EQ(result.error().nvme_status, 0x281);
    });
}

TEST_F(DeviceTest, SizeThatIsNoMultipleOfTheBlockIsRoundedDown) {
    ScratchFile file("odd");
    DeviceOptions options;
    options.create_size = (1 << 20) + 700;
    on_device(open(file.path, options), [&](Suspend&, Device& device) {
        EXPECT_EQ(device.properties().bytes, std::uint64_t{(1 << 20) + 512});
    });
    // Opened again without a size, it is as large as it was; grown, it keeps what it holds.
    on_device(open(file.path), [&](Suspend&, Device& device) {
        EXPECT_EQ(device.properties().bytes, std::uint64_t{(1 << 20) + 512});
    });
    DeviceOptions smaller;
    smaller.create_size = 4096;
    on_device(open(file.path, smaller), [&](Suspend&, Device& device) {
        EXPECT_EQ(device.properties().bytes, std::uint64_t{(1 << 20) + 512});
    });
}

TEST_F(DeviceTest, BatchWaitsForAllAndGivesTheFirstError) {
    on_device(open("mem:16MiB"), [](Suspend& suspend, Device& device) {
        DmaBuffer from = DmaBuffer::allocate(1 << 20).value();
        DmaBuffer into = DmaBuffer::allocate(1 << 20).value();
        for (std::size_t i = 0; i < from.size(); ++i) {
            from.span()[i] = static_cast<std::byte>(i / 512 * 7 + i);
        }
        Device::Batch batch(device);
        // Far more than the queue is deep.
        for (std::size_t at = 0; at < from.size(); at += 512) {
            batch.write(at, from.span().subspan(at, 512));
        }
        EXPECT_TRUE(batch.wait(suspend));
        for (std::size_t at = 0; at < from.size(); at += 512) {
            batch.read(at, into.span().subspan(at, 512));
        }
        EXPECT_TRUE(batch.wait(suspend));
        EXPECT_EQ(0, std::memcmp(from.data(), into.data(), from.size()));

        batch.read(0, into.span().first(4096));
        batch.read(std::uint64_t{16} << 20, into.span().first(4096));
        const Result<void> result = batch.wait(suspend);
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kInvalidArgument);
        EXPECT_TRUE(batch.wait(suspend)) << "an error is given once";
    });
}

TEST_F(DeviceTest, ScatteredWriteIsGatheredInOrder) {
    on_device(open("mem:16MiB"), [](Suspend& suspend, Device& device) {
        DmaBuffer memory = DmaBuffer::allocate(64 * 4096).value();
        DmaBuffer into = DmaBuffer::allocate(64 * 4096).value();
        for (std::size_t i = 0; i < memory.size(); ++i) {
            memory.span()[i] = static_cast<std::byte>(i / 4096 * 13 + i);
        }
        const std::byte* base = memory.data();
        const auto piece = [&](std::size_t offset, std::size_t bytes) {
            return DmaSegment{.data = memory.data() + offset, .bytes = bytes};
        };
        const DmaSegment pieces[] = {piece(3 * 4096 + 2048, 2048), piece(40 * 4096, 3 * 4096),
                                     piece(7 * 4096, 4096), piece(20 * 4096, 512)};
        ASSERT_TRUE(device.write(suspend, 8192, pieces));
        std::size_t total = 0;
        for (const DmaSegment& segment : pieces) total += segment.bytes;
        ASSERT_TRUE(device.read(suspend, 8192, into.span().first(total)));
        std::size_t at = 0;
        for (const DmaSegment& segment : pieces) {
            EXPECT_EQ(0, std::memcmp(into.data() + at, segment.data, segment.bytes));
            at += segment.bytes;
        }
        EXPECT_NE(base, nullptr);

        const DmaSegment broken[] = {piece(0, 512), piece(4096, 512)};
        EXPECT_EQ(device.write(suspend, 0, broken).error().code, Errc::kInvalidArgument);
    });
}

TEST_F(DeviceTest, BadArgumentsAreRefused) {
    on_device(open("mem:1MiB"), [](Suspend& suspend, Device& device) {
        DmaBuffer memory = DmaBuffer::allocate(8192).value();
        const auto code = [](const Result<void>& result) {
            return result ? Errc::kExists : result.error().code;
        };
        EXPECT_EQ(code(device.read(suspend, 1, memory.span().first(512))), Errc::kInvalidArgument);
        EXPECT_EQ(code(device.read(suspend, 0, memory.span().first(100))), Errc::kInvalidArgument);
        EXPECT_EQ(code(device.read(suspend, 0, memory.span().subspan(2, 512))),
                  Errc::kInvalidArgument);
        EXPECT_EQ(code(device.read(suspend, (1 << 20) - 512, memory.span().first(1024))),
                  Errc::kInvalidArgument);
        EXPECT_EQ(code(device.read(suspend, ~std::uint64_t{511}, memory.span().first(1024))),
                  Errc::kInvalidArgument);
        EXPECT_EQ(code(device.read(suspend, 0, {})), Errc::kInvalidArgument);
        EXPECT_EQ(code(device.read(suspend, (1 << 20) - 512, memory.span().first(512))),
                  Errc::kExists);
    });
}

TEST_F(DeviceTest, ReadOnlyDeviceRefusesWrites) {
    ScratchFile file("read-only");
    DeviceOptions options;
    options.create_size = 1 << 20;
    on_device(open(file.path, options), [](Suspend&, Device&) {});
    DeviceOptions read_only;
    read_only.read_only = true;
    on_device(open(file.path, read_only), [](Suspend& suspend, Device& device) {
        EXPECT_TRUE(device.properties().read_only);
        DmaBuffer memory = DmaBuffer::allocate(4096).value();
        EXPECT_TRUE(device.read(suspend, 0, memory.span()));
        EXPECT_EQ(device.write(suspend, 0, memory.span()).error().code, Errc::kReadOnly);
        EXPECT_EQ(device.write_zeroes(suspend, 0, 4096).error().code, Errc::kReadOnly);
        EXPECT_EQ(device.deallocate(suspend, 0, 4096).error().code, Errc::kReadOnly);
    });
}

TEST_F(DeviceTest, FileInUseIsBusyAndReadersShare) {
    ScratchFile file("locked");
    DeviceOptions options;
    options.create_size = 1 << 20;
    options.lock_wait_ms = 30;
    on_device(open(file.path, options), [&](Suspend& suspend, Device&) {
        EXPECT_EQ(Device::open(suspend, file.path, options).error().code, Errc::kBusy);
        DeviceOptions reader = options;
        reader.read_only = true;
        EXPECT_EQ(Device::open(suspend, file.path, reader).error().code, Errc::kBusy);
    });
    DeviceOptions reader = options;
    reader.read_only = true;
    on_device(open(file.path, reader), [&](Suspend& suspend, Device&) {
        EXPECT_EQ(Device::open(suspend, file.path, options).error().code, Errc::kBusy);
        Result<std::unique_ptr<Device>> second = Device::open(suspend, file.path, reader);
        ASSERT_TRUE(second);
        EXPECT_TRUE((*second)->close(suspend));
    });
    on_device(open(file.path, options), [](Suspend&, Device&) {});
}

TEST_F(DeviceTest, LockIsWaitedFor) {
    ScratchFile file("wait");
    DeviceOptions options;
    options.create_size = 1 << 20;
    Result<std::unique_ptr<Device>> first = open(file.path, options);
    ASSERT_TRUE(first);
    reactor.block_on([&](Suspend& suspend) {
        suspend.reactor().spawn([&](Suspend& closer) {
            closer.sleep_us(50'000);
            EXPECT_TRUE((*first)->close(closer));
            first->reset();
        });
        Result<std::unique_ptr<Device>> second = Device::open(suspend, file.path, options);
        ASSERT_TRUE(second) << second.error().message();
        EXPECT_TRUE((*second)->close(suspend));
    });
}

TEST_F(DeviceTest, NamesThatMakeNoSenseAreRefused) {
    const auto code = [&](const char* name) {
        const Result<std::unique_ptr<Device>> result = open(name);
        return result ? Errc::kExists : result.error().code;
    };
    EXPECT_EQ(code("/tmp"), Errc::kIsDirectory);
    EXPECT_EQ(code("/dev/null"), Errc::kInvalidArgument);
    EXPECT_EQ(code("/nonexistent/file"), Errc::kNotFound);
    EXPECT_EQ(code("mem:"), Errc::kInvalidArgument);
    EXPECT_EQ(code("mem:12Q"), Errc::kInvalidArgument);
    EXPECT_EQ(code("mem:0"), Errc::kInvalidArgument);
    EXPECT_EQ(code("pcie:nowhere"), Errc::kInvalidArgument);
    EXPECT_EQ(code(""), Errc::kInvalidArgument);
    EXPECT_EQ(parse_device_name("03:00.0").value().address, "0000:03:00.0");
    EXPECT_EQ(parse_device_name("pcie:0001:af:1f.7").value().address, "0001:af:1f.7");
    EXPECT_EQ(parse_device_name("03:00.8").value().kind, DeviceName::Kind::kFile);
    EXPECT_EQ(parse_device_name("file:03:00.0").value().path, "03:00.0");
    EXPECT_EQ(parse_device_name("mem:3MiB").value().bytes, std::uint64_t{3} << 20);
    EXPECT_EQ(parse_size("16777216T").error().code, Errc::kTooLarge);
}

TEST_F(DeviceTest, DeallocationGivesFileSpaceBack) {
    ScratchFile file("sparse");
    DeviceOptions options;
    options.create_size = std::uint64_t{1} << 30;
    on_device(open(file.path, options), [&](Suspend& suspend, Device& device) {
        DmaBuffer memory = DmaBuffer::allocate(1 << 20).value();
        std::fill(memory.span().begin(), memory.span().end(), std::byte{0x5a});
        for (std::uint64_t at = 0; at < 8; ++at) {
            ASSERT_TRUE(device.write(suspend, at << 20, memory.span()));
        }
        ASSERT_TRUE(device.flush(suspend));
        struct stat before {
        }, after{};
        ASSERT_EQ(0, stat(file.path.c_str(), &before));
        EXPECT_GE(before.st_blocks * 512, 8 << 20);
        EXPECT_LT(before.st_blocks * 512, 64 << 20) << "growing a file takes no space";
        ASSERT_TRUE(device.deallocate(suspend, 0, 6 << 20));
        ASSERT_TRUE(device.write_zeroes(suspend, 6 << 20, 1 << 20));
        ASSERT_EQ(0, stat(file.path.c_str(), &after));
        EXPECT_LE(after.st_blocks * 512, before.st_blocks * 512 - (6 << 20));
        ASSERT_TRUE(device.read(suspend, 6 << 20, memory.span()));
        EXPECT_TRUE(std::all_of(memory.span().begin(), memory.span().end(),
                                [](std::byte b) { return b == std::byte{0}; }));
    });
}

}  // namespace
}  // namespace blobfs::driver
