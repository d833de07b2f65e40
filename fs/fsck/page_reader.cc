#include "fs/fsck/page_reader.h"

#include "driver/base/check.h"

namespace blobfs::fsck {

using blobstore::kBlockBytes;
using blobstore::PagePointer;
using driver::Device;
using driver::DmaBuffer;

Result<PageReader> PageReader::create(Device& device, const blobstore::PageIo::Geometry& geometry,
                                      Pace* pace) {
    TRY_ASSIGN(DmaBuffer memory, DmaBuffer::allocate(kMostPages * geometry.page_bytes));
    return PageReader(device, geometry, pace, std::move(memory));
}

Result<void> PageReader::read(driver::Suspend& suspend, std::span<const PagePointer> pointers) {
    CHECK(pointers.size() <= kMostPages);
    const std::size_t page_bytes = io_.geometry().page_bytes;
    const auto memory_of = [&](std::size_t i) {
        return memory_.span().subspan(i * page_bytes, page_bytes);
    };
    const auto within = [&](const PagePointer& pointer) {
        return pointer.block >= blobstore::kLogStartBlock &&
               pointer.block < io_.geometry().block_count &&
               io_.geometry().block_count - pointer.block >= io_.blocks_per_page();
    };
    if (pace_ != nullptr) TRY(pace_->before_reading(suspend, pointers.size() * page_bytes));
    Device::Batch batch(io_.device());
    for (std::size_t i = 0; i < pointers.size(); ++i) {
        if (within(pointers[i])) batch.read(pointers[i].block * kBlockBytes, memory_of(i));
    }
    // A batch tells of its first error only: then each page is asked for by itself.
    const bool all = batch.wait(suspend).has_value();
    for (std::size_t i = 0; i < pointers.size(); ++i) {
        status_[i] = all && within(pointers[i]) ? io_.verify(pointers[i], memory_of(i))
                                                : io_.read(suspend, pointers[i], memory_of(i));
    }
    pages_read_ += pointers.size();
    if (pace_ != nullptr) TRY(pace_->after_reading());
    return {};
}

}  // namespace blobfs::fsck
