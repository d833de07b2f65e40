#include "fs/fsck/key_overlay.h"

namespace blobfs::fsck {

void KeyOverlay::add_all(const KeyOverlay& later) {
    for (const auto& [key, value] : later.changes_) changes_.insert_or_assign(key, value);
}

const std::optional<std::string>* KeyOverlay::find(blobstore::KeyView key) const {
    const auto found = changes_.find(key);
    return found == changes_.end() ? nullptr : &found->second;
}

Result<void> MergedEntries::leaf(const blobstore::PageView& page, Visit visit) {
    for (std::size_t i = 0; i < page.size(); ++i) {
        const blobstore::KeyView key = page.key(i);
        while (next_ != end_ && next_->first < key) {
            if (next_->second) TRY(visit(next_->first, *next_->second));
            ++next_;
        }
        if (next_ != end_ && next_->first == key) {
            if (next_->second) TRY(visit(key, *next_->second));
            ++next_;
        } else {
            TRY(visit(key, page.value(i)));
        }
    }
    return {};
}

Result<void> MergedEntries::finish(Visit visit) {
    for (; next_ != end_; ++next_) {
        if (next_->second) TRY(visit(next_->first, *next_->second));
    }
    return {};
}

}  // namespace blobfs::fsck
