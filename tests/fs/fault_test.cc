// Devices that fail: what the caller sees, what state the filesystem takes, that nothing that was
// acknowledged is silently wrong, and that everything ends.

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "driver/memory/dma_buffer.h"
#include "driver/nvme/status.h"
#include "driver/soft/faulty_medium.h"
#include "driver/soft/power_cut_medium.h"
#include "fs/filesystem.h"
#include "tests/fs/filesystem_fixture.h"

namespace blobfs::fs {
namespace {

using driver::Fault;
using driver::FaultyMedium;
using driver::MediumStatus;
using Kind = driver::MediumOperation::Kind;

constexpr std::uint64_t kDeviceBytes = 32 << 20;

class Faults : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        must(driver::start_environment(
            {.memory_bytes = std::size_t{512} << 20, .hugepages = false}));
    }
    void SetUp() override {
        buffer = must(driver::DmaBuffer::allocate(std::size_t{1} << 20));
        // Its cache is volatile, so that flushes are sent.
        auto owned =
            std::make_unique<FaultyMedium>(driver::PowerCutMedium::create({.bytes = kDeviceBytes}));
        medium = owned.get();
        reactor.block_on([&](Suspend& suspend) {
            device = must(Device::open(suspend, std::move(owned), {.io_timeout_ms = 100}));
            must(Filesystem::format(suspend, *device, {}));
            open(suspend);
            for (int i = 0; i < kFiles; ++i) make(suspend, name_of(i), i);
            must(fs->sync(suspend));
            must(fs->store().checkpoint(suspend));
        });
    }
    void TearDown() override {
        reactor.block_on([&](Suspend& suspend) {
            medium->clear_faults();
            if (fs != nullptr) fs->abandon(suspend);
            fs.reset();
            (void)device->close(suspend);
        });
    }
    template <class F>
    void run(F&& body) {
        reactor.block_on([&](Suspend& suspend) { body(suspend); });
    }

    void open(Suspend& suspend) {
        OpenOptions options;
        options.store.commit_interval_ms = 0;  // nothing happens that the test does not ask for
        options.write_back_ms = 1'000'000;
        fs = must(Filesystem::open(suspend, *device, std::move(options)));
    }
    // The daemon dies, the device is well again.
    void reopen_well(Suspend& suspend) {
        medium->clear_faults();
        fs->abandon(suspend);
        fs.reset();
        open(suspend);
    }
    static std::string name_of(int i) { return "file" + std::to_string(i); }
    static std::string text_of(int i) {
        return std::string(static_cast<std::size_t>(i) * 5000 + 700, static_cast<char>('a' + i));
    }
    Result<InodeNumber> try_make(Suspend& suspend, const std::string& name, int i) {
        TRY_ASSIGN(const Attributes made,
                   fs->create(suspend, kRootUser, kRootInode, name, 0644, true));
        fs->forget(made.inode, 1);
        TRY(try_write(suspend, made.inode, text_of(i)));
        return made.inode;
    }
    InodeNumber make(Suspend& suspend, const std::string& name, int i) {
        return must(try_make(suspend, name, i));
    }
    Result<void> try_write(Suspend& suspend, InodeNumber inode, const std::string& text,
                           std::uint64_t offset = 0) {
        std::memcpy(buffer.data(), text.data(), text.size());
        TRY(fs->write(suspend, inode, offset, buffer.span().first(text.size()), {}));
        return {};
    }
    Result<InodeNumber> find(Suspend& suspend, const std::string& name) {
        TRY_ASSIGN(const Attributes found, fs->lookup(suspend, kRootInode, name));
        fs->forget(found.inode, 1);
        return found.inode;
    }
    Result<std::string> contents(Suspend& suspend, const std::string& name) {
        TRY_ASSIGN(const InodeNumber inode, find(suspend, name));
        TRY_ASSIGN(const std::size_t bytes, fs->read(suspend, inode, 0, buffer.span()));
        return std::string(reinterpret_cast<const char*>(buffer.data()), bytes);
    }
    void expect_all_whole(Suspend& suspend) {
        for (int i = 0; i < kFiles; ++i) {
            const auto text = contents(suspend, name_of(i));
            ASSERT_TRUE(text) << text.error().message();
            EXPECT_EQ(*text, text_of(i));
        }
        for (const std::string& finding : must(fs->check(suspend))) ADD_FAILURE() << finding;
        for (const std::string& finding : must(fs->store().check(suspend))) {
            ADD_FAILURE() << "store: " << finding;
        }
    }
    [[nodiscard]] Fault in_log(Kind kind) const {
        return {.kind = kind,
                .first_byte = blobstore::kLogStartBlock * blobstore::kBlockBytes,
                .bytes = fs->store().info().log_bytes,
                .status = MediumStatus(driver::nvme::Status::kWriteFault)};
    }
    [[nodiscard]] Fault behind_log(Kind kind) const {
        const std::uint64_t first =
            blobstore::kLogStartBlock * blobstore::kBlockBytes + fs->store().info().log_bytes;
        return {.kind = kind, .first_byte = first, .bytes = kDeviceBytes - first};
    }

    static constexpr int kFiles = 12;
    driver::Reactor reactor;
    FaultyMedium* medium = nullptr;
    std::unique_ptr<Device> device;
    std::unique_ptr<Filesystem> fs;
    driver::DmaBuffer buffer;
};

TEST_F(Faults, DataThatCannotBeWrittenIsTheWritersErrorOnly) {
    run([&](Suspend& suspend) {
        const InodeNumber file = must(find(suspend, name_of(3)));
        Fault fault = behind_log(Kind::kWrite);
        fault.status = MediumStatus(driver::nvme::Status::kWriteFault);
        fault.count = 1;
        medium->add(fault);
        const auto written = try_write(suspend, file, std::string(30'000, 'z'), 40'960);
        ASSERT_FALSE(written);
        EXPECT_EQ(to_errno(written.error()), EIO);
        EXPECT_FALSE(fs->read_only());
        EXPECT_EQ(must(contents(suspend, name_of(3))), text_of(3));
        must(try_make(suspend, "after", 2));
        must(fs->sync(suspend));
        reopen_well(suspend);
        EXPECT_EQ(must(contents(suspend, "after")), text_of(2));
        expect_all_whole(suspend);
    });
}

TEST_F(Faults, FullMediumBelowIsNoSpace) {
    run([&](Suspend& suspend) {
        Fault fault = behind_log(Kind::kWrite);
        fault.status = MediumStatus(driver::nvme::Status::kCapacityExceeded);
        medium->add(fault);
        const auto made = try_make(suspend, "new", 9);
        ASSERT_FALSE(made);
        EXPECT_EQ(to_errno(made.error()), ENOSPC) << made.error().message();
        EXPECT_FALSE(fs->read_only());
        medium->clear_faults();
        must(try_make(suspend, "after", 9));
        must(fs->sync(suspend));
        reopen_well(suspend);
        expect_all_whole(suspend);
    });
}

TEST_F(Faults, WriteFromTheCacheThatDoesNotFitWholeIsAnError) {
    run([&](Suspend& suspend) {
        const InodeNumber filler = make(suspend, "filler", 0);
        const std::uint64_t available = fs->store().space().available_bytes;
        must(fs->fallocate(suspend, filler, 0, 0, available - (200 << 10)));
        const InodeNumber file = make(suspend, "new", 0);
        std::memset(buffer.data(), 'z', buffer.size());
        const ConstDmaSpan large = buffer.span().first(900 << 10);
        // The kernel takes a short count for all when it writes its cache out.
        const auto cached = fs->write(suspend, file, 4096, large, {.whole = true});
        ASSERT_FALSE(cached);
        EXPECT_EQ(to_errno(cached.error()), ENOSPC);
        const auto direct = fs->write(suspend, file, 4096, large, {});
        EXPECT_TRUE(direct ? direct->bytes < large.size() : direct.error().code == Errc::kNoSpace);
        must(fs->unlink(suspend, kRootInode, "filler"));
        expect_all_whole(suspend);
    });
}

TEST_F(Faults, LogThatCannotBeWrittenMakesItReadOnlyAndTellsFsync) {
    for (const Kind kind : {Kind::kWrite, Kind::kFlush}) {
        run([&](Suspend& suspend) {
            const InodeNumber file = make(suspend, "new" + std::to_string(int(kind)), 4);
            // More than the log carries, so that there is a flush.
            must(try_write(suspend, file, std::string(std::size_t{40} << 10, 'l')));
            medium->add(kind == Kind::kWrite ? in_log(kind) : Fault{.kind = kind});
            const auto synced = fs->fsync(suspend, file, false);
            ASSERT_FALSE(synced);
            EXPECT_EQ(to_errno(synced.error()), EIO) << synced.error().message();
            EXPECT_TRUE(fs->read_only());
            // It stays an error, and nothing changes any more; reading goes on.
            EXPECT_FALSE(fs->fsync(suspend, file, false));
            EXPECT_FALSE(try_make(suspend, "refused", 1));
            EXPECT_FALSE(fs->unlink(suspend, kRootInode, name_of(1)));
            EXPECT_EQ(must(contents(suspend, name_of(5))), text_of(5));
            reopen_well(suspend);
            EXPECT_FALSE(fs->read_only());
            expect_all_whole(suspend);
        });
    }
}

TEST_F(Faults, CheckpointThatFailsLosesNothingThatWasSynced) {
    // Any one of the writes of a checkpoint.
    for (std::uint64_t skip = 0; skip < 6; ++skip) {
        run([&](Suspend& suspend) {
            const std::string name = "kept" + std::to_string(skip);
            make(suspend, name, 6);
            must(fs->sync(suspend));
            medium->add({.kind = Kind::kWrite,
                         .skip = skip,
                         .status = MediumStatus(driver::nvme::Status::kWriteFault)});
            const auto made = fs->store().checkpoint(suspend);
            EXPECT_TRUE(made || fs->read_only());
            reopen_well(suspend);
            EXPECT_EQ(must(contents(suspend, name)), text_of(6));
            expect_all_whole(suspend);
        });
    }
}

TEST_F(Faults, ErrorsThatMayBeRetriedAre) {
    run([&](Suspend& suspend) {
        for (const Kind kind : {Kind::kWrite, Kind::kRead, Kind::kFlush}) {
            medium->add({.kind = kind,
                         .count = 2,
                         .status = MediumStatus(driver::nvme::Status::kNamespaceNotReady, false)});
        }
        must(try_make(suspend, "new", 8));
        must(fs->sync(suspend));
        EXPECT_GE(medium->hits(), 4u);
        reopen_well(suspend);
        EXPECT_EQ(must(contents(suspend, "new")), text_of(8));
        expect_all_whole(suspend);
    });
}

// Whatever a device says, what is told to be durable is, and nobody takes its answer for the
// filesystem's own, "there is no such file" for one.
TEST_F(Faults, EveryStatusIsAnErrorThatLosesNothingAcknowledged) {
    using driver::nvme::Status;
    const Status statuses[] = {Status::kInvalidOpcode,
                               Status::kInvalidField,
                               Status::kDataTransferError,
                               Status::kInternalError,
                               Status::kAbortRequested,
                               Status::kInvalidNamespace,
                               Status::kLbaOutOfRange,
                               Status::kCapacityExceeded,
                               Status::kNamespaceNotReady,
                               Status::kWriteFault,
                               Status::kUnrecoveredReadError,
                               Status::kGuardCheckError,
                               Status::kAccessDenied,
                               Status::kDeallocatedBlock,
                               Status::kNamespaceWriteProtected,
                               Status::kWriteToReadOnlyRange};
    for (const Status status : statuses) {
        for (const bool final : {true, false}) {
            for (const Kind kind : {Kind::kRead, Kind::kWrite, Kind::kFlush}) {
                run([&](Suspend& suspend) {
                    reopen_well(suspend);
                    SCOPED_TRACE(testing::Message()
                                 << driver::nvme::status_name(static_cast<std::uint16_t>(status))
                                 << (final ? ", final" : "") << ", kind " << int(kind));
                    const auto allowed = [](const Error& error) {
                        const int number = to_errno(error);
                        EXPECT_TRUE(number == EIO || number == ENOSPC || number == EROFS)
                            << error.message();
                    };
                    // The second of the kind, so that some get through; and the retries with it.
                    medium->add({.kind = kind,
                                 .skip = 1,
                                 .count = 6,
                                 .status = MediumStatus(status, final)});
                    bool durable = false;
                    if (const auto made = try_make(suspend, "new", 6); !made) {
                        allowed(made.error());
                    } else if (const auto synced = fs->fsync(suspend, *made, false); !synced) {
                        allowed(synced.error());
                    } else {
                        durable = true;
                    }
                    const auto text = contents(suspend, name_of(4));
                    if (!text) allowed(text.error());
                    reopen_well(suspend);
                    if (durable) {
                        EXPECT_EQ(must(contents(suspend, "new")), text_of(6));
                    }
                    (void)fs->unlink(suspend, kRootInode, "new");
                    expect_all_whole(suspend);
                });
            }
        }
    }
}

TEST_F(Faults, AReadThatFailsOnceIsAnErrorOnce) {
    run([&](Suspend& suspend) {
        reopen_well(suspend);
        Fault fault = behind_log(Kind::kRead);
        fault.status = MediumStatus(driver::nvme::Status::kInvalidNamespace);
        fault.count = 1;
        medium->add(fault);
        int failed = 0;
        for (int i = 0; i < kFiles; ++i) {
            const auto text = contents(suspend, name_of(i));
            if (text) continue;
            ++failed;
            EXPECT_EQ(to_errno(text.error()), EIO) << text.error().message();
        }
        EXPECT_EQ(failed, 1);
        EXPECT_FALSE(fs->read_only());
        expect_all_whole(suspend);
    });
}

TEST_F(Faults, LateAnswersAreWaitedFor) {
    run([&](Suspend& suspend) {
        medium->add({.effect = Fault::Effect::kDelay, .delay_us = 5'000});
        must(try_make(suspend, "new", 8));
        must(fs->sync(suspend));
        must(fs->store().checkpoint(suspend));
        reopen_well(suspend);
        EXPECT_EQ(must(contents(suspend, "new")), text_of(8));
        expect_all_whole(suspend);
    });
}

TEST_F(Faults, CommandThatIsNeverAnsweredIsEndedByItsTimeout) {
    run([&](Suspend& suspend) {
        Fault fault = behind_log(Kind::kWrite);
        fault.effect = Fault::Effect::kNeverAnswer;
        fault.count = 1;
        medium->add(fault);
        // Aborted, and tried again or reported; either way it ends, and the next works.
        (void)try_make(suspend, "new", 8);
        must(try_make(suspend, "after", 7));
        must(fs->sync(suspend));
        reopen_well(suspend);
        EXPECT_EQ(must(contents(suspend, "after")), text_of(7));
        expect_all_whole(suspend);
    });
}

TEST_F(Faults, DamageFromBelowIsNoticedNeverBelieved) {
    // A write of a checkpoint that is lost, goes elsewhere, or arrives with a bit turned: what is
    // read afterwards is right or an error. File data has no checksums and is not written here.
    struct Case {
        const char* name;
        Fault fault;
    };
    const Case cases[] = {
        {"lost", {.effect = Fault::Effect::kLoseWrite}},
        {"misdirected", {.effect = Fault::Effect::kMisdirectWrite, .misdirect_to = 24 << 20}},
        {"flipped", {.effect = Fault::Effect::kFlipBit, .bit = 3000}},
    };
    for (const Case& wrong : cases) {
        for (std::uint64_t skip = 0; skip < 5; ++skip) {
            run([&](Suspend& suspend) {
                for (int i = 0; i < 40; ++i) {
                    must(fs->mkdir(suspend, kRootUser, kRootInode, "d" + std::to_string(i), 0755));
                }
                must(fs->sync(suspend));
                Fault fault = behind_log(Kind::kWrite);
                fault.effect = wrong.fault.effect;
                fault.misdirect_to = wrong.fault.misdirect_to;
                fault.bit = wrong.fault.bit;
                fault.skip = skip;
                fault.count = 1;
                medium->add(fault);
                (void)fs->store().checkpoint(suspend);
                medium->clear_faults();
                fs->abandon(suspend);
                fs.reset();
                OpenOptions options;
                options.store.commit_interval_ms = 0;
                auto opened = Filesystem::open(suspend, *device, std::move(options));
                if (!opened) {
                    EXPECT_EQ(opened.error().code, Errc::kCorrupt) << opened.error().message();
                    return;
                }
                fs = std::move(*opened);
                for (int i = 0; i < 40; ++i) {
                    const auto found = find(suspend, "d" + std::to_string(i));
                    EXPECT_TRUE(found || found.error().code == Errc::kCorrupt)
                        << wrong.name << ": " << found.error().message();
                }
                for (int i = 0; i < kFiles; ++i) {
                    const auto text = contents(suspend, name_of(i));
                    if (text) {
                        EXPECT_EQ(*text, text_of(i)) << wrong.name;
                    } else {
                        EXPECT_EQ(text.error().code, Errc::kCorrupt) << text.error().message();
                    }
                }
            });
            TearDown();
            SetUp();
        }
    }
}

// What follows it in the log shows that it was durable: a mount does not go on without it as if
// nothing had been. (The last one of all cannot be told from one that a crash has torn.)
TEST_F(Faults, LogWriteThatWentWrongIsNoticedNeverBelieved) {
    for (const Fault::Effect effect :
         {Fault::Effect::kLoseWrite, Fault::Effect::kMisdirectWrite, Fault::Effect::kFlipBit}) {
        for (const std::uint64_t skip : {0u, 3u}) {
            SCOPED_TRACE(testing::Message() << "effect " << int(effect) << ", batch " << skip);
            run([&](Suspend& suspend) {
                Fault fault = in_log(Kind::kWrite);
                fault.effect = effect;
                fault.misdirect_to = 24 << 20;
                fault.bit = 1000;
                fault.skip = skip;
                fault.count = 1;
                medium->add(fault);
                for (int i = 0; i < 6; ++i) {
                    const InodeNumber file = make(suspend, "new" + std::to_string(i), 0);
                    must(fs->fsync(suspend, file, false));
                }
                EXPECT_EQ(medium->hits(), 1u);
                medium->clear_faults();
                fs->abandon(suspend);
                fs.reset();
                blobstore::OpenOptions options{.commit_interval_ms = 0};
                const auto opened = Filesystem::open(suspend, *device, {.store = options});
                ASSERT_FALSE(opened);
                EXPECT_EQ(opened.error().code, Errc::kCorrupt) << opened.error().message();
                options.read_only = true;
                fs = must(Filesystem::open(suspend, *device, {.store = options}));
                for (std::uint64_t i = 0; i < 6; ++i) {
                    EXPECT_EQ(find(suspend, "new" + std::to_string(i)).has_value(), i < skip);
                }
                EXPECT_EQ(must(contents(suspend, name_of(5))), text_of(5));
            });
            TearDown();
            SetUp();
        }
    }
}

TEST_F(Faults, UnreadableDataConcernsItsFileOnly) {
    run([&](Suspend& suspend) {
        reopen_well(suspend);
        // Names and attributes first, so that only data is read below.
        for (int i = 0; i < kFiles; ++i) must(find(suspend, name_of(i)));
        Fault fault = behind_log(Kind::kRead);
        fault.status = MediumStatus(driver::nvme::Status::kUnrecoveredReadError);
        fault.count = 1;
        medium->add(fault);
        const auto text = contents(suspend, name_of(7));
        ASSERT_FALSE(text);
        EXPECT_EQ(to_errno(text.error()), EIO);
        EXPECT_FALSE(fs->read_only());
        expect_all_whole(suspend);
    });
}

TEST_F(Faults, DeviceThatVanishesEndsEverythingWithAnError) {
    run([&](Suspend& suspend) {
        const InodeNumber file = make(suspend, "new", 3);
        medium->vanish();
        const auto synced = fs->fsync(suspend, file, false);
        ASSERT_FALSE(synced);
        EXPECT_TRUE(to_errno(synced.error()) == EIO || to_errno(synced.error()) == ENODEV)
            << synced.error().message();
        EXPECT_TRUE(fs->read_only());
        EXPECT_FALSE(try_make(suspend, "later", 9));
        EXPECT_FALSE(fs->close(suspend));
        fs.reset();
    });
}

}  // namespace
}  // namespace blobfs::fs
