#include "driver/nvme/request_pool.h"

namespace blobfs::driver::nvme {

namespace {

constexpr std::size_t kSlabRequests = 64;

}  // namespace

void RequestList::push_back(Request* request) {
    request->next = nullptr;
    (head_ == nullptr ? head_ : tail_->next) = request;
    tail_ = request;
}

void RequestList::push_front(Request* request) {
    request->next = head_;
    if (head_ == nullptr) tail_ = request;
    head_ = request;
}

Request* RequestList::pop_front() {
    Request* request = head_;
    head_ = request->next;
    request->next = nullptr;
    return request;
}

RequestPool::RequestPool(std::size_t requests) {
    for (std::size_t have = 0; have < requests; have += kSlabRequests) grow();
}

void RequestPool::grow() {
    slabs_.push_back(std::make_unique<Request[]>(kSlabRequests));
    Request* slab = slabs_.back().get();
    for (std::size_t i = kSlabRequests; i-- > 0;) {
        slab[i].next = free_;
        free_ = &slab[i];
    }
}

}  // namespace blobfs::driver::nvme
