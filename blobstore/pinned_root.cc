// Pinning a root. README.md, "A root that stays".

#include "blobstore/pinned_root.h"

#include "blobstore/store_state.h"

namespace blobfs::blobstore {

Result<std::unique_ptr<PinnedRoot>> Blobstore::pin_root(Suspend& suspend) {
    State& store = *state_;
    if (store.shut_down) return fail(*store.failure);
    const driver::FiberMutex::Guard guard(suspend, store.checkpoint_mutex);
    if (store.pin_valid) return fail(Errc::kBusy, "pinning a root: there is one");
    const bool writable = !store.read_only;
    auto valid = std::make_shared<std::atomic<bool>>(true);
    store.pin_valid = valid;
    auto root = std::make_unique<PinnedRoot>(
        PinnedRoot{.slots = {}, .superblock = {}, .without_log = writable, .valid = valid});
    Result<void> status;
    if (writable) status = store.write_checkpoint(suspend, SuperblockState::kInUse);
    if (status) {
        root->superblock = store.superblock;
        // Not while a checkpoint overwrites them. Too large for the stack of a fiber that is deep
        // in a request.
        const std::unique_ptr<Result<SuperblockSlots>> slots(
            new Result<SuperblockSlots>(read_superblocks(suspend, store.device)));
        if (*slots) {
            root->slots = std::move(**slots);
        } else {
            status = fail(slots->error());
        }
    }
    if (!status) {
        store.unpin_root();
        return fail(status.error());
    }
    return root;
}

void Blobstore::unpin_root() { state_->unpin_root(); }

bool Blobstore::State::unpin_root() {
    if (!pin_valid) return false;
    pin_valid->store(false);
    pin_valid.reset();
    root_pinned = false;
    space.unpin();
    return true;
}

}  // namespace blobfs::blobstore
