#pragma once

// An I/O queue pair of a controller and the thread that has it: the controller's own, or another
// with a reactor that has borrowed it. What the queue pair reports there goes to the controller on
// the controller's thread.

#include <functional>
#include <memory>

#include "driver/nvme/queue_pair.h"
#include "driver/nvme/remote_call.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver::nvme {

class IoQueue final : private QueueSupervisor {
  public:
    // home: the controller's reactor. The supervisor is called on its thread, except for
    // protocol_broken().
    static Result<std::unique_ptr<IoQueue>> create(Transport& transport, Reactor& home,
                                                   QueueSupervisor& supervisor,
                                                   const QueuePairOptions& options);

    [[nodiscard]] QueuePair& pair() { return *pair_; }
    // The controller's thread polls it and may call it at any time.
    [[nodiscard]] bool at_home() const { return borrower_ == nullptr; }
    // Home thread. To the thread of that reactor; null: back, when nothing is in flight.
    void hand_over(Reactor* borrower);

    // Calls the function on the queue pair's thread and waits for its end. Home thread.
    void call(Suspend& suspend, const std::function<void(QueuePair&)>& function);

  private:
    IoQueue(Reactor& home, QueueSupervisor& supervisor) : home_(home), supervisor_(supervisor) {}
    void command_timed_out(QueuePair& queue, std::uint16_t command_id, bool aborted) override;
    void protocol_broken(QueuePair& queue, const CompletionEntry& entry, const char* how) override;

    Reactor& home_;
    QueueSupervisor& supervisor_;
    std::unique_ptr<QueuePair> pair_;
    Reactor* borrower_ = nullptr;
};

}  // namespace blobfs::driver::nvme
