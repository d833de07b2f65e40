#pragma once

// A set of changes to blobs that happens whole or not at all. A transaction is filled by one fiber,
// then committed (Blobstore::commit) or dropped; nothing shows before. It owns the locks and the
// reserved blocks that its data changes need, so it is short-lived, and a fiber fills at most one
// at a time with data changes (two could wait for each other). Reactor thread.

#include <cstdint>
#include <memory>
#include <string_view>

#include "blobstore/units.h"

namespace blobfs::blobstore {

class Transaction {
  public:
    Transaction();
    ~Transaction();  // not committed: nothing happened, locks and reserved blocks are given back
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;

    // A new, empty blob with an id from Blobstore::allocate_id() and the owner's attribute block.
    void create_blob(BlobId blob, std::string_view attribute_block);
    // Replaces the attribute block; size and mapping are untouched. Later calls win.
    void set_attribute_block(BlobId blob, std::string_view attribute_block);
    void put_record(BlobId blob, std::string_view key, std::string_view value);
    void erase_record(BlobId blob, std::string_view key);
    // The blob is to be deleted: at the next open, or when Blobstore::delete_blob() is called.
    void add_orphan(BlobId blob);
    // The opposite: it has a name again (linkat of an O_TMPFILE).
    void remove_orphan(BlobId blob);

    [[nodiscard]] bool empty() const;
    // Changes that only free space may use the reserve, so that deleting works on a full device.
    void set_urgent() { urgent_ = true; }
    [[nodiscard]] bool urgent() const { return urgent_; }

    struct State;
    [[nodiscard]] State& state() { return *state_; }

  private:
    bool urgent_ = false;
    std::unique_ptr<State> state_;
};

}  // namespace blobfs::blobstore
