#include "driver/nvme/io_queue.h"

namespace blobfs::driver::nvme {

Result<std::unique_ptr<IoQueue>> IoQueue::create(Transport& transport, Reactor& home,
                                                 QueueSupervisor& supervisor,
                                                 const QueuePairOptions& options) {
    std::unique_ptr<IoQueue> queue(new IoQueue(home, supervisor));
    TRY_ASSIGN(queue->pair_, QueuePair::create(transport, *queue, options));
    return queue;
}

void IoQueue::hand_over(Reactor* borrower) {
    borrower_ = borrower;
    pair_->set_remote(borrower != nullptr);
}

void IoQueue::call(Suspend& suspend, const std::function<void(QueuePair&)>& function) {
    call_on(suspend, at_home() ? home_ : *borrower_, [&](Suspend&) { function(*pair_); });
}

// The borrower's thread, when there is one. A report that finds the ring of messages full is made
// again by the next timeout. The queue pair comes back home only after the report: both go by the
// same ring.
void IoQueue::command_timed_out(QueuePair& queue, std::uint16_t command_id, bool aborted) {
    if (at_home()) {
        supervisor_.command_timed_out(queue, command_id, aborted);
        return;
    }
    (void)home_.post([this, command_id, aborted] {
        supervisor_.command_timed_out(*pair_, command_id, aborted);
    });
}

void IoQueue::protocol_broken(QueuePair& queue, const CompletionEntry& entry, const char* how) {
    supervisor_.protocol_broken(queue, entry, how);
}

}  // namespace blobfs::driver::nvme
