#pragma once

// Signals as something that the reactor polls: a handler notes them and wakes the reactor up, the
// rest happens on the reactor. One object per process. SIGPIPE is ignored meanwhile.

#include <functional>
#include <vector>

#include "driver/reactor/reactor.h"

namespace blobfs::fs::fuse {

class SignalWatch final : public driver::Poller {
  public:
    // Calls on_signal on the reactor for each of these signals that arrived.
    SignalWatch(const std::vector<int>& signals, std::function<void(int)> on_signal);
    // Restores what was before.
    ~SignalWatch() override;

    bool poll() override;
    [[nodiscard]] bool needs_polling() const override { return false; }
    [[nodiscard]] int wake_descriptor() const override { return wake_descriptor_; }

  private:
    struct Saved;
    std::function<void(int)> on_signal_;
    std::vector<Saved> saved_;
    int wake_descriptor_ = -1;
};

}  // namespace blobfs::fs::fuse
