#include "blobstore/transaction.h"

#include "blobstore/blobstore.h"
#include "blobstore/transaction_state.h"

namespace blobfs::blobstore {

Transaction::Transaction() : state_(std::make_unique<State>()) {}
Transaction::~Transaction() { state_->clear(); }

void Transaction::create_blob(BlobId blob, std::string_view attribute_block) {
    CHECK(attribute_block.size() <= kMaxAttributeBlockBytes && value(blob) != 0);
    AttributesUpdate& update = state_->attributes_of(blob);
    update.create = true;
    update.block = attribute_block;
}

void Transaction::set_attribute_block(BlobId blob, std::string_view attribute_block) {
    CHECK(attribute_block.size() <= kMaxAttributeBlockBytes);
    state_->attributes_of(blob).block = attribute_block;
}

void Transaction::put_record(BlobId blob, std::string_view key, std::string_view value) {
    CHECK(key.size() <= kMaxRecordKeyBytes && value.size() <= kMaxRecordValueBytes);
    state_->put(Key(blob, KeyKind::kRecord, key), value);
}

void Transaction::erase_record(BlobId blob, std::string_view key) {
    CHECK(key.size() <= kMaxRecordKeyBytes);
    state_->erase(Key(blob, KeyKind::kRecord, key));
}

void Transaction::add_orphan(BlobId blob) {
    state_->put(Key(BlobId{0}, KeyKind::kOrphan, value(blob)), {});
}

void Transaction::remove_orphan(BlobId blob) {
    state_->erase(Key(BlobId{0}, KeyKind::kOrphan, value(blob)));
}

bool Transaction::empty() const { return state_->empty(); }

}  // namespace blobfs::blobstore
