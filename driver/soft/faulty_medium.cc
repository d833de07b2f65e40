#include "driver/soft/faulty_medium.h"

#include <algorithm>
#include <cstring>

namespace blobfs::driver {

FaultyMedium::FaultyMedium(std::unique_ptr<Medium> inner) : inner_(std::move(inner)) {}

FaultyMedium::~FaultyMedium() {
    // Stand-ins are ours, so the medium must be done with them before they go.
    while (!stand_ins_.empty() && inner_->in_flight() != 0) inner_->poll();
}

void FaultyMedium::add(const Fault& fault) { faults_.push_back(fault); }

void FaultyMedium::clear_faults() { faults_.clear(); }

std::size_t FaultyMedium::in_flight() const { return inner_->in_flight() + held_.size(); }

Fault* FaultyMedium::match(const MediumOperation& operation) {
    const bool flush = operation.kind == MediumOperation::Kind::kFlush;
    for (Fault& fault : faults_) {
        if (fault.kind && *fault.kind != operation.kind) continue;
        const bool after = operation.offset >= fault.first_byte &&
                           operation.offset - fault.first_byte >= fault.bytes;
        const bool before = operation.offset + operation.bytes <= fault.first_byte;
        if (!flush && (after || before)) continue;
        if (fault.skip != 0) {
            --fault.skip;
            continue;
        }
        if (fault.count == 0) continue;
        --fault.count;
        ++hits_;
        return &fault;
    }
    return nullptr;
}

FaultyMedium::StandIn& FaultyMedium::stand_in(MediumOperation& operation) {
    stand_ins_.emplace_back();
    StandIn& result = stand_ins_.back();
    static_cast<MediumOperation&>(result) = operation;
    result.medium = this;
    result.original = &operation;
    result.self = std::prev(stand_ins_.end());
    result.done = stand_in_done;
    result.pieces.assign(operation.memory, operation.memory + operation.memory_count);
    return result;
}

void FaultyMedium::stand_in_done(MediumOperation& operation, MediumStatus status) {
    auto& stand_in = static_cast<StandIn&>(operation);
    if (stand_in.flip_after_read && status.code == 0) {
        std::uint64_t byte = *stand_in.flip_after_read / 8 % stand_in.bytes;
        for (const iovec& piece : stand_in.pieces) {
            if (byte >= piece.iov_len) {
                byte -= piece.iov_len;
                continue;
            }
            static_cast<std::byte*>(piece.iov_base)[byte] ^= std::byte{1}
                                                             << (*stand_in.flip_after_read % 8);
            break;
        }
    }
    MediumOperation& original = *stand_in.original;
    stand_in.medium->stand_ins_.erase(stand_in.self);
    original.done(original, status);
}

void FaultyMedium::start(MediumOperation& operation) {
    const Fault* fault = faults_.empty() ? nullptr : match(operation);
    if (fault == nullptr) {
        inner_->start(operation);
        return;
    }
    const bool write = operation.kind == MediumOperation::Kind::kWrite;
    const bool read = operation.kind == MediumOperation::Kind::kRead;
    switch (fault->effect) {
        case Fault::Effect::kFail:
            operation.done(operation, fault->status);
            return;
        case Fault::Effect::kDelay:
            held_.push_back({&operation, Clock::now() + std::chrono::microseconds(fault->delay_us),
                             fault->delay_polls});
            return;
        case Fault::Effect::kNeverAnswer:
            held_.push_back({&operation, std::nullopt});
            return;
        case Fault::Effect::kLoseWrite:
            if (read) break;
            operation.done(operation, MediumStatus{});
            return;
        case Fault::Effect::kMisdirectWrite: {
            if (!write || operation.bytes > properties().bytes) break;
            StandIn& other = stand_in(operation);
            other.memory = other.pieces.data();
            other.offset = std::min(fault->misdirect_to, properties().bytes - operation.bytes);
            inner_->start(other);
            return;
        }
        case Fault::Effect::kFlipBit: {
            if (!read && !write) break;
            StandIn& other = stand_in(operation);
            if (read) {
                other.flip_after_read = fault->bit;
                inner_->start(other);
                return;
            }
            for (const iovec& piece : other.pieces) {
                const auto* from = static_cast<const std::byte*>(piece.iov_base);
                other.payload.insert(other.payload.end(), from, from + piece.iov_len);
            }
            other.payload[fault->bit / 8 % other.bytes] ^= std::byte{1} << (fault->bit % 8);
            other.payload_piece = {.iov_base = other.payload.data(),
                                   .iov_len = other.payload.size()};
            other.memory = &other.payload_piece;
            other.memory_count = 1;
            inner_->start(other);
            return;
        }
    }
    inner_->start(operation);
}

bool FaultyMedium::poll() {
    bool any = inner_->poll();
    if (held_.empty()) return any;
    const Clock::time_point now = Clock::now();
    for (std::size_t i = 0; i < held_.size();) {
        Held& held = held_[i];
        const bool more_polls = held.polls != 0;
        if (more_polls) --held.polls;
        if (!held.until || *held.until > now || more_polls) {
            ++i;
            continue;
        }
        MediumOperation& operation = *held.operation;
        held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
        any = true;
        inner_->start(operation);
    }
    if (any) inner_->submit();
    return any;
}

bool FaultyMedium::cancel(MediumOperation& operation) {
    const auto found = std::find_if(held_.begin(), held_.end(),
                                    [&](const Held& held) { return held.operation == &operation; });
    if (found == held_.end()) return inner_->cancel(operation);
    held_.erase(found);
    operation.done(operation, MediumStatus(nvme::Status::kAbortRequested, false));
    return true;
}

}  // namespace blobfs::driver
