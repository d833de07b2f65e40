#include "driver/soft/sparse_image.h"

#include <algorithm>
#include <cstring>

namespace blobfs::driver {

SparseImage::Page& SparseImage::writable(std::uint64_t index) {
    std::shared_ptr<Page>& page = pages_[index];
    if (page == nullptr) {
        page = std::make_shared<Page>();
    } else if (page.use_count() > 1) {
        page = std::make_shared<Page>(*page);
    }
    return *page;
}

void SparseImage::read(std::uint64_t offset, std::span<std::byte> into) const {
    while (!into.empty()) {
        const std::size_t within = offset % kPage;
        const std::size_t step = std::min(into.size(), kPage - within);
        const auto found = pages_.find(offset / kPage);
        if (found == pages_.end()) {
            std::memset(into.data(), 0, step);
        } else {
            std::memcpy(into.data(), found->second->data() + within, step);
        }
        offset += step;
        into = into.subspan(step);
    }
}

void SparseImage::write(std::uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
        const std::size_t within = offset % kPage;
        const std::size_t step = std::min(from.size(), kPage - within);
        std::memcpy(writable(offset / kPage).data() + within, from.data(), step);
        offset += step;
        from = from.subspan(step);
    }
}

void SparseImage::clear(std::uint64_t offset, std::uint64_t bytes) {
    const std::uint64_t end = offset + bytes;
    const std::uint64_t first_whole = (offset + kPage - 1) / kPage;
    const std::uint64_t last_whole = end / kPage;
    const auto clear_part = [this](std::uint64_t from, std::uint64_t to) {
        if (from >= to || !pages_.contains(from / kPage)) return;
        std::memset(writable(from / kPage).data() + from % kPage, 0, to - from);
    };
    if (first_whole > last_whole) {  // within one page
        clear_part(offset, end);
        return;
    }
    clear_part(offset, first_whole * kPage);
    clear_part(last_whole * kPage, end);
    // Whichever is less: the pages of the range, or those that there are.
    if (last_whole - first_whole < pages_.size()) {
        for (std::uint64_t page = first_whole; page < last_whole; ++page) pages_.erase(page);
    } else {
        std::erase_if(pages_, [&](const auto& entry) {
            return entry.first >= first_whole && entry.first < last_whole;
        });
    }
}

bool SparseImage::operator==(const SparseImage& other) const {
    // Each page of one equals the other's, which may be absent and so be zero.
    const auto covers = [](const SparseImage& a, const SparseImage& b) {
        return std::all_of(a.pages_.begin(), a.pages_.end(), [&](const auto& entry) {
            const auto found = b.pages_.find(entry.first);
            const Page& page = *entry.second;
            if (found != b.pages_.end()) return page == *found->second;
            return std::all_of(page.begin(), page.end(),
                               [](std::byte value) { return value == std::byte{0}; });
        });
    };
    return covers(*this, other) && covers(other, *this);
}

}  // namespace blobfs::driver
