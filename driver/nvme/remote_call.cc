#include "driver/nvme/remote_call.h"

namespace blobfs::driver::nvme {

namespace {

constexpr std::uint64_t kFullPauseUs = 1000;  // the other's ring of messages was full

struct Call {
    Reactor& home;
    Reactor& there;
    Reactor::FiberFunction function;
    Fiber* fiber;
    bool done = false;
};

void answer(Suspend& suspend, Call& call) {
    // The call is gone as soon as the other side has seen that it is done.
    while (!call.home.post([&call] {
        call.done = true;
        call.fiber->wake();
    })) {
        suspend.sleep_us(kFullPauseUs);
    }
}

}  // namespace

void call_on(Suspend& suspend, Reactor& there, Reactor::FiberFunction function) {
    if (&suspend.reactor() == &there) {
        function(suspend);
        return;
    }
    Call call{.home = suspend.reactor(),
              .there = there,
              .function = std::move(function),
              .fiber = &suspend.current()};
    while (!there.post([&call] {
        call.there.spawn([&call](Suspend& own) {
            call.function(own);
            answer(own, call);
        });
    })) {
        suspend.sleep_us(kFullPauseUs);
    }
    while (!call.done) suspend.park();
}

}  // namespace blobfs::driver::nvme
