// Exercises a DEVICE through the driver, for the tests in the guest:
//   model    random reads, writes and zeroing on several fibers against a copy in memory, which is
//            then written to a file for others to compare the device with
//   compare  the device holds what the file holds
//   load     reads and writes until it fails; says how
//   show     the properties, one to a line
// With --queues, the model's fibers are spread over as many threads, each on a queue pair of its
// own. Exit status: 0, 1 when the device is wrong, 2 when it failed, 3 when it could not be opened.

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "driver/base/command_line.h"
#include "driver/device.h"
#include "driver/device_name.h"
#include "driver/memory/environment.h"
#include "driver/nvme_device.h"
#include "driver/reactor/reactor.h"

namespace {

using namespace blobfs;
using namespace blobfs::driver;

constexpr std::size_t kFibers = 8;
constexpr std::size_t kMaxTransfer = std::size_t{3} << 20;
constexpr std::size_t kPage = DmaBuffer::kPageSize;

struct Options {
    std::string device, action, file;
    std::uint64_t bytes = std::uint64_t{32} << 20;
    std::uint32_t operations = 300;
    std::uint32_t seed = 1;
    std::uint32_t queues = 1;
};

struct Outcome {
    std::atomic<int> status = 0;
    void failed(const Error& error) {
        std::printf("failed: %s\n", error.message().c_str());
        status = 2;
    }
    void wrong(std::uint64_t offset, std::size_t bytes) {
        std::printf("wrong: %zu bytes read at %llu differ\n", bytes,
                    static_cast<unsigned long long>(offset));
        int none = 0;
        status.compare_exchange_strong(none, 1);
    }
};

// One fiber's share of the device: a range that no other fiber touches.
class Worker {
  public:
    Worker(std::span<std::byte> model, std::uint64_t start, std::uint32_t seed, DmaBuffer& buffer,
           Outcome& outcome)
        : model_(model), start_(start), random_(seed), buffer_(buffer), outcome_(outcome) {}

    void run(Suspend& suspend, Device& device, std::uint32_t operations) {
        device_ = &device;
        for (std::uint32_t i = 0; i < operations && outcome_.status == 0; ++i) {
            choose_range();
            if (Result<void> result = one(suspend); !result) outcome_.failed(result.error());
        }
    }

  private:
    std::size_t below(std::size_t limit) { return random_() % limit; }

    // Mostly small, some longer than any controller takes in one command; memory on any dword.
    void choose_range() {
        const std::size_t lba = device_->properties().lba_bytes;
        const std::size_t limit = std::min<std::size_t>(
            {model_.size(), kMaxTransfer, below(4) == 0 ? kMaxTransfer : 16 * kPage});
        bytes_ = (1 + below(limit / lba)) * lba;
        at_ = below((model_.size() - bytes_) / lba + 1) * lba;
        memory_ = buffer_.span().subspan(below(kPage / 4) * 4, bytes_);
    }

    void fill() {
        for (std::size_t i = 0; i < memory_.size(); i += 4) {
            const std::uint32_t value = static_cast<std::uint32_t>(random_());
            std::memcpy(memory_.data() + i, &value, 4);
        }
    }

    Result<void> one(Suspend& suspend) {
        const std::span<std::byte> expected = model_.subspan(at_, bytes_);
        switch (below(10)) {
            case 0:
            case 1:
            case 2:
                TRY(device_->read(suspend, start_ + at_, memory_));
                if (std::memcmp(memory_.data(), expected.data(), bytes_) != 0) {
                    outcome_.wrong(start_ + at_, bytes_);
                }
                return {};
            case 3:
                TRY(device_->write_zeroes(suspend, start_ + at_, bytes_));
                std::fill(expected.begin(), expected.end(), std::byte{});
                return {};
            case 4:
                return device_->flush(suspend);
            case 5:
                return scattered(suspend, expected);
            case 6:
                return compare_with(suspend, expected);
            case 7:
                if (!device_->properties().verify) return {};
                return device_->verify(suspend, start_ + at_, bytes_);
            default:
                fill();
                TRY(device_->write(
                    suspend, start_ + at_, memory_,
                    below(4) == 0 ? WriteFlags::kForceUnitAccess : WriteFlags::kNone));
                std::memcpy(expected.data(), memory_.data(), bytes_);
                return {};
        }
    }

    // Once with what is there, once with one byte that differs.
    Result<void> compare_with(Suspend& suspend, std::span<const std::byte> expected) {
        if (!device_->properties().compare) return {};
        std::memcpy(memory_.data(), expected.data(), bytes_);
        TRY_ASSIGN(const bool equal, device_->compare(suspend, start_ + at_, memory_));
        memory_[below(bytes_)] ^= std::byte{0x40};
        TRY_ASSIGN(const bool still_equal, device_->compare(suspend, start_ + at_, memory_));
        if (!equal || still_equal) outcome_.wrong(start_ + at_, bytes_);
        return {};
    }

    // The same memory in pieces, the last pages first.
    Result<void> scattered(Suspend& suspend, std::span<std::byte> expected) {
        memory_ = buffer_.span().first(bytes_);
        fill();
        std::vector<DmaSegment> segments;
        std::size_t done = 0;
        const std::size_t pages = bytes_ / kPage;
        for (std::size_t page = pages; page-- > 0;) {
            segments.push_back({.data = memory_.data() + page * kPage, .bytes = kPage});
            std::memcpy(expected.data() + done, segments.back().data, kPage);
            done += kPage;
        }
        if (done < bytes_) {
            segments.push_back({.data = memory_.data() + pages * kPage, .bytes = bytes_ - done});
            std::memcpy(expected.data() + done, segments.back().data, bytes_ - done);
        }
        return device_->write(suspend, start_ + at_, segments);
    }

    Device* device_ = nullptr;
    std::span<std::byte> model_;
    std::uint64_t start_;
    std::mt19937 random_;
    DmaBuffer& buffer_;
    Outcome& outcome_;
    std::uint64_t at_ = 0;
    std::size_t bytes_ = 0;
    DmaSpan memory_;
};

Result<std::vector<DmaBuffer>> buffers(std::size_t bytes) {
    std::vector<DmaBuffer> list;
    for (std::size_t i = 0; i < kFibers; ++i) {
        TRY_ASSIGN(DmaBuffer buffer, DmaBuffer::allocate(bytes));
        list.push_back(std::move(buffer));
    }
    return list;
}

Result<void> read_all(Suspend& suspend, Device& device, std::span<std::byte> into) {
    TRY_ASSIGN(const DmaBuffer buffer, DmaBuffer::allocate(kMaxTransfer));
    for (std::size_t at = 0; at < into.size();) {
        const std::size_t step = std::min(kMaxTransfer, into.size() - at);
        TRY(device.read(suspend, at, buffer.span().first(step)));
        std::memcpy(into.data() + at, buffer.data(), step);
        at += step;
    }
    return {};
}

Result<void> model(Suspend& suspend, Device& device, const Options& options, Outcome& outcome) {
    const std::uint64_t total = std::min(options.bytes, device.properties().bytes);
    const std::size_t share = total / kFibers / kPage * kPage;
    std::vector<std::byte> contents(share * kFibers);
    TRY(read_all(suspend, device, contents));
    TRY_ASSIGN(std::vector<DmaBuffer> memory, buffers(kMaxTransfer + kPage));
    std::vector<Worker> workers;
    for (std::size_t i = 0; i < kFibers; ++i) {
        workers.emplace_back(std::span(contents).subspan(i * share, share), i * share,
                             options.seed * 1000 + static_cast<std::uint32_t>(i), memory[i],
                             outcome);
    }
    // Those of one thread, on its device.
    const auto run_workers = [&](Suspend& own, Device& on, std::uint32_t thread) {
        WaitGroup group;
        for (std::size_t i = thread; i < kFibers; i += options.queues) {
            group.add();
            own.reactor().spawn([&, i](Suspend& fiber) {
                workers[i].run(fiber, on, options.operations / kFibers);
                group.done();
            });
        }
        group.wait(own);
    };
    std::atomic<std::uint32_t> left = options.queues - 1;
    std::vector<std::thread> threads;
    for (std::uint32_t thread = 1; thread < options.queues; ++thread) {
        threads.emplace_back([&, thread] {
            Reactor reactor;
            reactor.block_on([&](Suspend& own) {
                Result<std::unique_ptr<Device>> joined = device.join(own);
                if (!joined) {
                    outcome.failed(joined.error());
                    return;
                }
                run_workers(own, **joined, thread);
                if (Result<void> closed = (*joined)->close(own); !closed) {
                    outcome.failed(closed.error());
                }
            });
            --left;
        });
    }
    run_workers(suspend, device, 0);
    while (left != 0) suspend.sleep_us(1000);
    for (std::thread& thread : threads) thread.join();
    const nvme::QueuePair::Statistics& queue =
        static_cast<NvmeDevice&>(device).queue().statistics();
    std::printf("sgls %d\nunwritten_doorbells %d\n", queue.sgls != 0,
                queue.unwritten_doorbells != 0);
    std::ofstream file(options.file, std::ios::binary);
    file.write(reinterpret_cast<const char*>(contents.data()),
               static_cast<std::streamsize>(contents.size()));
    std::printf("seed %u: %llu reads, %llu writes, %llu flushes\n", options.seed,
                static_cast<unsigned long long>(device.statistics().reads),
                static_cast<unsigned long long>(device.statistics().writes),
                static_cast<unsigned long long>(device.statistics().flushes));
    return {};
}

Result<void> compare(Suspend& suspend, Device& device, const Options& options, Outcome& outcome) {
    std::ifstream file(options.file, std::ios::binary);
    const std::vector<char> expected((std::istreambuf_iterator<char>(file)), {});
    std::vector<std::byte> contents(expected.size());
    TRY(read_all(suspend, device, contents));
    if (expected.empty() || std::memcmp(contents.data(), expected.data(), expected.size()) != 0) {
        outcome.wrong(0, expected.size());
    }
    return {};
}

// Each fiber goes on until its first error; all of them have to see one.
Result<void> load(Suspend& suspend, Device& device, const Options& options) {
    TRY_ASSIGN(std::vector<DmaBuffer> memory, buffers(64 * kPage));
    WaitGroup group;
    std::vector<Error> errors(kFibers);
    std::puts("under load");
    std::fflush(stdout);
    for (std::size_t i = 0; i < kFibers; ++i) {
        group.add();
        suspend.reactor().spawn([&, i](Suspend& own) {
            std::mt19937 random(options.seed + static_cast<std::uint32_t>(i));
            Result<void> result;
            while (result) {
                const std::size_t bytes = (1 + random() % 64) * kPage;
                const std::uint64_t offset = random() % 64 * 64 * kPage;
                const DmaSpan span = memory[i].span().first(bytes);
                result = random() % 2 == 0 ? device.read(own, offset, span)
                                           : device.write(own, offset, span);
            }
            errors[i] = result.error();
            group.done();
        });
    }
    group.wait(suspend);
    for (const Error& error : errors) std::printf("ended: %s\n", error.message().c_str());
    return {};
}

void show(const Device& device) {
    const DeviceProperties& p = device.properties();
    std::printf(
        "name %s\nmodel %s\nserial %s\nbytes %llu\nlba_bytes %u\nmax_transfer_bytes %u\n"
        "volatile_write_cache %d\ndeallocate %d\nwrite_zeroes %d\ncompare %d\nverify %d\n"
        "io_queues %u\n",
        p.name.c_str(), p.model.c_str(), p.serial.c_str(), static_cast<unsigned long long>(p.bytes),
        p.lba_bytes, p.max_transfer_bytes, p.volatile_write_cache, p.deallocate, p.write_zeroes,
        p.compare, p.verify, p.io_queues);
}

Result<void> act(Suspend& suspend, Device& device, const Options& options, Outcome& outcome) {
    if (options.action == "model") return model(suspend, device, options, outcome);
    if (options.action == "compare") return compare(suspend, device, options, outcome);
    if (options.action == "load") return load(suspend, device, options);
    show(device);
    return {};
}

int run(const Options& options) {
    const Result<void> started = start_environment(
        {.memory_bytes = std::size_t{128} << 20, .physical = names_pcie(options.device)});
    if (!started) {
        std::printf("%s\n", started.error().message().c_str());
        return 3;
    }
    Reactor reactor;
    Outcome outcome;
    reactor.block_on([&](Suspend& suspend) {
        DeviceOptions wanted;
        wanted.io_queues = static_cast<std::uint16_t>(options.queues);
        Result<std::unique_ptr<Device>> device = Device::open(suspend, options.device, wanted);
        if (!device) {
            std::printf("could not open %s: %s\n", options.device.c_str(),
                        device.error().message().c_str());
            outcome.status = 3;
            return;
        }
        if (Result<void> done = act(suspend, **device, options, outcome); !done) {
            outcome.failed(done.error());
        }
        if (Result<void> closed = (*device)->close(suspend); !closed) {
            std::printf("closing: %s\n", closed.error().message().c_str());
        }
    });
    return outcome.status;
}

}  // namespace

int main(int argc, char** argv) {
    blobfs::command_line::Parser parser("Exercises a device through the driver");
    Options options;
    parser.option("action", options.action).required().one_of({"model", "compare", "load", "show"});
    parser.option("device", options.device).required();
    parser.option("file", options.file);
    parser.option("--bytes", options.bytes);
    parser.option("--operations", options.operations);
    parser.option("--seed", options.seed);
    parser.option("--queues", options.queues).within(1, 8);
    const blobfs::command_line::Parsed parsed = parser.parse(argc, argv);
    if (parsed.verdict != blobfs::command_line::Parsed::Verdict::kGoOn) {
        parsed.print(std::cout, std::cerr);
        return parsed.status;
    }
    return run(options);
}
