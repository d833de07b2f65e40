#include "mkfs/format_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>

#include "blobstore/blobstore.h"
#include "driver/device.h"
#include "driver/memory/dma_buffer.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"
#include "fs/filesystem.h"
#include "mkfs/byte_count.h"
#include "mkfs/target.h"

namespace blobfs::mkfs {

namespace {

using driver::Device;
using driver::DmaBuffer;
using driver::Suspend;

constexpr std::size_t kMemoryBytes = std::size_t{64} << 20;
constexpr std::uint64_t kFirstBytes = blobstore::kLogStartBlock * blobstore::kBlockBytes;
// Volume managers and GPT keep a copy of what they know at the end of a device.
constexpr std::uint64_t kLastBytes = 1u << 20;
constexpr std::uint64_t kSurveyedBytes = 4u << 20;
constexpr std::uint64_t kDiscardStep = std::uint64_t{64} << 30;
constexpr std::size_t kMaxLabelBytes = 64;

tl::unexpected<std::string> refuse(const std::string& text) {
    return tl::unexpected<std::string>(text);
}

// Well-formed UTF-8 without control characters: it will be printed by others.
bool is_good_label(const std::string& label) {
    std::size_t continuation = 0;
    for (const char c : label) {
        const auto byte = static_cast<unsigned char>(c);
        if (continuation > 0) {
            if ((byte & 0xc0) != 0x80) return false;
            --continuation;
        } else if (byte < 0x20 || byte == 0x7f) {
            return false;
        } else if (byte >= 0x80) {
            if (byte < 0xc2 || byte > 0xf4) return false;
            continuation = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
        }
    }
    return continuation == 0;
}

bool is_power_of_two_between(std::uint32_t value, std::uint32_t least, std::uint32_t most) {
    return std::has_single_bit(value) && value >= least && value <= most;
}

tl::expected<void, std::string> check_parameters(const FormatRequest& request) {
    if (request.label.size() > kMaxLabelBytes) {
        return refuse("the label has " + std::to_string(request.label.size()) +
                      " bytes; at most 64 are possible");
    }
    if (!is_good_label(request.label)) {
        return refuse("the label is not plain UTF-8 text (control characters are not allowed)");
    }
    if (!is_power_of_two_between(request.cluster_bytes, blobstore::kMinClusterBytes,
                                 blobstore::kMaxClusterBytes)) {
        return refuse("a cluster size of " + describe_byte_count(request.cluster_bytes) +
                      " is not possible; it is a power of two from 4K to 4M");
    }
    if (!is_power_of_two_between(request.page_bytes, blobstore::kMinPageBytes,
                                 blobstore::kMaxPageBytes)) {
        return refuse("a page size of " + describe_byte_count(request.page_bytes) +
                      " is not possible; it is 4K, 8K or 16K");
    }
    if (request.uuid && std::all_of(request.uuid->begin(), request.uuid->end(),
                                    [](std::uint8_t byte) { return byte == 0; })) {
        return refuse("the UUID must not be all zeroes");
    }
    return {};
}

tl::expected<void, std::string> check_size(const std::string& name, std::uint64_t bytes,
                                           bool can_grow) {
    if (bytes < blobstore::kMinDeviceBytes) {
        return refuse(name + " is too small: it has " + describe_byte_count(bytes) +
                      ", a filesystem needs at least " +
                      describe_byte_count(blobstore::kMinDeviceBytes) +
                      (can_grow ? "; --size SIZE grows the file" : ""));
    }
    if (bytes > blobstore::kMaxDeviceBytes) {
        return refuse(name + " is too large: " + describe_byte_count(bytes) + " are more than " +
                      describe_byte_count(blobstore::kMaxDeviceBytes));
    }
    return {};
}

// The size that the target will have.
tl::expected<std::uint64_t, std::string> size_to_be(const Target& target,
                                                    const FormatRequest& request) {
    const std::uint64_t wanted = request.size_bytes;
    if (wanted != 0) {
        if (target.kind == Target::Kind::kBlockDevice || target.kind == Target::Kind::kController) {
            return refuse("--size is for files; " + target.name + " has the size that it has");
        }
        if (wanted % blobstore::kBlockBytes != 0) {
            return refuse("--size must be a multiple of 4 KiB, " + std::to_string(wanted) +
                          " is not");
        }
        if (wanted < target.bytes) {
            return refuse(target.name + " has " + describe_byte_count(target.bytes) +
                          " already, --size would cut it to " + describe_byte_count(wanted) +
                          "; leave --size out, or remove the file first");
        }
    }
    return wanted != 0 ? wanted : target.bytes;
}

tl::expected<void, std::string> check_content(const Target& target, bool force) {
    if (force) return {};
    if (!target.signatures.empty()) {
        return refuse(
            target.name + " holds " + describe(target.signatures) +
            "; nothing was changed. To overwrite it, and lose what is there, use --force");
    }
    if (target.unknown_data) {
        return refuse(target.name +
                      " holds data (of a kind that is not known here); nothing was "
                      "changed. To overwrite it, and lose what is there, use --force");
    }
    return {};
}

// The beginning and the end of a device that is not in the kernel's hands, in a sparse file in
// memory of the same size, where libblkid can look at them.
tl::expected<std::vector<Signature>, std::string> survey_controller(Suspend& suspend,
                                                                    Device& device) {
    const std::uint64_t size = device.properties().bytes;
    const std::uint64_t part = std::min(kSurveyedBytes, size / 2 / 4096 * 4096);
    auto buffer = DmaBuffer::allocate(part);
    if (!buffer) return refuse(buffer.error().message());
    const int descriptor = memfd_create("survey", MFD_CLOEXEC);
    if (descriptor < 0) return refuse(std::string("memfd_create: ") + std::strerror(errno));
    tl::expected<std::vector<Signature>, std::string> result = refuse("cannot be read");
    bool good = ftruncate(descriptor, static_cast<off_t>(size)) == 0;
    for (const std::uint64_t offset : {std::uint64_t{0}, size - part}) {
        if (!good) break;
        if (auto read = device.read(suspend, offset, buffer->span()); !read) {
            result = refuse(read.error().message());
            good = false;
        } else {
            good = pwrite(descriptor, buffer->data(), part, static_cast<off_t>(offset)) ==
                   static_cast<ssize_t>(part);
        }
    }
    if (good) result = find_signatures(descriptor);
    close(descriptor);
    return result;
}

Result<void> zero(Suspend& suspend, Device& device, std::uint64_t begin, std::uint64_t end) {
    const std::uint64_t unit = blobstore::kBlockBytes;
    const std::uint64_t limit = device.properties().bytes / unit * unit;
    begin = begin / unit * unit;
    end = std::min((end + unit - 1) / unit * unit, limit);
    if (begin >= end) return {};
    TRY_ASSIGN(const DmaBuffer zeroes, DmaBuffer::allocate(std::min(end - begin, kFirstBytes)));
    while (begin < end) {
        const std::uint64_t step = std::min<std::uint64_t>(end - begin, zeroes.size());
        TRY(device.write(suspend, begin, driver::ConstDmaSpan(zeroes.data(), step)));
        begin += step;
    }
    return {};
}

// So that nobody takes the device for what it was.
Result<void> wipe(Suspend& suspend, Device& device, const std::vector<Signature>& signatures) {
    const std::uint64_t size = device.properties().bytes;
    TRY(zero(suspend, device, 0, kFirstBytes));
    if (signatures.empty()) return {};
    TRY(zero(suspend, device, size - kLastBytes, size));
    for (const Signature& signature : signatures) {
        TRY(zero(suspend, device, signature.offset, signature.offset + signature.bytes));
    }
    return {};
}

// What the device cannot give back is no obstacle: only space is lost.
void discard(Suspend& suspend, Device& device, FormatRequest& request) {
    const driver::DeviceProperties& properties = device.properties();
    if (!properties.deallocate) return;
    const std::uint64_t end = properties.bytes / blobstore::kBlockBytes * blobstore::kBlockBytes;
    for (std::uint64_t offset = 0; offset < end;) {
        const std::uint64_t step = std::min(kDiscardStep, end - offset);
        if (!device.deallocate(suspend, offset, step)) return;
        offset += step;
        if (request.progress) {
            request.progress("Discarding", static_cast<unsigned>(offset / (end / 100)));
        }
    }
}

// The log of a sparse file gets its blocks now, so that a full filesystem around the file cannot
// stop it later: then nothing could be made durable, deleting included.
tl::expected<void, std::string> keep_room_for_log(const Target& target,
                                                  const FormatReport& report) {
    if (target.kind != Target::Kind::kNewFile && target.kind != Target::Kind::kFile) return {};
    const int descriptor = ::open(target.path.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor < 0) return {};
    const std::uint64_t bytes =
        blobstore::kLogStartBlock * blobstore::kBlockBytes + report.log_bytes;
    const int done = ::fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes));
    const bool full = done != 0 && (errno == ENOSPC || errno == EDQUOT);
    ::close(descriptor);
    if (!full) return {};
    return refuse("formatting " + target.name +
                  " failed: the filesystem that holds it has no room for " +
                  std::to_string(bytes >> 20) + " MiB: make room there, or put it elsewhere");
}

// Runs on a fiber with the device open; sets what the report does not know yet.
tl::expected<void, std::string> format_opened(Suspend& suspend, Device& device, Target& target,
                                              FormatRequest& request, FormatReport& report) {
    report.model = device.properties().model;
    report.bytes = device.properties().bytes;
    if (target.kind == Target::Kind::kController) {
        if (auto good = check_size(target.name, report.bytes, false); !good) return good;
        auto signatures = survey_controller(suspend, device);
        if (!signatures) return refuse(target.name + ": " + signatures.error());
        target.signatures = std::move(*signatures);
        report.replaced = describe(target.signatures);
        if (auto good = check_content(target, request.force); !good) return good;
        if (request.dry_run) return {};
    }
    if (request.discard) discard(suspend, device, request);
    const auto failed = [&](const Error& error) {
        return refuse("formatting " + target.name + " failed: " + error.message());
    };
    if (auto done = wipe(suspend, device, target.signatures); !done) return failed(done.error());

    fs::MakeOptions options;
    options.store.uuid = report.uuid;
    options.store.label = report.label;
    options.store.cluster_bytes = report.cluster_bytes;
    options.store.page_bytes = report.page_bytes;
    options.root_uid = request.root_uid;
    options.root_gid = request.root_gid;
    if (auto done = fs::Filesystem::format(suspend, device, options); !done) {
        return failed(done.error());
    }
    auto info = blobstore::Blobstore::inspect(suspend, device);
    if (!info) return failed(info.error());
    report.inline_bytes = info->inline_bytes;
    report.log_bytes = info->log_bytes;
    return keep_room_for_log(target, report);
}

tl::expected<void, std::string> open_and_format(Target& target, FormatRequest& request,
                                                FormatReport& report, bool& touched) {
    driver::EnvironmentOptions environment;
    environment.memory_bytes = kMemoryBytes;
    environment.physical =
        target.kind == Target::Kind::kController && !target.name.starts_with("mem:");
    if (auto started = driver::start_environment(environment); !started) {
        return refuse("starting failed: " + started.error().message());
    }
    driver::DeviceOptions options;
    options.read_only = request.dry_run;
    options.create_size = report.created || report.grown ? report.bytes : 0;
    options.lock_wait_ms = request.lock_wait_ms;
    driver::Reactor reactor;
    return reactor.block_on([&](Suspend& suspend) -> tl::expected<void, std::string> {
        auto device = Device::open(suspend, target.name, options);
        // One who came between the look and now, and has the lock, may have made the file.
        touched = device || device.error().code != Errc::kBusy;
        if (!device) {
            return refuse("cannot open " + target.name + ": " + device.error().message());
        }
        auto formatted = format_opened(suspend, **device, target, request, report);
        auto closed = (*device)->close(suspend);
        if (formatted && !closed) {
            return refuse("closing " + target.name + " failed: " + closed.error().message());
        }
        return formatted;
    });
}

// A file that was to be made or grown is as it was before.
void undo_size(const Target& target) {
    if (target.kind == Target::Kind::kNewFile) {
        unlink(target.path.c_str());
    } else if (target.kind == Target::Kind::kFile) {
        // What cannot be undone is told by the error that led here.
        [[maybe_unused]] const int cut =
            truncate(target.path.c_str(), static_cast<off_t>(target.bytes));
    }
}

}  // namespace

tl::expected<FormatReport, std::string> format_device(FormatRequest request) {
    if (auto good = check_parameters(request); !good) return refuse(good.error());
    auto target = survey(request.device, {.may_create = request.size_bytes != 0,
                                          .lock_wait_ms = request.lock_wait_ms});
    if (!target) return refuse(target.error());
    auto bytes = size_to_be(*target, request);
    if (!bytes) return refuse(bytes.error());

    FormatReport report;
    report.device = request.device;
    report.bytes = *bytes;
    report.label = request.label;
    report.uuid = request.uuid ? *request.uuid : random_uuid();
    report.cluster_bytes = request.cluster_bytes;
    report.page_bytes = request.page_bytes;
    report.replaced = describe(target->signatures);
    report.created = target->kind == Target::Kind::kNewFile;
    report.grown = target->kind == Target::Kind::kFile && *bytes > target->bytes;
    report.dry_run = request.dry_run;
    if (target->kind != Target::Kind::kController) {
        const bool can_grow = target->kind != Target::Kind::kBlockDevice;
        if (auto good = check_size(target->name, *bytes, can_grow); !good) {
            return refuse(good.error());
        }
        if (auto good = check_content(*target, request.force); !good) return refuse(good.error());
        if (request.dry_run) return report;
    }

    bool touched = false;
    auto formatted = open_and_format(*target, request, report, touched);
    if (!formatted) {
        if (touched && (report.created || report.grown)) undo_size(*target);
        return refuse(formatted.error());
    }
    return report;
}

}  // namespace blobfs::mkfs
