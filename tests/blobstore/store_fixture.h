#pragma once

// A store on a memory device for tests, formatted and opened; reopened with or without a clean end.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "blobstore/blobstore.h"
#include "driver/device.h"
#include "driver/memory/environment.h"
#include "driver/reactor/reactor.h"

namespace blobfs::blobstore {

template <class T>
T must(Result<T> result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
    return std::move(*result);
}
inline void must(const Result<void>& result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
}

class StoreFixture {
  public:
    explicit StoreFixture(const std::string& device_name = "mem:128MiB",
                          const FormatOptions& format = {}, const OpenOptions& open = {},
                          const driver::ReactorOptions& reactor_options = {})
        : reactor(reactor_options), options(open) {
        must(driver::start_environment({.memory_bytes = std::size_t{768} << 20}));
        reactor.block_on([&](Suspend& suspend) {
            device = must(Device::open(suspend, device_name, {.at_once = false}));
            must(Blobstore::format(suspend, *device, format));
            store = must(Blobstore::open(suspend, *device, options));
        });
    }
    ~StoreFixture() {
        reactor.block_on([&](Suspend& suspend) {
            if (store != nullptr) must(store->close(suspend));
            store.reset();
            must(device->close(suspend));
        });
    }

    template <class F>
    auto run(F&& function) {
        return reactor.block_on(std::forward<F>(function));
    }

    void reopen(Suspend& suspend, bool clean) {
        if (clean) {
            must(store->close(suspend));
        } else {
            store->abandon(suspend);
        }
        store.reset();
        store = must(Blobstore::open(suspend, *device, options));
    }

    // The store holds together.
    void expect_sound(Suspend& suspend) {
        for (const std::string& finding : must(store->check(suspend))) ADD_FAILURE() << finding;
    }

    driver::Reactor reactor;
    OpenOptions options;
    std::unique_ptr<Device> device;
    std::unique_ptr<Blobstore> store;
};

}  // namespace blobfs::blobstore
