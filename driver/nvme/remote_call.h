#pragma once

// Has a function run on a fiber of another thread's reactor, and waits for its end.

#include "driver/reactor/fiber.h"
#include "driver/reactor/reactor.h"

namespace blobfs::driver::nvme {

// Suspends until the function has returned over there, which may suspend too. What it refers to
// stays where it is meanwhile. REQUIRES: the other reactor runs until then; it may be our own.
void call_on(Suspend& suspend, Reactor& there, Reactor::FiberFunction function);

}  // namespace blobfs::driver::nvme
