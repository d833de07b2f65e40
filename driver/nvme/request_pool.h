#pragma once

// The requests of a queue pair: a pool that is made at the start and grows by slabs when more are
// under way than ever before, so that submitting never fails for want of room. The queue's thread.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "driver/base/result.h"
#include "driver/memory/dma_segment.h"
#include "driver/nvme/io_command.h"
#include "driver/nvme/prp_list.h"
#include "driver/nvme/spec.h"

namespace blobfs::driver::nvme {

// The end of a request: null and the completion's dword 0, or what went wrong. Called from poll(),
// or from submit() when the request cannot even be started. May submit further requests.
using Callback = void (*)(void* context, const Error* error, std::uint32_t dword0);

struct Request {
    SubmissionEntry command{};
    Callback callback = nullptr;
    void* context = nullptr;
    Request* next = nullptr;
    Request* parent = nullptr;         // this is a part of that one, and borrows its memory
    const Namespace* space = nullptr;  // null: a raw command
    const char* what = "";
    DmaSegment single{};                // the memory, when it is one piece
    std::vector<DmaSegment> scattered;  // else the pieces; keeps its capacity in the pool
    TransferRange range;                // of the memory
    DatasetRange dataset{};
    std::uint64_t device_offset = 0;
    std::uint64_t retry_at_us = 0;
    std::uint32_t parts_left = 0;  // of a split request
    std::uint32_t retries = 0;
    Error error{};  // of a split request: the first of its parts
    bool failed = false;
    bool raw = false;
    bool memory = false;

    [[nodiscard]] std::span<const DmaSegment> segments() const {
        const Request& owner = parent != nullptr ? *parent : *this;
        if (!owner.scattered.empty()) return owner.scattered;
        return {&owner.single, 1};
    }
};

// First in, first out, through the requests themselves.
class RequestList {
  public:
    [[nodiscard]] bool empty() const { return head_ == nullptr; }
    void push_back(Request* request);
    void push_front(Request* request);
    // The list is not empty.
    Request* pop_front();

  private:
    Request* head_ = nullptr;
    Request* tail_ = nullptr;  // meaningless when head_ is null
};

class RequestPool {
  public:
    // Room for at least that many before it has to grow.
    explicit RequestPool(std::size_t requests);

    [[nodiscard]] Request* take() {
        if (free_ == nullptr) [[unlikely]]
            grow();
        Request* request = free_;
        free_ = request->next;
        request->next = nullptr;
        return request;
    }
    void give_back(Request* request) {
        request->scattered.clear();
        request->parent = nullptr;
        request->retries = 0;
        request->failed = false;
        request->next = free_;
        free_ = request;
    }

  private:
    void grow();

    std::vector<std::unique_ptr<Request[]>> slabs_;
    Request* free_ = nullptr;
};

}  // namespace blobfs::driver::nvme
